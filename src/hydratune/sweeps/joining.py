"""Jobs that join a sweep while it runs: offered by ``hydratune add``, taken by a pack of this
machine, or by the driver whose packs run on a cluster.

A file for each offered job in the sweep's folder holds what it shares with others. A pack takes the
jobs that share its base model, data and precision; a driver takes those with its own settings of
the cluster, and submits them in packs of their own. Nobody else needs to know, because jobs that
were not taken are started when the sweep's own have ended. Needs no torch.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from hydratune.data.rows import stable_hash
from hydratune.records.files import write_text
from hydratune.records.run_directory import RunFile
from hydratune.records.status import State
from hydratune.records.sweep import read_study, read_sweep, write_sweep
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_processes import prepare
from hydratune.sweeps.planning import PlannedJob, shared_by, why_alone
from hydratune.sweeps.stop_requests import withdraw_stops

_FOLDER = ".join"  # in that of the sweep
_PATIENCE = 5.0  # seconds in which a pack takes what it can run
_PATIENCE_ELSEWHERE = 15.0  # the same for a driver, which may be waiting for an answer of Slurm
_is_joining: ContextVar[bool] = ContextVar("_is_joining", default=False)


@contextmanager
def joining() -> Iterator[None]:
    """Let the jobs of a sweep that is composed in the block join a running one."""
    token = _is_joining.set(True)
    try:
        yield
    finally:
        _is_joining.reset(token)


def is_joining() -> bool:
    """Return whether jobs are to join a running sweep."""
    return _is_joining.get()


def offer(folder: Path, jobs: Sequence[PlannedJob], options: PackOptions | None) -> list[str]:
    """Offer jobs to the processes of the sweep in ``folder``; return the names of those taken soon.

    Jobs of sweeps whose jobs are judged together are not offered.
    """
    names = {job.name for job in jobs}
    withdraw_stops(folder, names)
    earlier = [job for name, job in read_sweep(folder).items() if name not in names]
    write_sweep(folder, [*earlier, *(job.job for job in jobs)], read_study(folder))
    if options is None or options.is_halving:
        return []
    is_elsewhere = options.executor.runs_alone_jobs
    chosen = [
        job
        for job in jobs
        if not job.record.is_finished()
        and not is_running(job)
        and (is_elsewhere or why_alone(job.settings) is None)
    ]
    for job in chosen:
        prepare(folder, job, options)
    (folder / _FOLDER).mkdir(exist_ok=True)
    for job in chosen:  # soon one after the other, so that a driver sees all of them
        key = key_of_driver(options) if is_elsewhere else shared_by(job.settings)
        write_text(folder / _FOLDER / job.name, key)
    until = time.monotonic() + (_PATIENCE_ELSEWHERE if is_elsewhere else _PATIENCE)
    while (left := _offered(folder)) and time.monotonic() < until:
        time.sleep(0.1)
    for file in left:
        file.unlink(missing_ok=True)
    return [job.name for job in chosen if folder / _FOLDER / job.name not in left]


def is_running(job: PlannedJob) -> bool:
    """Return whether a process runs the job already."""
    if job.status.state is not State.running:
        return False
    try:
        with FileLock(job.record.file(RunFile.lock), timeout=0):
            return False
    except Timeout:
        return True


def key_of_driver(options: PackOptions) -> str:
    """Return what is equal for commands whose packs run in the same place with equal settings."""
    return stable_hash(["executor", asdict(options.executor)])


def take(folder: Path, shared: str) -> list[str]:
    """Return the names of the offered jobs that share ``shared``; no other process gets them."""
    taken = []
    for name in offered(folder, shared):
        with suppress(OSError):  # another process has taken it
            (folder / _FOLDER / name).unlink()
            taken.append(name)
    return taken


def offered(folder: Path, shared: str) -> list[str]:
    """Return the names of the offered jobs that share ``shared``."""
    names = []
    for file in _offered(folder):
        with suppress(OSError):  # another process has taken it
            if file.read_text("utf-8") == shared:
                names.append(file.name)
    return names


def _offered(folder: Path) -> list[Path]:
    place = folder / _FOLDER
    return sorted(place.glob("[!.]*")) if place.is_dir() else []
