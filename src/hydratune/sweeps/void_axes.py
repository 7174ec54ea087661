"""Swept settings that have no effect on any job: a sweep over them trains the same model again."""

import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence

from hydratune.data.rows import stable_hash
from hydratune.errors import Problem
from hydratune.experiment.idle_settings import effective, idle_reason, remedy, without_effect
from hydratune.settings.commands import TrainConfig
from hydratune.sweeps.planning import PlannedJob


def void_axes(jobs: Sequence[PlannedJob]) -> Iterator[Problem]:
    """Yield a problem for each setting whose values all lead to the same jobs.

    A setting that has an effect beside some values of the others is none of them.
    """
    identities = [effective_identity(job.settings) for job in jobs]
    keys = dict.fromkeys(key for job in jobs for key in job.job.varying)
    for key in keys:
        siblings: dict[str, set[str]] = defaultdict(set)
        members: dict[str, int] = defaultdict(int)
        for job, identity in zip(jobs, identities, strict=True):
            others = stable_hash({k: v for k, v in job.job.varying.items() if k != key})
            siblings[others].add(identity)
            members[others] += 1
        compared = [others for others, count in members.items() if count > 1]
        if compared and all(len(siblings[others]) == 1 for others in compared):
            yield void_axis(key, [job.job.varying.get(key, "") for job in jobs], jobs[0].settings)


def without_effect_on_any(jobs: Sequence[PlannedJob], overrides: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for each of the typed ``overrides`` that changes nothing of any job."""
    said = [dict.fromkeys(without_effect(job.settings, overrides)) for job in jobs]
    yield from (text for text in said[0] if all(text in own for own in said))


def void_axis(key: str, values: Sequence[str], settings: TrainConfig) -> Problem:
    """Return the problem of a setting that changes no job; ``settings``: those of one job."""
    reason = idle_reason(settings, key) or "another setting decides it"
    why = f"it changes no result here ({reason}): every value would train the same model again"
    fix = "give one value, or leave it out"
    if advice := remedy(settings, key):
        fix += f"; it has an effect with {shlex.quote(advice)}"
    return Problem(key, ",".join(dict.fromkeys(values)), why, fix)


def effective_identity(settings: TrainConfig) -> str:
    """Return a hash that jobs share whose settings lead to the same run."""
    return stable_hash(dict(effective(settings)))
