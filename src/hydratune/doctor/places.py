"""Folders: where runs and the cache are written, and how much room there is."""

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hydratune.doctor.finding import Finding, Level, size

_LITTLE, _TOO_LITTLE = 5 * 2**30, 200 * 2**20  # bytes that are free
_MOST_FILES = 100_000  # that are counted in the cache


def outputs_of(folder: Path) -> Callable[[], Iterator[Finding]]:
    """Return the check of the folder into which runs are written."""

    def outputs() -> Iterator[Finding]:
        yield _place("outputs", folder, "hydratune train hydra.run.dir=DIR")

    return outputs


def cache() -> Iterator[Finding]:
    """Check the cache folder, and say what it holds."""
    from hydratune.cache import cache_folder

    folder = cache_folder()
    remedy = "export HYDRATUNE_CACHE=DIR"
    found = _place("cache", folder, remedy)
    parts, total, whole = _contents(folder)
    held = ", ".join(f"{name} {size(count)}" for name, count in sorted(parts.items()))
    text = f"{found.text}; holds {'more than ' if not whole else ''}{size(total)}"
    text += f" ({held})" if held else ""
    facts = {**found.facts, "contents": parts, "bytes": total}
    yield Finding("cache", text, found.level, found.remedy, facts)


def temporary_folder() -> Iterator[Finding]:
    """Check the folder of temporary files."""
    yield _place("temporary", Path(tempfile.gettempdir()), "export TMPDIR=DIR")


def _place(name: str, folder: Path, remedy: str) -> Finding:
    """Return whether a folder can be written, and how much room it has."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    facts: dict[str, object] = {"path": str(folder.absolute())}
    if not existing.is_dir():
        moved = shlex.join(["mv", str(existing), f"{existing}.old"])
        return Finding(name, f"{existing} is a file", Level.problem, f"{moved}, or {remedy}", facts)
    try:
        with tempfile.TemporaryFile(dir=existing) as stream:
            stream.write(b"hydratune doctor")
    except OSError as error:
        text = f"{existing} cannot be written ({error.strerror or error})"
        return Finding(name, text, Level.problem, remedy, facts)
    free = shutil.disk_usage(existing).free
    text = f"{folder}, {size(free)} free"
    facts["free"] = free
    if free < _LITTLE:
        level = Level.problem if free < _TOO_LITTLE else Level.warning
        return Finding(name, text, level, f"free some space there, or {remedy}", facts)
    return Finding(name, text, facts=facts)


def _contents(folder: Path) -> tuple[dict[str, int], int, bool]:
    """Return the bytes of each part of a folder, of all, and whether all files were counted."""
    parts: dict[str, int] = {}
    count = 0
    for root, _, files in os.walk(folder):
        relative = Path(root).relative_to(folder)
        part = relative.parts[0] if relative.parts else "other"
        for name in files:
            count += 1
            if count > _MOST_FILES:
                return parts, sum(parts.values()), False
            try:
                parts[part] = parts.get(part, 0) + (Path(root) / name).lstat().st_size
            except OSError:
                continue
    return parts, sum(parts.values()), True
