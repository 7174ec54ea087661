"""Answers to a few validation rows during training: what the loss cannot show.

They change nothing in training.
"""

import time

import lightning

from hydratune.training.history import History
from hydratune.training.task import Answer


class Sampling(lightning.Callback):
    """Lets the model answer after every so many optimizer steps; the metrics that ``ask(step)``
    returns become a part of the history.

    In the list of callbacks it comes after ``history`` and before those that write checkpoints. Its
    time does not count as training. Answers are the most likely ones, so nothing is drawn; layers
    return to the mode they were in.
    """

    def __init__(self, every: int, ask: Answer, history: History) -> None:
        self.every, self.ask, self.history = every, ask, history

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *args: object
    ) -> None:
        step = trainer.global_step
        if trainer.fit_loop.epoch_loop._should_accumulate() or step % self.every:
            return
        # by all ranks at the same step, or the watchdog of one would wait for the others
        self.history.record_pending(trainer)
        if not trainer.is_global_zero:
            return
        start = time.perf_counter()
        modes = {part: part.training for part in module.modules()}
        values = {f"sample/{name}": value for name, value in self.ask(step).items()}
        for part, mode in modes.items():
            part.training = mode
        self.history.count_as_validation(time.perf_counter() - start)
        self.history.rows[-1] |= values
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, step=step)
