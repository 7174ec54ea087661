"""Adafactor (arXiv:1804.04235) as transformers implements it, with a given learning rate.

torch's own always scales the step by the size of the weights. LoRA's B starts at 0, where such a
step is close to 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydratune.errors import Problem
from hydratune.settings.optimizer import OptimizerConfig, OptimizerContext
from hydratune.settings.ranges import above_zero, between
from hydratune.settings.registry import variant

if TYPE_CHECKING:
    import torch


@variant("optimizer", "adafactor")
@dataclass
class AdafactorOptimizer(OptimizerConfig):
    """Adafactor (arXiv:1804.04235): second moments of rows and columns only."""

    kind: str = "adafactor"
    clip_threshold: float = 1.0  # largest root mean square of an update
    decay_rate: float = -0.8  # of the second moment, as a power of the step
    beta1: float | None = None  # decay rate of the first moment; null: no first moment
    scale_parameter: bool = False  # whether a step is lr times the size of the weights

    def own_problems(self, context: OptimizerContext) -> Iterator[Problem]:
        yield from above_zero("optimizer.clip_threshold", self.clip_threshold, "usual: 1")
        if not self.decay_rate < 0:
            why = "must be below 0"
            yield Problem("optimizer.decay_rate", self.decay_rate, why, "usual: -0.8")
        if self.beta1 is not None:
            yield from between("optimizer.beta1", self.beta1, 0, 1, open_high=True)

    def build(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        from transformers.optimization import Adafactor

        from hydratune.training.parameter_groups import parameter_groups

        return Adafactor(
            parameter_groups(model, self),
            lr=self.lr,
            clip_threshold=self.clip_threshold,
            decay_rate=self.decay_rate,
            beta1=self.beta1,
            scale_parameter=self.scale_parameter,
            relative_step=False,  # the rate follows the schedule of the settings
        )
