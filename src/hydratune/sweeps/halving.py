"""Which job of a pack runs next, and which leaves early. Needs no torch.

Successive halving (arXiv:1502.07943): at each *rung* (``min_steps``, then ``eta`` times as many
optimizer steps, and so on) the best ``1 / eta`` of the jobs go on. Whoever has to wait for the
verdict leaves its checkpoint and its place to others, and goes on from there, to the last bit, if
it is among the best. ``sync`` decides when all jobs have come to a rung; ``asha``
(arXiv:1810.05934) lets a job go on as soon as it is among the best of those seen so far, so nobody
waits, and some go on who would not have.
"""

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from hydratune.errors import ConfigError, Problem

log = logging.getLogger(__name__)
METRICS = ("val/loss",)
KINDS = ("sync", "asha")


@dataclass(frozen=True)
class Halving:
    """``hydra.launcher.halving``."""

    min_steps: int  # optimizer steps before the first verdict
    eta: int = 3  # one of so many goes on
    metric: str = "val/loss"
    kind: str = "sync"

    @classmethod
    def asked_for(cls, values: Mapping[str, Any]) -> "Halving | None":
        """None unless ``min_steps`` is set.

        Raises ``ConfigError`` if something else is, which would have no effect.
        """
        if values.get("min_steps") is not None:
            return cls.of(values)
        idle = [
            f
            for f in fields(cls)
            if f.name != "min_steps" and values.get(f.name, f.default) != f.default
        ]
        if idle:
            why, fix = (
                "nobody is halved while min_steps is not set",
                "add hydra.launcher.halving.min_steps=8",
            )
            raise ConfigError(
                [
                    Problem(f"hydra.launcher.halving.{f.name}", values[f.name], why, fix)
                    for f in idle
                ]
            )
        return None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Halving":
        """Raises ``ConfigError`` for whatever cannot be."""
        made = cls(**values)
        checks = {
            "min_steps": (
                made.min_steps >= 1,
                "a job must be trained before it is judged",
                "set 1 or more",
            ),
            "eta": (made.eta >= 2, "the best one of eta jobs goes on", "set 2 or more; usual is 3"),
            "metric": (
                made.metric in METRICS,
                "it is not known in the middle of training",
                f"set {' or '.join(METRICS)}",
            ),
            "kind": (made.kind in KINDS, "there is no such kind", f"set {' or '.join(KINDS)}"),
        }
        wrong = [(name, why, fix) for name, (right, why, fix) in checks.items() if not right]
        if wrong:
            raise ConfigError(
                [
                    Problem(f"hydra.launcher.halving.{name}", values[name], why, fix)
                    for name, why, fix in wrong
                ]
            )
        return made

    def rungs(self, total: int) -> list[int]:
        """Steps at which a job of ``total`` steps is judged; never at its end."""
        count = (
            max(0, math.ceil(math.log(total / self.min_steps, self.eta) - 1e-9))
            if total > self.min_steps
            else 0
        )
        return [
            self.min_steps * self.eta**k
            for k in range(count)
            if self.min_steps * self.eta**k < total
        ]


@dataclass
class _Job:
    values: dict[int, float] = field(default_factory=dict)  # by number of rung
    state: str = "new"  # running, leaving, paused, finished, failed, out
    final: float | None = None

    def at(self, rung: int) -> float | None:
        """Its value at ``rung``; None: not known yet.

        Whoever fails, whenever that is, leaves its place to the next best.
        """
        if self.state == "failed":
            return math.inf
        if rung in self.values:
            return self.values[rung]
        if self.state == "finished":
            return self.final if self.final is not None else math.inf
        return None


