"""When training is validated, and when it ends because validations no longer improve."""

import lightning
from lightning.pytorch.callbacks import EarlyStopping

from hydratune.settings.monitor import Monitor
from hydratune.settings.trainer import TrainerConfig


def validation_steps(total: int, count: int) -> set[int]:
    """Return ``count`` optimizer steps spread evenly over ``total``, the last one included."""
    count = min(count, total)
    return {round(total * k / count) for k in range(1, count + 1)}


class ValidationTimes(lightning.Callback):
    """Has Lightning validate after given optimizer steps.

    Its own interval skips the end unless it divides the epoch.
    """

    def __init__(self, steps: set[int]) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: object) -> None:
        updated = trainer.fit_loop.epoch_loop._should_accumulate() is False
        trainer.val_check_batch = (
            1 if updated and trainer.global_step in self.steps else float("inf")
        )


def patience_of(config: TrainerConfig) -> int:
    """Return the validations without improvement after which training stops; without a setting more
    than there will ever be.
    """
    return config.early_stopping_patience if config.early_stopping_patience is not None else 2**31


class Patience(EarlyStopping):
    """Stops training after ``patience`` validations without a better ``trainer.monitor``."""

    def __init__(self, config: TrainerConfig) -> None:
        monitor = Monitor.read(config.monitor)
        super().__init__(
            monitor.metric,
            mode=monitor.mode,
            patience=patience_of(config),
            check_finite=False,  # the watchdog does
            check_on_train_epoch_end=False,  # after every validation
        )
