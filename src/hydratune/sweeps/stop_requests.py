"""Requests to stop single jobs of a sweep, which W&B sends: a file for each in the sweep's folder.

The request is kept, so that a job that was stopped in W&B is told from one that was interrupted
with its whole sweep.
"""

from collections.abc import Iterable
from pathlib import Path

_FOLDER = ".stop"  # in that of the sweep


def request_stop(folder: Path, name: str) -> None:
    """Ask the process that runs the job ``name`` of the sweep in ``folder`` to stop it."""
    (folder / _FOLDER).mkdir(exist_ok=True)
    (folder / _FOLDER / name).touch()


def stop_requests(folder: Path) -> set[str]:
    """Return the names of the jobs that are to stop, or were stopped by such a request."""
    requests = folder / _FOLDER
    return {file.name for file in requests.iterdir()} if requests.is_dir() else set()


def withdraw_stops(folder: Path, names: Iterable[str]) -> None:
    """Remove the requests for these jobs, because they are started again."""
    for name in names:
        (folder / _FOLDER / name).unlink(missing_ok=True)
