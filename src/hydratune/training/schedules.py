"""The learning rate over a run: warm-up, then a schedule.

Pure functions of the settings and the number of steps.
"""

import math
from collections.abc import Callable

from hydratune.errors import ConfigError, Problem
from hydratune.settings.commands import TrainConfig
from hydratune.settings.optimizer import OptimizerConfig, Schedule
from hydratune.wording import counted


def warmup_steps(config: OptimizerConfig, total: int) -> int:
    """Return the number of optimizer steps, of ``total``, in which the rate rises."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    return round((config.warmup_ratio or 0.0) * total)


def learning_rate_factor(config: OptimizerConfig, total: int) -> Callable[[int], float]:
    """Return the share of ``optimizer.lr`` as a function of the optimizer step (from 0).

    It rises linearly in the warm-up, and then falls to ``min_lr_ratio`` by the schedule.
    """
    warmup = warmup_steps(config, total)
    decay_start = warmup
    if config.schedule is Schedule.wsd:
        decay_start = max(warmup, total - round(config.decay_ratio * total))
    curve = _curves(config).get(config.schedule)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if curve is None or step < decay_start:
            return 1.0
        progress = min(1.0, (step - decay_start) / max(1, total - decay_start))
        return config.min_lr_ratio + (1 - config.min_lr_ratio) * curve(progress)

    return factor


def _curves(config: OptimizerConfig) -> dict[Schedule, Callable[[float], float]]:
    """Return how the rate falls from 1 to 0, as functions of the progress from 0 to 1."""
    return {
        Schedule.cosine: lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
        Schedule.linear: lambda progress: 1 - progress,
        Schedule.wsd: lambda progress: 1 - progress,
        Schedule.polynomial: lambda progress: (1 - progress) ** config.power,
    }


def check(config: OptimizerConfig, total: int) -> None:
    """Raise ``ConfigError`` if a run of ``total`` optimizer steps ends before its warm-up."""
    if config.warmup_steps is not None and config.warmup_steps >= total:
        why = (
            f"the run has only {counted(total, 'optimizer step')}, so the learning rate would"
            " never reach"
            " optimizer.lr"
        )
        fix = "set fewer, or train for longer"
        raise ConfigError([Problem("optimizer.warmup_steps", config.warmup_steps, why, fix)])


def updates_per_epoch(config: TrainConfig, rows: int) -> int:
    """Return the number of optimizer steps in one epoch of ``rows`` training rows."""
    trainer = config.trainer
    rows_per_step = config.data.batch_size * trainer.accumulate_grad_batches * trainer.devices
    return -(-rows // rows_per_step)  # rounded up


def total_steps(config: TrainConfig, rows: int) -> int:
    """Return the number of optimizer steps of a run on ``rows`` training rows."""
    total = config.trainer.max_epochs * updates_per_epoch(config, rows)
    return min(total, config.trainer.max_steps) if config.trainer.max_steps else total
