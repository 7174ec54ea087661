"""Asynchronous halving of jobs that are in several packs.

A pack trains its jobs while they are among the best of all packs so far, which it reads from their
records, and ends when it has none to train. The driver has those trained further, in new packs,
that became one of the best after their pack had ended. When none is left, all that are still paused
are halved.
"""

import time
from collections.abc import Collection, Sequence, Set
from pathlib import Path

from hydratune.console import console
from hydratune.records.status import BY_SIGNAL, Outcome, State, Status
from hydratune.settings.monitor import Monitor
from hydratune.sweeps.executors.executor import Executor
from hydratune.sweeps.halving import HalvingScheduler, JobState, JudgedJob
from hydratune.sweeps.halving_records import JudgedRecords, halved_by
from hydratune.sweeps.job_processes import set_stopped
from hydratune.sweeps.options import HalvingOptions, PackOptions
from hydratune.sweeps.pack_processes import PacksEnd, PackSource, run_packs
from hydratune.sweeps.planning import PlannedJob, PlannedPack
from hydratune.sweeps.retries import set_end
from hydratune.sweeps.stop_requests import stop_requests
from hydratune.wording import counted

_INTERVAL = 1.0  # seconds between two looks at the records while packs run
_SHARE = 10  # on a slow file system so many times longer than a look takes
_ALL_RUNGS = 2**31
_TO_RUN = (Outcome.no_run, Outcome.waiting, Outcome.paused)


def run_asynchronously(
    folder: Path,
    groups: Sequence[Sequence[PlannedJob]],
    options: PackOptions,
    executor: Executor,
    more: Sequence[PlannedPack],
    parts: int,
) -> PacksEnd:
    """Train the jobs of each group, which are judged together.

    ``more``: packs that are not judged. ``parts``: how many packs run at the same time. If a pack
    is cancelled, its jobs leave their places to others until the same command is typed again.
    """
    source = AsynchronousHalving(folder, groups, options, executor, parts)
    try:
        return run_packs(folder, more, options, executor, source)
    except KeyboardInterrupt:
        for group in groups:
            set_end(group, State.stopped, BY_SIGNAL)
        raise


