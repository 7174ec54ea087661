"""Batches of trials of a W&B sweep on an executor: as many at a time as packs can run there."""

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from hydratune.records.status import State
from hydratune.sweeps.executors.executor import Executor
from hydratune.sweeps.in_packs import packs_of_batch
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_processes import create_executor, run_packs
from hydratune.sweeps.planning import PlannedJob, PlannedPack
from hydratune.sweeps.slots import Batch, Slots
from hydratune.sweeps.trial_locks import sweep_lock
from hydratune.sweeps.wandb_sweep.agents import Agents
from hydratune.sweeps.wandb_sweep.settings import CheckedSweep
from hydratune.sweeps.wandb_sweep.trials import (
    HeldTrial,
    compose,
    note_stopped,
    reporting,
    take_new,
    take_unfinished,
    title,
)

_Batch = Batch[HeldTrial]


def run_in_slots(
    sweep: CheckedSweep,
    agents: Agents,
    options: PackOptions,
    has_failed: Callable[[Sequence[State | None]], bool],
) -> list[str]:
    """Run trials, a batch for each pack that can run at a time; return the names of their folders.

    ``has_failed``: whether the driver gives up, for the states of the trials that have ended. If it
    is interrupted, the trials that have not ended are resumed by the next call.
    """
    if options.is_halving:  # one pack judges the trials of a batch
        options = replace(options, pack_size=None)
    held: list[HeldTrial] = []
    with ExitStack() as at_end:
        at_end.callback(_release, held)
        with sweep_lock(sweep.folder):
            take_unfinished(sweep, sweep.settings.count or sys.maxsize, held)
        jobs = {job.name: job for job in compose(sweep, held)}
        executor = create_executor(sweep.folder, options, [], jobs)
        at_end.callback(executor.close)
        trials = _Trials(sweep, agents, options, executor, held, has_failed)
        at_end.callback(trials.close)
        trials.adopt(jobs)
        run_packs(sweep.folder, [], options, executor, trials)
        return trials.names


def _release(held: Sequence[HeldTrial]) -> None:
    for trial in held:
        trial.lock.release()


class _Trials(Slots[HeldTrial]):
    """The batches of a W&B sweep."""

    def __init__(
        self,
        sweep: CheckedSweep,
        agents: Agents,
        options: PackOptions,
        executor: Executor,
        held: list[HeldTrial],
        has_failed: Callable[[Sequence[State | None]], bool],
    ) -> None:
        """``held``: every trial whose lock the driver holds or has held."""
        super().__init__(sweep.context, options, sweep.settings.together, [])
        self._sweep, self._agents, self._executor = sweep, agents, executor
        self._held, self._has_failed = held, has_failed
        self._reporting: dict[str, ExitStack] = {}  # by the name of the first trial of a batch
        self._has_given_up = False

    @property
    def names(self) -> list[str]:
        return [self.name(trial) for trial in self._held]

    def adopt(self, jobs: dict[str, PlannedJob]) -> None:
        """Open batches of the trials that an earlier command has left: a pack that runs is one."""
        left = {self.name(trial): trial for trial in self._held}
        for pack in self._executor.running():
            names = [job.name for job in pack.jobs if job.name in left]
            if names:
                batch = _Batch([left.pop(name) for name in names], [jobs[n] for n in names])
                self.open.append(batch)
                self._report(batch)
        waiting, size = list(left.values()), self._sweep.settings.together
        for start in range(0, len(waiting), size):
            some = waiting[start : start + size]
            known = [jobs[self.name(trial)] for trial in some if self.name(trial) in jobs]
            self.open.append(_Batch(some, known))

    def name(self, trial: HeldTrial) -> str:
        return trial.job.name

    def take(self, batch: _Batch) -> None:
        settings = self._sweep.settings
        count = math.inf if settings.count is None else settings.count
        limit = int(min(settings.together, count - len(self._held)))
        if limit < 1 or self._gives_up():
            return
        others = [trial for batch in self.open for trial in batch.held]
        try:
            take_new(self._sweep, self._agents, limit, batch.held, others)
        finally:
            self._held += batch.held
        batch.jobs = compose(self._sweep, batch.held)

    def begin(self, batch: _Batch) -> Sequence[PlannedPack]:
        sweep = self._sweep
        jobs = [job for job in batch.jobs if not job.record.is_finished()]
        if not jobs:
            return []
        self._report(batch)
        packs = packs_of_batch(sweep.context, sweep.folder, jobs, self.options, self._executor)
        return [
            pack if pack.command else replace(pack, title=title(sweep, pack.jobs)) for pack in packs
        ]

    def end(self, batch: _Batch) -> None:
        self._reporting.pop(self.name(batch.held[0]), ExitStack()).close()
        note_stopped(self._sweep, batch.jobs)
        _release(batch.held)

    def close(self) -> None:
        """End all reports."""
        for stack in self._reporting.values():
            stack.close()

    def _report(self, batch: _Batch) -> None:
        """Report from now on that the trials of a batch are running."""
        stack = self._reporting[self.name(batch.held[0])] = ExitStack()
        stack.enter_context(reporting(self._sweep, self._agents, batch.held))

    def _gives_up(self) -> bool:
        """Return whether no further trial is asked for, because those that ended have failed."""
        if not self._has_given_up:
            open_ = {self.name(trial) for batch in self.open for trial in batch.held}
            ended = [name for name in self.names if name not in open_]
            states = [self._sweep.record(name).read_status().state for name in ended]
            self._has_given_up = self._has_failed(states)
        return self._has_given_up
