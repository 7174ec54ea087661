"""Cross-entropy of the trained tokens, and its gradient.

Where possible it is computed straight from hidden states: the logits of all tokens never exist at
the same time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable

from hydratune.models.autograd import Context
from hydratune.models.memory_plan import CPU_LOSS_POSITIONS
from hydratune.training.products import at_least_fp32, frozen_forward, matmul, row_invariant


@dataclass(frozen=True)
class LossOptions:
    """What is added to the cross-entropy while training. Validation losses never contain it."""

    # share of the target that is spread evenly over the vocabulary (arXiv:1512.00567)
    label_smoothing: float = 0.0
    # weight of the squared log-normaliser (arXiv:2204.02311), which keeps logits from drifting
    z_loss: float = 0.0


PLAIN = LossOptions()


def loss_and_gradient(
    logits: torch.Tensor, targets: torch.Tensor, options: LossOptions, want_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of each position (positions,) and its gradient (positions, vocabulary).

    ``logits`` (positions, vocabulary) are in fp32 at least and are overwritten: by their gradient
    if ``want_gradient``.
    """
    index = targets[:, None]
    largest = logits.amax(dim=1, keepdim=True)
    of_target = logits.gather(1, index)
    average = logits.mean(dim=1, keepdim=True) if options.label_smoothing else of_target
    total = logits.sub_(largest).exp_().sum(dim=1, keepdim=True)
    log_total = total.log().add_(largest)
    losses = (
        log_total
        - (1 - options.label_smoothing) * of_target
        - options.label_smoothing * average
        + options.z_loss * log_total.square()
    )
    if want_gradient:
        logits.mul_((1 + 2 * options.z_loss * log_total) / total)
        if options.label_smoothing:
            logits.sub_(options.label_smoothing / logits.shape[1])
        logits.scatter_add_(1, index, torch.full_like(of_target, options.label_smoothing - 1))
    return losses[:, 0], logits


class _HeadContext(Context[torch.Tensor]):
    counts: Sequence[int]


class HeadLoss(torch.autograd.Function):
    """Summed losses of ``hidden`` (positions, width) under the frozen ``weight`` (vocabulary,
    width), a few positions at a time.

    Positions of several groups follow each other, ``counts`` of each; every group has a sum
    (groups,) and loss options of its own. The logits of ``at_once`` positions exist at a time. The
    gradient is computed in the forward pass, while the logits of a chunk exist; it needs no more
    memory than ``hidden``.
    """

    @staticmethod
    def forward(
        ctx: _HeadContext,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        counts: Sequence[int],
        group_options: Sequence[LossOptions],
        at_once: int = CPU_LOSS_POSITIONS,
    ) -> torch.Tensor:
        want_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if want_gradient else None
        losses = torch.empty(
            len(targets),
            dtype=torch.promote_types(hidden.dtype, torch.float32),
            device=hidden.device,
        )
        spans = _spans_of_equal_options(counts, group_options)
        for start in range(0, len(targets), at_once):
            stop = min(start + at_once, len(targets))
            logits = at_least_fp32(row_invariant(frozen_forward, (hidden[start:stop],), weight))
            for first, last, options in spans:
                part = slice(max(first, start), min(last, stop))
                if part.start < part.stop:  # its logits become their gradient
                    own = logits[part.start - start : part.stop - start]
                    losses[part], _ = loss_and_gradient(own, targets[part], options, want_gradient)
            if gradient is not None:
                gradient[start:stop] = row_invariant(matmul, (logits.to(weight.dtype),), weight)
        ctx.save_for_backward(gradient)
        ctx.counts = counts
        return torch.stack([part.sum() for part in losses.split(list(counts))])

    @staticmethod
    @once_differentiable
    def backward(
        ctx: _HeadContext, scales: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, None, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        parts = zip(
            gradient.split(list(ctx.counts)), scales.to(gradient.dtype).unbind(), strict=True
        )
        return torch.cat([part * scale for part, scale in parts]), None, None, None, None, None


def _spans_of_equal_options(
    counts: Sequence[int], group_options: Sequence[LossOptions]
) -> list[tuple[int, int, LossOptions]]:
    """Join neighbouring groups of equal options: (first position, end, options)."""
    spans: list[tuple[int, int, LossOptions]] = []
    end = 0
    for count, options in zip(counts, group_options, strict=True):
        start = spans.pop()[0] if spans and spans[-1][2] == options else end
        end += count
        spans.append((start, end, options))
    return spans


def head_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    counts: Sequence[int],
    group_options: Sequence[LossOptions],
    at_once: int = CPU_LOSS_POSITIONS,
) -> torch.Tensor:
    """Return the sums (groups,) of ``HeadLoss``, recorded for the backward pass."""
    losses: torch.Tensor = HeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, counts, group_options, at_once
    )
    return losses


class LogitLoss(torch.autograd.Function):
    """Summed loss of logits (positions, vocabulary), which are overwritten: for heads that are
    trained, or do more than a product.
    """

    @staticmethod
    def forward(
        ctx: Context[torch.Tensor],
        logits: torch.Tensor,
        targets: torch.Tensor,
        options: LossOptions,
    ) -> torch.Tensor:
        losses, gradient = loss_and_gradient(
            at_least_fp32(logits), targets, options, ctx.needs_input_grad[0]
        )
        ctx.save_for_backward(gradient.to(logits.dtype) if ctx.needs_input_grad[0] else None)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Context[torch.Tensor], scale: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None, None


def logit_loss(logits: torch.Tensor, targets: torch.Tensor, options: LossOptions) -> torch.Tensor:
    """Return the sum of ``LogitLoss``, recorded for the backward pass."""
    loss: torch.Tensor = LogitLoss.apply(logits, targets, options)  # type: ignore[no-untyped-call]
    return loss


class _GradientsContext(Context[()]):
    gradients: list[torch.Tensor]


class LossWithGradients(torch.autograd.Function):
    """A loss whose gradients are already known: ``loss.backward()`` only adds them to the
    parameters.
    """

    @staticmethod
    def forward(
        ctx: _GradientsContext,
        loss: torch.Tensor,
        gradients: list[torch.Tensor],
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: _GradientsContext, scale: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        dtypes = {g.dtype for g in ctx.gradients}
        if len(dtypes) == 1:
            (dtype,) = dtypes
            return (None, None, *torch._foreach_mul(ctx.gradients, scale.to(dtype)))
        return (None, None, *(g * scale.to(g.dtype) for g in ctx.gradients))


def with_gradients(
    loss: torch.Tensor, gradients: list[torch.Tensor], parameters: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return ``loss`` such that its backward pass gives ``parameters`` these gradients."""
    result: torch.Tensor = LossWithGradients.apply(  # type: ignore[no-untyped-call]
        loss, gradients, *parameters
    )
    return result
