"""Linear layers with low-rank terms, ``y = x W' + b + s (x A') B'``, as one autograd function.

PEFT's own forward leaves seven nodes per layer to autograd, and their intermediates in memory. Here
one function computes all linear layers that read the same ``x`` (query, key and value; gate and
up), in place, and saves only ``x`` and the thin ``x A'``. A 4-bit base is dequantised once per use.

The function also serves several trials at once, each on its own rows of ``x``
(``hydratune.training.merged``). So that the numbers of a trial do not depend on the others, linear
layers without LoRA are computed by it too.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.autograd.function import once_differentiable

from hydratune.models.autograd import Context
from hydratune.training.arithmetic import STANDARD, Arithmetic
from hydratune.training.products import (
    add_frozen_backward,
    frozen_backward,
    frozen_forward,
    matmul,
    matmul_transposed,
    row_invariant,
)

Factors = tuple[torch.Tensor, torch.Tensor]  # A (r, in), B (out, r) of one linear layer


@dataclass(frozen=True)
class FrozenLinear:
    """The frozen weight of a linear layer."""

    weight: Callable[[], torch.Tensor]  # (out, in); a 4-bit one is dequantised here
    bias: torch.Tensor | None = None


@dataclass(frozen=True)
class LoraShare:
    """Which low-rank terms one adapter adds to linear layers that read the same x."""

    places: tuple[int, ...]  # numbers of the linear layers that have a term
    scales: tuple[float, ...]  # s at every place
    dropout: float = 0.0
    generator: torch.Generator | None = None  # dropout draws from it; None: the process's
    span: slice = field(default_factory=lambda: slice(None))  # its rows of x


@dataclass
class LowRankTerm:
    """One adapter's share in one forward pass, with what the backward pass needs of it.

    Every place has its own columns in ``thin``, and its own random selection of x.
    """

    share: LoraShare
    factors: Sequence[Factors]  # by place
    thin: torch.Tensor  # x A' of every place, side by side: (tokens, sum of ranks)
    masks: Sequence[torch.Tensor] = ()  # by place, what dropout keeps of x; none without dropout
    d_thin: torch.Tensor | None = None  # gradient of ``thin``

    @classmethod
    def forward(
        cls, rows: torch.Tensor, share: LoraShare, factors: Sequence[Factors], *, fast: bool
    ) -> "LowRankTerm":
        """Compute x A' for x (tokens, in)."""
        downs = [a for a, _ in factors]
        rows = rows[share.span]
        if not share.dropout:
            thin = matmul_transposed(rows, torch.cat(downs), fast=fast)
            return cls(share, factors, thin)
        masks = [dropout_mask(rows, share.dropout, share.generator) for _ in downs]
        keep = 1 / (1 - share.dropout)
        parts = [
            matmul_transposed((rows * mask).mul_(keep), a, fast=fast)
            for mask, a in zip(masks, downs, strict=True)
        ]
        return cls(share, factors, torch.cat(parts, dim=1), masks)

    def _columns(self, thin: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return the part of every place."""
        return thin.split([len(a) for a, _ in self.factors], dim=1)

    def add_to(self, outputs: Sequence[torch.Tensor]) -> None:
        """Add s (x A') B' to the outputs of the linear layers."""
        share = self.share
        for place, scale, (_, b), part in zip(
            share.places, share.scales, self.factors, self._columns(self.thin), strict=True
        ):
            outputs[place][share.span].addmm_(part, b.t(), alpha=scale)

    def outer_gradients(self, d_outputs: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
        """Return the gradient of every B, and keep that of x A'.

        ``d_outputs`` are the gradients of the outputs, None where an output was not used.
        """
        share = self.share
        self.d_thin = torch.zeros_like(self.thin)
        d_ups: list[torch.Tensor] = []
        for place, scale, (_, b), part, d_part in zip(
            share.places,
            share.scales,
            self.factors,
            self._columns(self.thin),
            self._columns(self.d_thin),
            strict=True,
        ):
            dy = d_outputs[place]
            if dy is None:
                d_ups.append(torch.zeros_like(b))
                continue
            dy = dy[share.span]
            torch.mul(matmul(dy, b.to(dy.dtype)), scale, out=d_part)
            d_ups.append(matmul(part.t(), dy).t().mul(scale).to(b.dtype))
        return d_ups

    def add_to_input(self, d_rows: torch.Tensor) -> None:
        """Add to the gradient of x what comes through A."""
        assert self.d_thin is not None
        d_thin = self.d_thin
        own_rows, downs = d_rows[self.share.span], [a.to(d_thin.dtype) for a, _ in self.factors]
        if not self.masks:
            own_rows.addmm_(d_thin, torch.cat(downs))
            return
        for part, a, mask in zip(self._columns(d_thin), downs, self.masks, strict=True):
            own_rows.add_((part @ a).mul_(mask), alpha=1 / (1 - self.share.dropout))

    def inner_gradients(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Return the gradient of every A for x (tokens, in)."""
        assert self.d_thin is not None
        own_rows, downs = rows[self.share.span], [a for a, _ in self.factors]
        if self.masks:
            parts = [
                matmul(part.t(), own_rows * mask).mul_(1 / (1 - self.share.dropout))
                for part, mask in zip(self._columns(self.d_thin), self.masks, strict=True)
            ]
        else:
            parts = list(matmul(self.d_thin.t(), own_rows).split([len(a) for a in downs]))
        return [part.to(a.dtype) for part, a in zip(parts, downs, strict=True)]


def dropout_mask(
    x: torch.Tensor, dropout: float, generator: torch.Generator | None
) -> torch.Tensor:
    """Draw which elements of ``x`` are kept: a boolean tensor of its shape."""
    return torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(
        1 - dropout, generator=generator
    )


def low_rank_forward(
    rows: torch.Tensor,
    linears: Sequence[FrozenLinear],
    shares: Sequence[LoraShare],
    flat: Sequence[torch.Tensor],
    arithmetic: Arithmetic,
) -> tuple[list[torch.Tensor], list[LowRankTerm]]:
    """Return the outputs of all linear layers, terms included, for x (tokens, in), and the terms.

    ``flat`` are A, B, A, B, ... of all places of all shares; they are used in the dtype of x.
    """
    fast = arithmetic.fast
    outputs = [
        row_invariant(frozen_forward, (rows,), linear.weight(), linear.bias, fast=fast)
        for linear in linears
    ]
    terms = []
    for share, factors in zip(
        shares, by_share(shares, arithmetic.cast(flat, rows.dtype)), strict=True
    ):
        term = LowRankTerm.forward(rows, share, factors, fast=fast)
        term.add_to(outputs)
        terms.append(term)
    return outputs, terms


def by_share(shares: Sequence[LoraShare], flat: Iterable[torch.Tensor]) -> list[list[Factors]]:
    """Group A, B, A, B, ... of all places of all shares by share."""
    remaining = iter(flat)
    return [[(next(remaining), next(remaining)) for _ in share.places] for share in shares]


def in_flat_order(
    d_downs: Sequence[Sequence[torch.Tensor]], d_ups: Sequence[Sequence[torch.Tensor]]
) -> Iterator[torch.Tensor]:
    """Yield the gradients of all A and B in the order that ``by_share`` reads."""
    for downs, ups in zip(d_downs, d_ups, strict=True):
        for d_a, d_b in zip(downs, ups, strict=True):
            yield d_a
            yield d_b


class TermsContext(Context[*tuple[torch.Tensor, ...]]):
    """The ``ctx`` of a function that saves low-rank terms for its backward pass."""

    shares: Sequence[LoraShare]
    count: int  # tensors that are saved before those of the terms


def save_terms(
    ctx: TermsContext, tensors: Sequence[torch.Tensor], terms: Sequence[LowRankTerm]
) -> None:
    """Save ``tensors`` and ``terms`` for the backward pass."""
    ctx.shares, ctx.count = [term.share for term in terms], len(tensors)
    factors = [weight for term in terms for pair in term.factors for weight in pair]
    masks = [mask for term in terms for mask in term.masks]
    ctx.save_for_backward(*tensors, *factors, *(term.thin for term in terms), *masks)


def saved_terms(ctx: TermsContext) -> tuple[list[torch.Tensor], list[LowRankTerm]]:
    """Return what ``save_terms`` saved."""
    shares = ctx.shares
    remaining = iter(ctx.saved_tensors)
    tensors = [next(remaining) for _ in range(ctx.count)]
    factors = by_share(shares, remaining)
    thins = [next(remaining) for _ in shares]
    masks = [[next(remaining) for _ in share.places] if share.dropout else [] for share in shares]
    return tensors, list(map(LowRankTerm, shares, factors, thins, masks))


class _LoraContext(TermsContext):
    linears: Sequence[FrozenLinear]
    shape: torch.Size  # of x


class LoraFunction(torch.autograd.Function):
    """y_i = x W_i' + b_i for every linear i, and s (x A') B' more on the rows and at the places of
    every share.

    Shapes: x (..., in), W_i (out_i, in), b_i (out_i), A (r, in), B (out_i, r); W_i and b_i are
    frozen. With dropout, each place's x A' sees its own random selection of x. A and B are used in
    the dtype of x; ``flat`` are A, B, A, B, ... of all places of all shares.
    """

    @staticmethod
    def forward(
        ctx: _LoraContext,
        x: torch.Tensor,
        linears: Sequence[FrozenLinear],
        shares: Sequence[LoraShare],
        arithmetic: Arithmetic,
        *flat: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        rows = x.reshape(-1, x.shape[-1])
        outputs, terms = low_rank_forward(rows, linears, shares, flat, arithmetic)
        save_terms(ctx, [rows] if terms else [], terms)
        ctx.linears, ctx.shape = linears, x.shape
        # autograd takes these for new tensors, so that a model may change them in place
        return tuple(torch.ops.aten._unsafe_view(y, (*x.shape[:-1], y.shape[-1])) for y in outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: _LoraContext, *outer: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        rows, terms = saved_terms(ctx)
        d_outputs = [dy.reshape(-1, dy.shape[-1]) if dy is not None else None for dy in outer]
        d_ups = [term.outer_gradients(d_outputs) for term in terms]
        d_x: torch.Tensor | None = None
        for dy, linear in zip(d_outputs, ctx.linears, strict=True):
            if dy is not None and ctx.needs_input_grad[0]:
                weight = linear.weight()
                d_x = (
                    row_invariant(frozen_backward, (dy,), weight)
                    if d_x is None
                    else row_invariant(add_frozen_backward, (d_x, dy), weight)
                )
        if d_x is not None:
            for term in terms:
                term.add_to_input(d_x)
        d_downs = [term.inner_gradients(rows[0]) for term in terms]
        d_input = d_x.view(ctx.shape) if d_x is not None else None
        return d_input, None, None, None, *in_flat_order(d_downs, d_ups)


def apply_lora(
    x: torch.Tensor,
    linears: Sequence[FrozenLinear],
    shares: Sequence[LoraShare] = (),
    flat: Sequence[torch.Tensor] = (),
    arithmetic: Arithmetic = STANDARD,
) -> tuple[torch.Tensor, ...]:
    """Return the outputs of ``LoraFunction``, recorded for the backward pass."""
    outputs: tuple[torch.Tensor, ...] = LoraFunction.apply(  # type: ignore[no-untyped-call]
        x, linears, shares, arithmetic, *flat
    )
    return outputs
