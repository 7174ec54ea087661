"""AdamW (arXiv:1711.05101), and its forms with 8-bit and with paged moments."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from hydratune.errors import Problem
from hydratune.settings.optimizer import OptimizerConfig, OptimizerContext, betas_problems
from hydratune.settings.ranges import above_zero
from hydratune.settings.registry import variant

if TYPE_CHECKING:
    import torch


@variant("optimizer", "adamw")
@dataclass
class AdamWOptimizer(OptimizerConfig):
    """AdamW (arXiv:1711.05101), with torch's fused kernel where there is one."""

    kind: str = "adamw"
    # decay of the averages of gradient and squared gradient
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8  # added to the denominator

    def own_problems(self, context: OptimizerContext) -> Iterator[Problem]:
        yield from betas_problems(self.betas)
        yield from above_zero("optimizer.eps", self.eps, "usual: 1e-8")

    def build(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        from hydratune.training.fused import fused_adamw
        from hydratune.training.parameter_groups import parameter_groups

        groups = parameter_groups(model, self)
        return fused_adamw(groups, lr=self.lr, betas=self.betas, eps=self.eps)

    def _build_with(
        self, kind: "Callable[..., torch.optim.Optimizer]", model: "torch.nn.Module"
    ) -> "torch.optim.Optimizer":
        """Return the optimizer of class ``kind``, one of bitsandbytes'."""
        from hydratune.training.parameter_groups import parameter_groups

        betas = (self.betas[0], self.betas[1])
        return kind(parameter_groups(model, self), lr=self.lr, betas=betas, eps=self.eps)


@variant("optimizer", "adamw_8bit")
@dataclass
class AdamW8bitOptimizer(AdamWOptimizer):
    """AdamW whose moments are 8-bit codes in blocks of 256 (arXiv:2110.02861, bitsandbytes).

    They take a quarter of the memory.
    """

    package: ClassVar[str | None] = "bitsandbytes"

    kind: str = "adamw_8bit"

    def build(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        from bitsandbytes.optim import AdamW8bit

        return self._build_with(AdamW8bit, model)


@variant("optimizer", "paged_adamw")
@dataclass
class PagedAdamWOptimizer(AdamWOptimizer):
    """AdamW whose moments move to the CPU's memory when the GPU's is full.

    arXiv:2305.14314, bitsandbytes.
    """

    package: ClassVar[str | None] = "bitsandbytes"

    kind: str = "paged_adamw"

    def accelerator_problems(self, accelerator: str) -> Iterator[Problem]:
        if accelerator == "cpu":
            why = "paging moves moments from a GPU's memory to the CPU's, and this run is on a CPU"
            fix = f"set optimizer={self.kind.removeprefix('paged_')}, or train on a GPU"
            yield Problem("optimizer", self.kind, why, fix)

    def build(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        from bitsandbytes.optim import PagedAdamW32bit

        return self._build_with(PagedAdamW32bit, model)


@variant("optimizer", "paged_adamw_8bit")
@dataclass
class PagedAdamW8bitOptimizer(PagedAdamWOptimizer):
    """AdamW with 8-bit moments that move to the CPU's memory when the GPU's is full."""

    kind: str = "paged_adamw_8bit"

    def build(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        from bitsandbytes.optim import PagedAdamW8bit

        return self._build_with(PagedAdamW8bit, model)
