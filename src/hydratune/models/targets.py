"""Which layers of a model an adapter changes, decided by name before anything is changed; refusals show the names that exist."""

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from peft import utils as peft_utils
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hydratune.config import AdaLoraAdapter, Ia3Adapter, LayerAdapter, LoraAdapter, OftAdapter, VeraAdapter
from hydratune.errors import ConfigError, Problem

ALL_LINEAR = "all-linear"
_PEFTS_CHOICE: dict[type[LayerAdapter], Mapping[str, Sequence[str]]] = {  # architecture -> names
    LoraAdapter: peft_utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    AdaLoraAdapter: peft_utils.TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING,
    Ia3Adapter: peft_utils.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    VeraAdapter: peft_utils.TRANSFORMERS_MODELS_TO_VERA_TARGET_MODULES_MAPPING,
    OftAdapter: peft_utils.TRANSFORMERS_MODELS_TO_OFT_TARGET_MODULES_MAPPING,
}
_PEFTS_FEEDFORWARD: Mapping[str, Sequence[str]] = peft_utils.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
_LAYER_LISTS = ("layers", "h", "block", "blocks", "layer")  # as PEFT looks for them


def matches(name: str, pattern: str) -> bool:
    """Whether ``pattern`` is the name, its end after a dot, or a regular expression of the whole name."""
    return name == pattern or name.endswith(f".{pattern}") or re.fullmatch(pattern, name) is not None


def unreadable(key: str, patterns: Sequence[str]) -> Iterator[Problem]:
    """Patterns that are no regular expressions."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            yield Problem(key, pattern, f"not a regular expression ({error})", "give a name, or mend the expression")


def linear_layers(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """Everything an adapter can be added to, by name: quantised layers too, and the output head."""
    return {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}


def width(layer: torch.nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer; a quantised one no longer shows it in its weight."""
    if isinstance(layer, torch.nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, Conv1D)
    return layer.nx, layer.nf


def short_names(names: Sequence[str]) -> str:
    """The last parts of ``names``, for messages."""
    return ", ".join(sorted({name.rpartition(".")[2] for name in names}))


def ties_embeddings(model: PreTrainedModel) -> bool:
    """Whether the output head and the embeddings are one matrix."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and embeddings is not None and head.weight is embeddings.weight


def layer_number(name: str, pattern: str | None) -> int | None:
    """Of the layer that module ``name`` is in; None outside of the layers."""
    lists = "|".join(map(re.escape, (pattern,) if pattern else _LAYER_LISTS))
    found = re.search(rf"(?:^|\.)(?:{lists})\.(\d+)\.", name)
    return int(found[1]) if found else None


def wanted(model: PreTrainedModel, adapter: LayerAdapter) -> list[str]:
    """``adapter.target_modules``, or PEFT's choice for the architecture. Raises ``ConfigError`` where PEFT knows none."""
    if adapter.target_modules is not None:
        return list(adapter.target_modules)
    known = _PEFTS_CHOICE[type(adapter)]
    kind = model.config.model_type
    if kind not in known or isinstance(known[kind], str):
        why = f"PEFT has no choice of layers for {adapter_name(adapter)} on the architecture {kind!r}"
        fix = f"name them: adapter.target_modules=[...], of: {short_names(list(linear_layers(model)))}"
        raise ConfigError([Problem("adapter.target_modules", None, why, fix)])
    return list(known[kind])


def adapter_name(adapter: object) -> str:
    """``adapter=`` option, for messages."""
    return str(getattr(adapter, "method", type(adapter).__name__))


def feedforward(model: PreTrainedModel, adapter: Ia3Adapter) -> list[str]:
    """Names of the targets whose input is scaled. Raises ``ConfigError`` where PEFT knows none."""
    if adapter.feedforward_modules is not None:
        return list(adapter.feedforward_modules)
    kind = model.config.model_type
    if kind not in _PEFTS_FEEDFORWARD:
        why = f"PEFT does not know the feed-forward layers of the architecture {kind!r}"
        fix = "name those among adapter.target_modules: adapter.feedforward_modules=[...], or [] if there are none"
        raise ConfigError([Problem("adapter.feedforward_modules", None, why, fix)])
    return list(_PEFTS_FEEDFORWARD[kind])


