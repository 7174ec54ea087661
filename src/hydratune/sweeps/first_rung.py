"""Says before a sweep with halving starts if it would stop jobs so early that it may stop the best.

How early that is was measured: docs/benchmarks/halving.md.
"""

import math
from collections.abc import Sequence

from hydratune.console import console
from hydratune.experiment.idle_settings import expected_steps
from hydratune.settings.commands import TrainConfig
from hydratune.sweeps.options import PackOptions

EARLY = 0.25  # of a job's steps, before which the choice was often wrong


def say_if_first_rung_is_early(jobs: Sequence[TrainConfig], options: PackOptions | None) -> None:
    """Print that jobs are judged early, and which first rung is late enough."""
    halving = options.halving if options is not None else None
    steps = [count for job in jobs if (count := expected_steps(job)) is not None]
    if halving is None or halving.min_steps is None or not steps:
        return
    if text := early_rung(halving.min_steps, max(steps)):
        console.print(f"[yellow]{text}", soft_wrap=True)


def early_rung(min_steps: int, total: int) -> str:
    """Return what is said of a first rung after ``min_steps`` of ``total`` steps, or ""."""
    if min_steps >= EARLY * total:
        return ""
    enough = math.ceil(EARLY * total)
    return (
        f"halving judges the jobs after {min_steps} of about {total} steps"
        f" ({100 * min_steps / total:.0f} %): so early, it often stopped the job that is best in"
        f" the end (docs/benchmarks/halving.md); hydra.launcher.halving.min_steps={enough} is"
        f" {100 * EARLY:.0f} %"
    )
