"""Batches of a search on an executor; those that have ended are reported to the study."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from hydratune.experiment.interrupts import listen
from hydratune.sweeps.executors.executor import Executor
from hydratune.sweeps.in_packs import packs_of_batch
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_processes import create_executor, run_packs
from hydratune.sweeps.planning import PlannedPack
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
from hydratune.sweeps.slots import Batch, Slots
from hydratune.sweeps.trial_locks import sweep_lock

_Batch = Batch[HeldTrial]


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
        source = _Trials(search, options, executor, batches)
        run_packs(search.folder, [], options, executor, source)


class _Trials(Slots[HeldTrial]):
    """The batches of a search."""

    def __init__(
        self, search: Search, options: PackOptions, executor: Executor, open_: list[_Batch]
    ) -> None:
        super().__init__(search.context, options, search.settings.batch, open_)
        self._search, self._executor = search, executor

    def name(self, trial: HeldTrial) -> str:
        return str(trial[0].number)

    def take(self, batch: _Batch) -> None:
        with sweep_lock(self._search.folder):
            take_new(self._search, batch.held)
            write_jobs(self._search, [trial for trial, _ in batch.held])
        batch.jobs = compose(self._search, [trial for trial, _ in batch.held])

    def begin(self, batch: _Batch) -> list[PlannedPack]:
        search, options = self._search, self.options
        jobs = jobs_to_run(search, batch.jobs)
        if not jobs:
            return []
        packs = packs_of_batch(search.context, search.folder, jobs, options, self._executor)
        return [
            pack if pack.command else replace(pack, title=title(search, pack.jobs))
            for pack in packs
        ]

    def end(self, batch: _Batch) -> None:
        for trial, lock in batch.held:
            report(self._search, trial)
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
