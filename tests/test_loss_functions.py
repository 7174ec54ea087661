"""The losses, against numerical gradients and PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from double_tensors import fixed, leaf
from hydratune.training.losses import HeadLoss, LogitLoss, LossOptions

pytestmark = pytest.mark.usefixtures("one_thread")


OPTIONS = [
    LossOptions(),
    LossOptions(label_smoothing=0.2),
    LossOptions(z_loss=0.1),
    LossOptions(0.1, 0.05),
]


def expected_loss(
    logits: torch.Tensor, targets: torch.Tensor, options: LossOptions
) -> torch.Tensor:
    smoothed = F.cross_entropy(
        logits, targets, reduction="sum", label_smoothing=options.label_smoothing
    )
    return smoothed + options.z_loss * logits.logsumexp(1).square().sum()


@pytest.mark.parametrize("options", OPTIONS)
# positions: a chunk ends within a group, or holds all of them
@pytest.mark.parametrize("at_once", [4, 128])
def test_head_loss(options: LossOptions, at_once: int) -> None:
    hidden, weight, targets = leaf(10, 5, seed=1), 3 * fixed(7, 5, seed=2), torch.arange(10) % 7
    counts, group_options = (3, 0, 7), (options, LossOptions(), LossOptions(z_loss=0.2))
    assert torch.autograd.gradcheck(
        lambda h: HeadLoss.apply(h, weight, targets, counts, group_options, at_once), (hidden,)
    )
    logits = hidden @ weight.t()
    expected = [
        expected_loss(logits[:3], targets[:3], options),
        torch.tensor(0.0),
        expected_loss(logits[3:], targets[3:], group_options[2]),
    ]
    losses = HeadLoss.apply(hidden, weight, targets, counts, group_options, at_once)
    torch.testing.assert_close(losses, torch.stack(expected), check_dtype=False)


@pytest.mark.parametrize("options", OPTIONS)
def test_logit_loss(options: LossOptions) -> None:
    logits, targets = leaf(6, 7, seed=1), torch.arange(6) % 7
    assert torch.autograd.gradcheck(lambda x: LogitLoss.apply(x * 1, targets, options), (logits,))
    torch.testing.assert_close(
        LogitLoss.apply(logits * 1, targets, options), expected_loss(logits, targets, options)
    )


def test_losses_of_large_logits_are_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = LogitLoss.apply(logits * 1, torch.tensor([1]), LossOptions())
    assert loss.item() == pytest.approx(2e4)
    assert torch.autograd.grad(loss, logits)[0].tolist() == [[1.0, -1.0, 0.0]]
