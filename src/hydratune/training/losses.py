"""Cross-entropy of the trained tokens straight from hidden states: full logits never exist."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from hydratune.training.products import exact, times, times_transposed

CHUNK = 128  # positions: on a CPU the logits of a chunk stay in the last-level cache


@dataclass(frozen=True)
class LossShape:
    """What is added to the cross-entropy while training. Validation losses never contain it."""

    label_smoothing: float = 0.0  # share of the target that is spread evenly over the vocabulary (arXiv:1512.00567)
    z_loss: float = 0.0  # weight of the squared log-normaliser (arXiv:2204.02311), which keeps logits from drifting


PLAIN = LossShape()


def loss_and_gradient(
    logits: torch.Tensor, targets: torch.Tensor, shape: LossShape, want_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss of each position (positions,), its gradient (positions, vocabulary)); ``logits`` are fp32 and are overwritten."""
    index = targets[:, None]
    largest = logits.amax(dim=1, keepdim=True)
    wanted = logits.gather(1, index)
    average = logits.mean(dim=1, keepdim=True) if shape.label_smoothing else wanted
    total = logits.sub_(largest).exp_().sum(dim=1, keepdim=True)
    log_total = total.log().add_(largest)
    losses = log_total - (1 - shape.label_smoothing) * wanted - shape.label_smoothing * average + shape.z_loss * log_total.square()
    if want_gradient:
        logits.mul_((1 + 2 * shape.z_loss * log_total) / total)
        if shape.label_smoothing:
            logits.sub_(shape.label_smoothing / logits.shape[1])
        logits.scatter_add_(1, index, torch.full_like(wanted, shape.label_smoothing - 1))
    return losses[:, 0], logits


class HeadLoss(torch.autograd.Function):
    """Summed loss of ``hidden`` (positions, width) under the frozen ``weight`` (vocabulary, width), a few positions at a time.

    The gradient is made in the forward pass, while the logits of a chunk are at hand; it needs no more memory than ``hidden``.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, shape: LossShape) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        losses = torch.empty(len(targets), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        for start in range(0, len(targets), CHUNK):
            chunk = slice(start, start + CHUNK)
            logits = exact(times_transposed(hidden[chunk], weight))
            losses[chunk], d_logits = loss_and_gradient(logits, targets[chunk], shape, wanted)
            if gradient is not None:
                gradient[chunk] = times(d_logits.to(weight.dtype), weight)
        ctx.save_for_backward(gradient)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None, None, None


class LogitLoss(torch.autograd.Function):
    """The same from logits (positions, vocabulary), which are overwritten: for heads that are trained, or do more than a product."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, shape: LossShape) -> torch.Tensor:
        losses, gradient = loss_and_gradient(exact(logits), targets, shape, ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient.to(logits.dtype) if ctx.needs_input_grad[0] else None)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None, None
