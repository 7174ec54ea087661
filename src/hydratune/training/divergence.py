"""The error of a run that the watchdog stopped: what happened, what is kept, what to do."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydratune.errors import DivergedError
from hydratune.settings.optimizer import OptimizerConfig
from hydratune.settings.trainer import TrainerConfig
from hydratune.training.watchdog import Stopped

_SHOWN = 8  # rows in a message


@dataclass(frozen=True)
class Divergence:
    """A run that was stopped, and what is left of it."""

    stopped: Stopped
    total: int  # optimizer steps of the whole run
    best_loss: float | None  # None: stopped before the first validation
    usable: bool  # the trained weights are finite
    row_names: Sequence[str]  # of all training rows; none: they are called by their numbers

    def error(self, optimizer: OptimizerConfig, trainer: TrainerConfig) -> DivergedError:
        """Return the error with its explanation."""
        stopped, rows = self.stopped, self._rows()
        when = f"before the update of step {stopped.step}" if rows else f"after step {stopped.step}"
        reason = stopped.reason
        # on a GPU, steps are checked some time after their updates
        if stopped.steps_since is not None:
            when = f"after step {stopped.step + stopped.steps_since}"
            reason = f"at step {stopped.step}, {stopped.reason}"
        lines = [
            f"training was stopped {when} of {self.total}: {reason}",
            *([f"rows of this step: {rows}"] if rows else []),
            f"kept: {self._kept()}",
            f"fix: {'; '.join(self._fixes(optimizer, trainer))}",
        ]
        return DivergedError("\n  ".join(lines), usable=self.usable)

    def _rows(self) -> str:
        numbers = self.stopped.rows
        names = [
            self.row_names[number] if self.row_names else f"number {number}"
            for number in numbers[:_SHOWN]
        ]
        more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
        return ", ".join(names) + more

    def _kept(self) -> str:
        if self.best_loss is not None:
            return (
                f"the weights with the best validation loss so far, {self.best_loss:.4f}, and"
                " the last checkpoint before it"
            )
        if not self.usable:
            return "nothing: the weights are no longer finite"
        point = "before" if self.stopped.steps_since is None else "after"
        return f"the weights as they were {point} that step"

    def _fixes(self, optimizer: OptimizerConfig, trainer: TrainerConfig) -> list[str]:
        clip = trainer.gradient_clip_val
        fixes = [
            f"lower optimizer.lr (now {optimizer.lr:g})",
            "set trainer.gradient_clip_val=1"
            if clip is None
            else f"lower trainer.gradient_clip_val (now {clip:g})",
        ]
        if self.stopped.rows:
            fixes.append("look at these rows")
        if "max_loss_ratio" in self.stopped.reason:
            fixes.append("raise trainer.max_loss_ratio if such a loss is right for them")
        return fixes
