"""Stops training before a step that would do damage, and before damaged weights are saved."""

import math
import statistics
from collections import deque
from collections.abc import Sequence
from typing import Any

import lightning
import torch

from hydratune.training.ddp import gathered
from hydratune.training.history import History, OptimizerStep
from hydratune.training.module import FineTuning


class Stopped(Exception):
    """Raised by the watchdog: what is wrong at which step, and the numbers of its rows.

    ``hydratune.training.divergence`` makes the error that the user sees of it.
    """

    def __init__(
        self, reason: str, step: int, rows: Sequence[int] = (), steps_since: int | None = None
    ) -> None:
        """``steps_since``: how many updates came after that of ``step``; None: the update of
        ``step`` itself was not made.
        """
        super().__init__(reason)
        self.reason, self.step, self.rows = reason, step, tuple(rows)
        self.steps_since = steps_since


def what_is_wrong(
    loss: float,
    grad_norm: float,
    before: Sequence[float],
    limit: float | None,
    first: float,
    uniform: float,
) -> str | None:
    """Return why the update of a step must not be made, or None.

    ``before`` are the losses of the latest steps; a loss of more than ``limit`` times their median
    is wrong. The first steps vary too much to be judged by their median. A loss below 0.1 may jump
    to many times its median for one unusual row, and nothing is broken: the median counts as at
    least 0.1. ``uniform`` is the loss of a uniform distribution over the vocabulary, the logarithm
    of its size. If the first loss of a run (``first``) was far below it, and the losses of two
    steps in a row are about ``uniform``, the model has lost its pretraining.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"the norm of the gradient is {grad_norm}"
    if grad_norm == 0 and loss > 0.1:
        return f"the loss is {loss:.4f} and the gradient is 0: nothing more can be learnt"
    if limit is None:
        return None
    if first < uniform / 2 and before and min(loss, before[-1]) > 0.95 * uniform:
        return (
            f"the loss is {loss:.4f}, as of uniform predictions over the vocabulary"
            f" ({uniform:.2f}), and the first loss was {first:.4f}"
        )
    if len(before) < 10:
        return None
    usual = statistics.median(before)
    if loss > limit * max(usual, 0.1):
        return (
            f"the loss is {loss:.4f}, and the median of the {len(before)} steps before is"
            f" {usual:.4f} (trainer.max_loss_ratio={limit:g})"
        )
    return None


def rows_of_all_ranks(step: OptimizerStep) -> list[int]:
    """Return the numbers of the rows of a step, on all ranks.

    Every rank detects the same, because losses and gradients are summed over all of them; but each
    knows its own rows only.
    """
    return [number for numbers in gathered(step.rows) for number in numbers]


class Watchdog(lightning.Callback):
    """Raises ``Stopped`` before an update that would do damage is made, and before damaged weights
    are saved.

    On a GPU the steps are checked when ``history`` has read them: the update was made by then, but
    nothing was saved. In the list of callbacks it comes after ``history`` and before the
    checkpoints.
    """

    def __init__(self, history: History, limit: float | None) -> None:
        self.history, self.limit = history, limit
        self.before: deque[float] = deque(maxlen=20)
        self.first: float | None = None

    def state_dict(self) -> dict[str, object]:
        return {"before": list(self.before), "first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before.extend(state_dict["before"])
        self.first = state_dict["first"]

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        assert isinstance(module, FineTuning)
        step = self.history.step
        if step is None or isinstance(step.loss, torch.Tensor):
            return
        reason = self._check(step, module)
        if reason is not None:
            self.history.end_step(module)
            self.history.record_pending(trainer)
            raise Stopped(reason, step.number, rows_of_all_ranks(step))

    def _check(self, step: OptimizerStep, module: FineTuning) -> str | None:
        """Return what is wrong with a step that was read, or None."""
        loss = float(step.loss)
        self.first = loss if self.first is None else self.first
        uniform = math.log(module.objective.model.config.get_text_config().vocab_size)
        norm = float(step.grad_norm)
        reason = what_is_wrong(loss, norm, self.before, self.limit, self.first, uniform)
        if reason is None:
            self.before.append(loss)
        return reason

    def check_recorded(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Raise ``Stopped`` if one of the steps recorded since the last check is wrong."""
        assert isinstance(module, FineTuning)
        steps, self.history.recorded = self.history.recorded, []
        for step in steps if not self.history.at_once else ():
            reason = self._check(step, module)
            if reason is not None:
                raise Stopped(
                    reason,
                    step.number,
                    rows_of_all_ranks(step),
                    steps_since=trainer.global_step - step.number,
                )

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *args: object
    ) -> None:
        self.check_recorded(trainer, module)

    def on_validation_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        self.check_recorded(trainer, module)

    def before_checkpoint(self, trainer: lightning.Trainer) -> None:
        """Record what is pending and check it: a checkpoint has all steps, and none is damaged."""
        self.history.record_pending(trainer)
        self.check_recorded(trainer, trainer.lightning_module)

    def on_validation_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        loss = float(trainer.callback_metrics["val/loss"])
        if not math.isfinite(loss):
            raise Stopped(f"the validation loss is {loss}", trainer.global_step)
