"""Several optimizers that Lightning, the schedule and checkpoints see as one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, overload

import torch

if TYPE_CHECKING:
    from torch.optim.optimizer import StateDict


class JointOptimizer(torch.optim.Optimizer):
    """Several optimizers of different parameters that step together.

    Parameter groups and state are shared with them, not copied.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        super().__init__(groups, {})
        self._share()

    def _share(self) -> None:
        start = 0
        for optimizer in self.optimizers:
            end = start + len(optimizer.param_groups)
            optimizer.param_groups, optimizer.state = self.param_groups[start:end], self.state
            start = end

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step with each optimizer, after a single evaluation of ``closure``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def load_state_dict(self, state_dict: "StateDict") -> None:
        """Load groups and state, and share these new objects with each optimizer."""
        super().load_state_dict(state_dict)
        self._share()
