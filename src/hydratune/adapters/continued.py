"""Attaching a saved adapter to its base model again, to train it further.

The adapter gets the saved weights, to the last bit.
"""

import copy
import hashlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError

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
from hydratune.adapters.folder import KEY, AdapterFolder, settings_of_run, weights_of
from hydratune.adapters.peft_warnings import hidden_peft_warnings
from hydratune.errors import ConfigError, Problem
from hydratune.models.sources.local import LocalModel
from hydratune.records.files import read_json
from hydratune.records.run_directory import RunFile
from hydratune.settings.commands import TrainConfig
from hydratune.settings.model import Source
from hydratune.settings.overrides import as_typed
from hydratune.settings.registry import plain


def attach_saved(model: PreTrainedModel, saved: AdapterFolder, adapter: PeftAdapter) -> PeftModel:
    """Return ``model`` with the adapter in ``saved``, ready to be trained further.

    Raises ``ConfigError`` if it does not fit.
    """
    result = _with_new_adapter(model, saved, adapter)
    weights = _weights(saved)
    problems = list(_misfits(result, weights, saved))
    if problems:
        raise ConfigError(problems)
    with torch.no_grad():
        set_peft_model_state_dict(result, weights)
    return result


def check(model: PreTrainedModel, saved: AdapterFolder, adapter: PeftAdapter) -> None:
    """Raise ``ConfigError`` if the adapter does not fit ``model``, which stays as it is.

    The new adapter draws random numbers.
    """
    tensors = [*model.parameters(), *model.buffers()]
    same_weights = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    trainable = [p.requires_grad for p in model.parameters()]
    try:
        result = _with_new_adapter(same_weights, saved, adapter)
        problems = list(_misfits(result, _weights(saved), saved))
    finally:
        for parameter, was in zip(model.parameters(), trainable, strict=True):
            parameter.requires_grad_(was)
    if problems:
        raise ConfigError(problems)


def _with_new_adapter(
    model: PreTrainedModel, saved: AdapterFolder, adapter: PeftAdapter
) -> PeftModel:
    """Return ``model`` with a new adapter of the saved one's form, without the saved weights.

    Raises ``ConfigError`` if PEFT refuses it.
    """
    try:
        with hidden_peft_warnings():
            warnings.filterwarnings("error", message="Unexpected keyword arguments")
            result = get_peft_model(model, _config_to_train(model, saved, adapter))
    except (
        ValueError,
        TypeError,
        KeyError,
        NotImplementedError,
        RuntimeWarning,
        UserWarning,
    ) as error:
        why = f"PEFT cannot put it on this model: {' '.join(str(error).split())[:300]}"
        raise ConfigError([Problem(KEY, saved.path, why, _other_base(saved))]) from error
    assert isinstance(result, PeftModel)
    return result


def _config_to_train(
    model: PreTrainedModel, saved: AdapterFolder, adapter: PeftAdapter
) -> PeftConfig:
    """Return PEFT's config of the saved adapter, changed for training on ``model``."""
    config = PeftConfig.from_pretrained(str(saved.path))
    config.inference_mode, config.task_type = False, "CAUSAL_LM"
    config.base_model_name_or_path = model.name_or_path
    adapter.restart(config)
    for name in adapter.dropout_fields():
        setattr(config, name, getattr(adapter, name))
    return config


def _weights(saved: AdapterFolder) -> dict[str, torch.Tensor]:
    """Read the tensors of the adapter by name. Raises ``ConfigError``."""
    try:
        return dict(load_peft_weights(str(saved.path), device="cpu"))
    except UnpicklingError as error:
        why = "its weights are a pickle that names code to run, which is refused"
        raise ConfigError([Problem(KEY, saved.path, why, "give another adapter")]) from error
    except (OSError, ValueError, RuntimeError, SafetensorError, EOFError) as error:
        why = (
            f"{saved.weights} cannot be read"
            f" ({(str(error).splitlines() or [type(error).__name__])[0][:200]})"
        )
        raise ConfigError(
            [Problem(KEY, saved.path, why, "bring the file back, or give another adapter")]
        ) from error


def _misfits(
    model: PeftModel, weights: Mapping[str, torch.Tensor], saved: AdapterFolder
) -> Iterator[Problem]:
    """Yield a problem for tensors that are missing, too many, of another shape, or not finite."""
    new = get_peft_model_state_dict(model, save_embedding_layers=False)
    missing, more = sorted(new.keys() - weights.keys()), sorted(weights.keys() - new.keys())
    reshaped = [name for name in new if name in weights and new[name].shape != weights[name].shape]
    why = ""
    if reshaped:
        shapes = tuple(weights[reshaped[0]].shape), tuple(new[reshaped[0]].shape)
        why = (
            f"{reshaped[0]} has the shape {shapes[0]} there and would have {shapes[1]} on this"
            " model"
        )
    elif missing:
        why = f"it has no {missing[0]} ({len(missing)} tensors are missing)"
    elif more:
        why = (
            f"it has {more[0]}, which is no part of such an adapter on this model ({len(more)} such"
            " tensors)"
        )
    if why:
        yield Problem(KEY, saved.path, why, _other_base(saved))
        return
    broken = next(
        (name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())), None
    )
    if broken is not None:
        yield Problem(
            KEY, saved.path, f"its {broken} holds NaN or infinite numbers", "give another adapter"
        )