class HalvingScheduler:
    """Hands out jobs to threads, in order; with ``halving``, each until its next rung."""

    def __init__(
        self,
        names: Sequence[str],
        halving: Halving | None = None,
        asked: threading.Event | None = None,
    ) -> None:
        """``asked``: set when everybody is to leave."""
        self.halving = halving
        self._jobs = {name: _Job() for name in names}
        self._news = threading.Condition()
        self._asked = asked or threading.Event()
        self._out: list[str] = []  # of whom nobody was told yet
        self._telling: set[str] = set()  # of whom somebody is just being told
        # told who is out, while others go on
        self.on_out: Callable[[str], None] = lambda name: None

    def known(
        self, name: str, values: Sequence[float], state: str, final: float | None = None
    ) -> None:
        """A job of an earlier start of this sweep: its values at the rungs, and ``state``: new,
        paused, finished or failed.
        """
        self._jobs[name] = _Job(dict(enumerate(values)), state, final)

    # ----------------------------------------------------------------------------- asked by threads
    def next(self) -> str | None:
        """A job to run now; waits while others may still make one free.

        None: there is nothing more to do.
        """
        while not self._asked.is_set():
            with self._news:
                self._judge()
                ready, closed = self._ready(), False
                busy = (
                    self._out
                    or self._telling
                    or any(job.state in ("running", "leaving") for job in self._jobs.values())
                )
                if ready is None and not busy:
                    ready = self._last_resort()
                    closed = ready is None
                    if closed:
                        self._close()
                        self._news.notify_all()
                if ready is not None:
                    self._jobs[ready].state = "running"
                elif not closed and not self._out:
                    self._news.wait(0.5)
            self._tell()
            if ready is not None or closed:
                return ready
        return None

    def reached(self, name: str, rung: int, value: float) -> bool:
        """Whether ``name`` goes on at once; otherwise it is to write its checkpoint and leave."""
        with self._news:
            job = self._jobs[name]
            if job.state != "running":  # it was given up
                return False
            job.values[rung] = value if math.isfinite(value) else math.inf
            goes_on = self._may_go_on(name)
            job.state = "running" if goes_on else "leaving"
            self._news.notify_all()
            return goes_on

    def ended(self, name: str, state: str, final: float | None = None) -> None:
        """``state``: finished, failed, or paused after ``reached`` said so."""
        with self._news:
            job = self._jobs[name]
            if job.state != "out":
                job.state, job.final = state, final
            self._judge()
            self._news.notify_all()
        self._tell()

    def _tell(self) -> None:
        """Of those who are out, outside the lock: it writes files and talks to servers, and nobody
        is to wait for that.
        """
        with self._news:
            out, self._out = self._out, []
            self._telling.update(out)
        if not out:
            return
        for name in out:
            try:
                self.on_out(name)
            except (
                Exception
            ):  # on disk it waits for a verdict, and gets the same one at the next start
                log.exception("job %s is out, and that could not be written down", name)
        with self._news:
            self._telling.difference_update(out)
            self._news.notify_all()

    # ------------------------------------------------------------------------------------- verdicts
    def _rung(self, job: _Job) -> int:
        return max(job.values, default=-1)

    def _best(self, rung: int) -> list[str]:
        """Who goes on from ``rung``: one of ``eta`` of the jobs that came to it; values that are
        equal go by order of jobs.
        """
        assert self.halving is not None
        came = [
            (job.at(rung), number, name)
            for number, (name, job) in enumerate(self._jobs.items())
            if rung in job.values
        ]
        able = sorted(
            (value, number, name)
            for value, number, name in came
            if value is not None and math.isfinite(value)
        )
        return [name for _, _, name in able[: len(came) // self.halving.eta]]

    def _members(self, rung: int) -> list[str]:
        """Who comes to ``rung`` at all: everybody to the first, to the next the best of the one
        before.
        """
        members = list(self._jobs)
        for before in range(rung):
            members = self._winners(before, members)
        return members

    def _winners(self, rung: int, members: Sequence[str]) -> list[str]:
        assert self.halving is not None
        known = [(self._jobs[name].at(rung), number, name) for number, name in enumerate(members)]
        if any(value is None for value, _, _ in known):
            return []
        able = sorted(
            (value, number, name)
            for value, number, name in known
            if value is not None and math.isfinite(value)
        )
        return [name for _, _, name in able[: max(1, len(members) // self.halving.eta)]]

    def _may_go_on(self, name: str) -> bool:
        assert self.halving is not None
        rung = self._rung(self._jobs[name])
        if self.halving.kind == "asha":
            return name in self._best(rung)
        members = self._members(rung)
        return name in members and name in self._winners(rung, members)

    def _judge(self) -> None:
        """In ``sync``, whoever is not among the winners of a rung that all have come to is out."""
        if self.halving is None or self.halving.kind == "asha":
            return
        for name, job in self._jobs.items():
            if job.state == "paused" and job.values:
                rung = self._rung(job)
                members = self._members(rung)
                decided = bool(members) and bool(self._winners(rung, members))
                if decided and not self._may_go_on(name):
                    job.state = "out"
                    self._out.append(name)

    def _ready(self) -> str | None:
        there = {
            name: job
            for name, job in self._jobs.items()
            if job.values and name not in self._out and name not in self._telling
        }
        waiting = [
            name
            for name, job in there.items()
            if job.state in ("paused", "out") and self._may_go_on(name)
        ]
        if waiting:
            return max(waiting, key=lambda name: self._rung(self._jobs[name]))
        return next((name for name, job in self._jobs.items() if job.state == "new"), None)

    def _last_resort(self) -> str | None:
        """Nobody is among the best third of two, say: the best at the highest rung goes on, so that
        somebody comes to the end.
        """
        paused = [name for name, job in self._jobs.items() if job.state == "paused" and job.values]
        if not paused or any(job.state == "finished" for job in self._jobs.values()):
            return None
        top = max(self._rung(self._jobs[name]) for name in paused)
        best = min(
            (name for name in paused if self._rung(self._jobs[name]) == top),
            key=lambda n: self._jobs[n].values[top],
        )
        return best if math.isfinite(self._jobs[best].values[top]) else None

    def _close(self) -> None:
        for name, job in self._jobs.items() if self.halving is not None else ():
            if job.state == "paused" and job.values:
                job.state = "out"
                self._out.append(name)


def values_of(status: Mapping[str, object]) -> list[float]:
    """At the rungs a job has come to, from its status.json."""
    rungs = status.get("rungs") or []
    return [float(value) if value is not None else math.inf for _, value in rungs]  # type: ignore[attr-defined]
