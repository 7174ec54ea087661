"""Ending runs from another terminal, with their work kept."""

import difflib
import os
import signal
from collections.abc import Iterator, Sequence

from rich.markup import escape

from hydratune.console import escape_controls
from hydratune.errors import InputError
from hydratune.overview.collect import Life, RunView, SweepView
from hydratune.sweeps.stop_requests import request_stop
from hydratune.wording import counted

_STOPPABLE = ("running", "waiting", "paused", "submitted")


def stop_jobs(sweep: SweepView, names: Sequence[str]) -> Iterator[str]:
    """Ask the processes of a sweep to stop jobs, by default all; yield what is said of it.

    Raises ``InputError`` for names that no job has, and if nothing is left to stop.
    """
    known = {job.name: job for job in sweep.jobs}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"jobs: {', '.join(known)}"
            raise InputError(f"{name}: {sweep.folder} has no such job; {hint}")
    chosen = [known[name] for name in dict.fromkeys(names)] if names else list(sweep.jobs)
    left = [job for job in chosen if job.state in _STOPPABLE]
    is_run = sweep.driver is not None or any(job.life is not Life.none for job in sweep.jobs)
    is_run = is_run or any(job.submitted for job in sweep.jobs)
    if not left or not is_run:
        states = ", ".join(f"{job.name} is {job.state}" for job in chosen[:5])
        why = "no process runs this sweep" if left else states
        raise InputError(f"nothing is left to stop: {why}")
    for job in left:
        request_stop(sweep.folder, job.name)
    jobs = escape(escape_controls(", ".join(job.name for job in left)))
    yield (
        f"asked to stop: {counted(len(left), 'job')} ({jobs}); each ends after its optimizer step"
        " and keeps its work"
    )
    yield f"hydratune status {escape(str(sweep.folder))} shows when; its command resumes them"


def stop_run(run: RunView) -> Iterator[str]:
    """Interrupt a run of this machine, as Ctrl-C does; yield what is said of it.

    Raises ``InputError`` if no process of this machine runs it.
    """
    if run.life is Life.elsewhere:
        raise InputError(f"it runs on {run.host}: type the command there")
    if run.life is not Life.alive or not run.process:
        raise InputError(f"nothing is left to stop: {run.record.path} is {run.state}")
    os.kill(run.process, signal.SIGINT)
    yield (
        f"asked process {run.process} to stop: the trained weights are saved; hydratune status"
        f" {escape(str(run.record.shown))} shows when"
    )