def _other_base(saved: AdapterFolder) -> str:
    """Return the advice to use another base model or another adapter."""
    return (
        f"give the base model that it was trained on ({saved.base or 'unknown'}), or another"
        " adapter"
    )


# ---------------------------------------------------------------- the base model of a saved adapter
def check_base(config: TrainConfig, source: Source, saved: AdapterFolder) -> str:
    """Raise ``ConfigError`` if the adapter was trained on another base model than ``source``.

    Returns a warning if that cannot be decided, else an empty string.
    """
    recorded = saved.run / RunFile.environment if saved.run is not None else None
    if recorded is not None and recorded.is_file():
        _check_recorded_base(config, source, saved, str(read_json(recorded).get("base")))
        return ""
    is_unique = not isinstance(config.model, LocalModel)  # many folders may have the same name
    names = (None, source.name, *([config.model.public_name(source)] if is_unique else []))
    others = _have_other_weights(saved, source)
    if _are_copies(saved, source) or (saved.base in names and not others):
        return ""
    before, now = Path(str(saved.base)), Path(source.name)
    why = ""
    if others or (before.is_dir() and now.is_dir()):
        why = f"it was trained on {before}, whose weights are not those of {now}"
    elif config.model.on_hub and not before.is_absolute():
        why = f"it was trained on {saved.base}"
    if why:
        raise ConfigError([Problem(KEY, config.model.adapter, why, _base_named_by(saved))])
    return (
        f"the adapter names {saved.base} as its base model, and this is {source.name}: only names"
        " and shapes of layers were compared"
    )


def _check_recorded_base(
    config: TrainConfig, source: Source, saved: AdapterFolder, before: str
) -> None:
    """Raise ``ConfigError`` if ``before``, the identity of the adapter's base, is not this one."""
    same_precision = before.partition("+")[2] == source.identity.partition("+")[2]
    if before == source.identity or (_are_copies(saved, source) and same_precision):
        return
    assert saved.run is not None
    run = settings_of_run(saved.run)
    why = f"it was trained on {before}, and this is {source.identity}"
    fix = _base_named_by(saved) if run is None else _base_of_run(config, saved.run, run)
    raise ConfigError([Problem(KEY, config.model.adapter, why, fix)])


def _base_of_run(config: TrainConfig, directory: Path, run: TrainConfig) -> str:
    """Return the advice to use the base model of the adapter's run, in words."""
    model = plain(run.model)
    own = {"hub": "id", "local": "path"}.get(model["source"])
    words = (
        f"model={model['source']} {as_typed(f'model.{own}', model[own])}"
        if own
        else f"the settings of model in {directory}/{RunFile.config}"
    )
    if model["quantization"] != plain(config.model)["quantization"]:
        words += f" model.quantization={model['quantization']}"
    return (
        f"set {words}; if the weights are equal nevertheless, give a copy of adapter/, of which"
        f" only names and shapes are compared; or leave {KEY} out"
    )


def _base_named_by(saved: AdapterFolder) -> str:
    """Return the advice to use the base model that ``saved`` names."""
    base = str(saved.base)
    if Path(base).is_dir() and saved.base_weights in (None, weights_of(Path(base))):
        kind = f"set model=local {as_typed('model.path', base)}"
    elif saved.base_weights is not None:  # its name alone
        kind = f"set model=local model.path=DIR, where DIR is the folder {base}"
    else:
        kind = f"set model=hub {as_typed('model.id', base)}"
    return f"{kind}; or leave {KEY} out"


def _are_copies(saved: AdapterFolder, source: Source) -> bool:
    """Return whether the adapter's base and ``source`` are folders with the same weights."""
    now = Path(source.name)
    if saved.base_weights is not None:
        return now.is_dir() and weights_of(now) == saved.base_weights
    before = Path(str(saved.base))
    return before.is_dir() and now.is_dir() and weights_of(before) == weights_of(now)


def _have_other_weights(saved: AdapterFolder, source: Source) -> bool:
    """Return whether ``source`` is a folder whose weights are not those that were recorded."""
    now = Path(source.name)
    return saved.base_weights is not None and now.is_dir() and weights_of(now) != saved.base_weights


def facts(saved: AdapterFolder) -> dict[str, str]:
    """Return what a run's record says of the adapter it starts from."""
    with saved.weights.open("rb") as stream:
        return {
            "adapter": str(saved.path),
            "sha256": hashlib.file_digest(stream, "sha256").hexdigest(),
        }
