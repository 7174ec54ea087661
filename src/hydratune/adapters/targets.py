"""Which layers of a model an adapter changes, decided by name before anything is changed; refusals
show the names that exist.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from peft import utils as peft_utils
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hydratune.errors import ConfigError, Problem

if TYPE_CHECKING:
    from hydratune.adapters.base import LayerAdapter

ALL_LINEAR = "all-linear"
_LAYER_LISTS = ("layers", "h", "block", "blocks", "layer")  # as PEFT looks for them


def matches(name: str, pattern: str) -> bool:
    """Whether ``pattern`` is the name, its end after a dot, or a regular expression of the whole
    name.
    """
    return (
        name == pattern or name.endswith(f".{pattern}") or re.fullmatch(pattern, name) is not None
    )


def unreadable(key: str, patterns: Sequence[str]) -> Iterator[Problem]:
    """Patterns that are no regular expressions."""
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
    takes: Callable[[str, str], bool] = matches,
) -> Iterator[Problem]:
    """Regular expressions such as ``layers.1.*`` that take more than their dots say: layer 10 as
    well as layer 1.
    """
    names = list(names)
    for pattern in patterns:
        end = re.search(r"(\d)\.\*", pattern)
        if end is None:
            continue
        literal = re.sub(r"(?<!\\)\.(?![*+?])", "[.]", pattern).replace(
            f"{end[1]}.*", f"{end[1]}[.].*"
        )
        more = [name for name in names if takes(name, pattern) and not takes(name, literal)]
        if more:
            wide = literal.replace(f"{end[1]}[.].*", f"{end[1]}[0-9]*[.].*")
            why = (
                f"{pattern} is a regular expression, in which . is any character: it takes"
                f" {more[0]} as well"
            )
            yield Problem(key, pattern, why, f"""write "{literal}", or "{wide}" if that is meant""")


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


def wanted(model: PreTrainedModel, adapter: "LayerAdapter") -> list[str]:
    """``adapter.target_modules``, or PEFT's choice for the architecture.

    Raises ``ConfigError`` where PEFT knows none.
    """
    if adapter.target_modules is not None:
        return list(adapter.target_modules)
    # architecture -> names
    mapping = f"TRANSFORMERS_MODELS_TO_{adapter.peft_type}_TARGET_MODULES_MAPPING"
    known: Mapping[str, Sequence[str]] = getattr(peft_utils, mapping)
    kind = model.config.model_type
    if kind not in known or isinstance(known[kind], str):
        why = (
            f"PEFT has no choice of layers for {adapter_name(adapter)} on the architecture {kind!r}"
        )
        fix = (
            "name them: adapter.target_modules=[...], of:"
            f" {short_names(list(linear_layers(model)))}"
        )
        raise ConfigError([Problem("adapter.target_modules", None, why, fix)])
    return list(known[kind])


def adapter_name(adapter: object) -> str:
    """``adapter=`` option, for messages."""
    return str(getattr(adapter, "method", type(adapter).__name__))


def targets(model: PreTrainedModel, adapter: "LayerAdapter") -> dict[str, torch.nn.Module]:
    """The layers that ``adapter`` changes, by name.

    Raises ``ConfigError`` for names that match nothing.
    """
    linears, choice = linear_layers(model), wanted(model, adapter)
    unclear = [
        *unreadable("adapter.target_modules", choice),
        *unreadable("adapter.exclude_modules", adapter.exclude_modules),
    ]
    if unclear:
        raise ConfigError(unclear)
    head = model.get_output_embeddings()
    body = [
        name for name, module in linears.items() if module is not head
    ]  # the head is only trained if it is named
    problems = [
        *glob_like("adapter.target_modules", choice, linears),
        *glob_like("adapter.exclude_modules", adapter.exclude_modules, linears),
        *_excluded_shorthand(adapter, body),
    ]
    for key, patterns in (("target_modules", choice), ("exclude_modules", adapter.exclude_modules)):
        missing = [
            p for p in patterns if p != ALL_LINEAR and not any(matches(name, p) for name in linears)
        ]
        if missing:
            why = f"this model has no linear layer called {', '.join(missing)}"
            fix = f"its linear layers: {short_names(list(linears))}{elsewhere(model, missing)}"
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
    before = chosen
    if adapter.layers_to_transform is not None:
        chosen = {
            n: m
            for n, m in chosen.items()
            if layer_number(n, adapter.layers_pattern) in adapter.layers_to_transform
        }
    if not chosen:
        if not linears:
            why, fix = "this model has no linear layer", "set adapter=none"
        else:
            why = "adapter.exclude_modules and adapter.layers_to_transform leave no layer"
            fix = f"choose among: {short_names(list(linears))}"
        raise ConfigError([Problem("adapter.target_modules", adapter.target_modules, why, fix)])
    if adapter.target_modules is not None:
        problems = list(_left_out(adapter, before, chosen))
    if problems:
        raise ConfigError(problems)
    return chosen


def _excluded_shorthand(adapter: "LayerAdapter", body: Sequence[str]) -> Iterator[Problem]:
    if ALL_LINEAR in adapter.exclude_modules:
        why = (
            f"{ALL_LINEAR} is a word for targets; here it would exclude nothing, and meant as it"
            " reads it would leave nothing to train"
        )
        fix = f"name what is to stay as it is, some of: {short_names(body)}"
        yield Problem("adapter.exclude_modules", adapter.exclude_modules, why, fix)


def _left_out(
    adapter: "LayerAdapter", before: Iterable[str], chosen: Iterable[str]
) -> Iterator[Problem]:
    """Names of which every layer is left out again; ``before``: the layers without
    ``layers_to_transform``.
    """
    for pattern in adapter.target_modules or ():
        if pattern == ALL_LINEAR or any(matches(name, pattern) for name in chosen):
            continue
        rest = [p for p in adapter.target_modules or () if p != pattern]
        unnumbered = [name for name in before if matches(name, pattern)]
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
    """Names in ``exclude_modules`` that are no target anyway."""
    patterns = adapter.exclude_modules
    others = set(targets(model, replace(adapter, exclude_modules=[]))) if patterns else set()
    return [pattern for pattern in patterns if not any(matches(name, pattern) for name in others)]


def elsewhere(model: PreTrainedModel, missing: Iterable[str]) -> str:
    """What a name may have meant that is the beginning or the end of others, as an addition to a
    message.
    """
    names = {
        name.rpartition(".")[2]
        for name, _ in model.named_modules()
        if name and not name[-1].isdigit()
    }
    near = [
        name
        for name in sorted(names)
        if any(len(word) > 2 and word in name and word != name for word in missing)
    ]
    return f" (alike: {', '.join(near)})" if near else ""


# -------------------------------------------------------------------------- modules trained in full
def saved_modules(model: PreTrainedModel, patterns: Sequence[str]) -> dict[str, list[str]]:
    """Of every name or expression in ``modules_to_save``, the modules it means: whole names, or
    ends after a dot.

    A module inside another that is trained in full is not listed: it is a part of it.
    """
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    found = {pattern: [name for name in names if matches(name, pattern)] for pattern in patterns}
    every = {name for some in found.values() for name in some}

    def is_inside(name: str) -> bool:
        return any(name.startswith(f"{outer}.") for outer in every)

    return {
        pattern: [name for name in some if not is_inside(name)] for pattern, some in found.items()
    }


def meant(model: PreTrainedModel, adapter: "LayerAdapter") -> tuple[set[str], set[str]]:
    """(names of the layers that ``adapter`` changes, names of the modules that are trained in full
    beside it).

    Of the embeddings and the output head in one matrix, both are named where one is.
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
    """``modules_to_save`` of the PEFT config. PEFT takes every module whose name *ends* with an
    entry, ``input_layernorm`` for ``norm``: where that is more than what was meant, whole names are
    given."""
    if not patterns:
        return None
    names = [
        f"base_model.model.{name}"
        for name, _ in model.named_modules(remove_duplicate=False)
        if name
    ]
    meant = {name for some in saved_modules(model, patterns).values() for name in some}

    def taken(entries: Iterable[str]) -> set[str]:
        return {
            name.removeprefix("base_model.model.")
            for name in names
            if any(name.endswith(entry) for entry in entries)
        }

    short = list(patterns)
    for entries in (short, sorted(meant)):
        if taken(entries) == meant:
            return entries
    return sorted(f"base_model.model.{name}" for name in meant)


def _wrong_layers(model: PreTrainedModel, adapter: "LayerAdapter") -> Iterator[Problem]:
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
    """``target_modules`` of the PEFT config: as short as they can be written, else every name."""
    choice = wanted(model, adapter)
    if adapter.exclude_modules or adapter.layers_to_transform is not None:
        return sorted(targets(model, adapter))
    if choice == [ALL_LINEAR]:
        return ALL_LINEAR
    linears = linear_layers(model)
    plain = all(
        p != ALL_LINEAR and any(n == p or n.endswith(f".{p}") for n in linears) for p in choice
    )
    return choice if plain else sorted(targets(model, adapter))
