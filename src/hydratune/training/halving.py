"""The points of a run at which a sweep decides whether it is worth to be continued."""

import time
from collections.abc import Callable, Container

import lightning
from lightning.pytorch.callbacks import Checkpoint

from hydratune.errors import Paused
from hydratune.settings.monitor import Monitor
from hydratune.training.history import History
from hydratune.training.module import FineTuning
from hydratune.training.protocols import HalvingDecisions, RungScore

# (trainer, module, validation loss) -> what the run is judged by now
Score = Callable[[lightning.Trainer, lightning.LightningModule, float], RungScore]


def score_by_loss(
    trainer: lightning.Trainer, module: lightning.LightningModule, loss: float
) -> RungScore:
    """Return the score of a run that is judged by its validation loss."""
    return RungScore(loss)


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
        monitor: Monitor | None = None,
        score: Score = score_by_loss,
        validated: Container[int] = (),
        write: Callable[[lightning.Trainer], None] = lambda trainer: None,
    ) -> None:
        """``total``: optimizer steps of the run. ``monitor``: what it is judged by; None: the
        validation loss. ``score`` returns what the run is judged by, given
        the validation loss. ``validated``: steps that are followed by a validation anyway.
        ``write`` writes the checkpoint.
        """
        self.decisions, self.steps = decisions, set(decisions.rungs(total))
        self.history, self.monitor, self.score = history, monitor or Monitor(), score
        self.validated, self.write = validated, write

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Ask for the rungs before the checkpoint at which a resumed run was never judged.

        It was not halved then, or it was killed before it was judged.
        """
        assert isinstance(module, FineTuning)
        passed = [step for step in sorted(self.steps) if step <= trainer.global_step]
        missed = [step for step in passed if not self.decisions.judged(step)]
        if not missed:
            return
        scores = self._recorded_scores()
        if not all(step in scores for step in missed):
            present = self.score(trainer, module, float(module.validation_loss()))
            scores = dict.fromkeys(missed, present) | scores
        for step in missed:
            if not self.decisions.may_continue(step, scores[step]):
                raise Paused  # the checkpoint from which it is resumed still exists

    def _recorded_scores(self) -> dict[int, RungScore]:
        """Return step -> score of the validations in the history."""
        own = self.monitor.metric
        validated = [row for row in self.history.rows if isinstance(row.get("val/loss"), float)]
        if self.monitor.is_loss:
            return {int(row["step"]): RungScore(row["val/loss"]) for row in validated}
        return {
            int(row["step"]): RungScore(row["val/loss"], row[own])
            for row in validated
            if isinstance(row.get(own), float)
        }

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
        self._decide(trainer, step, self.score(trainer, module, loss))

    def on_validation_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        if trainer.global_step in self.steps:
            loss = float(trainer.callback_metrics["val/loss"])
            self._decide(trainer, trainer.global_step, self.score(trainer, module, loss))

    def _decide(self, trainer: lightning.Trainer, step: int, score: RungScore) -> None:
        # before the sweep learns of the rung: a killed run then has all that it is judged by
        self.history.write(trainer)
        self.write(trainer)
        if not self.decisions.may_continue(step, score):
            raise Paused
