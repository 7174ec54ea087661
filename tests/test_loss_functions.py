"""The losses, against numerical gradients and PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from double_tensors import fixed, leaf
from hydratune.training.losses import HeadLoss, LogitLoss, LossShape

pytestmark = pytest.mark.usefixtures("one_thread")


SHAPES = [LossShape(), LossShape(label_smoothing=0.2), LossShape(z_loss=0.1), LossShape(0.1, 0.05)]


def expected_loss(logits: torch.Tensor, targets: torch.Tensor, shape: LossShape) -> torch.Tensor:
    smoothed = F.cross_entropy(
        logits, targets, reduction="sum", label_smoothing=shape.label_smoothing
    )
    return smoothed + shape.z_loss * logits.logsumexp(1).square().sum()


@pytest.mark.parametrize("shape", SHAPES)
# positions: a chunk ends within a group, or holds all of them
@pytest.mark.parametrize("at_once", [4, 128])
def test_head_loss(shape: LossShape, at_once: int) -> None:
    hidden, weight, targets = leaf(10, 5, seed=1), 3 * fixed(7, 5, seed=2), torch.arange(10) % 7
    counts, shapes = (3, 0, 7), (shape, LossShape(), LossShape(z_loss=0.2))
    assert torch.autograd.gradcheck(
        lambda h: HeadLoss.apply(h, weight, targets, counts, shapes, at_once), (hidden,)
    )
    logits = hidden @ weight.t()
    expected = [
        expected_loss(logits[:3], targets[:3], shape),
        torch.tensor(0.0),
        expected_loss(logits[3:], targets[3:], shapes[2]),
    ]
    losses = HeadLoss.apply(hidden, weight, targets, counts, shapes, at_once)
    torch.testing.assert_close(losses, torch.stack(expected), check_dtype=False)


@pytest.mark.parametrize("shape", SHAPES)
def test_logit_loss(shape: LossShape) -> None:
    logits, targets = leaf(6, 7, seed=1), torch.arange(6) % 7
    assert torch.autograd.gradcheck(lambda x: LogitLoss.apply(x * 1, targets, shape), (logits,))
    torch.testing.assert_close(
        LogitLoss.apply(logits * 1, targets, shape), expected_loss(logits, targets, shape)
    )


def test_losses_of_large_logits_are_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = LogitLoss.apply(logits * 1, torch.tensor([1]), LossShape())
    assert loss.item() == pytest.approx(2e4)
    assert torch.autograd.grad(loss, logits)[0].tolist() == [[1.0, -1.0, 0.0]]
