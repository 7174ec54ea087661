"""Checks of a sweep over the number of training rows: whether its jobs can say what more rows
bring.
"""

import math
from collections.abc import Sequence

from hydratune.console import console
from hydratune.errors import ConfigError, Problem
from hydratune.experiment.idle_settings import expected_rows
from hydratune.settings.commands import TrainConfig
from hydratune.sweeps.options import PackOptions
from hydratune.wording import counted

_SHARE = "data.train_share"


def check_train_sizes(jobs: Sequence[TrainConfig], options: PackOptions | None) -> None:
    """Refuse a sweep over ``data.train_share`` that halving would end early, and print what else
    keeps it from an answer.

    Raises ``ConfigError``.
    """
    shares = sorted({job.data.train_share for job in jobs})
    if len(shares) < 2:
        return
    if options is not None and options.is_halving:
        why = (
            "it would stop the jobs with few rows, which have the highest losses and are what the"
            " others are compared with"
        )
        fix = "set hydra.launcher.halving.min_steps=null"
        raise ConfigError([Problem("hydra.launcher.halving", _listed(shares), why, fix)])
    for line in (*_few_rows(jobs), *_one_seed(jobs)):
        console.print(f"[yellow]{line}", soft_wrap=True)


def _listed(shares: Sequence[float]) -> str:
    return f"{_SHARE}={','.join(f'{share:g}' for share in shares)}"


def _few_rows(jobs: Sequence[TrainConfig]) -> list[str]:
    """Return that the smallest share has less than a batch, where the number of rows is known."""
    smallest = min(jobs, key=lambda job: job.data.train_share)
    expected = expected_rows(smallest.data)
    batch = smallest.data.batch_size * smallest.trainer.accumulate_grad_batches
    if expected is None or expected.train >= batch:
        return []
    share, rows = smallest.data.train_share, max(1, expected.train)
    enough = min(1.0, math.ceil(1000 * share * batch / rows) / 1000)
    return [
        f"{_SHARE}={share:g} leaves {counted(expected.train, 'training row')}, fewer than the"
        f" {batch} of one optimizer step: begin with {_SHARE}={enough:g}, or set data.batch_size"
        " lower"
    ]


def _one_seed(jobs: Sequence[TrainConfig]) -> list[str]:
    if len({job.seed for job in jobs}) > 1:
        return []
    return [
        f"one seed draws one part of the rows for each {_SHARE}, so what is due to the rows that"
        " were drawn cannot be told from what is due to their number: add seed=1,2,3"
    ]
