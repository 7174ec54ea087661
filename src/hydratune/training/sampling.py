"""Answers to a few validation rows while training goes on: what the loss cannot show.

Changes nothing in training.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning

from hydratune.training.callbacks import History

Ask = Callable[[int], Mapping[str, float]]


class Sampling(lightning.Callback):
    """Every so many optimizer steps, ``ask(step)`` has the model answer; what it returns becomes a
    part of the history.

    Comes after ``history``, and before what writes checkpoints. The time it takes is none of
    training's. Answers are the most likely ones, so nothing is drawn; layers are put back into the
    mode they were in.
    """

    def __init__(self, every: int, ask: Ask, history: History) -> None:
        self.every, self.ask, self.history = every, ask, history

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *args: Any
    ) -> None:
        step = trainer.global_step
        if trainer.fit_loop.epoch_loop._should_accumulate() or step % self.every:
            return
        self.history.record_pending(
            trainer
        )  # by all ranks at the same step, or the watchdog of one would wait for the others
        if not trainer.is_global_zero:
            return
        start = time.perf_counter()
        modes = {part: part.training for part in module.modules()}
        values = {f"sample/{name}": value for name, value in self.ask(step).items()}
        for part, mode in modes.items():
            part.training = mode
        took = time.perf_counter() - start
        self.history.validating += took
        self.history.last += took
        self.history.rows[-1] |= values
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, step=step)
