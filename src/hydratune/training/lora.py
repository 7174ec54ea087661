"""A leaner forward and backward for PEFT's plain LoRA linears; PEFT keeps owning the weights,
config and files.

PEFT's own forward leaves seven nodes per layer to autograd, and their intermediates in memory. Here
one autograd function computes ``y = x W' + b + s (x A') B'`` for all layers that read the same
``x`` (query, key and value; gate and up), in place, and saves only ``x`` and the thin ``x A'``. A
4-bit base is dequantised once per use. Layers that are anything but plain LoRA (DoRA and other
variants, several adapters, 8-bit, several dtypes) keep PEFT's forward.

The same function serves several trials at once, each on its own rows of ``x``
(``hydratune.training.merged``). So that a trial's numbers do not depend on who else is served,
linears without LoRA are computed by it too.
"""

import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.autograd.function import once_differentiable

from hydratune.training.products import add_back, back, steadily, through, times, times_transposed

# read one input
SIBLINGS = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("query", "key", "value"),
    ("w1", "w3"),
)


@dataclass(frozen=True)
class Frozen:
    """A frozen linear layer."""

    weight: Callable[[], torch.Tensor]  # (out, in); a 4-bit one is dequantised here
    bias: torch.Tensor | None = None


@dataclass(frozen=True)
class Share:
    """What one adapter adds to linears that read the same x."""

    places: tuple[int, ...]  # which of the linears
    scales: tuple[float, ...]  # at every place
    dropout: float = 0.0
    generator: torch.Generator | None = None  # of dropout
    span: slice = field(default_factory=lambda: slice(None))  # its rows of x


Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]  # (A, B) of every place of a share


