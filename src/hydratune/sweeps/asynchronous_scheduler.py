"""Asynchronous halving in a pack that has some of the jobs that are judged together. Needs no
torch.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hydratune.sweeps.halving import JudgedJob, RoundScheduler
from hydratune.sweeps.halving_records import JudgedRecords
from hydratune.training.protocols import RungScore

_INTERVAL = 1.0  # seconds between two looks at the records of other packs while a thread waits
_SHARE = 10  # on a slow file system so many times longer than a look takes


class AsynchronousScheduler(RoundScheduler):
    """Trains a job of this pack further while it is among the best of all packs so far.

    What the jobs of other packs have reported is read from their records. When nothing is left to
    run, the pack ends: what becomes of its paused jobs is decided by the driver.
    """

    def __init__(
        self, *arguments: Any, others: JudgedRecords, group: Sequence[str], **options: Any
    ) -> None:
        """``others``: the jobs in other packs. ``group``: names of all jobs, in their order."""
        super().__init__(*arguments, **options)
        self._records, self._group = others, tuple(group)
        self._others: Mapping[str, JudgedJob] = others.jobs
        self._reading = threading.Lock()
        self._next_look = 0.0  # by the monotonic clock

    def report_rung(self, name: str, rung: int, score: RungScore) -> bool:
        self._read_others(now=True)
        return super().report_rung(name, rung, score)

    def _is_among_best(self, name: str) -> bool:
        has_passed = super()._is_among_best(name)
        return has_passed or name in self._best_so_far(self._jobs[name].rung)

    def _judged_together(self) -> Mapping[str, JudgedJob]:
        return {name: self._jobs.get(name) or self._others[name] for name in self._group}

    def _read_others(self, *, now: bool = False) -> None:
        with self._reading:
            began = time.monotonic()
            if began < self._next_look and not now:
                return
            has_changed = self._records.read()
            ended = time.monotonic()
            self._next_look = ended + max(_INTERVAL, _SHARE * (ended - began))
            if has_changed:
                with self._changed:
                    self._others = self._records.jobs
                    self._best.clear()
