"""What PEFT's config needs beside the settings, and what a model cannot accept of an adapter."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, PeftType
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hydratune.adapters.targets import (
    for_peft,
    glob_like,
    linear_layers,
    matches,
    saved_for_peft,
    saved_modules,
    short_names,
    similar_names,
    targets,
    ties_embeddings,
    unreadable,
    width,
)
from hydratune.errors import ConfigError, Problem

if TYPE_CHECKING:
    from hydratune.adapters.base import LayerAdapter, PeftAdapter

_TOKENS = "adapter.extra.trainable_token_indices"
# fields of PEFT's configs that follow from the model or from other settings
_DERIVED = {
    "task_type",
    "peft_type",
    "inference_mode",
    "auto_mapping",
    "base_model_name_or_path",
    "fan_in_fan_out",
    "peft_version",
    "total_step",
    "token_dim",
    "num_layers",
    "num_attention_heads",
    "tokenizer_name_or_path",
    "loftq_config",
    "ensure_weight_tying",
}


def config_class(adapter: "PeftAdapter") -> type[PeftConfig]:
    """Return PEFT's config class of an adapter method."""
    kind: type[PeftConfig] = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[adapter.peft_type]]
    return kind


def layer_values(model: PreTrainedModel, adapter: "LayerAdapter") -> dict[str, object]:
    """Return the fields of PEFT's config that say which layers of ``model`` are changed."""
    values: dict[str, object] = {
        "target_modules": for_peft(model, adapter),
        "modules_to_save": saved_for_peft(model, adapter.modules_to_save),
    }
    if "fan_in_fan_out" in {field.name for field in fields(config_class(adapter))}:
        values["fan_in_fan_out"] = any(isinstance(module, Conv1D) for module in model.modules())
    if adapter.saves_tied_embeddings:
        values["ensure_weight_tying"] = bool(tied_modules(model, adapter))
    return values


def layer_problems(model: PreTrainedModel, adapter: "LayerAdapter") -> Iterator[Problem]:
    """Yield what ``model`` cannot accept of the layers that are named."""
    chosen = targets(model, adapter)
    yield from _modules_to_save(model, adapter, chosen)
    yield from _extra_names(model, adapter.extra)
    yield from _tied_head(model, adapter, chosen)


def refuse_unknown_extra(adapter: "PeftAdapter") -> None:
    """Raise ``ConfigError`` for fields of ``adapter.extra`` that PEFT's config does not have."""
    problems = [
        problem
        for key, value in adapter.extra.items()
        for problem in _extra_problem(adapter, key, value)
    ]
    if problems:
        raise ConfigError(problems)


def _extra_problem(adapter: "PeftAdapter", name: str, value: object) -> Iterator[Problem]:
    """Yield why PEFT's config cannot take a field of ``adapter.extra``."""
    kind, key = config_class(adapter), f"adapter.extra.{name}"
    settings = {field.name for field in fields(adapter)}
    known = {field.name: field for field in fields(kind) if field.name not in settings | _DERIVED}
    if name in settings:
        yield Problem(
            key, value, "this setting exists outside extra", f"set adapter.{name}={value}"
        )
        return
    if name not in known:
        why = f"PEFT's {kind.__name__} has no such field, or it follows from other settings"
        yield Problem(key, value, why, f"one of: {', '.join(sorted(known))}")
        return
    expected = type(known[name].default)
    is_right = type(value) is expected or (expected is float and type(value) is int)
    if expected in (bool, int, float) and not is_right:
        yield Problem(key, value, f"PEFT wants {expected.__name__}", "correct the value")


def tied_modules(model: PreTrainedModel, adapter: "LayerAdapter") -> list[str]:
    """Return those of ``modules_to_save`` that are embeddings and output head in one matrix."""
    if not ties_embeddings(model):
        return []
    tied = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {name for name, module in model.named_modules() if module in tied}
    saved = saved_modules(model, adapter.modules_to_save)
    return [pattern for pattern, matched in saved.items() if names.intersection(matched)]


def _modules_to_save(
    model: PreTrainedModel, adapter: "LayerAdapter", chosen: Mapping[str, torch.nn.Module]
) -> Iterator[Problem]:
    """Yield what ``model`` cannot accept of ``modules_to_save``."""
    key, patterns = "adapter.modules_to_save", adapter.modules_to_save
    names = [name for name, _ in model.named_modules() if name]
    wrong = list(unreadable(key, patterns))
    if wrong:
        yield from wrong
        return
    yield from glob_like(key, patterns, names)
    for pattern, saved in saved_modules(model, patterns).items():
        if not any(matches(name, pattern) for name in names):
            yield _no_such_module(model, key, adapter, pattern)
        elif any(f"{layer}.".startswith(f"{name}.") for name in saved for layer in chosen):
            why = f"{pattern} is, or holds, a target of the adapter"
            yield Problem(key, patterns, why, "leave it to one of the two")
    tied = tied_modules(model, adapter)
    if tied and not adapter.saves_tied_embeddings:
        why = (
            f"{', '.join(tied)}: this model's embeddings and output head are one matrix, which PEFT"
            " can train beside LoRA only"
        )
        yield Problem(key, patterns, why, "take it out, or set adapter=lora")


