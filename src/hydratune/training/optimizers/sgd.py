"""Stochastic gradient descent with momentum."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydratune.errors import Problem
from hydratune.settings.optimizer import OptimizerConfig, OptimizerContext
from hydratune.settings.ranges import between
from hydratune.settings.registry import variant

if TYPE_CHECKING:
    import torch


@variant("optimizer", "sgd")
@dataclass
class SgdOptimizer(OptimizerConfig):
    """Stochastic gradient descent with momentum; it needs a far higher lr than the others.

    Weight decay is added to the gradient (L2).
    """

    kind: str = "sgd"
    momentum: float = 0.9  # decay of the average of gradients
    nesterov: bool = False  # Nesterov momentum

    def own_problems(self, context: OptimizerContext) -> Iterator[Problem]:
        yield from between("optimizer.momentum", self.momentum, 0, 1, open_high=True)
        if self.nesterov and self.momentum == 0:
            why = "Nesterov's step needs momentum"
            fix = "set optimizer.momentum=0.9, or optimizer.nesterov=false"
            yield Problem("optimizer.nesterov", "true", why, fix)

    def build(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        from hydratune.training.fused import fused_sgd
        from hydratune.training.parameter_groups import parameter_groups

        groups = parameter_groups(model, self)
        return fused_sgd(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)
