"""The cache folder: what takes long to make and is the same for every run (models, baselines,
prepared data).
"""

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

_STALE = 86_400.0  # seconds


def cache_folder() -> Path:
    """``$HYDRATUNE_CACHE``, else ``hydratune`` in the user's cache folder."""
    own = os.environ.get("HYDRATUNE_CACHE")
    return (
        Path(own)
        if own
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hydratune"
    )


def built(name: str, build: Callable[[Path], None]) -> Path:
    """The folder ``name`` in the cache, built by one at a time into a temporary one and renamed:
    half of it is never found.

    What was damaged since is built again. Raises ``InputError`` if the disk refuses it.
    """
    target = cache_folder() / name
    if target.is_dir() and _is_whole(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(".building-*"):  # by a process that was killed
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left, ignore_errors=True)
        # whoever comes second waits, and finds it
        with FileLock(target.with_name(f".{target.name}.lock")):
            if target.is_dir():
                if _is_whole(target):
                    return target
                shutil.rmtree(target)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as temporary:
                build(Path(temporary) / "built")
                digests.seal(Path(temporary) / "built")
                (Path(temporary) / "built").rename(target)
    except OSError as error:
        fix = "free some space, or choose another place with HYDRATUNE_CACHE=DIR"
        raise InputError(
            f"cannot write into {target.parent} ({error.strerror or error}); {fix}"
        ) from error
    return target


_whole: set[Path] = set()  # folders that this process has verified


def _is_whole(folder: Path) -> bool:
    """Says why not. Folders that were built by an older version are taken as they are."""
    if folder in _whole:
        return True
    why = digests.damaged(folder)
    if why is None:
        _whole.add(folder)
        return True
    console.print(
        f"[yellow]damaged, and built again: {escape(why.partition(';')[0])}", soft_wrap=True
    )
    return False
