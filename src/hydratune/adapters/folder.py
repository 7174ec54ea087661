"""The files of a saved adapter: finding them, reading its settings, and comparing typed settings.

Needs no torch.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydratune import digests
from hydratune.adapters.base import PeftAdapter, peft_methods
from hydratune.errors import ConfigError, Problem
from hydratune.records.files import Json
from hydratune.records.run_directory import RunFile
from hydratune.records.sweep import SWEEP_FILE
from hydratune.settings.adapter import AdapterConfig
from hydratune.settings.commands import TrainConfig, load
from hydratune.settings.overrides import as_typed
from hydratune.settings.registry import is_own, override_key, plain

SETTINGS_FILE = "adapter_config.json"
CARD_FILE = "README.md"
BASE_FILE = (
    "base_model.json"  # what the base model was: its name, and its weights if it was a folder
)
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
KEY = "model.adapter"
_SAMPLES = 64  # pieces of a file of weights that are compared
_PIECE = 2**16  # bytes
_REPAIR = "bring the file back, or give another adapter"


@dataclass(frozen=True)
class AdapterFolder:
    """A PEFT folder, and the run directory it belongs to if it is one of this program's."""

    path: Path
    run: Path | None
    settings: Mapping[str, Json]  # of adapter_config.json

    @property
    def weights(self) -> Path:
        """The file of the adapter's weights."""
        return next(self.path / name for name in WEIGHT_FILES if (self.path / name).is_file())

    @property
    def base(self) -> str | None:
        """What the adapter calls its base model.

        An id on the hub, or the name of a folder; other programs, and older versions of this one,
        write a path.
        """
        return self.settings.get("base_model_name_or_path")

    @property
    def base_weights(self) -> dict[str, str] | None:
        """The weights of a base model that was a folder, as ``weights_of`` gives them.

        None if they were not recorded, or for a base of another name.
        """
        try:
            content = json.loads((self.path / BASE_FILE).read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(content, dict) or content.get("name") != self.base:
            return None
        weights = content.get("weights")
        return {str(k): str(v) for k, v in weights.items()} if isinstance(weights, dict) else None


@dataclass(frozen=True)
class BaseModel:
    """The base model of an adapter, as its folder names it on every machine."""

    name: str  # an id on the hub, or the name of a folder
    revision: str | None = None  # on the hub
    weights: Mapping[str, str] | None = None  # of a folder, as ``weights_of`` gives them


def weights_of(folder: Path) -> dict[str, str]:
    """Return the size and a hash of sampled pieces of each file of weights, by its name."""
    return {file.name: _sampled(file) for file in sorted(folder.glob("*.safetensors"))}


def _sampled(file: Path) -> str:
    """Return the size of a file in bytes, and a hash of pieces spread over it."""
    size, digest = file.stat().st_size, hashlib.sha256()
    with file.open("rb") as stream:
        for number in range(_SAMPLES):
            stream.seek(max(0, size - _PIECE) * number // (_SAMPLES - 1))
            digest.update(stream.read(_PIECE))
    return f"{size}:{digest.hexdigest()}"


def name_base(folder: Path, base: BaseModel, loaded_from: str) -> None:
    """Name the base model in PEFT's file, in the place of the path that it was loaded from."""
    file = folder / SETTINGS_FILE
    content = json.loads(file.read_text("utf-8"))
    content["base_model_name_or_path"] = base.name
    if content.get("tokenizer_name_or_path") == loaded_from:
        content["tokenizer_name_or_path"] = base.name
    if base.revision is not None:
        content["revision"] = base.revision
    file.write_text(json.dumps(content, indent=2, sort_keys=True), "utf-8")
    if base.weights:
        record = {"name": base.name, "weights": dict(base.weights)}
        (folder / BASE_FILE).write_text(json.dumps(record, indent=2), "utf-8")


def find(given: str) -> AdapterFolder:
    """Return the adapter in a PEFT folder or a run directory. Raises ``ConfigError``."""
    place = Path(given)
    if (place / SETTINGS_FILE).is_file():
        run = (
            place.resolve().parent
            if place.resolve().name == "adapter"
            and (place.resolve().parent / RunFile.config).is_file()
            else None
        )
        return _read(given, place, run)
    if (place / "adapter" / SETTINGS_FILE).is_file():
        return _read(given, place / "adapter", place.resolve())
    raise ConfigError([_not_found(given, place)])


def _not_found(given: str, place: Path) -> Problem:
    """Return why there is no adapter in ``place``, and what to give instead."""
    own = (
        "give a run directory, its adapter/, or a folder that PEFT wrote (adapter_config.json,"
        " adapter_model.safetensors)"
    )
    if not place.is_dir():
        return Problem(
            KEY, given, "no such folder" if not place.exists() else "this is a file", own
        )
    for model in (place, place / "adapter"):
        if (model / "config.json").is_file():
            return Problem(
                KEY,
                given,
                f"{model} holds a whole model and no adapter",
                f"set model=local {as_typed('model.path', model)}, without {KEY}",
            )
    if (place / SWEEP_FILE).is_file():
        jobs = sorted(path.parent.parent for path in place.glob(f"*/adapter/{SETTINGS_FILE}"))
        fix = (
            f"choose one of its jobs: {', '.join(as_typed(KEY, job) for job in jobs[:3])}"
            if jobs
            else own
        )
        return Problem(KEY, given, "this is a sweep of several runs", fix)
    inner = sorted(path.parent for path in place.glob(f"*/{SETTINGS_FILE}"))
    if inner:
        return Problem(
            KEY,
            given,
            f"no {SETTINGS_FILE} in it, but in {inner[0].name}/",
            f"set {as_typed(KEY, inner[0])}",
        )
    if (place / RunFile.status).is_file():
        return Problem(KEY, given, "this run has saved no adapter", "give a run that was finished")
    return Problem(KEY, given, f"the folder has no {SETTINGS_FILE}", own)


def _read(given: str, folder: Path, run: Path | None) -> AdapterFolder:
    """Read the settings in a PEFT folder.

    Raises ``ConfigError`` if a file is missing or damaged.
    """
    file = folder / SETTINGS_FILE
    if (damage := digests.damaged(folder)) is not None:
        raise ConfigError([Problem(KEY, given, damage, "bring it back, or give another adapter")])
    try:
        settings = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            [Problem(KEY, given, f"{file} cannot be read ({error})", _REPAIR)]
        ) from None
    if not isinstance(settings, dict):
        raise ConfigError([Problem(KEY, given, f"{file} holds no object", _REPAIR)])
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        why = f"{folder} has no weights ({WEIGHT_FILES[0]})"
        raise ConfigError([Problem(KEY, given, why, _REPAIR)])
    return AdapterFolder(folder, run, settings)


def saved_settings(saved: AdapterFolder) -> PeftAdapter:
    """Return the settings of a saved adapter as this program has them.

    Raises ``ConfigError`` for an adapter that cannot be trained further.
    """
    kind = _trainable_method(saved)
    values = kind.saved_values(saved.settings)
    try:
        result = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), values))
    except OmegaConfBaseException as error:
        why = f"{saved.path / SETTINGS_FILE}: {str(error).splitlines()[0]}"
        raise ConfigError([Problem(KEY, saved.path, why, _REPAIR)]) from None
    assert isinstance(result, PeftAdapter)
    return result