class CastWeights:
    """Weights of a model's LoRA layers in the dtype of products, all cast by one call instead of
    one by one where they are used.

    Good for as long as the weights do not change.
    """

    def __init__(
        self, weights: Sequence[torch.Tensor] = (), dtype: torch.dtype | None = None
    ) -> None:
        """``dtype`` None: nothing is cast."""
        weights = (
            [weight for weight in weights if weight.dtype != dtype] if dtype is not None else []
        )
        made = [torch.empty_like(weight, dtype=dtype) for weight in weights]
        if weights:
            with torch.no_grad():
                torch._foreach_copy_(made, weights)
        self._made = {
            id(weight): (weight, cast) for weight, cast in zip(weights, made, strict=True)
        }

    def of(self, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """``weight`` in ``dtype``."""
        known, cast = self._made.get(id(weight), (None, None))
        return (
            cast
            if known is weight and cast is not None and cast.dtype == dtype
            else weight.to(dtype)
        )


_UNCAST = CastWeights()


def lora_weights(model: torch.nn.Module) -> list[torch.Tensor]:
    """A and B of every LoRA layer of ``model`` that is computed here."""
    return [
        weight
        for module in model.modules()
        if is_lean(module) and isinstance(module, LoraLayer)
        for weight in pair(module)
    ]  # type: ignore[arg-type]


@contextmanager
def using_cast(weights: CastWeights) -> Iterator[None]:
    """In this thread, LoRA layers take their weights from ``weights`` where those have them."""
    _thread.cast = weights
    try:
        yield
    finally:
        _thread.cast = _UNCAST


def as_used(weights: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """``weights`` in ``dtype``; those that have it already are the same tensors."""
    cast: CastWeights = getattr(_thread, "cast", _UNCAST)
    return [weight if weight.dtype == dtype else cast.of(weight, dtype) for weight in weights]


def low_rank_forward(
    rows: torch.Tensor, linears: Sequence[Frozen], shares: Sequence[Share], pairs: Sequence[Pairs]
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[list[torch.Tensor]]]:
    """(outputs of the linears, x A' of every share, masks of every share) for x (tokens, in); all
    in one dtype.
    """
    results = [steadily(through, (rows,), linear.weight(), linear.bias) for linear in linears]
    thins, masks = [], []
    for share, own in zip(shares, pairs, strict=True):
        thin, drawn = _thin(rows[share.span], share, [a for a, _ in own])
        for place, scale, (_, b), part in zip(
            share.places, share.scales, own, _parts(thin, own), strict=True
        ):
            results[place][share.span].addmm_(part, b.t(), alpha=scale)
        thins.append(thin)
        masks.append(drawn)
    return results, thins, masks


def _thin(
    rows: torch.Tensor, share: Share, downs: list[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """x A' of every place, side by side (tokens, sum of ranks), and the dropout masks of x."""
    if not share.dropout:
        return times_transposed(rows, torch.cat(downs)), []
    masks = [dropout_mask(rows, share.dropout, share.generator) for _ in downs]
    keep = 1 / (1 - share.dropout)
    return (
        torch.cat(
            [
                times_transposed((rows * mask).mul_(keep), a)
                for mask, a in zip(masks, downs, strict=True)
            ],
            dim=1,
        ),
        masks,
    )


def _parts(thin: torch.Tensor, pairs: Pairs) -> Sequence[torch.Tensor]:
    return thin.split([len(a) for a, _ in pairs], dim=1)


def outer_gradients(
    outer: Sequence[torch.Tensor | None],
    shares: Sequence[Share],
    pairs: Sequence[Pairs],
    thins: Sequence[torch.Tensor],
) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    """(gradients of x A', gradients of B) of every share; ``outer`` are those of the outputs, None
    where one was not used.
    """
    d_thins, d_ups = [], []
    for share, own, thin in zip(shares, pairs, thins, strict=True):
        d_thin = torch.zeros_like(thin)
        ups: list[torch.Tensor] = []
        for place, scale, (_, b), part, d_part in zip(
            share.places, share.scales, own, _parts(thin, own), _parts(d_thin, own), strict=True
        ):
            dy = outer[place]
            if dy is None:
                ups.append(torch.zeros_like(b))
                continue
            dy = dy[share.span]
            torch.mul(times(dy, b.to(dy.dtype)), scale, out=d_part)
            ups.append(times(part.t(), dy).t().mul(scale).to(b.dtype))
        d_thins.append(d_thin)
        d_ups.append(ups)
    return d_thins, d_ups


def add_to_input(
    d_rows: torch.Tensor,
    shares: Sequence[Share],
    pairs: Sequence[Pairs],
    masks: Sequence[Sequence[torch.Tensor]],
    d_thins: Sequence[torch.Tensor],
) -> None:
    """Adds to the gradient of x what comes through A."""
    for share, own, drawn, d_thin in zip(shares, pairs, masks, d_thins, strict=True):
        mine, downs = d_rows[share.span], [a.to(d_thin.dtype) for a, _ in own]
        if not drawn:
            mine.addmm_(d_thin, torch.cat(downs))
            continue
        for part, a, mask in zip(_parts(d_thin, own), downs, drawn, strict=True):
            mine.add_((part @ a).mul_(mask), alpha=1 / (1 - share.dropout))


def inner_gradients(
    rows: torch.Tensor,
    shares: Sequence[Share],
    pairs: Sequence[Pairs],
    masks: Sequence[Sequence[torch.Tensor]],
    d_thins: Sequence[torch.Tensor],
) -> list[list[torch.Tensor]]:
    """Gradients of A of every share."""
    results = []
    for share, own, drawn, d_thin in zip(shares, pairs, masks, d_thins, strict=True):
        mine, downs = rows[share.span], [a for a, _ in own]
        if drawn:
            each = zip(_parts(d_thin, own), drawn, strict=True)
            parts = [
                times(part.t(), mine * mask).mul_(1 / (1 - share.dropout)) for part, mask in each
            ]
        else:
            parts = list(times(d_thin.t(), mine).split([len(a) for a in downs]))
        results.append([part.to(a.dtype) for part, a in zip(parts, downs, strict=True)])
    return results


def paired(shares: Sequence[Share], flat: Iterable[torch.Tensor]) -> list[Pairs]:
    """A, B, A, B, ... of all places of all shares -> by share."""
    ahead = iter(flat)
    return [[(next(ahead), next(ahead)) for _ in share.places] for share in shares]


def flattened(
    d_downs: Sequence[Sequence[torch.Tensor]], d_ups: Sequence[Sequence[torch.Tensor]]
) -> Iterator[torch.Tensor]:
    """Gradients in the order that ``paired`` reads."""
    for downs, ups in zip(d_downs, d_ups, strict=True):
        for d_a, d_b in zip(downs, ups, strict=True):
            yield d_a
            yield d_b


def saved(
    ctx: Any, first: int
) -> tuple[list[torch.Tensor], list[Pairs], list[torch.Tensor], list[list[torch.Tensor]]]:
    """What ``save_for_backward`` was given:

    ``first`` tensors, the flat pairs, x A' of every share, masks of every share.
    """
    ahead = iter(ctx.saved_tensors)
    tensors = [next(ahead) for _ in range(first)]
    pairs = paired(ctx.shares, ahead)
    thins = [next(ahead) for _ in ctx.shares]
    return (
        tensors,
        pairs,
        thins,
        [[next(ahead) for _ in share.places] if share.dropout else [] for share in ctx.shares],
    )


class LoraFunction(torch.autograd.Function):
    """y_i = x W_i' + b_i for every linear i, and s (x A') B' more on the rows and at the places of
    every share.

    Shapes: x (..., in), W_i (out_i, in), b_i (out_i), A (r, in), B (out_i, r); W_i and b_i are
    frozen. With dropout, each place's x A' sees its own random selection of x. A and B are used in
    the dtype of x; ``flat`` are A, B, A, B, ... of all places of all shares.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        linears: Sequence[Frozen],
        shares: Sequence[Share],
        *flat: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        rows = x.reshape(-1, x.shape[-1])
        used = as_used(flat, rows.dtype)
        results, thins, masks = low_rank_forward(rows, linears, shares, paired(shares, used))
        ctx.save_for_backward(
            *([rows] if shares else []), *used, *thins, *(mask for drawn in masks for mask in drawn)
        )
        ctx.linears, ctx.shares, ctx.shape = linears, shares, x.shape
        return tuple(y.view(*x.shape[:-1], -1) for y in results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        rows, pairs, thins, masks = saved(ctx, 1 if ctx.shares else 0)
        outputs = [dy.reshape(-1, dy.shape[-1]) if dy is not None else None for dy in outer]
        d_thins, d_ups = outer_gradients(outputs, ctx.shares, pairs, thins)
        d_x: torch.Tensor | None = None
        for dy, linear in zip(outputs, ctx.linears, strict=True):
            if dy is not None and ctx.needs_input_grad[0]:
                weight = linear.weight()
                d_x = (
                    steadily(back, (dy,), weight)
                    if d_x is None
                    else steadily(add_back, (d_x, dy), weight)
                )
        if d_x is not None:
            add_to_input(d_x, ctx.shares, pairs, masks, d_thins)
        d_downs = inner_gradients(rows[0], ctx.shares, pairs, masks, d_thins) if ctx.shares else []
        return (
            d_x.view(ctx.shape) if d_x is not None else None,
            None,
            None,
            *flattened(d_downs, d_ups),
        )


def dropout_mask(
    x: torch.Tensor, dropout: float, generator: torch.Generator | None
) -> torch.Tensor:
    """What is kept of ``x``."""
    return torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(
        1 - dropout, generator=generator
    )


# .generator of dropout; .held: outputs computed together with a sibling's, not yet asked for
_thread = threading.local()


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
    """Layers that read the same input: the first one called computes them all, the others only
    collect their part.
    """

    layers: list[PeftLinear | torch.nn.Linear]
    # thread -> (x, whether gradients were recorded, outputs by layer)
    held: dict[int, Any] = field(default_factory=dict)

    def output(self, layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        me = threading.get_ident()
        read, recorded, outputs = self.held.pop(me, (None, None, {}))
        mine = (
            outputs.pop(id(layer), None)
            if read is x and recorded == torch.is_grad_enabled()
            else None
        )
        if mine is None:
            results = lora_outputs(x, self.layers)
            outputs = {
                id(sibling): result for sibling, result in zip(self.layers, results, strict=True)
            }
            mine = outputs.pop(id(layer))
        if outputs:
            self.held[me] = (x, torch.is_grad_enabled(), outputs)
        return mine


def lora_outputs(
    x: torch.Tensor, layers: Sequence[PeftLinear | torch.nn.Linear]
) -> tuple[torch.Tensor, ...]:
    """Outputs of ``layers`` for one ``x``, recorded for the backward pass where gradients are."""
    shares, flat = own_share(layers)
    computed = as_computed(x)
    with no_autocast(x.device.type):
        result: tuple[torch.Tensor, ...] = LoraFunction.apply(
            computed, [frozen(layer) for layer in layers], shares, *flat
        )  # type: ignore[no-untyped-call]
    return result


def own_share(
    layers: Sequence[PeftLinear | torch.nn.Linear],
) -> tuple[list[Share], list[torch.Tensor]]:
    """What a model's own adapter adds to ``layers``, on all rows: one share with its pairs, or
    none.
    """
    found = [(place, layer) for place, layer in enumerate(layers) if isinstance(layer, LoraLayer)]
    if not found:
        return [], []
    share = share_of(found, generator_here())
    return [share], [weight for _, layer in found for weight in pair(layer)]


def share_of(
    layers: Sequence[tuple[int, PeftLinear]],
    generator: torch.Generator | None,
    span: slice = slice(None),
) -> Share:
    """What LoRA layers add at their places."""
    scales = tuple(layer.scaling[layer.active_adapters[0]] for _, layer in layers)
    return Share(
        tuple(place for place, _ in layers), scales, dropout_of(layers[0][1]), generator, span
    )


def dropout_of(layer: PeftLinear) -> float:
    """With which probability ``layer`` drops parts of its input now."""
    dropout = layer.lora_dropout[layer.active_adapters[0]]
    return dropout.p if layer.training and isinstance(dropout, torch.nn.Dropout) else 0.0


def frozen(layer: PeftLinear | torch.nn.Linear) -> Frozen:
    """What stays as it is in ``layer``."""
    base: Any = layer.base_layer if isinstance(layer, LoraLayer) else layer
    return Frozen(_reader(base), base.bias)


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


def compute_dtype(layer: PeftLinear | torch.nn.Linear) -> torch.dtype:
    """In which the frozen weight takes part in products."""
    base: Any = layer.base_layer if isinstance(layer, LoraLayer) else layer
    state = getattr(base.weight, "quant_state", None)
    dtype: torch.dtype = base.weight.dtype if state is None else state.dtype
    return dtype


def can_be_lean(layer: PeftLinear | torch.nn.Linear, x: torch.Tensor) -> bool:
    """Whether the layer's present state and this input are what the function computes."""
    has_lora = isinstance(layer, LoraLayer)
    if has_lora and (layer.disable_adapters or layer.merged):
        return False
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type) == compute_dtype(layer)
    return x.dtype == compute_dtype(layer) and (not has_lora or pair(layer)[0].dtype == x.dtype)  # type: ignore[arg-type]


def as_computed(x: torch.Tensor) -> torch.Tensor:
    """What autocast would make of the input of a linear layer."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def no_autocast(kind: str) -> AbstractContextManager[Any]:
    """The functions here choose their dtypes themselves."""
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    siblings: Siblings = self.hydratune_siblings
    if args or kwargs or not all(can_be_lean(layer, x) for layer in siblings.layers):
        result: torch.Tensor = type(self).forward(self, x, *args, **kwargs)
        return result
    return siblings.output(self, x)


def is_still(layer: Any) -> bool:
    """Whether ``layer`` is a frozen dense linear without any adapter."""
    still = (
        type(layer) is torch.nn.Linear
        and torch.is_floating_point(layer.weight)
        and "forward" not in vars(layer)
    )
    return still and not any(p.requires_grad for p in layer.parameters())


def is_plain(layer: Any) -> bool:
    """Whether ``layer`` is LoRA and nothing else, on a dense or 4-bit linear."""
    if not isinstance(layer, LoraLayer) or len(layer.active_adapters) != 1:
        return False
    base, name = layer.get_base_layer(), layer.active_adapters[0]
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


def is_lean(layer: Any) -> bool:
    """Whether ``use_lean_forward`` has been here."""
    return hasattr(layer, "hydratune_siblings")


def draws_elsewhere(model: torch.nn.Module) -> bool:
    """Whether some layer would draw from the global generator, whose order depends on threads:
    dropout that is not ours.
    """
    ours = {
        id(dropout)
        for m in model.modules()
        if is_lean(m) and isinstance(m, LoraLayer)
        for dropout in m.lora_dropout.values()
    }  # type: ignore[union-attr, operator]
    if getattr(getattr(model, "config", None), "attention_dropout", 0.0):
        return True
    return any(drops(m) and id(m) not in ours for m in model.modules())


def drops(module: torch.nn.Module) -> bool:
    """Whether ``module`` is some kind of dropout that is in use."""
    return "dropout" in type(module).__name__.lower() and getattr(module, "p", 0.0) > 0


def use_lean_forward(model: torch.nn.Module) -> int:
    """Replaces the forward of every plain LoRA linear in ``model``, and of the frozen ones beside
    them; returns how many have LoRA.
    """
    if not any(map(is_plain, model.modules())):
        return 0
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    parents = [
        m for m in model.modules() if not isinstance(m, BaseTunerLayer)
    ]  # what is inside one is not called as it is
    for parent in parents:
        layers: dict[str, Any] = {
            n: m
            for n, m in parent.named_children()
            if is_plain(m) or (is_still(m) and m is not head)
        }
        groups = [
            [layers.pop(name) for name in names]
            for names in SIBLINGS
            if all(name in layers for name in names)
        ]
        for group in [*groups, *([layer] for layer in layers.values())]:
            siblings = Siblings(group)
            for layer in group:
                layer.hydratune_siblings = siblings
                layer.forward = types.MethodType(_forward, layer)
    return sum(map(is_plain, model.modules()))