class AsynchronousHalving(PackSource):
    """Gives the packs of jobs that are new, or have become one of the best."""

    def __init__(
        self,
        folder: Path,
        groups: Sequence[Sequence[PlannedJob]],
        options: PackOptions,
        executor: Executor,
        parts: int,
    ) -> None:
        self._groups = [_Group(folder, jobs, options.halving) for jobs in groups]
        self._options, self._executor, self._parts = options, executor, parts
        self._next_look = 0.0  # by the monotonic clock
        self._has_begun = False
        self._packs = 0  # that were given

    def further(self, busy: Collection[str]) -> Sequence[PlannedPack]:
        is_first, self._has_begun = not self._has_begun, True
        packs: list[PlannedPack] = []
        for group in self._groups:
            if is_first:
                group.begin(set(busy))
            group.stop_asked(set(busy))
            own = group.names & set(busy)
            free = self._parts if is_first else self._free(busy)
            if own and not free:
                continue
            group.look()
            names = group.to_run(own)
            packs += self._packs_of(group, names, max(1, free), is_first=is_first)
        return packs

    def meanwhile(self, busy: Collection[str]) -> Sequence[PlannedPack]:
        began = time.monotonic()
        if began < self._next_look:
            return ()
        self._next_look = began + _INTERVAL
        for group in self._groups:
            group.stop_asked(set(busy))
        if not self._free(busy):
            return ()
        has_changed = [group.look() for group in self._groups]
        ended = time.monotonic()
        self._next_look = ended + max(_INTERVAL, _SHARE * (ended - began))
        return self.further(busy) if any(has_changed) else ()

    def _free(self, busy: Collection[str]) -> int:
        """Return how many more packs can run now; none as long as some are queued."""
        running = self._executor.running()
        queued = set(busy) - {job.name for pack in running for job in pack.jobs}
        return 0 if queued else max(0, self._parts - len(running))

    def _packs_of(
        self, group: "_Group", names: Sequence[str], parts: int, *, is_first: bool
    ) -> list[PlannedPack]:
        """Return packs of the jobs ``names``, and say so."""
        jobs = [job for job in group.jobs if job.name in names]
        if not jobs:
            return []
        size = self._options.pack_size or -(-len(jobs) // parts)
        chunks = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        if is_first:
            console.print(
                f"asynchronous halving: {len(jobs)} of {counted(len(group.jobs), 'job')} in"
                f" {counted(len(chunks), 'pack')}, judged together"
            )
        packs = []
        for chunk in chunks:
            self._packs += 1
            total = f" of {len(chunks)}" if is_first and len(self._groups) == 1 else ""
            what = "on one base model"
            if not is_first:
                what = f"trained further: {', '.join(job.name for job in chunk)}"
            packs.append(
                PlannedPack(
                    f"pack {self._packs}{total}: {counted(len(chunk), 'job')} {what}",
                    tuple(chunk),
                    self._options.jobs_at_once,
                    passed={job.name: group.give(job) for job in chunk},
                    group=tuple(other.name for other in group.jobs),
                )
            )
        return packs


class _Group:
    """Jobs that are judged together, as their records show them."""

    def __init__(
        self, folder: Path, jobs: Sequence[PlannedJob], halving: HalvingOptions | None
    ) -> None:
        self.jobs, self.names = jobs, {job.name for job in jobs}
        self._folder, self._halving = folder, halving or HalvingOptions()
        self._by_name = {job.name: job for job in jobs}
        self._records = JudgedRecords({job.name: job.record for job in jobs})
        self._monitor = Monitor.read(self._halving.metric or jobs[0].settings.trainer.monitor)
        # (name, rungs) of the jobs that packs were to train beyond so many rungs
        self._given: set[tuple[str, int]] = set()
        self._to_end: Set[str] = frozenset()  # names of jobs that are trained whatever they report

    def begin(self, busy: Set[str]) -> None:
        """Have the jobs tried again that failed or were stopped in earlier commands."""
        for job in self.jobs:
            outcome = job.status.outcome
            if job.name in busy:
                self._given |= {(job.name, 0)} if outcome is Outcome.no_run else set()
            elif outcome in (Outcome.failed, Outcome.stopped):
                job.record.change_status(Status.wait)

    def stop_asked(self, busy: Set[str]) -> None:
        """Set the jobs to stopped that are asked to stop while no pack has them."""
        for name in (stop_requests(self._folder) & self.names) - busy:
            if self._by_name[name].status.outcome in _TO_RUN:
                set_stopped(self._by_name[name])

    def look(self) -> bool:
        """Read the records again; return whether any has changed."""
        return self._records.read()

    def to_run(self, busy: Set[str]) -> list[str]:
        """Return the jobs that are to be trained now, in a new pack.

        ``busy``: those that are in one. If there are none, and nothing else is left to train, all
        paused jobs are halved.
        """
        halved: list[str] = []

        def halve(name: str) -> None:
            self._by_name[name].record.change_status(halved_by(self._monitor))
            halved.append(name)

        names = [job.name for job in self.jobs]
        scheduler = HalvingScheduler(names, self._halving, on_halved=halve, monitor=self._monitor)
        for name in names:
            job = self._records.jobs[name]
            scheduler.restore(name, list(job.scores.values()), self._state(name, job, busy))
        chosen = scheduler.ready_jobs()
        if not chosen and not busy:  # the best paused job would be that at every further rung
            chosen = scheduler.decide()
            self._to_end = frozenset(chosen)
        if halved:
            count = counted(len(halved), "job")
            console.print(f"stopped early by halving: {count}, {', '.join(halved)}", soft_wrap=True)
        return chosen

    def give(self, job: PlannedJob) -> int:
        """Note that a pack is to train ``job``; return how many rungs it passes in any case."""
        status = job.status
        if status.outcome is Outcome.halved:  # so that it is tried again if its pack is killed
            job.record.change_status(Status.resume_halved)
        passed = len(status.rungs) if job.record.checkpoint_to_resume() is not None else 0
        self._given.add((job.name, passed))
        return _ALL_RUNGS if job.name in self._to_end else passed

    def _state(self, name: str, job: JudgedJob, busy: Set[str]) -> JobState:
        """Return the state of a job for the decisions.

        A job that was given to a pack, which left it as it was, is not given to another one.
        """
        if name in busy:
            has_ended = job.state in (JobState.finished, JobState.failed)
            return job.state if has_ended else JobState.running
        state = JobState.new if job.state is JobState.running else job.state
        is_left = state in (JobState.new, JobState.paused)
        return JobState.failed if is_left and (name, len(job.scores)) in self._given else state
