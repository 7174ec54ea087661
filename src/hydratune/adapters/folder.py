"""An adapter that was trained before, as files: found, described as settings, compared with what is
typed. Needs no torch.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydratune import digests
from hydratune.adapters.base import PeftAdapter
from hydratune.adapters.methods.full import FullFinetune
from hydratune.errors import ConfigError, Problem
from hydratune.records.files import Json
from hydratune.records.run_directory import RunFile
from hydratune.records.sweep import SWEEP_FILE
from hydratune.settings.adapter import AdapterConfig
from hydratune.settings.commands import TrainConfig, load
from hydratune.settings.registry import plain, variants

SETTINGS_FILE = "adapter_config.json"
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
KEY = "model.adapter"
# PEFT's: the base of such weights is not the untouched one
_STARTS_IN_THE_BASE = (
    "pissa",
    "olora",
    "corda",
    "lora_ga",
)
# what may be changed on the way: it is no part of the weights
_FREE = (
    "lora_dropout",
    "vera_dropout",
    "module_dropout",
)
_OF_THE_START = ("pissa", "olora", "loftq")


@dataclass(frozen=True)
class AdapterFolder:
    """A PEFT folder, and the run directory it belongs to if it is one of this program's."""

    path: Path
    run: Path | None
    settings: Mapping[str, Json]  # of adapter_config.json

    @property
    def weights(self) -> Path:
        return next(self.path / name for name in WEIGHT_FILES if (self.path / name).is_file())

    @property
    def base(self) -> str | None:
        """What its writer loaded the base model from."""
        return self.settings.get("base_model_name_or_path")


def find(given: str) -> AdapterFolder:
    """The adapter in a PEFT folder or a run directory. Raises ``ConfigError``."""
    place = Path(given).expanduser()
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
                f"set model=local model.path={model}, without {KEY}",
            )
    if (place / SWEEP_FILE).is_file():
        jobs = sorted(path.parent.parent for path in place.glob(f"*/adapter/{SETTINGS_FILE}"))
        fix = (
            f"choose one of its jobs: {', '.join(f'{KEY}={job}' for job in jobs[:3])}"
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
            f"set {KEY}={inner[0]}",
        )
    if (place / RunFile.status).is_file():
        return Problem(KEY, given, "this run has saved no adapter", "give a run that was finished")
    return Problem(KEY, given, f"the folder has no {SETTINGS_FILE}", own)


def _read(given: str, folder: Path, run: Path | None) -> AdapterFolder:
    file = folder / SETTINGS_FILE
    if (damage := digests.damaged(folder)) is not None:
        raise ConfigError([Problem(KEY, given, damage, "bring it back, or give another adapter")])
    try:
        settings = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            [
                Problem(
                    KEY,
                    given,
                    f"{file} cannot be read ({error})",
                    "bring the file back, or give another adapter",
                )
            ]
        ) from None
    if not isinstance(settings, dict):
        raise ConfigError(
            [
                Problem(
                    KEY,
                    given,
                    f"{file} holds no object",
                    "bring the file back, or give another adapter",
                )
            ]
        )
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        raise ConfigError(
            [
                Problem(
                    KEY,
                    given,
                    f"{folder} has no weights ({WEIGHT_FILES[0]})",
                    "bring the file back, or give another adapter",
                )
            ]
        )
    return AdapterFolder(folder, run, settings)


def _methods() -> dict[str, type[PeftAdapter]]:
    """Return the adapter methods by PEFT's names of them."""
    kinds = variants("adapter").values()
    return {kind.peft_type: kind for kind in kinds if issubclass(kind, PeftAdapter)}


def described(found: AdapterFolder) -> PeftAdapter:
    """The settings of the adapter as this program has them.

    Raises ``ConfigError`` for what it cannot go on training.
    """
    settings, given = found.settings, found.path
    method = str(settings.get("peft_type"))
    start = str(settings.get("init_lora_weights", "")).lower()
    why = ""
    kind = _methods().get(method)
    if kind is not None and kind.resume_obstacle:
        why = f"{kind.resume_obstacle}, so it cannot be trained further"
    elif kind is None:
        why = (
            f"its method is {method}, which is not trained here (trained are"
            f" {', '.join(sorted(map(str.lower, _methods())))})"
        )
    elif settings.get("task_type") not in (None, "CAUSAL_LM"):
        why = f"it was made for {settings['task_type']}, not for the next token (CAUSAL_LM)"
    elif start.startswith(_STARTS_IN_THE_BASE):
        why = (
            f"init_lora_weights={start} took a part out of the base: its weights do not fit the"
            " untouched model"
        )
    if why:
        convert = (
            "PeftModel.save_pretrained(FOLDER, path_initial_model_for_weight_conversion=START)"
            " writes one that does"
        )
        fix = (
            convert
            if start.startswith(_STARTS_IN_THE_BASE)
            else f"give another adapter, or begin a new one: leave {KEY} out"
        )
        raise ConfigError([Problem(KEY, given, why, fix)])
    assert kind is not None
    known = {f.name for f in fields(kind)} - {"method", "extra"}
    values = {name: _value(name, settings[name]) for name in known & settings.keys()}
    values = {
        name: value
        for name, value in values.items()
        if value is not None or name in ("target_modules", "feedforward_modules")
    }
    values = kind().saved_values(values)
    try:
        result = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), values))
    except OmegaConfBaseException as error:
        why = f"{found.path / SETTINGS_FILE}: {str(error).splitlines()[0]}"
        raise ConfigError(
            [Problem(KEY, given, why, "bring the file back, or give another adapter")]
        ) from None
    assert isinstance(result, PeftAdapter)
    return result


