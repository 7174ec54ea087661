"""The points of a run at which a sweep decides whether it is worth to be continued."""

import time
from collections.abc import Callable, Container

import lightning
from lightning.pytorch.callbacks import Checkpoint

from hydratune.errors import Paused
from hydratune.training.history import History
from hydratune.training.module import FineTuning
from hydratune.training.protocols import HalvingDecisions


class HalvingRungs(Checkpoint):
    """Asks after given steps whether the run continues; if not, the checkpoint is written and
    ``Paused`` raised.

    In the list of callbacks it comes after those that write checkpoints. A rung costs a validation
    where there is none, and changes nothing else.
    """

    def __init__(
        self,
        decisions: HalvingDecisions,
        total: int,
        history: History,
        *,
        validated: Container[int] = (),
        write: Callable[[lightning.Trainer], None] = lambda trainer: None,
    ) -> None:
        """``total``: optimizer steps of the run. ``validated``: steps that are followed by a
        validation anyway. ``write`` writes the checkpoint.
        """
        self.decisions, self.steps = decisions, set(decisions.rungs(total))
        self.history, self.validated, self.write = history, validated, write

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Ask for the rungs before the checkpoint at which a resumed run was never judged.

        It was not halved then, or it was killed before it was judged.
        """
        assert isinstance(module, FineTuning)
        passed = [step for step in sorted(self.steps) if step <= trainer.global_step]
        missed = [step for step in passed if not self.decisions.judged(step)]
        if not missed:
            return
        losses = {
            int(row["step"]): row["val/loss"]
            for row in self.history.rows
            if isinstance(row.get("val/loss"), float)
        }
        if not all(step in losses for step in missed):
            present = float(module.validation_loss())
            losses = dict.fromkeys(missed, present) | losses
        for step in missed:
            if not self.decisions.may_continue(step, losses[step]):
                raise Paused  # the checkpoint from which it is resumed still exists

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *args: object
    ) -> None:
        assert isinstance(module, FineTuning)
        step = trainer.global_step
        if (
            step not in self.steps
            or step in self.validated
            or trainer.fit_loop.epoch_loop._should_accumulate()
        ):
            return
        self.history.record_pending(trainer)
        start = time.perf_counter()
        loss = module.validation_loss()
        self.history.count_as_validation(time.perf_counter() - start)
        self._decide(trainer, step, loss)

    def on_validation_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        if trainer.global_step in self.steps:
            self._decide(trainer, trainer.global_step, float(trainer.callback_metrics["val/loss"]))

    def _decide(self, trainer: lightning.Trainer, step: int, loss: float) -> None:
        # before the sweep learns of the rung: a killed run then has all that it is judged by
        self.history.write(trainer)
        self.write(trainer)
        if not self.decisions.may_continue(step, loss):
            raise Paused