def _no_such_module(
    model: PreTrainedModel, key: str, adapter: "LayerAdapter", pattern: str
) -> Problem:
    """Return the problem of a name in ``modules_to_save`` that no module has."""
    names = [name for name, _ in model.named_modules() if name]
    ends = [name for name in names if name.endswith(pattern)]
    why = f"this model has no module called {pattern}"
    if ends:
        why += f"; PEFT would train the {len(ends)} modules whose names end so"
        fix = f"name what you mean: {short_names(ends)}"
    else:
        unnumbered = [name for name in names if not name[-1].isdigit()]
        fix = f"some of: {short_names(unnumbered)}{similar_names(model, [pattern])}"
    return Problem(key, adapter.modules_to_save, why, fix)


def _tied_head(
    model: PreTrainedModel, adapter: "LayerAdapter", chosen: Mapping[str, torch.nn.Module]
) -> Iterator[Problem]:
    """Yield a problem if a target is the output head and the embeddings in one matrix."""
    head = next(
        (name for name, module in chosen.items() if module is model.get_output_embeddings()), None
    )
    if head is not None and ties_embeddings(model):
        why = (
            f"{head} and the embeddings are one matrix in this model: merged, the adapter would"
            " change both"
        )
        fix = (
            f"leave {head} out; to train both in full: adapter=lora"
            f" adapter.modules_to_save=[{head}]"
        )
        yield Problem("adapter.target_modules", adapter.target_modules, why, fix)


def rank_problems(
    key: str, r: int, chosen: Mapping[str, torch.nn.Module], *, everywhere: bool = False
) -> Iterator[Problem]:
    """Yield a problem if ``r`` is above the width of all layers, or ``everywhere`` of any layer."""
    widths = [min(width(module)) for module in chosen.values()]
    limit = min(widths) if everywhere else max(widths)
    if r > limit:
        why = f"no target layer is wider than {limit}, so a higher rank adds nothing"
        if everywhere:
            why = (
                f"a target layer is only {limit} wide, and this start takes a part of rank r out of"
                " every layer"
            )
        yield Problem(key, r, why, f"set {key}={limit} or less")


def _extra_names(model: PreTrainedModel, extra: Mapping[str, object]) -> Iterator[Problem]:
    """Yield names and numbers in PEFT's own fields that ``model`` does not have.

    PEFT itself warns of them at most.
    """
    yield from _target_parameters(model, extra.get("target_parameters"))
    tokens = extra.get("trainable_token_indices")
    if isinstance(tokens, Mapping):
        yield from _token_layers(model, tokens)
    elif isinstance(tokens, list | tuple):
        yield from _token_numbers(model, tokens)


def _target_parameters(model: PreTrainedModel, names: object) -> Iterator[Problem]:
    """Yield a problem for each name in ``target_parameters`` that no parameter has.

    PEFT adapts matrices by it that are no weights of layers, such as those of experts.
    """
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for name in names if isinstance(names, list | tuple) else ():
        if not any(parameter == name or parameter.endswith(f".{name}") for parameter in parameters):
            why = f"this model has no parameter called {name}"
            fix = "leave it out: all matrices of this model are weights of layers"
            if free := _matrices_outside_layers(model):
                fix = f"some of: {', '.join(free)}"
            yield Problem("adapter.extra.target_parameters", names, why, fix)


def _matrices_outside_layers(model: PreTrainedModel) -> list[str]:
    """Return the ends of the names of parameters that are matrices, but no layer's weight."""
    linear = set(linear_layers(model))
    layers = {
        f"{name}.weight"
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, torch.nn.Embedding) or name in linear
    }
    names = [
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.ndim in (2, 3) and name not in layers
    ]
    return sorted({".".join(name.split(".")[-2:]) for name in names})


def _token_layers(
    model: PreTrainedModel, tokens: Mapping[str, Sequence[object]]
) -> Iterator[Problem]:
    """Yield a problem for each unknown embedding layer or token.

    ``tokens``: name of an embedding layer -> numbers of the tokens that are trained in it.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for layer, numbers in tokens.items():
        if not any(name == layer or name.endswith(f".{layer}") for name in modules):
            embeddings = model.get_input_embeddings()
            known = next(name for name, module in modules.items() if module is embeddings)
            why = f"this model has no module called {layer}"
            yield Problem(_TOKENS, layer, why, f"the embeddings are {known}")
        yield from _token_numbers(model, numbers)


def _token_numbers(model: PreTrainedModel, numbers: Sequence[object]) -> Iterator[Problem]:
    """Yield a problem if the numbers are no rows of the embeddings."""
    rows = model.get_input_embeddings().weight.shape[0]
    wrong = [
        number
        for number in numbers
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < rows
    ]
    if wrong or not numbers:
        why = "no token is named, so none would be trained"
        if wrong:
            why = f"{wrong[0]} is no row of the embeddings, which have {rows:,}"
        fix = f"give numbers of tokens, from 0 to {rows - 1}"
        yield Problem(_TOKENS, list(numbers), why, fix)
