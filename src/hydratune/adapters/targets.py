"""The layers of a model that an adapter changes.

They are chosen by name before anything is changed. Messages show the names that exist.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from peft import utils as peft_utils
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hydratune.adapters import skipped_layers
from hydratune.errors import ConfigError, Problem

if TYPE_CHECKING:
    from hydratune.adapters.base import LayerAdapter

ALL_LINEAR = "all-linear"
_LAYER_LISTS = ("layers", "h", "block", "blocks", "layer")  # as PEFT looks for them


def matches(name: str, pattern: str) -> bool:
    """Return whether ``pattern`` means the module ``name``.

    A pattern is the name, its end after a dot, or a regular expression of the whole name.
    """
    return (
        name == pattern or name.endswith(f".{pattern}") or re.fullmatch(pattern, name) is not None
    )


def unreadable(key: str, patterns: Sequence[str]) -> Iterator[Problem]:
    """Yield a problem for each pattern that is no regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            yield Problem(
                key,
                pattern,
                f"not a regular expression ({error})",
                "give a name, or mend the expression",
            )


def glob_like(
    key: str,
    patterns: Iterable[str],
    names: Iterable[str],
    is_match: Callable[[str, str], bool] = matches,
) -> Iterator[Problem]:
    """Yield a problem for each expression such as ``layers.1.*``, which matches layer 10 as well.

    ``is_match``: whether a name matches a pattern.
    """
    names = list(names)
    for pattern in patterns:
        end = re.search(r"(\d)\.\*", pattern)
        if end is None:
            continue
        literal = re.sub(r"(?<!\\)\.(?![*+?])", "[.]", pattern).replace(
            f"{end[1]}.*", f"{end[1]}[.].*"
        )
        more = [name for name in names if is_match(name, pattern) and not is_match(name, literal)]
        if more:
            wide = literal.replace(f"{end[1]}[.].*", f"{end[1]}[0-9]*[.].*")
            why = (
                f"{pattern} is a regular expression, in which . is any character: it takes"
                f" {more[0]} as well"
            )
            yield Problem(key, pattern, why, f"""write "{literal}", or "{wide}" if that is meant""")


