"""A leaner forward and backward for PEFT's plain LoRA linears; PEFT keeps owning the weights, config and files.

PEFT's own forward leaves seven nodes per layer to autograd, and their intermediates in memory. Here one autograd
function computes ``y = x W' + b + s (x A') B'`` for all layers that read the same ``x`` (query, key and value; gate and
up), in place, and saves only ``x`` and the thin ``x A'``. A 4-bit base is dequantised once per use. Layers that are
anything but plain LoRA (DoRA and other variants, several adapters, 8-bit, several dtypes) keep PEFT's forward.
"""

import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora import LoraLayer
from torch.autograd.function import once_differentiable

from hydratune.training.products import add_times, times, times_transposed

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("query", "key", "value"), ("w1", "w3"))  # read one input


@dataclass(frozen=True)
class Frozen:
    """What the function needs of one layer besides A and B."""

    weight: Callable[[], torch.Tensor]  # (out, in); a 4-bit one is dequantised here
    bias: torch.Tensor | None
    scale: float
    dropout: float = 0.0


class LoraFunction(torch.autograd.Function):
    """y_i = x W_i' + b_i + s_i (x A_i') B_i' for every layer i, with gradients for x, A_i and B_i; W_i and b_i are frozen.

    Shapes: x (..., in), W_i (out_i, in), b_i (out_i), A_i (r_i, in), B_i (out_i, r_i). With dropout, each layer's x A_i'
    sees its own random selection of x, drawn from ``generator``. A and B are used in the dtype of x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, layers: Sequence[Frozen], generator: torch.Generator | None, *pairs: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        rows = x.reshape(-1, x.shape[-1])
        downs, ups = [a.to(x.dtype) for a in pairs[::2]], [b.to(x.dtype) for b in pairs[1::2]]
        masks = [dropout_mask(rows, layer.dropout, generator) for layer in layers if layer.dropout > 0]
        if masks:
            dropped = zip(masks, layers, downs, strict=True)
            thin = torch.cat([times_transposed((rows * mask).mul_(1 / (1 - layer.dropout)), a) for mask, layer, a in dropped], dim=1)
        else:
            thin = times_transposed(rows, torch.cat(downs))
        results = []
        for layer, b, part in zip(layers, ups, thin.split([len(a) for a in downs], dim=1), strict=True):
            y = times_transposed(rows, layer.weight(), layer.bias)
            results.append(y.addmm_(part, b.t(), alpha=layer.scale).view(*x.shape[:-1], -1))
        ctx.save_for_backward(rows, thin, *pairs, *masks)
        ctx.layers, ctx.shape = layers, x.shape
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        count = len(ctx.layers)
        rows, thin, *rest = ctx.saved_tensors
        downs, ups, masks = rest[: 2 * count : 2], rest[1 : 2 * count : 2], rest[2 * count :]
        needs_x = ctx.needs_input_grad[0]
        d_thin = torch.zeros_like(thin)
        d_x: torch.Tensor | None = None
        d_ups: list[torch.Tensor | None] = []
        start = 0
        for layer, a, b, dy in zip(ctx.layers, downs, ups, outer, strict=True):
            part = slice(start, start := start + len(a))
            if dy is None:  # this layer's output was not used
                d_ups.append(torch.zeros_like(b))
                continue
            dy = dy.reshape(-1, dy.shape[-1])
            torch.mul(times(dy, b.to(dy.dtype)), layer.scale, out=d_thin[:, part])
            d_ups.append(times(thin[:, part].t(), dy).t().mul(layer.scale).to(b.dtype))
            if needs_x:
                weight = layer.weight()
                d_x = times(dy, weight) if d_x is None else add_times(d_x, dy, weight)
        sizes = [len(a) for a in downs]
        if masks:
            d_downs = []
            for layer, a, mask, part in zip(ctx.layers, downs, masks, d_thin.split(sizes, dim=1), strict=True):
                keep = 1 / (1 - layer.dropout)
                d_downs.append(times(part.t(), rows * mask).mul_(keep).to(a.dtype))
                if d_x is not None:
                    d_x.add_((part @ a.to(part.dtype)).mul_(mask), alpha=keep)
        else:
            stacked = times(d_thin.t(), rows)
            d_downs = [d.to(a.dtype) for d, a in zip(stacked.split(sizes), downs, strict=True)]
            if d_x is not None:
                d_x.addmm_(d_thin, torch.cat([a.to(d_thin.dtype) for a in downs]))
        pairs = [gradient for pair in zip(d_downs, d_ups, strict=True) for gradient in pair]
        return (d_x.view(ctx.shape) if d_x is not None else None, None, None, *pairs)


def dropout_mask(x: torch.Tensor, dropout: float, generator: torch.Generator | None) -> torch.Tensor:
    """What is kept of ``x``."""
    return torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - dropout, generator=generator)


_thread = threading.local()  # .generator of dropout; .held: outputs computed together with a sibling's, not yet asked for


@contextmanager
def drawing(generator: torch.Generator | None) -> Iterator[None]:
    """Dropout in this thread draws from ``generator`` (None: the global one)."""
    _thread.generator = generator
    try:
        yield
    finally:
        _thread.generator = None


def generator_here() -> torch.Generator | None:
    """What this thread draws from."""
    return getattr(_thread, "generator", None)


@dataclass
class Siblings:
    """Layers that read the same input: the first one called computes them all, the others only collect their part."""

    layers: list[PeftLinear]
    held: dict[int, Any] = field(default_factory=dict)  # thread -> (x, whether gradients were recorded, outputs by layer)

    def output(self, layer: PeftLinear, x: torch.Tensor) -> torch.Tensor:
        me = threading.get_ident()
        read, recorded, outputs = self.held.pop(me, (None, None, {}))
        mine = outputs.pop(id(layer), None) if read is x and recorded == torch.is_grad_enabled() else None
        if mine is None:
            results = lora_outputs(x, self.layers)
            outputs = {id(sibling): result for sibling, result in zip(self.layers, results, strict=True)}
            mine = outputs.pop(id(layer))
        if outputs:
            self.held[me] = (x, torch.is_grad_enabled(), outputs)
        return mine


def lora_outputs(x: torch.Tensor, layers: Sequence[PeftLinear]) -> tuple[torch.Tensor, ...]:
    """Outputs of ``layers`` for one ``x``, recorded for the backward pass where gradients are."""
    flat = [tensor for layer in layers for tensor in pair(layer)]
    computed = as_computed(x)
    with no_autocast(x.device.type):
        result: tuple[torch.Tensor, ...] = LoraFunction.apply(computed, [frozen(layer) for layer in layers], generator_here(), *flat)  # type: ignore[no-untyped-call]
    return result


def frozen(layer: PeftLinear) -> Frozen:
    """What stays as it is in ``layer``."""
    (name,) = layer.active_adapters
    dropout = layer.lora_dropout[name]
    p = dropout.p if layer.training and isinstance(dropout, torch.nn.Dropout) else 0.0
    return Frozen(_reader(layer.base_layer), layer.base_layer.bias, layer.scaling[name], p)


def _reader(base: torch.nn.Module) -> Callable[[], torch.Tensor]:
    weight: Any = base.weight
    if getattr(weight, "quant_state", None) is None:
        return lambda: weight
    from bitsandbytes.functional import dequantize_4bit  # loaded already: something made this layer

    return lambda: dequantize_4bit(weight.data, weight.quant_state)


def pair(layer: PeftLinear) -> tuple[torch.Tensor, torch.Tensor]:
    """(A, B)."""
    (name,) = layer.active_adapters
    return layer.lora_A[name].weight, layer.lora_B[name].weight


def compute_dtype(layer: PeftLinear) -> torch.dtype:
    """In which the frozen weight takes part in products."""
    state = getattr(layer.base_layer.weight, "quant_state", None)
    dtype: torch.dtype = layer.base_layer.weight.dtype if state is None else state.dtype
    return dtype


def can_be_lean(layer: PeftLinear, x: torch.Tensor) -> bool:
    """Whether the layer's present state and this input are what the function computes."""
    if layer.disable_adapters or layer.merged:
        return False
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type) == compute_dtype(layer)
    return x.dtype == compute_dtype(layer) == pair(layer)[0].dtype