def _method_of_package(saved: AdapterFolder) -> type[PeftAdapter] | None:
    """Return the method of the run that saved the adapter, if an installed package brings it."""
    if saved.run is None:
        return None
    try:
        kind = type(load(saved.run / RunFile.config).adapter)
    except (ConfigError, OmegaConfBaseException, OSError):  # without it, it is PEFT's method
        return None
    if not issubclass(kind, PeftAdapter) or is_own(kind):
        return None
    return kind if kind.peft_type == saved.settings.get("peft_type") else None


def _trainable_method(saved: AdapterFolder) -> type[PeftAdapter]:
    """Return the method of a saved adapter.

    Raises ``ConfigError`` if adapters of this method, task or start cannot be trained further.
    """
    settings, methods = saved.settings, peft_methods()
    method = str(settings.get("peft_type"))
    kind = _method_of_package(saved) or methods.get(method)
    fix = f"give another adapter, or begin a new one: leave {KEY} out"
    if kind is None:
        why = (
            f"its method is {method}, which is not trained here (trained are"
            f" {', '.join(sorted(map(str.lower, methods)))})"
        )
    elif kind.resume_obstacle:
        why = f"{kind.resume_obstacle}, so it cannot be trained further"
    elif settings.get("task_type") not in (None, "CAUSAL_LM"):
        why = f"it was made for {settings['task_type']}, not for the next token (CAUSAL_LM)"
    elif obstacle := kind.saved_obstacle(settings):
        why, fix = obstacle
    else:
        return kind
    raise ConfigError([Problem(KEY, saved.path, why, fix)])