def linear_layers(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """Return all linear layers by name, quantised ones and the output head among them."""
    return {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}


def width(layer: torch.nn.Module) -> tuple[int, int]:
    """Return the widths (in, out) of a linear layer, which a quantised weight does not show."""
    if isinstance(layer, torch.nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, Conv1D)
    return layer.nx, layer.nf


def short_names(names: Sequence[str]) -> str:
    """Return the last parts of ``names``, for messages."""
    return ", ".join(sorted({name.rpartition(".")[2] for name in names}))


def ties_embeddings(model: PreTrainedModel) -> bool:
    """Return whether the output head and the embeddings are one matrix."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and embeddings is not None and head.weight is embeddings.weight


def layer_number(name: str, pattern: str | None) -> int | None:
    """Return the number of the layer that module ``name`` is in; None outside of the layers."""
    lists = "|".join(map(re.escape, (pattern,) if pattern else _LAYER_LISTS))
    match = re.search(rf"(?:^|\.)(?:{lists})\.(\d+)\.", name)
    return int(match[1]) if match else None


def target_patterns(model: PreTrainedModel, adapter: "LayerAdapter") -> list[str]:
    """Return ``adapter.target_modules``, or PEFT's choice for the architecture.

    Raises ``ConfigError`` where PEFT knows none.
    """
    if adapter.target_modules is not None:
        return list(adapter.target_modules)
    # architecture -> names
    mapping = f"TRANSFORMERS_MODELS_TO_{adapter.peft_type}_TARGET_MODULES_MAPPING"
    choices: Mapping[str, Sequence[str]] = getattr(peft_utils, mapping)
    architecture = model.config.model_type
    if architecture not in choices or isinstance(choices[architecture], str):
        why = (
            f"PEFT has no choice of layers for {adapter_name(adapter)} on the architecture"
            f" {architecture!r}"
        )
        fix = (
            "name them: adapter.target_modules=[...], of:"
            f" {short_names(list(linear_layers(model)))}"
        )
        raise ConfigError([Problem("adapter.target_modules", None, why, fix)])
    return list(choices[architecture])


def adapter_name(adapter: object) -> str:
    """Return the option of ``adapter=``, for messages."""
    return str(getattr(adapter, "method", type(adapter).__name__))


def targets(model: PreTrainedModel, adapter: "LayerAdapter") -> dict[str, torch.nn.Module]:
    """Return the layers that ``adapter`` changes, by name.

    Raises ``ConfigError`` for names that match nothing.
    """
    linears, choice = linear_layers(model), target_patterns(model, adapter)
    unclear = [
        *unreadable("adapter.target_modules", choice),
        *unreadable("adapter.exclude_modules", adapter.exclude_modules),
    ]
    if unclear:
        raise ConfigError(unclear)
    head = model.get_output_embeddings()
    # the head is only trained if it is named
    skipped = skipped_layers.skipped(model, adapter, linears)
    body = [n for n, module in linears.items() if module is not head and n not in skipped]
    problems = [
        *glob_like("adapter.target_modules", choice, linears),
        *glob_like("adapter.exclude_modules", adapter.exclude_modules, linears),
        *_excluded_shorthand(adapter, body),
        *_unknown_names(model, linears, "adapter.target_modules", choice),
        *_unknown_names(model, linears, "adapter.exclude_modules", adapter.exclude_modules),
        *_wrong_layers(model, adapter),
    ]
    if problems:
        raise ConfigError(problems)
    named = {
        name: module
        for name, module in linears.items()
        if any(name in body if p == ALL_LINEAR else matches(name, p) for p in choice)
        and not any(matches(name, p) for p in adapter.exclude_modules)
    }
    chosen = {name: module for name, module in named.items() if _in_layers(name, adapter)}
    if not chosen:
        raise ConfigError([_no_layer(linears, adapter)])
    problems = list(_unused_names(adapter, named, chosen))
    if problems:
        raise ConfigError(problems)
    return chosen


def _in_layers(name: str, adapter: "LayerAdapter") -> bool:
    """Return whether module ``name`` is in one of ``layers_to_transform``."""
    numbers = adapter.layers_to_transform
    return numbers is None or layer_number(name, adapter.layers_pattern) in numbers


def _unknown_names(
    model: PreTrainedModel, linears: Iterable[str], key: str, patterns: Sequence[str]
) -> Iterator[Problem]:
    """Yield a problem if some of ``patterns`` match no linear layer."""
    missing = [
        p for p in patterns if p != ALL_LINEAR and not any(matches(name, p) for name in linears)
    ]
    if missing:
        why = f"this model has no linear layer called {', '.join(missing)}"
        fix = f"its linear layers: {short_names(list(linears))}{similar_names(model, missing)}"
        yield Problem(key, patterns, why, fix)


def _no_layer(linears: Iterable[str], adapter: "LayerAdapter") -> Problem:
    """Return the problem of an adapter that would change no layer."""
    if not linears:
        why, fix = "this model has no linear layer", "set adapter=none"
    else:
        why = "adapter.exclude_modules and adapter.layers_to_transform leave no layer"
        fix = f"choose among: {short_names(list(linears))}"
    return Problem("adapter.target_modules", adapter.target_modules, why, fix)


def _excluded_shorthand(adapter: "LayerAdapter", body: Sequence[str]) -> Iterator[Problem]:
    """Yield a problem if ``all-linear`` is excluded."""
    if ALL_LINEAR in adapter.exclude_modules:
        why = (
            f"{ALL_LINEAR} is understood as a target only; as an exclusion it would leave nothing"
            " to train"
        )
        fix = f"name the layers that are not to be trained, some of: {short_names(body)}"
        yield Problem("adapter.exclude_modules", adapter.exclude_modules, why, fix)


def _unused_names(
    adapter: "LayerAdapter", named: Iterable[str], chosen: Iterable[str]
) -> Iterator[Problem]:
    """Yield a problem for each target name that decides nothing, because no layer of it is chosen.

    ``named``: the layers before ``layers_to_transform`` is applied.
    """
    for pattern in adapter.target_modules or ():
        if pattern == ALL_LINEAR or any(matches(name, pattern) for name in chosen):
            continue
        rest = [p for p in adapter.target_modules or () if p != pattern]
        unnumbered = [name for name in named if matches(name, pattern)]
        why = f"adapter.exclude_modules leaves no layer of {pattern}"
        fix = f"set adapter.target_modules=[{','.join(rest)}]"
        if unnumbered:
            numbers = adapter.layers_to_transform
            why = (
                f"adapter.layers_to_transform={numbers} leaves {pattern} out: {unnumbered[0]} is in"
                " none of these layers"
            )
            fix += ", or adapter.layers_to_transform=null for all layers"
        yield Problem("adapter.target_modules", adapter.target_modules, why, fix)


def without_effect(model: PreTrainedModel, adapter: "LayerAdapter") -> list[str]:
    """Return the names in ``exclude_modules`` that are no target anyway."""
    patterns = adapter.exclude_modules
    others = set(targets(model, replace(adapter, exclude_modules=[]))) if patterns else set()
    return [pattern for pattern in patterns if not any(matches(name, pattern) for name in others)]


def similar_names(model: PreTrainedModel, missing: Iterable[str]) -> str:
    """Return the names of modules that contain a missing name, as the end of a message."""
    names = {
        name.rpartition(".")[2]
        for name, _ in model.named_modules()
        if name and not name[-1].isdigit()
    }
    similar = [
        name
        for name in sorted(names)
        if any(len(word) > 2 and word in name and word != name for word in missing)
    ]
    return f" (similar: {', '.join(similar)})" if similar else ""


# -------------------------------------------------------------------------- modules trained in full
def saved_modules(model: PreTrainedModel, patterns: Sequence[str]) -> dict[str, list[str]]:
    """Return the modules that each name or expression in ``modules_to_save`` means.

    A module inside another that is trained in full is not listed: it is a part of it.
    """
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    matched = {pattern: [name for name in names if matches(name, pattern)] for pattern in patterns}
    every = {name for some in matched.values() for name in some}

    def is_inside(name: str) -> bool:
        return any(name.startswith(f"{outer}.") for outer in every)

    return {
        pattern: [name for name in some if not is_inside(name)] for pattern, some in matched.items()
    }


def expected_modules(model: PreTrainedModel, adapter: "LayerAdapter") -> tuple[set[str], set[str]]:
    """Return the names of the layers that are adapted, and of the modules trained in full.

    If the embeddings and the output head are one matrix, both are named where one is.
    """
    saved = {
        name for some in saved_modules(model, adapter.modules_to_save).values() for name in some
    }
    if ties_embeddings(model):
        shared = {
            n
            for n, m in model.named_modules()
            if m is model.get_input_embeddings() or m is model.get_output_embeddings()
        }
        saved |= shared if saved & shared else set()
    return set(targets(model, adapter)), saved


def saved_for_peft(model: PreTrainedModel, patterns: Sequence[str]) -> list[str] | None:
    """Return ``modules_to_save`` of the PEFT config.

    PEFT takes every module whose name *ends* with an entry, ``input_layernorm`` for ``norm``. Where
    that is more than the names match by ``matches``, whole names are returned.
    """
    if not patterns:
        return None
    names = [
        f"base_model.model.{name}"
        for name, _ in model.named_modules(remove_duplicate=False)
        if name
    ]
    expected = {name for some in saved_modules(model, patterns).values() for name in some}

    def taken(entries: Iterable[str]) -> set[str]:
        return {
            name.removeprefix("base_model.model.")
            for name in names
            if any(name.endswith(entry) for entry in entries)
        }

    short = list(patterns)
    for entries in (short, sorted(expected)):
        if taken(entries) == expected:
            return entries
    return sorted(f"base_model.model.{name}" for name in expected)


def _wrong_layers(model: PreTrainedModel, adapter: "LayerAdapter") -> Iterator[Problem]:
    """Yield a problem if ``layers_to_transform`` names layers that ``model`` does not have."""
    if adapter.layers_to_transform is None:
        return
    numbers = {layer_number(name, adapter.layers_pattern) for name, _ in model.named_modules()} - {
        None
    }
    if not numbers:
        lists = sorted(n for n, m in model.named_modules() if isinstance(m, torch.nn.ModuleList))
        why = (
            "this model has no numbered layers called"
            f" {adapter.layers_pattern or ', '.join(_LAYER_LISTS)}"
        )
        fix = f"name their list; this model has: {short_names(lists) or 'none'}"
        yield Problem("adapter.layers_pattern", adapter.layers_pattern, why, fix)
        return
    wrong = [number for number in adapter.layers_to_transform if number not in numbers]
    if wrong or not adapter.layers_to_transform:
        why = f"this model has {len(numbers)} layers, with the numbers 0 to {len(numbers) - 1}"
        yield Problem(
            "adapter.layers_to_transform",
            adapter.layers_to_transform,
            why,
            "choose among them, or null for all",
        )


def for_peft(model: PreTrainedModel, adapter: "LayerAdapter") -> str | list[str]:
    """Return ``target_modules`` of the PEFT config: short names if they suffice, else all names."""
    choice = target_patterns(model, adapter)
    if adapter.exclude_modules or adapter.layers_to_transform is not None:
        return sorted(targets(model, adapter))
    linears = linear_layers(model)
    if choice == [ALL_LINEAR]:
        skips = skipped_layers.takes_more(model, adapter, linears)
        return sorted(targets(model, adapter)) if skips else ALL_LINEAR
    plain = all(
        p != ALL_LINEAR and any(n == p or n.endswith(f".{p}") for n in linears) for p in choice
    )
    return choice if plain else sorted(targets(model, adapter))
