"""Halving of jobs that are in several packs: in rounds.

In a round, the packs train their jobs until the next rung and end. When all have ended, the jobs of
all packs are judged together, by what their records say, and those that are trained further are
divided among packs again. The decisions are those that one pack would make.
"""

from collections.abc import Sequence
from pathlib import Path

from hydratune.console import console
from hydratune.records.status import Outcome, State, Status
from hydratune.settings.monitor import Monitor
from hydratune.sweeps.executors.executor import Executor
from hydratune.sweeps.halving import HalvingScheduler
from hydratune.sweeps.halving_records import halved_by, restore
from hydratune.sweeps.options import HalvingOptions, PackOptions
from hydratune.sweeps.pack_processes import PacksEnd, run_packs
from hydratune.sweeps.planning import PlannedJob, PlannedPack
from hydratune.sweeps.retries import set_end
from hydratune.wording import counted

_ENDED = (Outcome.failed, Outcome.stopped)


def run_rounds(
    folder: Path,
    groups: Sequence[Sequence[PlannedJob]],
    options: PackOptions,
    executor: Executor,
    more: Sequence[PlannedPack],
    parts: int,
) -> PacksEnd:
    """Train the jobs of each group, which are judged together, round after round.

    ``more``: packs that are not judged and run in the first round. ``parts``: how many packs a
    round has unless ``pack_size`` is set. If a pack is cancelled, nothing more is judged: the same
    command continues later.
    """
    packs, number = list(more), 0
    while True:
        number += 1
        busy = {job.name for pack in executor.running() for job in pack.jobs}
        for group in groups:
            if not busy & {job.name for job in group}:
                packs += _packs_of_round(group, options, parts, number)
        if not packs and not busy:
            return PacksEnd.over
        end = run_packs(folder, packs, options, executor)
        if end is PacksEnd.cancelled:
            for group in groups:
                set_end(group, State.stopped, "a pack of its round was cancelled")
        if end is not PacksEnd.over:
            return end
        packs = []


def _packs_of_round(
    group: Sequence[PlannedJob], options: PackOptions, parts: int, number: int
) -> list[PlannedPack]:
    """Judge the jobs of a group; return the packs of those that are trained now."""
    passed = judge(group, options.halving or HalvingOptions(), is_first=number == 1)
    if not passed:
        return []
    jobs = [job for job in group if job.name in passed]
    size = options.pack_size or -(-len(jobs) // parts)
    chunks = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    console.print(
        f"round {number} of halving: {len(jobs)} of {counted(len(group), 'job')} in"
        f" {counted(len(chunks), 'pack')}"
    )
    return [
        PlannedPack(
            f"pack {count} of {len(chunks)}: {counted(len(chunk), 'job')} on one base model",
            tuple(chunk),
            options.jobs_at_once,
            passed={job.name: passed[job.name] for job in chunk},
        )
        for count, chunk in enumerate(chunks, 1)
    ]


def judge(
    group: Sequence[PlannedJob], halving: HalvingOptions, *, is_first: bool
) -> dict[str, int]:
    """Return the jobs that are to be trained now -> rungs that they have passed.

    Jobs that are not are halved. ``is_first``: jobs that failed or were stopped in earlier commands
    are tried again.
    """
    if is_first:
        for job in group:
            if (
                job.status.outcome in _ENDED
            ):  # so that no later round takes it for one of this sweep
                job.record.change_status(_paused if _has_rung(job) else Status.wait)
    records = {job.name: job.record for job in group}
    monitor = Monitor.read(halving.metric or group[0].settings.trainer.monitor)
    scheduler = HalvingScheduler(
        list(records),
        halving,
        on_halved=lambda name: records[name].change_status(halved_by(monitor)),
        monitor=monitor,
    )
    failed = [
        job.name for job in group if job.status.outcome in (*_ENDED, Outcome.cannot_share_pack)
    ]
    restore(scheduler, records, failed)
    names = scheduler.decide()
    for job in group:
        if job.name in names and job.status.outcome is Outcome.halved:
            job.record.change_status(Status.resume_halved)  # tried again if its pack is killed
    return {
        job.name: len(job.status.rungs) if _has_rung(job) else 0
        for job in group
        if job.name in names
    }


def _has_rung(job: PlannedJob) -> bool:
    """Return whether a job that has not finished can be resumed at a rung that it has reached."""
    return bool(job.status.rungs) and job.record.checkpoint_to_resume() is not None


def _paused(status: Status) -> Status:
    return status.wait().pause()
