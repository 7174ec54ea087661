"""An adapter that was trained before, put on its base model again to be trained further: the same
weights, to the last bit.
"""

import copy
import hashlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from transformers import PreTrainedModel

from hydratune.adapters.base import PeftAdapter
from hydratune.adapters.folder import KEY, AdapterFolder, settings_of_run
from hydratune.errors import ConfigError, Problem
from hydratune.records.files import read_json
from hydratune.records.run_directory import RunFile
from hydratune.settings.commands import TrainConfig
from hydratune.settings.model import Source
from hydratune.settings.registry import plain

_SAMPLES = 64  # pieces of a file of weights that are compared
_PIECE = 2**16  # bytes


def put_on(model: PreTrainedModel, found: AdapterFolder, adapter: PeftAdapter) -> PeftModel:
    """``model`` with the adapter in ``found``, ready to be trained further.

    Raises ``ConfigError`` if it does not fit.
    """
    result = _bare(model, found, adapter)
    weights = _weights(found)
    problems = list(_misfits(result, weights, found))
    if problems:
        raise ConfigError(problems)
    with torch.no_grad():
        set_peft_model_state_dict(result, weights)
    return result


def check(model: PreTrainedModel, found: AdapterFolder, adapter: PeftAdapter) -> None:
    """Raises ``ConfigError`` if the adapter does not fit ``model``, which stays as it is.

    Draws random numbers.
    """
    tensors = [*model.parameters(), *model.buffers()]
    same_weights = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    trains = [p.requires_grad for p in model.parameters()]
    try:
        problems = list(_misfits(_bare(same_weights, found, adapter), _weights(found), found))
    finally:
        for parameter, was in zip(model.parameters(), trains, strict=True):
            parameter.requires_grad_(was)
    if problems:
        raise ConfigError(problems)


