"""RMS norms and gated MLPs as autograd functions that keep less for the backward pass.

What an elementwise operation can compute again is not saved.
"""

from collections.abc import Sequence

import torch
from torch.autograd.function import once_differentiable

from hydratune.models.autograd import Context
from hydratune.training.arithmetic import STANDARD, Arithmetic
from hydratune.training.elementwise import EAGER, Elementwise
from hydratune.training.low_rank import (
    FrozenLinear,
    LoraShare,
    TermsContext,
    in_flat_order,
    low_rank_forward,
    save_terms,
    saved_terms,
)
from hydratune.training.products import at_least_fp32, frozen_backward, row_invariant


class _NormContext(Context[torch.Tensor, torch.Tensor, torch.Tensor]):
    from_y: bool
    elementwise: Elementwise


class RmsNorm(torch.autograd.Function):
    """y = w x / sqrt(mean(x^2) + eps) over the last dimension, computed in fp32; w is frozen.

    In fp32 the backward pass works from y, which the next layer keeps anyway, instead of from x.
    """

    @staticmethod
    def forward(
        ctx: _NormContext,
        x: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        elementwise: Elementwise = EAGER,
    ) -> torch.Tensor:
        y, inverse = elementwise.norm(x, weight, eps)
        from_y = at_least_fp32(x) is x
        ctx.save_for_backward(y if from_y else x, weight, inverse)
        ctx.from_y, ctx.elementwise = from_y, elementwise
        return y

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: _NormContext, dy: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        return ctx.elementwise.norm_gradient(dy, *ctx.saved_tensors, ctx.from_y), None, None, None


class _GatedContext(TermsContext):
    activation: str
    linear: FrozenLinear
    elementwise: Elementwise


class GatedDown(torch.autograd.Function):
    """x W' + b for x = f(gate) * up, and s (x A') B' more on the rows of every share.

    Keeps gate and up, not their product. Shapes: gate, up (..., inner), W (hidden, inner), b
    (hidden), A (r, inner), B (hidden, r); ``flat`` are A and B of every share.
    """

    @staticmethod
    def forward(
        ctx: _GatedContext,
        gate: torch.Tensor,
        up: torch.Tensor,
        activation: str,
        linear: FrozenLinear,
        shares: Sequence[LoraShare],
        arithmetic: Arithmetic,
        *flat: torch.Tensor,
    ) -> torch.Tensor:
        elementwise = arithmetic.elementwise
        rows = elementwise.gated(gate, up, activation).view(-1, gate.shape[-1])
        (y,), terms = low_rank_forward(rows, [linear], shares, flat, arithmetic)
        save_terms(ctx, (gate, up), terms)
        ctx.activation, ctx.linear, ctx.elementwise = activation, linear, elementwise
        # autograd takes it for a new tensor, so that a model may change it in place
        return torch.ops.aten._unsafe_view(y, (*gate.shape[:-1], y.shape[-1]))

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: _GatedContext, dy: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        (gate, up), terms = saved_terms(ctx)
        dy = dy.reshape(-1, dy.shape[-1])
        d_ups = [term.outer_gradients([dy]) for term in terms]
        d_rows = row_invariant(frozen_backward, (dy,), ctx.linear.weight())
        for term in terms:
            term.add_to_input(d_rows)
        rows, d_gate, d_up = ctx.elementwise.gated_gradient(
            d_rows.view(gate.shape), gate, up, ctx.activation
        )
        d_downs = [term.inner_gradients(rows.view(d_rows.shape)) for term in terms]
        return d_gate, d_up, None, None, None, None, *in_flat_order(d_downs, d_ups)


def gated_down(
    gate: torch.Tensor,
    up: torch.Tensor,
    activation: str,
    linear: FrozenLinear,
    shares: Sequence[LoraShare] = (),
    flat: Sequence[torch.Tensor] = (),
    arithmetic: Arithmetic = STANDARD,
) -> torch.Tensor:
    """Return the output of ``GatedDown``, recorded for the backward pass."""
    output: torch.Tensor = GatedDown.apply(  # type: ignore[no-untyped-call]
        gate, up, activation, linear, shares, arithmetic, *flat
    )
    return output
