"""Batches of trials on an executor: as many at a time as packs can run there.

When a batch has ended, the next one is asked for without waiting for the others. With halving, the
trials of a batch are judged together.
"""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hydra.types import HydraContext

from hydratune.records.status import Outcome
from hydratune.sweeps.job_processes import pack_of_one
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_processes import PackSource
from hydratune.sweeps.planning import PlannedJob, PlannedPack

Held = TypeVar("Held")  # a trial and its lock


@dataclass
class Batch(Generic[Held]):
    """Trials that were asked for together."""

    held: list[Held]
    jobs: list[PlannedJob] = field(default_factory=list)  # those whose settings are right
    is_submitted: bool = False  # by this command
    alone: set[str] = field(default_factory=set)  # names of jobs that have been run alone


class Slots(PackSource, Generic[Held]):
    """The batches that have not ended, as the source of the packs of an executor."""

    def __init__(
        self, context: HydraContext, options: PackOptions, size: int, open_: list[Batch[Held]]
    ) -> None:
        """``size``: trials of one pack at most. ``open_``: batches that an earlier command left."""
        self.context, self.options, self.open = context, options, open_
        self._size = options.pack_size or size

    @abstractmethod
    def name(self, trial: Held) -> str:
        """Return the name of the job of a trial."""

    @abstractmethod
    def take(self, batch: Batch[Held]) -> None:
        """Add the trials and jobs of a new batch, which is among the open ones; none at the end."""

    @abstractmethod
    def begin(self, batch: Batch[Held]) -> Sequence[PlannedPack]:
        """Return the packs of a batch; none if all its trials have run."""

    @abstractmethod
    def end(self, batch: Batch[Held]) -> None:
        """Report the trials of a batch, and let go of them."""

    def further(self, busy: Collection[str]) -> Sequence[PlannedPack]:
        """Report the batches that have ended, and return the packs of those that begin."""
        packs: list[PlannedPack] = []
        for batch in list(self.open):
            if batch.is_submitted and not self._names(batch) & set(busy):
                alone = self._alone(batch)
                packs += alone
                if not alone:
                    self._close(batch)
        while self._running(busy) < (self.options.executor.divides_into or 1):
            following = self._next(busy)
            if following is None:
                break
            following.is_submitted = True
            begun = self.begin(following)
            packs += begun
            if not begun:
                self._close(following)
        return packs

    def _names(self, batch: Batch[Held]) -> set[str]:
        return {self.name(trial) for trial in batch.held}

    def _running(self, busy: Collection[str]) -> int:
        """Return into how many packs the batches that run were divided."""
        running = [
            batch for batch in self.open if batch.is_submitted or self._names(batch) & set(busy)
        ]
        return sum(-(-len(batch.held) // self._size) for batch in running)

    def _next(self, busy: Collection[str]) -> Batch[Held] | None:
        """Return the batch that begins now: one that a killed driver has left, or a new one."""
        for batch in self.open:
            if not batch.is_submitted and not self._names(batch) & set(busy):
                return batch
        batch = Batch[Held]([])
        self.open.append(batch)
        self.take(batch)
        if batch.held:
            return batch
        self.open.remove(batch)
        return None

    def _alone(self, batch: Batch[Held]) -> list[PlannedPack]:
        """Return a pack for each job of a batch of which its pack said that it must run alone."""
        chosen = [
            job
            for job in batch.jobs
            if job.status.outcome is Outcome.cannot_share_pack and job.name not in batch.alone
        ]
        batch.alone |= {job.name for job in chosen}
        return [pack_of_one(self.context, job) for job in chosen]

    def _close(self, batch: Batch[Held]) -> None:
        self.open.remove(batch)
        self.end(batch)
