"""What a model cannot accept of LoRA's settings."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from hydratune.adapters.peft_rules import rank_problems
from hydratune.adapters.targets import glob_like, linear_layers, short_names, targets
from hydratune.errors import Problem

if TYPE_CHECKING:
    from hydratune.adapters.methods.lora import LoraAdapter

Layers = Mapping[str, torch.nn.Module]  # by name


def lora_problems(model: PreTrainedModel, adapter: "LoraAdapter") -> Iterator[Problem]:
    """Yield what ``model`` cannot accept of ranks, patterns, biases and DoRA."""
    layers = targets(model, adapter)
    yield from rank_problems("adapter.r", adapter.r, layers, everywhere=adapter.changes_base())
    yield from _dora_problems(adapter, layers)
    yield from _pattern_problems(adapter, "rank_pattern", adapter.rank_pattern, layers)
    yield from _pattern_problems(adapter, "alpha_pattern", adapter.alpha_pattern, layers)
    yield from _bias_problems(model, adapter, layers)


def _dora_problems(adapter: "LoraAdapter", layers: Layers) -> Iterator[Problem]:
    """Yield a problem if DoRA is added to 8-bit layers on a CPU."""

    def is_8bit_on_cpu(layer: torch.nn.Module) -> bool:
        is_8bit = hasattr(layer, "state") and hasattr(layer.weight, "SCB")
        return is_8bit and layer.weight.device.type == "cpu"

    if adapter.use_dora and any(map(is_8bit_on_cpu, layers.values())):
        why = "on a CPU, PEFT's DoRA loses the scales of an 8-bit base"
        fix = "set model.quantization=nf4, or adapter=lora, or train on a GPU"
        yield Problem("adapter.use_dora", True, why, fix)


def _pattern_problems(
    adapter: "LoraAdapter", setting: str, patterns: Mapping[str, float], layers: Layers
) -> Iterator[Problem]:
    """Yield the patterns that decide nothing, and ranks that are too high for their layers.

    Of several patterns that match a layer, PEFT takes the first.
    """
    decided: set[str] = set()
    yield from glob_like(f"adapter.{setting}", patterns, layers, _in_pattern)
    for pattern, value in patterns.items():
        key = f"adapter.{setting}.{pattern}"
        matched = {name: layer for name, layer in layers.items() if _in_pattern(name, pattern)}
        if not matched:
            fix = f"the target layers: {short_names(list(layers))}"
            yield Problem(key, value, "no target layer has this name", fix)
        elif decided.issuperset(matched):
            first = next(p for p in patterns if any(_in_pattern(name, p) for name in matched))
            why = (
                f"every layer it names has its value from the earlier {first}: of several that"
                " match, the first counts"
            )
            yield Problem(key, value, why, f"put {pattern} before {first}, or take it out")
        elif setting == "rank_pattern":
            high = rank_problems(key, int(value), matched, everywhere=adapter.changes_base())
            # the value of an entry that exists is not typed as KEY=VALUE
            yield from (replace(p, fix=p.fix.replace(f"{key}=", "it to ")) for p in high)
        decided |= set(matched)


def _bias_problems(
    model: PreTrainedModel, adapter: "LoraAdapter", layers: Layers
) -> Iterator[Problem]:
    """Yield a problem if biases are to be trained and the layers have none."""
    if adapter.bias.value == "none":
        return
    trained = layers if adapter.bias.value == "lora_only" else linear_layers(model)
    if all(getattr(layer, "bias", None) is None for layer in trained.values()):
        why = "the layers of this model have no bias"
        yield Problem("adapter.bias", adapter.bias.value, why, "set adapter.bias=none")


def _in_pattern(name: str, pattern: str) -> bool:
    """Return whether a key of ``rank_pattern`` or ``alpha_pattern`` means a layer, as in PEFT."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None