def use_saved_settings(config: TrainConfig, overrides: Sequence[str]) -> None:
    """Replace the settings of the adapter by those of ``model.adapter``, where that is given.

    Raises ``ConfigError`` if ``overrides``, as they are typed, ask for another adapter.
    """
    if config.model.adapter is None:
        return
    typed = config.adapter
    if typed.trains_base and any(override_key(o) == "adapter" for o in overrides):
        why = f"{KEY} trains a saved adapter further, and this trains the model itself"
        raise ConfigError(
            [Problem("adapter", plain(typed)["method"], why, f"leave adapter out, or {KEY}")]
        )
    saved = find(config.model.adapter)
    own = saved_settings(saved)
    problems = list(_contradictions(typed, own, overrides, saved))
    if problems:
        raise ConfigError(problems)
    for name in own.dropout_fields():
        if f"adapter.{name}" in map(override_key, overrides):
            setattr(own, name, getattr(typed, name))
    config.adapter = own


def _contradictions(
    typed: AdapterConfig, own: PeftAdapter, overrides: Sequence[str], saved: AdapterFolder
) -> Iterator[Problem]:
    """Yield a problem for each override that differs from the saved adapter's ``own`` settings."""
    fix = (
        "leave it out: the settings of an adapter that is trained further are fixed, apart from"
        f" its dropout; or leave {KEY} out"
    )
    for override in overrides:
        key, value = override_key(override), override.partition("=")[2]
        name = key.partition(".")[2].split(".")[0]
        if key == "adapter" and (type(typed) is not type(own) or typed.form() != own.form()):
            why = f"the adapter in {saved.path} is {_method_and_form(own)}"
            yield Problem(key, value, why, fix)
        elif key.startswith("adapter.") and name not in own.dropout_fields():
            own_value = getattr(own, name, None)
            if not hasattr(own, name) or name == "extra":
                yield _foreign_setting(key, value, own, saved, fix)
            elif _comparable(getattr(typed, name, None)) != _comparable(own_value):
                why = f"it is {own_value} in the adapter in {saved.path}"
                yield Problem(key, value, why, fix)


def _foreign_setting(
    key: str, value: str, own: PeftAdapter, saved: AdapterFolder, fix: str
) -> Problem:
    """Return the problem of a setting that the saved adapter's method lacks.

    For a dropout it names the method's own setting of dropout, if there is one.
    """
    method = plain(own)["method"]
    why = f"the adapter in {saved.path} is {method}, which has no such setting"
    if key == "adapter.extra" or key.startswith("adapter.extra."):
        why = f"the adapter in {saved.path} is {method}, whose settings are fixed"
    dropouts = own.dropout_fields()
    if key.endswith("dropout") and dropouts:
        fix = f"set its own dropout: adapter={method} adapter.{dropouts[0]}={value}"
    return Problem(key, value, why, fix)


def _method_and_form(adapter: PeftAdapter) -> str:
    """Return the method and its variants, such as ``lora with dora``."""
    return " with ".join([str(plain(adapter)["method"]), *adapter.variant_names()])


def describe_adapter(adapter: PeftAdapter) -> str:
    """Return the method and the size of an adapter, for the terminal."""
    name = adapter.size_field
    size = f", {name}={getattr(adapter, name)}" if name else ""
    return f"{_method_and_form(adapter)}{size}"


def _comparable(value: object) -> object:
    """Return a value so that equal settings are equal: lists sorted, options by name."""
    if isinstance(value, list):
        return sorted(map(str, value))
    return value.value if isinstance(value, Enum) else value


def settings_of_run(run: Path) -> TrainConfig | None:
    """Return the settings of the run in directory ``run``; None if they cannot be read."""
    try:
        return load(run / RunFile.config)
    except (ConfigError, OSError, OmegaConfBaseException, KeyError, AssertionError, ValueError):
        return None
