"""Norms and gated MLPs that keep less for the backward pass: what an elementwise operation can
recompute is not saved.

A module qualifies by what it computes, not by its name: its own forward is compared with the
formula on random numbers before anything is replaced, so an architecture with another formula keeps
its own code.
"""

import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from hydratune.training.elementwise import ACTIVATIONS, pieces_here
from hydratune.training.lora import (
    Frozen,
    Share,
    add_to_input,
    as_used,
    can_be_lean,
    compute_dtype,
    flattened,
    frozen,
    inner_gradients,
    is_lean,
    lora_outputs,
    low_rank_forward,
    no_autocast,
    outer_gradients,
    own_share,
    paired,
    saved,
)
from hydratune.training.products import back, exact, steadily


class RmsNorm(torch.autograd.Function):
    """y = w x / sqrt(mean(x^2) + eps) over the last dimension, computed in fp32; w is frozen.

    In fp32 the backward pass works from y, which the next layer keeps anyway, instead of from x.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        pieces = pieces_here()
        y, inverse = pieces.norm(x, weight, eps)
        from_y = exact(x) is x
        ctx.save_for_backward(y if from_y else x, weight, inverse)
        ctx.from_y, ctx.pieces = from_y, pieces
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        return ctx.pieces.norm_gradient(dy, *ctx.saved_tensors, ctx.from_y), None, None


class GatedDown(torch.autograd.Function):
    """x W' + b for x = f(gate) * up, and s (x A') B' more on the rows of every share. Keeps gate
    and up, not their product.

    Shapes: gate, up (..., inner), W (hidden, inner), b (hidden), A (r, inner), B (hidden, r).
    """

    @staticmethod
    def forward(
        ctx: Any,
        gate: torch.Tensor,
        up: torch.Tensor,
        activation: str,
        linear: Frozen,
        shares: Sequence[Share],
        *flat: torch.Tensor,
    ) -> torch.Tensor:
        pieces = pieces_here()
        rows = pieces.gated(gate, up, activation).view(-1, gate.shape[-1])
        used = as_used(flat, rows.dtype)
        (y,), thins, masks = low_rank_forward(rows, [linear], shares, paired(shares, used))
        ctx.save_for_backward(gate, up, *used, *thins, *(mask for drawn in masks for mask in drawn))
        ctx.activation, ctx.linear, ctx.shares, ctx.pieces = activation, linear, shares, pieces
        return y.view(*gate.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        (gate, up), pairs, thins, masks = saved(ctx, 2)
        dy = dy.reshape(-1, dy.shape[-1])
        d_thins, d_ups = outer_gradients([dy], ctx.shares, pairs, thins)
        d_rows = steadily(back, (dy,), ctx.linear.weight())
        add_to_input(d_rows, ctx.shares, pairs, masks, d_thins)
        rows, d_gate, d_up = ctx.pieces.gated_gradient(
            d_rows.view(gate.shape), gate, up, ctx.activation
        )
        d_downs = inner_gradients(rows.view(d_rows.shape), ctx.shares, pairs, masks, d_thins)
        return d_gate, d_up, None, None, None, *flattened(d_downs, d_ups)


def _is_norm(module: torch.nn.Module) -> bool | None:
    """Whether ``module`` scales by its own weight (True) or, as Gemma does, by 1 + its weight
    (False); None: it is no RMS norm.
    """
    weight, eps = getattr(module, "weight", None), _eps(module)
    if (
        not isinstance(weight, torch.Tensor)
        or weight.dim() != 1
        or eps is None
        or weight.requires_grad
        or "forward" in vars(module)
    ):
        return None
    if (
        getattr(module, "bias", None) is not None
        or isinstance(module, torch.nn.LayerNorm)
        or weight.is_meta
    ):
        return None
    x = torch.randn(2, len(weight), generator=torch.Generator().manual_seed(0)).to(
        weight.device, weight.dtype
    )
    for own in (True, False):
        scale = weight if own else weight + 1
        if bool((scale == 0).any()):
            continue
        with torch.no_grad():
            try:
                same = torch.allclose(module(x), RmsNorm.apply(x, scale, eps), rtol=1e-3, atol=1e-4)  # type: ignore[no-untyped-call]
            except (RuntimeError, TypeError):
                return None
        if same:
            return own
    return None


def _eps(module: torch.nn.Module) -> float | None:
    value = next(
        (getattr(module, name) for name in ("variance_epsilon", "eps") if hasattr(module, name)),
        None,
    )
    return value if isinstance(value, float) else None


def _norm_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    if (
        not torch.is_grad_enabled()
        or not x.requires_grad
        or torch.is_autocast_enabled(x.device.type)
    ):
        result: torch.Tensor = type(self).forward(self, x)
        return result
    weight = self.weight if self.hydratune_own_weight else self.weight + 1
    normed: torch.Tensor = RmsNorm.apply(x, weight, _eps(self))  # type: ignore[no-untyped-call]
    return normed


def _activation(module: torch.nn.Module) -> str | None:
    """Which of the known functions ``module`` computes."""
    x = torch.linspace(-4, 4, 33)
    try:
        y = module(x)
    except (RuntimeError, TypeError):
        return None
    return next(
        (
            name
            for name, (function, _) in ACTIVATIONS.items()
            if torch.allclose(y, function(x), rtol=1e-5, atol=1e-6)
        ),
        None,
    )


def gated_activation(module: torch.nn.Module, is_part: Callable[[Any], bool]) -> str | None:
    """The activation's name if ``module`` is down(f(gate(x)) * up(x)), ``is_part`` holds of all
    three, and nobody replaced its forward.
    """
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    function = getattr(module, "act_fn", None)
    if not all(
        isinstance(part, torch.nn.Module) and is_part(part) for part in parts
    ) or not isinstance(function, torch.nn.Module):
        return None
    name = _activation(function)
    if name is None or "forward" in vars(module):
        return None
    gate, up, down = parts
    assert gate is not None and up is not None and down is not None
    dtype = compute_dtype(gate)  # type: ignore[arg-type]
    x = torch.randn(1, 2, gate.in_features, generator=torch.Generator().manual_seed(0)).to(
        gate.weight.device, dtype
    )  # type: ignore[arg-type]
    with torch.no_grad():
        try:
            same = torch.allclose(
                module(x), down(ACTIVATIONS[name][0](gate(x)) * up(x)), rtol=1e-3, atol=1e-4
            )
        except (RuntimeError, TypeError):
            return None
    return name if same else None


_thread = threading.local()  # .needed: positions of the last layer that somebody reads


@contextmanager
def only_needed(positions: torch.Tensor) -> Iterator[None]:
    """In this thread, the last MLP of the model is computed at ``positions`` alone: no other layer
    reads what it writes.

    Hidden states elsewhere are then wrong.
    """
    _thread.needed = positions
    try:
        yield
    finally:
        _thread.needed = None


def _gated_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    if not all(can_be_lean(layer, x) for layer in (self.gate_proj, self.up_proj, self.down_proj)):
        result: torch.Tensor = type(self).forward(self, x)
        return result
    needed = getattr(_thread, "needed", None) if self.hydratune_last else None
    if needed is None:
        return _gated_mlp(self, x)
    everywhere = x.new_zeros(x.shape)
    return (
        everywhere.index_copy(1, needed, _gated_mlp(self, x[:, needed]))
        if len(needed)
        else everywhere
    )


def _gated_mlp(self: Any, x: torch.Tensor) -> torch.Tensor:
    gate, up = lora_outputs(x, (self.gate_proj, self.up_proj))
    shares, flat = own_share([self.down_proj])
    with no_autocast(x.device.type):
        result: torch.Tensor = GatedDown.apply(
            gate, up, self.hydratune_activation, frozen(self.down_proj), shares, *flat
        )  # type: ignore[no-untyped-call]
    return result


def last_mlps(model: torch.nn.Module) -> set[int]:
    """The ``id`` of the MLP in the last layer."""
    return {
        id(layers[-1].mlp)
        for m in model.modules()
        if (layers := getattr(m, "layers", None)) and hasattr(layers[-1], "mlp")
    }


def use_lean_blocks(model: torch.nn.Module) -> int:
    """Replaces the forward of every frozen RMS norm and of every gated MLP whose linears are lean;
    returns how many.
    """
    count = 0
    last = last_mlps(model)
    for module in model.modules():
        if "rmsnorm" in type(module).__name__.lower():
            own = _is_norm(module)
            if own is not None:
                module.hydratune_own_weight = own  # type: ignore[assignment]
                module.forward = types.MethodType(_norm_forward, module)  # type: ignore[method-assign, assignment]
                count += 1
        elif (
            hasattr(module, "gate_proj") and (name := gated_activation(module, is_lean)) is not None
        ):
            module.hydratune_activation, module.hydratune_last = name, id(module) in last  # type: ignore[assignment]
            module.forward = types.MethodType(_gated_forward, module)  # type: ignore[method-assign, assignment]
            count += 1
    return count
