"""Requests to stop single jobs of a sweep, by W&B or ``hydratune stop``: a file for each in the
sweep's folder.

The request is kept, so that a job that was stopped in W&B is told from one that was interrupted
with its whole sweep.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hydratune.errors import RunError
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import State

_FOLDER = ".stop"  # in that of the sweep


def request_stop(folder: Path, name: str) -> None:
    """Ask the process that runs the job ``name`` of the sweep in ``folder`` to stop it."""
    (folder / _FOLDER).mkdir(exist_ok=True)
    (folder / _FOLDER / name).touch()


def stop_requests(folder: Path) -> set[str]:
    """Return the names of the jobs that are to stop, or were stopped by such a request."""
    requests = folder / _FOLDER
    return {file.name for file in requests.iterdir()} if requests.is_dir() else set()


def is_to_stop(job: RunDirectory) -> bool:
    """Return whether a job of a sweep is asked to stop."""
    return (job.path.parent / _FOLDER / job.path.name).exists()


def is_to_interrupt(job: RunDirectory) -> bool:
    """Return whether a job is asked to stop whose process listens to signals.

    Before it runs, it would end by the signal, without a status.
    """
    with suppress(RunError):  # its status is just being written on another machine
        return is_to_stop(job) and job.read_status().state is State.running
    return False


def withdraw_stops(folder: Path, names: Iterable[str]) -> None:
    """Remove the requests for these jobs, because they are started again."""
    for name in names:
        (folder / _FOLDER / name).unlink(missing_ok=True)
