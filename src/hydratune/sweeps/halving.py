"""Which job of a pack runs next, and which is stopped early. Needs no torch.

Successive halving (arXiv:1502.07943): at each *rung* (after ``min_steps`` optimizer steps, then
after ``eta`` times as many, and so on) the best ``1 / eta`` of the jobs are trained further. A job
that waits for the decision saves a checkpoint and leaves its thread to others; if it is among the
best, it is resumed from there, equal to the last bit. ``sync`` decides when all jobs have reached a
rung. ``asha`` (arXiv:1810.05934) resumes a job as soon as it is among the best of those seen so
far, so no job waits, and some jobs are trained further that ``sync`` would have stopped.

Jobs are judged by what they monitor. A metric of a few answers is coarse: many jobs may have the
same value, or nearly. Those that its confidence interval does not distinguish from the last one
that is trained further are ordered by their validation loss.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from hydratune.settings.monitor import Monitor
from hydratune.sweeps.options import HalvingOptions
from hydratune.training.protocols import RungScore

log = logging.getLogger(__name__)
_POLL = 0.5  # seconds after which a waiting thread looks whether it is asked to leave


class JobState(Enum):
    """A job as the scheduler sees it."""

    new = auto()
    running = auto()
    pausing = auto()  # it was asked to pause, and still saves its checkpoint
    paused = auto()  # it waits at a rung
    halved = auto()  # it was stopped early; it is resumed if a better job fails
    finished = auto()
    failed = auto()


_WORST = RungScore(math.inf)


@dataclass
class JudgedJob:
    """A job with what it is judged by."""

    scores: dict[int, RungScore] = field(default_factory=dict)  # by the number of the rung
    state: JobState = JobState.new
    final_score: RungScore | None = None

    @property
    def rung(self) -> int:
        """The last rung that the job has reached; -1 before the first."""
        return max(self.scores, default=-1)

    def score_at(self, rung: int) -> RungScore | None:
        """Return its score at ``rung``; None if it is not known yet.

        A job that has failed, whenever that was, leaves its place at all rungs to the next best. A
        job that finished without being judged counts with its final score.
        """
        if self.state is JobState.failed:
            return _WORST
        if rung in self.scores:
            return self.scores[rung]
        if self.state is JobState.finished:
            return self.final_score or _WORST
        return None


class HalvingScheduler:
    """Hands out the jobs of a pack to threads, in order; with halving, each until its next rung."""

    def __init__(
        self,
        names: Sequence[str],
        halving: HalvingOptions | None = None,
        is_leaving: Callable[[], bool] = lambda: False,
        on_halved: Callable[[str], None] = lambda name: None,
        monitor: Monitor | None = None,
    ) -> None:
        """``is_leaving`` says whether no job is to begin any more. ``on_halved`` is called once for
        a job that is stopped early, by any of the threads, while the others continue. ``monitor``:
        by what jobs are judged; None: the validation loss.
        """
        self.halving, self.monitor = halving or HalvingOptions(), monitor or Monitor()
        self._jobs = {name: JudgedJob() for name in names}
        # rung -> the best of those that have reached it; without rungs that have to be judged anew
        self._best: dict[int, frozenset[str]] = {}
        self._changed = threading.Condition()
        self._is_leaving = is_leaving
        self._on_halved = on_halved
        self._unannounced: list[str] = []  # halved jobs for which ``on_halved`` is to be called
        self._announcing: set[str] = set()  # those for which it is being called

    def restore(
        self,
        name: str,
        scores: Sequence[RungScore],
        state: JobState,
        final_score: RungScore | None = None,
    ) -> None:
        """Take over a job from an earlier start of this sweep, with its scores at the rungs."""
        self._jobs[name] = JudgedJob(dict(enumerate(scores)), state, final_score)
        self._best.clear()

    def add(self, name: str) -> None:
        """Have one more job run; not for jobs that are judged together."""
        with self._changed:
            self._jobs[name] = JudgedJob()
            self._changed.notify_all()

    # ----------------------------------------------------------------------- called by job threads
    def next_job(self) -> str | None:
        """Return a job to run now; wait for one as long as a running job may make one free.

        None: there is nothing more to do.
        """
        while not self._is_leaving():
            self._read_others()
            with self._changed:
                self._halve_losers()
                name, is_over = self._ready_job(), False
                if name is None and not self._is_busy():
                    name = self._best_paused_job()
                    is_over = name is None
                if name is not None:
                    self._jobs[name].state = JobState.running
                elif is_over:
                    self._halve_all_paused()
                    self._changed.notify_all()
                elif not self._unannounced:
                    self._changed.wait(_POLL)
            self._announce_halved()
            if name is not None or is_over:
                return name
        return None

    def decide(self) -> list[str]:
        """Return the jobs that are to be trained now, and halve those that are not.

        For a caller that runs no job meanwhile, and lets all of them run until the next rung.
        """
        with self._changed:
            self._halve_losers()
            names = self._ready_jobs()
            if not names and (best := self._best_paused_job()) is not None:
                names = [best]
            elif not names:
                self._halve_all_paused()
        self._announce_halved()
        return names

    def ready_jobs(self) -> list[str]:
        """Return the jobs that may be trained now, for a caller that runs none."""
        with self._changed:
            return self._ready_jobs()

    def report_rung(self, name: str, rung: int, score: RungScore) -> bool:
        """Return whether ``name``, which has reached ``rung``, continues at once.

        If not, it is to save its checkpoint and to call ``end`` with ``paused``.
        """
        with self._changed:
            job = self._jobs[name]
            if job.state is not JobState.running:  # it was given up because it hung
                return False
            job.scores[rung] = score
            self._best.clear()
            continues = self._is_among_best(name)
            job.state = JobState.running if continues else JobState.pausing
            self._changed.notify_all()
            return continues

    def end(self, name: str, state: JobState, final_score: RungScore | None = None) -> None:
        """Take note that ``name`` runs no longer: ``state`` is finished, failed, halved or, after
        ``report_rung`` said so, paused.
        """
        with self._changed:
            job = self._jobs[name]
            if job.state is not JobState.halved:
                job.state, job.final_score = state, final_score
            self._best.clear()
            self._halve_losers()
            self._changed.notify_all()
        self._announce_halved()

    def _announce_halved(self) -> None:
        """Call ``on_halved`` for the jobs that were halved since the last call.

        It writes files and talks to servers, so it is called without the lock.
        """
        with self._changed:
            names, self._unannounced = self._unannounced, []
            self._announcing.update(names)
        if not names:
            return
        for name in names:
            try:
                self._on_halved(name)
            except Exception:  # its record says that it waits; the next start decides the same
                log.exception("job %s is stopped early, and that could not be written", name)
        with self._changed:
            self._announcing.difference_update(names)
            self._changed.notify_all()

    def _read_others(self) -> None:
        """Find out how far the jobs are that are judged with these and run elsewhere."""

    # ----------------------------------------------------------- decisions, made with the lock held
    def _judged_together(self) -> Mapping[str, JudgedJob]:
        """Return all jobs that are judged together, in their order."""
        return self._jobs

    def _is_among_best(self, name: str) -> bool:
        """Return whether ``name`` is trained beyond the last rung that it has reached."""
        rung = self._jobs[name].rung
        if not self.halving.waits_for_all:
            return name in self._best_so_far(rung)
        return name in self._winners(rung, self._members(rung))

    def _best_so_far(self, rung: int) -> frozenset[str]:
        """Return the best ``1 / eta`` of the jobs that have reached ``rung`` by now."""
        if rung not in self._best:
            judged = self._judged_together().items()
            reached = {name: job.score_at(rung) for name, job in judged if rung in job.scores}
            best = best_of(reached, len(reached) // self.halving.eta, self.monitor)
            self._best[rung] = frozenset(best)
        return self._best[rung]

    def _members(self, rung: int) -> list[str]:
        """Return the jobs that reach ``rung`` at all: all of them the first, and the best at a rung
        the next. Empty as long as the best are not known.
        """
        members = list(self._jobs)
        for earlier in range(rung):
            members = self._winners(earlier, members)
        return members

    def _winners(self, rung: int, members: Iterable[str]) -> list[str]:
        """Return the best ``1 / eta`` of ``members`` at ``rung``, at least one.

        Empty as long as the score of one of them is not known.
        """
        scores = {name: self._jobs[name].score_at(rung) for name in members}
        if any(score is None for score in scores.values()):
            return []
        return best_of(scores, max(1, len(scores) // self.halving.eta), self.monitor)

    def _halve_losers(self) -> None:
        """Halve the paused jobs that are not among the winners of a rung, once these are known."""
        if not self.halving.waits_for_all:
            return
        for name, job in self._jobs.items():
            if job.state is JobState.paused and job.scores:
                winners = self._winners(job.rung, self._members(job.rung))
                if winners and name not in winners:
                    self._halve(name)

    def _halve_all_paused(self) -> None:
        if self.halving.is_on:
            for name, job in self._jobs.items():
                if job.state is JobState.paused and job.scores:
                    self._halve(name)

    def _halve(self, name: str) -> None:
        self._jobs[name].state = JobState.halved
        self._unannounced.append(name)

    def _is_busy(self) -> bool:
        """Return whether a job may become ready without the calling thread."""
        running = (JobState.running, JobState.pausing)
        return bool(self._unannounced or self._announcing) or any(
            job.state in running for job in self._jobs.values()
        )

    def _ready_job(self) -> str | None:
        """Return the job at the highest rung that may be resumed, else the next new one."""
        return max(self._ready_jobs(), key=lambda name: self._jobs[name].rung, default=None)

    def _ready_jobs(self) -> list[str]:
        return [name for name, job in self._jobs.items() if self._is_ready(name, job)]

    def _is_ready(self, name: str, job: JudgedJob) -> bool:
        """Return whether a job is new, or was paused or halved and is among the best."""
        if job.state is JobState.new:
            return True
        return (
            job.state in (JobState.paused, JobState.halved)
            and bool(job.scores)
            and name not in self._unannounced
            and name not in self._announcing
            and self._is_among_best(name)
        )

    def _best_paused_job(self) -> str | None:
        """Return the best job at the highest rung if no job would finish otherwise.

        Of two jobs, say, none is among the best third.
        """
        if any(job.state is JobState.finished for job in self._jobs.values()):
            return None
        paused = {
            name: job
            for name, job in self._jobs.items()
            if job.state is JobState.paused and job.scores
        }
        if not paused:
            return None
        top = max(job.rung for job in paused.values())
        scores = {name: job.scores[top] for name, job in paused.items() if job.rung == top}
        return next(iter(best_of(scores, 1, self.monitor)), None)


class RoundScheduler(HalvingScheduler):
    """Hands out jobs each until its next rung, and decides nothing: that is done between the
    rounds, when the jobs of all packs have reached it.
    """

    def __init__(self, *arguments: Any, passed: Mapping[str, int], **options: Any) -> None:
        """``passed``: how many rungs each job has left behind, by the decisions so far."""
        super().__init__(*arguments, **options)
        self._passed = passed

    def _is_among_best(self, name: str) -> bool:
        return len(self._jobs[name].scores) <= self._passed.get(name, 0)

    def _halve_losers(self) -> None:
        pass

    def _halve_all_paused(self) -> None:
        pass

    def _best_paused_job(self) -> str | None:
        return None


def best_of(scores: Mapping[str, RungScore | None], count: int, monitor: Monitor) -> list[str]:
    """Return the names of the ``count`` best scores by ``monitor``, the best first.

    Scores without a finite number are never among them; equal ones are in their order. Metrics of
    answers have intervals: scores within that of the last one of the best are ordered by their
    validation loss.
    """
    values = {
        name: value
        for name, score in scores.items()
        if score is not None and math.isfinite(value := _value(score, monitor))
    }
    losses = {name: score.loss for name, score in scores.items() if score is not None}
    order = sorted(values, key=lambda name: values[name], reverse=not monitor.lower)
    if monitor.is_loss or not 0 < count < len(order):
        return order[:count]
    last = order[count - 1]
    score = scores[last]
    value = values[last]
    low, high = (score.interval if score is not None else None) or (value, value)
    low, high = min(low, value), max(high, value)  # a bootstrap interval need not contain its value
    tied = [name for name in order if low <= values[name] <= high]
    clear = order[: order.index(tied[0])]
    return [*clear, *sorted(tied, key=lambda name: losses[name])][:count]


def _value(score: RungScore, monitor: Monitor) -> float:
    value = score.loss if monitor.is_loss else score.value
    return math.nan if value is None else value
