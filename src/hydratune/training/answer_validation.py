"""Metrics of the model's answers to validation rows during training: what the loss cannot show.

They change nothing in training.
"""

import math
import time
from collections.abc import Mapping
from functools import partial

import lightning
import torch

from hydratune.metric_format import with_unit
from hydratune.settings.monitor import Monitor
from hydratune.training.history import History
from hydratune.training.protocols import RungScore
from hydratune.training.task import Answer, Measured


class AnswerValidation(lightning.Callback):
    """Lets the model answer validation rows at some validations; ``val/<metric>`` becomes a part of
    the history, and of what Lightning's callbacks monitor.

    In the list of callbacks it comes after ``history`` and before those that monitor or write
    checkpoints. Its time does not count as training. Answers are the most likely ones, so nothing
    is drawn; layers return to the mode they were in.
    """

    def __init__(
        self, answer: Answer | None, steps: set[int], history: History, monitor: Monitor
    ) -> None:
        """``steps``: optimizer steps with a validation at which the model answers too.

        ``answer`` is None where no rows are answered.
        """
        self.answer, self.steps, self.history, self.monitor = answer, steps, history, monitor
        self._latest: tuple[int, Mapping[str, Measured]] = (-1, {})  # step, metrics

    def on_validation_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        step = trainer.global_step
        if self.answer is None or (step not in self.steps and self.monitor.is_loss):
            return  # a monitored metric is measured at every validation, planned or not
        values = {name: own.value for name, own in self._measure(trainer, module).items()}
        self.history.rows[-1] |= values
        self.history.write(trainer)
        # NaN is no improvement
        monitored = {} if self.monitor.is_loss else {self.monitor.metric: math.nan}
        monitored_values = {**monitored, **values}
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in monitored_values.items()})
        if not self.monitor.is_loss and self.monitor.metric in values:
            written = partial(with_unit, self.monitor.metric)
            shown = {self.monitor.title: values[self.monitor.metric]}
            self.history.ticker.advance(0, 0, written, **shown)
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, step=step)

    def score(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, loss: float
    ) -> RungScore:
        """Return what the run is judged by at the present step: ``loss`` and what it monitors."""
        if self.monitor.is_loss:
            return RungScore(loss)
        step, values = self._latest
        if step != trainer.global_step:
            values = self._measure(trainer, module)
        own = values.get(self.monitor.metric, Measured(math.nan))
        return RungScore(loss, own.value, own.interval)

    def _measure(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> Mapping[str, Measured]:
        """Return ``val/<metric>`` of the present weights; rank 0 answers for all ranks.

        The monitored metric is not among them if no answer has anything that it counts.
        """
        assert self.answer is not None
        step, start = trainer.global_step, time.perf_counter()
        values: Mapping[str, Measured] = {}
        if trainer.is_global_zero:
            modes = {part: part.training for part in module.modules()}
            values = self.answer(step)
            for part, mode in modes.items():
                part.training = mode
        if trainer.world_size > 1:
            values = trainer.strategy.broadcast(values)
        self.history.count_as_answering(time.perf_counter() - start)
        self._latest = step, values
        return values


def answering_steps(validated: set[int], every: int | None, monitor: Monitor) -> set[int]:
    """Return the steps of every ``every``-th validation and of the last one.

    Where such a metric is monitored, these are all validations.
    """
    if not monitor.is_loss:
        return validated
    if every is None:
        return set()
    steps = sorted(validated)
    return {*steps[every - 1 :: every], steps[-1]}
