"""What a LoRA layer of PEFT holds, and whether it is plain enough for ``LoraFunction``.

PEFT keeps owning weights, configuration and files. Layers that are anything but plain LoRA (DoRA
and other variants, several adapters, 8-bit, several dtypes) keep PEFT's forward.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias, TypeGuard

import torch
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora import LoraLayer

from hydratune.training.low_rank import Factors, FrozenLinear, LoraShare

# a linear layer, or PEFT's LoRA around one (PEFT has no types)
LinearLayer: TypeAlias = Any

# names of linear layers that read one input
SIBLINGS = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("query", "key", "value"),
    ("w1", "w3"),
)


def sibling_groups(
    children: Mapping[str, LinearLayer],
) -> Iterator[list[LinearLayer]]:
    """Yield ``children`` of one module (by name) in groups that read the same input."""
    remaining = dict(children)
    for names in SIBLINGS:
        if all(name in remaining for name in names):
            yield [remaining.pop(name) for name in names]
    yield from ([layer] for layer in remaining.values())


def share_of(
    layers: Sequence[tuple[int, PeftLinear]],
    generator: torch.Generator | None,
    span: slice = slice(None),
) -> LoraShare:
    """Return what LoRA layers, each with its place, add on the rows ``span``."""
    scales = tuple(layer.scaling[layer.active_adapters[0]] for _, layer in layers)
    places = tuple(place for place, _ in layers)
    return LoraShare(places, scales, dropout_of(layers[0][1]), generator, span)


def dropout_of(layer: PeftLinear) -> float:
    """Return the probability with which ``layer`` drops elements of its input now."""
    dropout = layer.lora_dropout[layer.active_adapters[0]]
    return dropout.p if layer.training and isinstance(dropout, torch.nn.Dropout) else 0.0


def factors_of(layer: PeftLinear) -> Factors:
    """Return A and B."""
    (name,) = layer.active_adapters
    return layer.lora_A[name].weight, layer.lora_B[name].weight


def frozen_linear(layer: LinearLayer) -> FrozenLinear:
    """Return the frozen weight and bias of ``layer``, with or without LoRA."""
    base: LinearLayer = layer.base_layer if isinstance(layer, LoraLayer) else layer
    return FrozenLinear(_weight_reader(base), base.bias)


def _weight_reader(base: LinearLayer) -> Callable[[], torch.Tensor]:
    weight = base.weight
    if getattr(weight, "quant_state", None) is None:
        return lambda: weight
    from bitsandbytes.functional import dequantize_4bit  # loaded already: something made this layer

    return lambda: dequantize_4bit(weight.data, weight.quant_state)


def compute_dtype(layer: LinearLayer) -> torch.dtype:
    """Return the dtype in which the frozen weight takes part in products."""
    base: LinearLayer = layer.base_layer if isinstance(layer, LoraLayer) else layer
    state = getattr(base.weight, "quant_state", None)
    dtype: torch.dtype = base.weight.dtype if state is None else state.dtype
    return dtype


def supports(layer: LinearLayer, x: torch.Tensor) -> bool:
    """Return whether the layer in its present state computes for ``x`` what ``LoraFunction``
    does.
    """
    has_lora = isinstance(layer, LoraLayer)
    if has_lora and (layer.disable_adapters or layer.merged):
        return False
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type) == compute_dtype(layer)
    if x.dtype != compute_dtype(layer):
        return False
    # LoraLayer is a mixin of PeftLinear
    return not has_lora or factors_of(layer)[0].dtype == x.dtype  # type: ignore[arg-type]


def as_computed(x: torch.Tensor) -> torch.Tensor:
    """Return what autocast makes of the input of a linear layer."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def no_autocast(kind: str) -> AbstractContextManager[object]:
    """Turn autocast off during a block: the functions here choose their dtypes themselves."""
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def is_frozen_dense(layer: torch.nn.Module) -> TypeGuard[torch.nn.Linear]:
    """Return whether ``layer`` is a frozen dense linear layer without any adapter."""
    return (
        type(layer) is torch.nn.Linear
        and torch.is_floating_point(layer.weight)
        and "forward" not in vars(layer)
        and not any(p.requires_grad for p in layer.parameters())
    )


def is_plain_lora(layer: torch.nn.Module) -> TypeGuard[PeftLinear]:
    """Return whether ``layer`` is LoRA and nothing else, on a dense or 4-bit linear layer."""
    if not isinstance(layer, LoraLayer) or len(layer.active_adapters) != 1:
        return False
    base: LinearLayer = layer.get_base_layer()
    name = layer.active_adapters[0]
    dense = type(layer) is PeftLinear and type(base) is torch.nn.Linear
    quantised = (
        type(layer).__module__ == "peft.tuners.lora.bnb"
        and getattr(base.weight, "quant_state", None) is not None
    )
    if not dense and not quantised:
        return False
    return (
        name in layer.lora_A
        and name not in getattr(layer, "lora_variant", {})
        and isinstance(layer.lora_dropout[name], torch.nn.Identity | torch.nn.Dropout)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and not getattr(layer, "fan_in_fan_out", False)
        and not (base.bias is not None and base.bias.requires_grad)
        and not base.weight.requires_grad
    )
