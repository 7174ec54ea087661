"""Lion (arXiv:2302.06675), with a 32-bit or an 8-bit momentum."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from hydratune.errors import Problem
from hydratune.settings.optimizer import OptimizerConfig, OptimizerContext, betas_problems
from hydratune.settings.registry import variant

if TYPE_CHECKING:
    import torch


@variant("optimizer", "lion")
@dataclass
class LionOptimizer(OptimizerConfig):
    """Lion (arXiv:2302.06675, bitsandbytes), whose steps have the sign of the momentum.

    It needs a learning rate 3 to 10 times smaller than AdamW's.
    """

    package: ClassVar[str | None] = "bitsandbytes"

    kind: str = "lion"
    # weight of the average in the update, and its decay
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])

    def own_problems(self, context: OptimizerContext) -> Iterator[Problem]:
        yield from betas_problems(self.betas)

    def build(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        from bitsandbytes.optim import Lion32bit

        return self._build_with(Lion32bit, model)

    def _build_with(
        self, kind: "Callable[..., torch.optim.Optimizer]", model: "torch.nn.Module"
    ) -> "torch.optim.Optimizer":
        """Return the optimizer of class ``kind``, one of bitsandbytes'."""
        from hydratune.training.parameter_groups import parameter_groups

        betas = (self.betas[0], self.betas[1])
        return kind(parameter_groups(model, self), lr=self.lr, betas=betas)


@variant("optimizer", "lion_8bit")
@dataclass
class Lion8bitOptimizer(LionOptimizer):
    """Lion with an 8-bit momentum."""

    kind: str = "lion_8bit"

    def build(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        from bitsandbytes.optim import Lion8bit

        return self._build_with(Lion8bit, model)
