"""The learning rate over a run: warm-up, then a schedule.

Pure functions of the settings and the number of steps.
"""

import math
from collections.abc import Callable

from hydratune.errors import ConfigError, Problem
from hydratune.settings.commands import TrainConfig
from hydratune.settings.optimizer import OptimizerConfig, Schedule


def warmup_steps(config: OptimizerConfig, total: int) -> int:
    """Optimizer steps, of ``total``, in which the rate rises."""
    return (
        config.warmup_steps
        if config.warmup_steps is not None
        else round((config.warmup_ratio or 0.0) * total)
    )


def learning_rate_factor(config: OptimizerConfig, total: int) -> Callable[[int], float]:
    """Share of ``optimizer.lr`` at each optimizer step (from 0): linear warm-up, then the schedule
    down to ``min_lr_ratio``.
    """
    warmup = warmup_steps(config, total)
    falls_from = (
        max(warmup, total - round(config.decay_ratio * total))
        if config.schedule is Schedule.wsd
        else warmup
    )
    shapes: dict[Schedule, Callable[[float], float]] = {  # of the share done of the part that falls
        Schedule.cosine: lambda done: 0.5 * (1 + math.cos(math.pi * done)),
        Schedule.linear: lambda done: 1 - done,
        Schedule.wsd: lambda done: 1 - done,
        Schedule.polynomial: lambda done: (1 - done) ** config.power,
    }
    shape = shapes.get(config.schedule)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if shape is None or step < falls_from:
            return 1.0
        done = min(1.0, (step - falls_from) / max(1, total - falls_from))
        return config.min_lr_ratio + (1 - config.min_lr_ratio) * shape(done)

    return factor


def check(config: OptimizerConfig, total: int) -> None:
    """Raises ``ConfigError`` if the run, of ``total`` optimizer steps, would end before its warm-up
    does.
    """
    if config.warmup_steps is not None and config.warmup_steps >= total:
        why = (
            f"the run has only {total} optimizer steps, so the learning rate would never reach"
            " optimizer.lr"
        )
        raise ConfigError(
            [
                Problem(
                    "optimizer.warmup_steps",
                    config.warmup_steps,
                    why,
                    "set fewer, or train for longer",
                )
            ]
        )


def updates_per_epoch(config: TrainConfig, rows: int) -> int:
    """Optimizer steps in one epoch of ``rows`` training rows."""
    return -(
        -rows
        // (
            config.data.batch_size * config.trainer.accumulate_grad_batches * config.trainer.devices
        )
    )


def total_steps(config: TrainConfig, rows: int) -> int:
    """Optimizer steps of a run on ``rows`` training rows."""
    total = config.trainer.max_epochs * updates_per_epoch(config, rows)
    return min(total, config.trainer.max_steps) if config.trainer.max_steps else total
