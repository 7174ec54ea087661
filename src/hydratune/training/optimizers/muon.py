"""Muon (Jordan et al. 2024) for hidden weight matrices, with AdamW for all other parameters."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from hydratune.errors import Problem
from hydratune.settings.optimizer import OptimizerConfig, OptimizerContext, betas_problems
from hydratune.settings.ranges import above_zero, between
from hydratune.settings.registry import variant

if TYPE_CHECKING:
    import torch


class MuonRate(StrEnum):
    """How Muon's learning rate follows a matrix's shape; names are torch's."""

    original = "original"  # lr * sqrt(max(1, rows / columns))
    # lr * 0.2 sqrt(max(rows, columns)): AdamW's lr and weight decay fit (arXiv:2502.16982)
    match_rms_adamw = "match_rms_adamw"


@variant("optimizer", "muon")
@dataclass
class MuonOptimizer(OptimizerConfig):
    """Muon (Jordan et al. 2024) for hidden weight matrices in full fine-tuning.

    All other parameters are trained by AdamW.
    """

    multiplies_matrices: ClassVar[bool] = True

    kind: str = "muon"
    momentum: float = 0.95  # decay of the average of gradients
    nesterov: bool = True  # Nesterov momentum
    ns_steps: int = 5  # Newton-Schulz iterations
    # how the learning rate follows the shape of a matrix
    adjust_lr_fn: MuonRate = MuonRate.match_rms_adamw
    # of AdamW, which trains embeddings, output head, norms and biases
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8  # likewise of AdamW

    def own_problems(self, context: OptimizerContext) -> Iterator[Problem]:
        yield from betas_problems(self.betas)
        yield from above_zero("optimizer.eps", self.eps, "usual: 1e-8")
        yield from between("optimizer.momentum", self.momentum, 0, 1, open_high=True)
        if not 1 <= self.ns_steps < 100:
            why = "must be in [1, 99]"
            yield Problem("optimizer.ns_steps", self.ns_steps, why, "usual: 5")
        if not context.trains_base:
            why = (
                "it makes the update of a whole weight matrix orthogonal; an adapter trains other"
                " things, such as thin factors"
            )
            yield Problem("optimizer", self.kind, why, "set adapter=none, or optimizer=adamw")

    def build(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        import torch

        from hydratune.training.fused import fused_adamw
        from hydratune.training.joint_optimizer import JointOptimizer
        from hydratune.training.parameter_groups import hidden_matrices, parameter_groups

        hidden = hidden_matrices(model)
        matrices = parameter_groups(model, self, lambda parameter: id(parameter) in hidden)
        others = parameter_groups(model, self, lambda parameter: id(parameter) not in hidden)
        optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(
                matrices,
                lr=self.lr,
                momentum=self.momentum,
                nesterov=self.nesterov,
                ns_steps=self.ns_steps,
                adjust_lr_fn=self.adjust_lr_fn.value,
            )
            optimizers.append(muon)
        if others:
            optimizers.append(fused_adamw(others, lr=self.lr, betas=self.betas, eps=self.eps))
        return optimizers[0] if len(optimizers) == 1 else JointOptimizer(optimizers)
