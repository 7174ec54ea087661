"""Batches of a search on an executor: as many at a time as packs can run there.

When a batch has ended, its trials are reported to the study, and the next batch is asked for
without waiting for the others. With halving, the trials of a batch are judged together.
"""

import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from hydratune.experiment.interrupts import listen
from hydratune.records.status import Outcome
from hydratune.sweeps.executors.executor import Executor
from hydratune.sweeps.in_packs import packs_of_batch
from hydratune.sweeps.job_processes import pack_of_one
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_processes import PackSource, create_executor, run_packs
from hydratune.sweeps.planning import PlannedJob, PlannedPack
from hydratune.sweeps.search.settings import Search
from hydratune.sweeps.search.trials import (
    BATCH,
    HeldTrial,
    compose,
    count_missing,
    has_run,
    jobs_to_run,
    report,
    take_abandoned,
    take_new,
    title,
    write_jobs,
)
from hydratune.sweeps.trial_locks import sweep_lock


def run_in_slots(search: Search, options: PackOptions) -> None:
    """Run trials until the study has enough of them, a batch for each pack that can run at a time.

    Interrupted, it reports the trials that have ended; the next call resumes the others.
    """
    listen()
    if search.is_halving:  # one pack judges the trials of a batch
        options = replace(options, pack_size=None)
    batches: list[_Batch] = []
    with ExitStack() as at_end:
        at_end.callback(_release, search, batches)
        _adopt(search, batches)
        if not batches and not count_missing(search):
            return
        jobs = {job.name: job for batch in batches for job in batch.jobs}
        executor = create_executor(search.folder, options, [], jobs)
        at_end.callback(executor.close)
        source = _Batches(search, options, executor, batches)
        run_packs(search.folder, [], options, executor, source)


@dataclass
class _Batch:
    """Trials that were asked for together."""

    held: list[HeldTrial]
    jobs: list[PlannedJob] = field(default_factory=list)  # those whose settings are right
    is_submitted: bool = False  # by this command
    alone: set[str] = field(default_factory=set)  # names of jobs that have been run alone

    @property
    def names(self) -> set[str]:
        return {str(trial.number) for trial, _ in self.held}


@dataclass
class _Batches(PackSource):
    """The batches that have not ended, as the source of the packs of an executor."""

    search: Search
    options: PackOptions
    executor: Executor
    open: list[_Batch]

    def further(self, busy: Collection[str]) -> Sequence[PlannedPack]:
        """Report the batches that have ended, and return the packs of those that begin."""
        packs: list[PlannedPack] = []
        for batch in list(self.open):
            if batch.is_submitted and not batch.names & set(busy):
                alone = self._alone(batch)
                packs += alone
                if not alone:
                    self._end(batch)
        while self._running(busy) < (self.options.executor.divides_into or 1):
            following = self._next(busy)
            if following is None:
                break
            following.is_submitted = True
            begun = self._begin(following)
            packs += begun
            if not begun:
                self._end(following)
        return packs

    def _running(self, busy: Collection[str]) -> int:
        """Return into how many packs the batches that run were divided."""
        running = [batch for batch in self.open if batch.is_submitted or batch.names & set(busy)]
        size = self.options.pack_size or self.search.settings.batch
        return sum(-(-len(batch.held) // size) for batch in running)

    def _next(self, busy: Collection[str]) -> _Batch | None:
        """Return the batch that begins now: one that a killed driver has left, or a new one."""
        for batch in self.open:
            if not batch.is_submitted and not batch.names & set(busy):
                return batch
        batch = _Batch([])
        self.open.append(batch)
        with sweep_lock(self.search.folder):
            take_new(self.search, batch.held)
            write_jobs(self.search, [trial for trial, _ in batch.held])
        if not batch.held:
            self.open.remove(batch)
            return None
        batch.jobs = compose(self.search, [trial for trial, _ in batch.held])
        return batch

    def _begin(self, batch: _Batch) -> list[PlannedPack]:
        """Return the packs of a batch; none if all its trials have run."""
        jobs = jobs_to_run(self.search, batch.jobs)
        if not jobs:
            return []
        search = self.search
        packs = packs_of_batch(search.context, search.folder, jobs, self.options, self.executor)
        return [
            pack if pack.command else replace(pack, title=title(search, pack.jobs))
            for pack in packs
        ]

    def _alone(self, batch: _Batch) -> list[PlannedPack]:
        """Return a pack for each job of a batch of which its pack said that it must run alone."""
        chosen = [
            job
            for job in batch.jobs
            if job.status.outcome is Outcome.cannot_share_pack and job.name not in batch.alone
        ]
        batch.alone |= {job.name for job in chosen}
        return [pack_of_one(self.search.context, job) for job in chosen]

    def _end(self, batch: _Batch) -> None:
        self.open.remove(batch)
        for trial, lock in batch.held:
            report(self.search, trial)
            lock.release()


def _adopt(search: Search, batches: list[_Batch]) -> None:
    """Append the batches that killed drivers have left to ``batches``."""
    left = _Batch([])
    batches.append(left)  # so that its locks are released whatever happens
    with sweep_lock(search.folder):
        take_abandoned(search, left.held, sys.maxsize)
        write_jobs(search, [trial for trial, _ in left.held])
    by_number: dict[object, _Batch] = {}
    for trial, lock in left.held:
        number = trial.user_attrs.get(BATCH)  # an older version has none
        by_number.setdefault(number, _Batch([])).held.append((trial, lock))
    batches[:] = by_number.values()
    for batch in batches:
        batch.jobs = compose(search, [trial for trial, _ in batch.held])


def _release(search: Search, batches: Sequence[_Batch]) -> None:
    """Let other drivers have the trials of batches that have not ended."""
    for batch in batches:
        for trial, lock in batch.held:
            if not search.is_halving and has_run(search.record(trial.number)):
                report(search, trial)
            lock.release()
