"""Halving and the records of jobs: what earlier starts have measured, and what is written of a job
that is stopped early. Needs no torch.
"""

import math
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

from hydratune.errors import RunError
from hydratune.metric_format import with_unit
from hydratune.metric_table import OBJECTIVE
from hydratune.records.metrics import RunMetrics
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import Outcome, State, Status
from hydratune.settings.monitor import Monitor
from hydratune.sweeps.halving import HalvingScheduler, JobState, JudgedJob
from hydratune.training.protocols import RungScore


def state_of(record: RunDirectory) -> tuple[JobState, RungScore | None]:
    """Return (state, final score) of a job that does not run."""
    status = record.read_status()
    if record.is_finished():
        metrics = RunMetrics.read(record.metrics_file)
        loss, edges = metrics.values.get("val/loss"), metrics.intervals.get(OBJECTIVE)
        if loss is None:
            return JobState.finished, None
        interval = (edges[0], edges[1]) if edges else None
        return JobState.finished, RungScore(loss, metrics.values.get(OBJECTIVE), interval)
    if status.outcome is Outcome.halved:
        return JobState.halved, None
    return JobState.paused if status.state is State.waiting else JobState.failed, None


def scores_of(status: Status) -> list[RungScore]:
    """Return what a job has reported at each rung."""
    return [
        RungScore(math.inf if rung.loss is None else rung.loss, rung.value, rung.interval)
        for rung in status.rungs
    ]


class JudgedRecords:
    """How far jobs are that other processes run, by their records."""

    def __init__(self, records: Mapping[str, RunDirectory]) -> None:
        self._records = records
        self._versions: dict[str, tuple[int, ...]] = {}  # of the files that were read
        self.jobs: Mapping[str, JudgedJob] = {name: JudgedJob() for name in records}

    def read(self) -> bool:
        """Read the records that have changed since the last call; return whether any has."""
        changed = {}
        for name, record in self._records.items():
            version = _version(record.status_file)
            if version is None or version == self._versions.get(name):
                continue
            with suppress(RunError):  # it is just being written on another machine
                changed[name] = _judged_job(record)
                self._versions[name] = version
        self.jobs = {**self.jobs, **changed}
        return bool(changed)


def _version(file: Path) -> tuple[int, ...] | None:
    """Return what differs once ``file`` is written again; None: it does not exist.

    It is opened because a network file system shows only then what other machines have written.
    """
    try:
        with file.open("rb") as opened:
            found = os.fstat(opened.fileno())
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _judged_job(record: RunDirectory) -> JudgedJob:
    """Return what a job is judged by; ``new`` if it is to be started, again or for the first time.

    A job that was stopped, or has to run alone, leaves its place to the next best as a failed one.
    """
    status = record.read_status()
    states = {
        Outcome.no_run: JobState.new,
        Outcome.waiting: JobState.new,
        Outcome.running: JobState.running,
        Outcome.paused: JobState.paused,
        Outcome.halved: JobState.halved,
        Outcome.finished: JobState.finished,
    }
    state = states.get(status.outcome, JobState.failed)
    return JudgedJob(dict(enumerate(scores_of(status))), state)


def restore(
    scheduler: HalvingScheduler, records: Mapping[str, RunDirectory], failed: Collection[str]
) -> None:
    """Give ``scheduler`` the results of earlier starts of the sweep.

    ``failed``: names of jobs that have failed.
    """
    for name, record in records.items():
        status = record.read_status()
        scores = scores_of(status)
        state, final_score = state_of(record)
        if name in failed:
            scheduler.restore(name, scores, JobState.failed)
        elif state in (JobState.finished, JobState.halved):
            scheduler.restore(name, scores, state, final_score)
        elif scores and record.checkpoint_to_resume() is not None:
            # In sync, a decision is the same whenever it is made, so a job that was killed after
            # its report waits for it. In asha the report may have let it continue: it is resumed,
            # and reports again if it was killed before its checkpoint was written.
            is_paused = scheduler.halving.waits_for_all or status.is_paused
            scheduler.restore(name, scores, JobState.paused if is_paused else JobState.new)


def halved_by(monitor: Monitor) -> Callable[[Status], Status]:
    """Return what makes the status of a paused job that of one that ``monitor`` stopped early."""

    def halve(status: Status) -> Status:
        value = status.rungs[-1].value
        if monitor.is_loss or value is None:
            return status.halve()
        return status.halve(f"{monitor.title} {with_unit(monitor.metric, value)}")

    return halve