def targets(model: PreTrainedModel, adapter: LayerAdapter) -> dict[str, torch.nn.Module]:
    """The layers that ``adapter`` changes, by name. Raises ``ConfigError`` for names that match nothing."""
    linears, choice = linear_layers(model), wanted(model, adapter)
    unclear = [
        *unreadable("adapter.target_modules", choice),
        *unreadable("adapter.exclude_modules", adapter.exclude_modules),
    ]
    if unclear:
        raise ConfigError(unclear)
    head = model.get_output_embeddings()
    body = [name for name, module in linears.items() if module is not head]  # the head is only trained if it is named
    problems = []
    for key, patterns in (("target_modules", choice), ("exclude_modules", adapter.exclude_modules)):
        missing = [p for p in patterns if p != ALL_LINEAR and not any(matches(name, p) for name in linears)]
        if missing:
            why = f"this model has no linear layer called {', '.join(missing)}"
            fix = f"its linear layers: {short_names(list(linears))}"
            problems.append(Problem(f"adapter.{key}", patterns, why, fix))
    chosen = {
        name: module
        for name, module in linears.items()
        if any(name in body if p == ALL_LINEAR else matches(name, p) for p in choice)
        and not any(matches(name, p) for p in adapter.exclude_modules)
    }
    problems += _wrong_layers(model, adapter)
    if problems:
        raise ConfigError(problems)
    if adapter.layers_to_transform is not None:
        chosen = {n: m for n, m in chosen.items() if layer_number(n, adapter.layers_pattern) in adapter.layers_to_transform}
    if not chosen:
        if not linears:
            why, fix = "this model has no linear layer", "set adapter=none"
        else:
            why = "adapter.exclude_modules and adapter.layers_to_transform leave no layer"
            fix = f"choose among: {short_names(list(linears))}"
        raise ConfigError([Problem("adapter.target_modules", adapter.target_modules, why, fix)])
    return chosen


def _wrong_layers(model: PreTrainedModel, adapter: LayerAdapter) -> Iterator[Problem]:
    if adapter.layers_to_transform is None:
        return
    numbers = {layer_number(name, adapter.layers_pattern) for name, _ in model.named_modules()} - {None}
    if not numbers:
        lists = sorted(n for n, m in model.named_modules() if isinstance(m, torch.nn.ModuleList))
        why = f"this model has no numbered layers called {adapter.layers_pattern or ', '.join(_LAYER_LISTS)}"
        fix = f"name their list; this model has: {short_names(lists) or 'none'}"
        yield Problem("adapter.layers_pattern", adapter.layers_pattern, why, fix)
        return
    wrong = [number for number in adapter.layers_to_transform if number not in numbers]
    if wrong or not adapter.layers_to_transform:
        why = f"this model has {len(numbers)} layers, with the numbers 0 to {len(numbers) - 1}"
        yield Problem("adapter.layers_to_transform", adapter.layers_to_transform, why, "choose among them, or null for all")


def for_peft(model: PreTrainedModel, adapter: LayerAdapter) -> str | list[str]:
    """``target_modules`` of the PEFT config: as short as they can be written, else every name."""
    choice = wanted(model, adapter)
    if adapter.exclude_modules or adapter.layers_to_transform is not None:
        return sorted(targets(model, adapter))
    if choice == [ALL_LINEAR]:
        return ALL_LINEAR
    linears = linear_layers(model)
    plain = all(p != ALL_LINEAR and any(n == p or n.endswith(f".{p}") for n in linears) for p in choice)
    return choice if plain else sorted(targets(model, adapter))