def as_computed(x: torch.Tensor) -> torch.Tensor:
    """What autocast would make of the input of a linear layer."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def no_autocast(kind: str) -> AbstractContextManager[Any]:
    """The functions here choose their dtypes themselves."""
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _forward(self: PeftLinear, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    siblings: Siblings = self.hydratune_siblings
    if args or kwargs or not all(can_be_lean(layer, x) for layer in siblings.layers):
        result: torch.Tensor = type(self).forward(self, x, *args, **kwargs)
        return result
    return siblings.output(self, x)


def is_plain(layer: Any) -> bool:
    """Whether ``layer`` is LoRA and nothing else, on a dense or 4-bit linear."""
    if not isinstance(layer, LoraLayer) or len(layer.active_adapters) != 1:
        return False
    base, name = layer.get_base_layer(), layer.active_adapters[0]
    dense = type(layer) is PeftLinear and type(base) is torch.nn.Linear
    quantised = type(layer).__module__ == "peft.tuners.lora.bnb" and getattr(base.weight, "quant_state", None) is not None
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


def draws_elsewhere(model: torch.nn.Module) -> bool:
    """Whether some layer would draw from the global generator, whose order depends on threads: dropout that is not ours."""
    ours = {id(dropout) for m in model.modules() if hasattr(m, "hydratune_siblings") for dropout in m.lora_dropout.values()}  # type: ignore[union-attr, operator]
    if getattr(getattr(model, "config", None), "attention_dropout", 0.0):
        return True
    return any(drops(m) and id(m) not in ours for m in model.modules())


def drops(module: torch.nn.Module) -> bool:
    """Whether ``module`` is some kind of dropout that is in use."""
    return "dropout" in type(module).__name__.lower() and getattr(module, "p", 0.0) > 0


def use_lean_forward(model: torch.nn.Module) -> int:
    """Replaces the forward of every plain LoRA linear in ``model``; returns how many."""
    count = 0
    for parent in model.modules():
        plain = {name: child for name, child in parent.named_children() if is_plain(child)}
        groups = [[plain.pop(name) for name in names] for names in SIBLINGS if all(name in plain for name in names)]
        for group in [*groups, *([layer] for layer in plain.values())]:
            siblings = Siblings(group)  # type: ignore[arg-type]
            for layer in group:
                layer.hydratune_siblings = siblings  # type: ignore[assignment]
                layer.forward = types.MethodType(_forward, layer)  # type: ignore[method-assign, assignment]
                count += 1
    return count