def _value(name: str, value: Json) -> Json:
    """PEFT's value of a field in the type that it has here."""
    if name in ("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules"):
        return [value] if isinstance(value, str) else sorted(value) if value is not None else None
    if name == "layers_to_transform":
        return [value] if isinstance(value, int) else value
    if name == "layers_pattern":
        return value[0] if isinstance(value, list) and value else value or None
    if name == "init_lora_weights":
        return "true"  # whatever its start was, its weights are there
    return value


def adopt(config: TrainConfig, overrides: Sequence[str]) -> None:
    """Takes the settings of the adapter from ``model.adapter``, where that is given.

    Raises ``ConfigError`` if ``overrides``, as they are typed, ask for another adapter.
    """
    if config.model.adapter is None:
        return
    typed = config.adapter
    if isinstance(typed, FullFinetune) and any(_key(o) == "adapter" for o in overrides):
        why = f"{KEY} goes on training an adapter, and this trains the model itself"
        raise ConfigError(
            [Problem("adapter", plain(typed)["method"], why, f"leave adapter out, or {KEY}")]
        )
    found = find(config.model.adapter)
    own = described(found)
    problems = list(_contradictions(typed, own, overrides, found))
    if problems:
        raise ConfigError(problems)
    for name in _FREE:
        if f"adapter.{name}" in map(_key, overrides) and hasattr(own, name):
            setattr(own, name, getattr(typed, name))
    config.adapter = own


def _contradictions(
    typed: AdapterConfig, own: PeftAdapter, overrides: Sequence[str], found: AdapterFolder
) -> Iterator[Problem]:
    method = plain(own)["method"]
    fix = (
        "leave it out: the settings of an adapter that is trained further are its own; or leave"
        f" {KEY} out"
    )
    for override in overrides:
        key, name = _key(override), _key(override).partition(".")[2].split(".")[0]
        if key == "adapter" and (type(typed) is not type(own) or _form(typed) != _form(own)):
            yield Problem(
                key, override.partition("=")[2], f"the adapter in {found.path} is {_told(own)}", fix
            )
        elif key.startswith("adapter.") and name not in _FREE:
            there = getattr(own, name, None)
            if not hasattr(own, name) or name == "extra":
                yield Problem(
                    key,
                    override.partition("=")[2],
                    f"the adapter in {found.path} is {method}, whose settings are fixed",
                    fix,
                )
            elif _comparable(getattr(typed, name, None)) != _comparable(there):
                yield Problem(
                    key,
                    override.partition("=")[2],
                    f"it is {there} in the adapter in {found.path}",
                    fix,
                )


def _form(adapter: AdapterConfig) -> tuple[object, ...]:
    """What tells the options of one method apart."""
    start = str(getattr(adapter, "init_lora_weights", "")).lower()
    return (
        getattr(adapter, "use_dora", None),
        getattr(adapter, "use_rslora", None),
        start if start.startswith(_OF_THE_START) else "",
    )


def _told(adapter: PeftAdapter) -> str:
    form = [
        name.removeprefix("use_")
        for name in ("use_dora", "use_rslora")
        if getattr(adapter, name, False)
    ]
    return " with ".join([str(plain(adapter)["method"]), *form])


def told(adapter: PeftAdapter) -> str:
    """Its method and size, for the terminal."""
    size = next(
        (
            f", {name}={getattr(adapter, name)}"
            for name in ("r", "num_virtual_tokens")
            if hasattr(adapter, name)
        ),
        "",
    )
    return f"{_told(adapter)}{size}"


def _comparable(value: object) -> object:
    if isinstance(value, list):
        return sorted(map(str, value))
    return value.value if isinstance(value, Enum) else value


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~").split("@")[0]


def settings_of_run(run: Path) -> TrainConfig | None:
    """Of the run that an adapter belongs to; None if they cannot be read."""
    try:
        return load(run / RunFile.config)
    except (OSError, OmegaConfBaseException, KeyError, AssertionError, ValueError):
        return None
