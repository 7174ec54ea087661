"""Locks with which several drivers share the folder of a search or of a W&B sweep.

A driver holds a lock for every trial that it runs; an unfinished trial whose lock is free belongs
to a driver that was killed, and is resumed by another one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hydratune.errors import InputError
from hydratune.records.run_directory import RunFile

_LOCKS = ".trials"  # folder in that of the sweep: a lock for every trial that is being run
_LOCK_SECONDS = 120.0  # a driver waits for the lock of the sweep, which is held for moments


@contextmanager
def sweep_lock(folder: Path) -> Iterator[None]:
    """Let one driver at a time into the block.

    A sweep without a search holds the same lock as long as it runs. Raises ``InputError`` then.
    """
    try:
        with FileLock(folder / RunFile.lock, timeout=_LOCK_SECONDS):
            yield
    except Timeout:
        raise InputError(
            f"another process is working in {folder}; wait for it, or choose another"
            " hydra.sweep.dir"
        ) from None


def lock_trial(folder: Path, name: str) -> FileLock | None:
    """Return the lock of a trial of a sweep, held; None if another driver holds it."""
    (folder / _LOCKS).mkdir(exist_ok=True)
    lock = FileLock(folder / _LOCKS / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock
