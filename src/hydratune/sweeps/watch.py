"""Jobs of a pack that hang: recognised by their silence, and given up with the place in the code
where they stand.

A sign of life is progress that a job reports, and a task begun or ended for it by the worker pool.
A job need not give any while it waits for the workers, or for something that one job may do at a
time. If a job hangs inside the worker pool, or holds a lock that others wait for, the pack cannot
continue: the other jobs leave and are resumed in a new pack.
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from hydratune.console import Stage, StageListener
from hydratune.errors import RunInterrupted
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import Outcome, State, Status
from hydratune.sweeps.job_table import span

# how a job ends that had to leave
_INTERRUPTED = (Outcome.stopped, Outcome.running, Outcome.cannot_share_pack)
_TIME_TO_LEAVE = 60.0  # seconds the other jobs have to leave a pack that cannot continue


class Lock(Protocol):
    """What threading's locks have in common."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...


@dataclass(frozen=True)
class _GuardedRecord(RunDirectory):
    """The record of a job, which may no longer change its status once it was given up."""

    heartbeat: "Heartbeat" = field(kw_only=True, repr=False, compare=False)

    def change_status(self, change: Callable[[Status], Status]) -> None:
        with self.heartbeat.status_lock:
            if not self.heartbeat.given_up:
                super().change_status(change)


class Heartbeat:
    """The signs of life of one job, given by its own thread and by those of the worker pool."""

    def __init__(self, record: RunDirectory, leave: threading.Event) -> None:
        """``leave``: set when the whole pack is to leave."""
        self.name = record.path.name
        self.record = _GuardedRecord(record.path, heartbeat=self)
        self.status_lock = threading.RLock()
        self.given_up = False
        self.last_sign = time.monotonic()
        self.thread = threading.get_ident()  # the job's own
        self.computing: set[int] = set()  # threads of the worker pool that compute for the job
        self.is_waiting = False  # for the worker pool, or for another job
        self.held_locks = 0
        self.in_training = False  # the training loop runs, and asks after every step
        self._leave = leave

    def beat(self) -> None:
        """Give a sign of life.

        Raises ``RunInterrupted`` if the job was given up: it is not to continue, should it ever
        wake up.
        """
        if self.given_up:
            raise RunInterrupted
        self.last_sign = time.monotonic()

    def listener(self, listener: StageListener) -> StageListener:
        """Return a listener that takes progress as a sign of life and hands it to ``listener``."""

        def listen(stage: Stage) -> None:
            self.beat()
            listener(stage)

        return listen

    def task_begins(self) -> None:
        """Note that this thread of the worker pool computes for the job."""
        self.beat()
        self.computing.add(threading.get_ident())

    def task_ends(self) -> None:
        self.last_sign = time.monotonic()
        self.computing.discard(threading.get_ident())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark the job's own thread as waiting for others inside the block."""
        before, self.is_waiting = self.is_waiting, True
        try:
            yield
        finally:
            self.last_sign = time.monotonic()
            self.is_waiting = before

    @contextmanager
    def holding(self, lock: Lock) -> Iterator[None]:
        """Hold ``lock`` inside the block.

        Raises ``RunInterrupted`` if the pack is to leave before the lock is free: the job that
        holds it may never release it.
        """
        with self.waiting():
            while not lock.acquire(timeout=1.0):
                if self._leave.is_set():
                    raise RunInterrupted
        self.held_locks += 1
        try:
            yield
        finally:
            self.held_locks -= 1
            lock.release()

    def stacks(self) -> str:
        """Return the stack traces of the threads that work for the job."""
        frames = sys._current_frames()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return "\n".join(
            f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frames[ident]))}"
            for ident in (self.thread, *self.computing)
            if ident in frames
        )


class Watch:
    """Watches the jobs of a pack. ``give_up_hanging`` is called by one thread that runs no job."""

    def __init__(
        self, patience: float | None, seen: Callable[[str], str], leave: threading.Event
    ) -> None:
        """``patience``: seconds of silence after which a job is given up; None: never. ``seen``
        says what a job was doing when it last reported progress. ``leave``: set to make the whole
        pack leave.
        """
        self.patience, self.seen, self.leave = patience, seen, leave
        self.heartbeats: dict[str, Heartbeat] = {}  # of the jobs that run, by their names
        self.unfinished: list[Heartbeat] = []  # jobs that leave because the pack cannot continue
        self.broken_at: float | None = None  # when it was found that it cannot

    @contextmanager
    def over(self, record: RunDirectory) -> Iterator[Heartbeat]:
        """Watch the job in ``record``, which this thread runs inside the block."""
        heartbeat = self.heartbeats[record.path.name] = Heartbeat(record, self.leave)
        try:
            yield heartbeat
        finally:
            self.heartbeats.pop(heartbeat.name, None)

    def give_up_hanging(self) -> list[Heartbeat]:
        """Give up the jobs that hang and return them.

        Their status says so, and their run.log shows where they stand.
        """
        if self.broken_at is not None:  # a job that is silent now waits for those that hang
            return []
        heartbeats, now = list(self.heartbeats.values()), time.monotonic()
        silent = [h for h in heartbeats if self._is_silent(h, now)]
        # others may be silent because they wait for a job that is being computed
        hanging = [h for h in silent if h.computing] or [h for h in silent if not h.is_waiting]
        wait_in_a_circle = not hanging and len(silent) == len(heartbeats)
        if wait_in_a_circle:
            hanging = silent[:1]
        for heartbeat in hanging:
            self._give_up(heartbeat, now)
        if any(wait_in_a_circle or h.computing or h.held_locks for h in hanging):
            self.broken_at = now
            self.unfinished = [h for h in heartbeats if h not in hanging]
            self.leave.set()
        return hanging

    def _is_silent(self, heartbeat: Heartbeat, now: float) -> bool:
        return self.patience is not None and now - heartbeat.last_sign > self.patience

    def _give_up(self, heartbeat: Heartbeat, now: float) -> None:
        name, silence, stacks = heartbeat.name, span(now - heartbeat.last_sign), heartbeat.stacks()
        with heartbeat.status_lock:
            heartbeat.given_up = True
        self.heartbeats.pop(name, None)
        record = RunDirectory(heartbeat.record.path)
        why = f"job {name} gave no sign of life for {silence}; last seen: {self.seen(name)}"
        with record.log_file.open("a", encoding="utf-8") as stream:
            stream.write(f"{why}; the stacks of its threads:\n{stacks}")
        patience = f"hydra.launcher.patience={self.patience:g} seconds"
        record.end(State.failed, f"{why}; run.log has the stacks of its threads ({patience})")

    def is_overdue(self) -> bool:
        """Return whether the pack cannot continue and the other jobs had time enough to leave."""
        return self.broken_at is not None and time.monotonic() - self.broken_at > _TIME_TO_LEAVE

    def requeue_unfinished(self) -> None:
        """Set the jobs that had to leave because of another one to waiting, for the next pack."""
        for heartbeat in self.unfinished:
            record = RunDirectory(heartbeat.record.path)
            if record.read_status().outcome in _INTERRUPTED:
                with heartbeat.status_lock:
                    heartbeat.given_up = True
                record.change_status(Status.wait)
