"""The cache folder: results that are slow to build and equal for every run.

It holds models, predictions of the base model and prepared data.
"""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from rich.markup import escape

from hydratune import digests
from hydratune.console import console
from hydratune.errors import InputError

_ABANDONED_AFTER = 86_400.0  # seconds since a process last wrote into its temporary folder


def cache_folder() -> Path:
    """Return ``$HYDRATUNE_CACHE``, or else ``hydratune`` in the user's cache folder."""
    if own := os.environ.get("HYDRATUNE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hydratune"


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder ``name`` of the cache, after ``build`` has written it if it is missing.

    One process builds at a time, into a temporary folder that is then renamed, so that no other
    process sees a part of it. Where a file system has no locks between machines, each machine may
    build, and all use what was there first. A folder that was damaged on disk is built again.
    Raises ``InputError`` if the folder cannot be written.
    """
    target = cache_folder() / name
    if target.is_dir() and _is_intact(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if target.is_dir():  # another process built it while this one waited for the lock
                if _is_intact(target):
                    return target
                shutil.rmtree(target)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as temporary:
                folder = Path(temporary) / "built"
                build(folder)
                digests.seal(folder)
                _publish(folder, target)
    except OSError as error:
        fix = "free some space, or choose another place with HYDRATUNE_CACHE=DIR"
        reason = error.strerror or error
        raise InputError(f"cannot write into {target.parent} ({reason}); {fix}") from error
    return target


def _publish(folder: Path, target: Path) -> None:
    """Rename ``folder`` to ``target`` unless another machine was faster. Raises ``OSError``."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _is_intact(target):
            raise


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary folders of processes that were killed."""
    for temporary in folder.glob(".building-*"):
        if time.time() - temporary.stat().st_mtime > _ABANDONED_AFTER:
            shutil.rmtree(temporary, ignore_errors=True)


_verified: set[Path] = set()  # folders whose digests this process has checked


def _is_intact(folder: Path) -> bool:
    """Return whether the files of a cached folder are as they were written, and print why if not.

    Folders built by an older version, which wrote no digests, count as intact.
    """
    if folder in _verified:
        return True
    damage = digests.damaged(folder)
    if damage is None:
        _verified.add(folder)
        return True
    what = escape(damage.partition(";")[0])
    console.print(f"[yellow]damaged, so it is built again: {what}", soft_wrap=True)
    return False
