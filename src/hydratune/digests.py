"""SHA-256 digests of stored files: what was damaged on disk is noticed before it is used.

``digests.json`` in a folder holds the digests of the files beside it. It is written before a file
is renamed into place, with the digest of the new content and those of the contents before it:
whoever is killed in between leaves a file that is known all the same. A file that is not listed
(copied here by hand, written by an older version) is used unverified.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydratune.errors import RunError

INDEX = "digests.json"
_FORMAT = "hydratune digests 1"  # how it begins: other programs have files of this name as well
# contents of one file: the new one, and those that a process killed between the two writes may have
# left
_KEPT = 3
_RETRIES = 3  # another process may be writing just now
_PAUSE = 0.05  # seconds


def of_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listed(path: Path) -> list[str]:
    """The digests that ``path`` may have; empty where none were written down.

    Raises ``RunError`` for a broken index.
    """
    found = _read(path.parent / INDEX).get(path.name, [])
    return list(found)


def _read(index: Path) -> dict[str, list[str]]:
    """Empty where there is none, or another program's. Raises ``RunError`` for a broken one."""
    try:
        stored = index.read_bytes()
    except OSError:
        return {}
    try:
        content = json.loads(stored)
        if not isinstance(content, dict) or not content.keys() & {
            "format",
            "files",
        }:  # another program's
            return {}
        if content["format"] == _FORMAT:
            return {
                str(name): [str(one) for one in some] for name, some in content["files"].items()
            }
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise RunError(
        f"{index} is not readable: it was changed or cut; if it alone is damaged, {_remove(index)}"
    )


def _remove(index: Path) -> str:
    return f"rm '{index}' has the files beside it used unverified"


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One writer after the other, of any process or thread."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def replace(temporary: Path, path: Path) -> None:
    """Renames ``temporary`` to ``path``, its digest written down before. Raises ``OSError``."""
    new = of_file(temporary)
    with _turn(path.parent):
        index = path.parent / INDEX
        try:
            known = _read(index)
        except RunError:  # a new one replaces it
            known = {}
        known = {
            name: some
            for name, some in known.items()
            if name == path.name or (path.parent / name).exists()
        }
        before = known.get(path.name, []) if path.exists() else []
        known[path.name] = [new, *(one for one in before if one != new)][:_KEPT]
        _write(index, known)
        try:
            temporary.replace(path)
        except OSError:
            if set(known) == {path.name} and not path.exists():  # nothing is left behind
                index.unlink(missing_ok=True)
            raise


def _write(index: Path, known: dict[str, list[str]]) -> None:
    temporary = index.with_name(f".{INDEX}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(
                json.dumps({"format": _FORMAT, "files": dict(sorted(known.items()))}, indent=1)
                + "\n"
            )
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(index)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def seal(folder: Path) -> None:
    """Writes down the digests of all files in and below ``folder``, which nobody changes any more.

    Raises ``OSError``.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != INDEX]
    _write(folder / INDEX, {path.relative_to(folder).as_posix(): [of_file(path)] for path in files})


def damaged(folder: Path) -> str | None:
    """What is wrong in a folder that was sealed: the first file that is missing or has other
    content; None if nothing is.

    None as well for a folder that was never sealed.
    """
    try:
        known = _read(folder / INDEX)
    except RunError as error:
        return str(error)
    for name, some in known.items():
        path = folder / name
        if not path.is_file():
            return (
                f"{path} is missing, which {folder / INDEX} lists; bring it back from a copy, or"
                f" {_remove(folder / INDEX)}"
            )
        if of_file(path) not in some:
            return _other_content(path)
    return None


def _other_content(path: Path) -> str:
    index = path.parent / INDEX
    return (
        f"{path} is not as it was written: its SHA-256 is not the one in {index}; one of the two"
        " was changed or damaged. Bring it back from a copy; if you changed it yourself,"
        f" {_remove(index)}"
    )


def content(path: Path) -> bytes:
    """The content of a file, verified.

    Raises ``RunError`` if it is not what was written, ``OSError`` if it cannot be read.
    """
    for attempt in range(_RETRIES):
        known, found = listed(path), path.read_bytes()
        if not known or hashlib.sha256(found).hexdigest() in known:
            return found
        if attempt < _RETRIES - 1:
            time.sleep(_PAUSE)
    raise RunError(_other_content(path))


def verify(path: Path) -> bool:
    """Whether a large file is what was written; False if nothing is known of it.

    Raises ``RunError`` if it is not, ``OSError``.
    """
    known = listed(path)
    if known and of_file(path) not in known:
        raise RunError(_other_content(path))
    return bool(known)


def problems(folder: Path) -> list[str]:
    """What is wrong with the files in ``folder`` that are listed and there; a sentence each."""
    found = []
    try:
        names = sorted(_read(folder / INDEX))
    except RunError as error:
        return [str(error)]
    for name in names:
        with suppress(OSError):
            try:
                content(folder / name)
            except RunError as error:
                found.append(str(error))
    return found
