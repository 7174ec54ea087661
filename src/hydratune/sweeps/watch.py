"""Jobs of a pack that hang: noticed by their silence, given up with the place where they stand, and
not waited for.

A sign of life is progress that a job tells, and a piece of work begun or ended for it. Who waits
for others, for the crew or for what only one job may do at a time, need not give any. A job that
hangs inside the crew, or while others wait for what it holds, takes the pack with it: then the
others leave, and go on in a new one.
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from hydratune.console import Stage, Told
from hydratune.errors import Leaving
from hydratune.records.run_directory import RunDirectory, State
from hydratune.sweeps.board import span

_LEAVING = 60.0  # seconds the others have to leave a pack that cannot go on


class Lock(Protocol):
    """What threading's locks have in common."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...


@dataclass(frozen=True)
class _Record(RunDirectory):
    """Of a job whose state is no longer its own to say once it was given up."""

    heartbeat: "Heartbeat" = field(kw_only=True, repr=False, compare=False)

    def update(self, **values: Any) -> None:
        with self.heartbeat.judging:
            if not self.heartbeat.given_up:
                super().update(**values)


class Heartbeat:
    """Signs of life of one job. Its own thread and those of the crew give them."""

    def __init__(self, record: RunDirectory, asked: threading.Event) -> None:
        self.name = record.path.name
        self.record = _Record(record.path, heartbeat=self)
        self.judging = threading.RLock()
        self.given_up = False
        self.last = time.monotonic()
        self.thread = threading.get_ident()
        self.computing: set[int] = set()  # threads of the crew
        self.waits = False  # for the crew, or for another job
        self.holds = 0  # locks
        self._asked = asked

    def beat(self) -> None:
        """Raises ``Leaving`` if the job was given up: it is not to go on, should it ever wake up."""  # noqa: E501
        if self.given_up:
            raise Leaving
        self.last = time.monotonic()

    def telling(self, told: Told) -> Told:
        def both(stage: Stage) -> None:
            self.beat()
            told(stage)

        return both

    def begins(self) -> None:
        """This thread of the crew computes a piece of the job."""
        self.beat()
        self.computing.add(threading.get_ident())

    def ends(self) -> None:
        self.last = time.monotonic()
        self.computing.discard(threading.get_ident())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The job's own thread waits for others."""
        before, self.waits = self.waits, True
        try:
            yield
        finally:
            self.last = time.monotonic()
            self.waits = before

    @contextmanager
    def holding(self, lock: Lock) -> Iterator[None]:
        """Raises ``Leaving`` if the pack is asked to leave before the lock is free: its holder may
        never let it go.
        """
        with self.waiting():
            while not lock.acquire(timeout=1.0):
                if self._asked.is_set():
                    raise Leaving
        self.holds += 1
        try:
            yield
        finally:
            self.holds -= 1
            lock.release()

    def stacks(self) -> str:
        """Where the threads that work for the job stand."""
        frames = sys._current_frames()
        found = [
            (number, frames[number])
            for number in (self.thread, *self.computing)
            if number in frames
        ]
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return "\n".join(
            f"thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}"
            for number, frame in found
        )


class Watch:
    """Over the jobs of a pack. ``look`` is for one thread alone, which works for no job."""

    def __init__(
        self, patience: float | None, seen: Callable[[str], str], asked: threading.Event
    ) -> None:
        """``patience``: seconds of silence that are too many; None: never.

        ``seen`` tells what a job was doing; ``asked``: to leave.
        """
        self.patience, self.seen, self.asked = patience, seen, asked
        self.pulses: dict[str, Heartbeat] = {}
        self.left: list[Heartbeat] = []  # who has to leave because the pack cannot go on
        self.broken_at: float | None = None

    @contextmanager
    def over(self, record: RunDirectory) -> Iterator[Heartbeat]:
        """The job in ``record`` is done in this thread."""
        heartbeat = self.pulses[record.path.name] = Heartbeat(record, self.asked)
        try:
            yield heartbeat
        finally:
            self.pulses.pop(heartbeat.name, None)

    def look(self) -> list[Heartbeat]:
        """Gives up whoever hangs, with the reason in its status and its stack in its run.log, and
        returns them.
        """
        if self.broken_at is not None:  # who waits now waits for those that hang
            return []
        pulses = list(self.pulses.values())
        now = time.monotonic()
        silent = [
            heartbeat
            for heartbeat in pulses
            if self.patience is not None and now - heartbeat.last > self.patience
        ]
        computing = [
            heartbeat for heartbeat in silent if heartbeat.computing
        ]  # the others may be silent because of these
        hung = computing or [heartbeat for heartbeat in silent if not heartbeat.waits]
        in_a_circle = not hung and len(silent) == len(pulses)  # everybody waits for somebody
        hung = silent[:1] if in_a_circle else hung
        for heartbeat in hung:
            self._give_up(heartbeat, now)
        if any(in_a_circle or heartbeat.computing or heartbeat.holds for heartbeat in hung):
            self.broken_at = now
            self.left = [heartbeat for heartbeat in pulses if heartbeat not in hung]
            self.asked.set()
        return hung

    def _give_up(self, heartbeat: Heartbeat, now: float) -> None:
        minutes = span(now - heartbeat.last)
        stacks = heartbeat.stacks()
        with heartbeat.judging:
            heartbeat.given_up = True
        self.pulses.pop(heartbeat.name, None)
        record = RunDirectory(heartbeat.record.path)
        why = (
            f"job {heartbeat.name} gave no sign of life for {minutes}; last seen:"
            f" {self.seen(heartbeat.name)}"
        )
        with (record.path / "run.log").open("a", encoding="utf-8") as stream:
            stream.write(f"{why}; it stands here:\n{stacks}")
        record.end(
            State.failed,
            f"{why}; run.log shows where it stands (hydra.launcher.patience={self.patience:g}"
            " seconds)",
        )

    def overdue(self) -> bool:
        """The pack cannot go on, and who was asked to leave had time enough."""
        return self.broken_at is not None and time.monotonic() - self.broken_at > _LEAVING

    def hand_on(self) -> None:
        """Who had to leave because of another goes on in the next pack."""
        for heartbeat in self.left:
            record = RunDirectory(heartbeat.record.path)
            status = record.status()
            if status.get("state") in (State.stopped.value, State.running.value) and not status.get(
                "halved"
            ):
                with heartbeat.judging:
                    heartbeat.given_up = True
                record.update(state=State.waiting.value, error=None)