def _bare(model: PreTrainedModel, found: AdapterFolder, adapter: PeftAdapter) -> PeftModel:
    """With an adapter of this form, whose weights are not yet those."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*is_gradient_checkpointing", category=FutureWarning
            )
            warnings.filterwarnings("ignore", message="Specified to not (save|load) vera_A")
            warnings.filterwarnings("error", message="Unexpected keyword arguments")
            config = PeftConfig.from_pretrained(str(found.path))
            config.inference_mode, config.task_type, config.base_model_name_or_path = (
                False,
                "CAUSAL_LM",
                model.name_or_path,
            )
            if hasattr(config, "init_lora_weights"):
                config.init_lora_weights = True
            adapter.restart(config)
            for name in ("lora_dropout", "vera_dropout", "module_dropout"):
                if hasattr(adapter, name):
                    setattr(config, name, getattr(adapter, name))
            result = get_peft_model(model, config)
    except (
        ValueError,
        TypeError,
        KeyError,
        NotImplementedError,
        RuntimeWarning,
        UserWarning,
    ) as error:
        why = f"PEFT cannot put it on this model: {' '.join(str(error).split())[:300]}"
        raise ConfigError([Problem(KEY, found.path, why, _other_base(found))]) from error
    assert isinstance(result, PeftModel)
    return result


def _weights(found: AdapterFolder) -> dict[str, torch.Tensor]:
    try:
        return dict(load_peft_weights(str(found.path), device="cpu"))
    except (OSError, ValueError, RuntimeError, SafetensorError, EOFError) as error:
        why = (
            f"{found.weights} cannot be read"
            f" ({(str(error).splitlines() or [type(error).__name__])[0][:200]})"
        )
        raise ConfigError(
            [Problem(KEY, found.path, why, "bring the file back, or give another adapter")]
        ) from error


def _misfits(
    model: PeftModel, weights: Mapping[str, torch.Tensor], found: AdapterFolder
) -> Iterator[Problem]:
    """Tensors that are missing, too many, of another shape, or not finite."""
    here = get_peft_model_state_dict(model, save_embedding_layers=False)
    missing, more = sorted(here.keys() - weights.keys()), sorted(weights.keys() - here.keys())
    other = [name for name in here if name in weights and here[name].shape != weights[name].shape]
    why = ""
    if other:
        shapes = tuple(weights[other[0]].shape), tuple(here[other[0]].shape)
        why = f"{other[0]} has the shape {shapes[0]} there and would have {shapes[1]} on this model"
    elif missing:
        why = f"it has no {missing[0]} ({len(missing)} tensors are missing)"
    elif more:
        why = (
            f"it has {more[0]}, which is no part of such an adapter on this model ({len(more)} such"
            " tensors)"
        )
    if why:
        yield Problem(KEY, found.path, why, _other_base(found))
        return
    broken = next(
        (name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())), None
    )
    if broken is not None:
        yield Problem(
            KEY, found.path, f"its {broken} holds NaN or infinite numbers", "give another adapter"
        )


def _other_base(found: AdapterFolder) -> str:
    return (
        f"give the base model that it was trained on ({found.base or 'unknown'}), or another"
        " adapter"
    )


# ----------------------------------------------------------------------------- which base it is for
def check_base(config: TrainConfig, source: Source, found: AdapterFolder) -> str:
    """Raises ``ConfigError`` if the adapter was trained on another base model.

    Returns what could not be told, if anything.
    """
    other, mine = Path(str(found.base)), Path(source.name)
    copies = other.is_dir() and mine.is_dir() and _same_weights(other, mine)
    stored = found.run / RunFile.environment if found.run is not None else None
    if found.run is not None and stored is not None and stored.is_file():
        before = str(read_json(stored).get("base"))
        if before == source.identity or (
            copies and before.partition("+")[2] == source.identity.partition("+")[2]
        ):
            return ""
        settings = settings_of_run(found.run)
        raise ConfigError(
            [
                _another(
                    config,
                    found,
                    f"it was trained on {before}, and this is {source.identity}",
                    settings,
                )
            ]
        )
    if found.base is None or found.base == source.name or copies:
        return ""
    if other.is_dir() and mine.is_dir():
        raise ConfigError(
            [
                _another(
                    config,
                    found,
                    f"it was trained on {other}, whose weights are not those of {mine}",
                    None,
                )
            ]
        )
    if config.model.on_hub and not other.is_absolute():
        raise ConfigError([_another(config, found, f"it was trained on {found.base}", None)])
    return (
        f"the adapter names {found.base} as its base model, and this is {source.name}: only names"
        " and shapes of layers were compared"
    )


def _another(
    config: TrainConfig, found: AdapterFolder, why: str, run: TrainConfig | None
) -> Problem:
    if run is not None:
        model = plain(run.model)
        own = {"hub": "id", "local": "path"}.get(model["source"])
        words = (
            f"model={model['source']} model.{own}={model[own]}"
            if own
            else "the settings of model in " + str(found.run) + "/config.yaml"
        )
        if model["quantization"] != plain(config.model)["quantization"]:
            words += f" model.quantization={model['quantization']}"
        fix = (
            f"set {words}; if the weights are the same all the same, give a copy of adapter/: names"
            " and shapes are compared then"
        )
    else:
        base = str(found.base)
        fix = (
            f"set model=local model.path={base}"
            if Path(base).is_dir()
            else f"set model=hub model.id={base}"
        )
    return Problem(KEY, config.model.adapter, why, f"{fix}; or leave {KEY} out")


def _same_weights(one: Path, other: Path) -> bool:
    """Compares sizes and samples of all files of weights: two copies of a model are one."""
    names = [sorted(p.name for p in folder.glob("*.safetensors")) for folder in (one, other)]
    return names[0] == names[1] and all(
        _sampled(one / name) == _sampled(other / name) for name in names[0]
    )


def _sampled(file: Path) -> tuple[int, str]:
    size, digest = file.stat().st_size, hashlib.sha256()
    with file.open("rb") as stream:
        for number in range(_SAMPLES):
            stream.seek(max(0, size - _PIECE) * number // (_SAMPLES - 1))
            digest.update(stream.read(_PIECE))
    return size, digest.hexdigest()


def facts(found: AdapterFolder) -> dict[str, str]:
    """What a run's record says of the adapter it began with."""
    with found.weights.open("rb") as stream:
        return {
            "adapter": str(found.path),
            "sha256": hashlib.file_digest(stream, "sha256").hexdigest(),
        }
