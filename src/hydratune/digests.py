"""SHA-256 digests of stored files, so that damage on disk is noticed before a file is used.

``digests.json`` in a folder holds the digests of the files beside it. It is written before a file
is renamed into place, with the digest of the new content and those of earlier contents: if the
process is killed in between, the file that is there is still known. A file that is not listed
(copied by hand, written by an older version) is used without verification.
"""

import fcntl
import hashlib
import json
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydratune.errors import RunError

INDEX = "digests.json"
Digests = dict[str, list[str]]  # file name -> its possible SHA-256 digests, the newest first
_FORMAT = "hydratune digests 1"  # marks our own files: other programs use this name as well
_MOST_DIGESTS = 3  # of one file: the new content, and those left by processes that were killed
_ATTEMPTS = 3  # to read a file that another process may be writing
_PAUSE = 0.05  # seconds between two attempts


def of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listed(path: Path) -> list[str]:
    """Return the digests that ``path`` may have; empty if none were recorded.

    Raises ``RunError`` for a broken index.
    """
    return list(_read(path.parent / INDEX).get(path.name, []))


def _read(index: Path) -> Digests:
    """Return the content of an index; empty if there is none, or it is another program's file.

    Raises ``RunError`` for a broken one.
    """
    try:
        stored = index.read_bytes()
    except OSError:
        return {}
    try:
        content = json.loads(stored)
        if not isinstance(content, dict) or not content.keys() & {"format", "files"}:
            return {}  # another program's
        if content["format"] == _FORMAT:
            files = content["files"].items()
            return {str(name): [str(digest) for digest in digests] for name, digests in files}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise RunError(
        f"{index} is not readable: it was changed or cut; if it alone is damaged, {_remedy(index)}"
    )


def _remedy(index: Path) -> str:
    return f"rm {shlex.quote(str(index))} makes the files beside it usable without verification"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process or thread at a time write the index of ``folder``."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def replace(temporary: Path, path: Path) -> None:
    """Rename ``temporary`` to ``path`` after its digest was recorded. Raises ``OSError``."""
    new = of_file(temporary)
    with _locked(path.parent):
        index = path.parent / INDEX
        try:
            recorded = _read(index)
        except RunError:  # a broken index is replaced
            recorded = {}
        recorded = {
            name: digests
            for name, digests in recorded.items()
            if name == path.name or (path.parent / name).exists()
        }
        earlier = recorded.get(path.name, []) if path.exists() else []
        different = [digest for digest in earlier if digest != new]
        recorded[path.name] = [new, *different][:_MOST_DIGESTS]
        _write(index, recorded)
        try:
            temporary.replace(path)
        except OSError:
            if set(recorded) == {path.name} and not path.exists():  # leave nothing behind
                index.unlink(missing_ok=True)
            raise


def _write(index: Path, recorded: Digests) -> None:
    temporary = index.with_name(f".{INDEX}.{os.getpid()}.tmp")
    content = {"format": _FORMAT, "files": dict(sorted(recorded.items()))}
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(content, indent=1) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(index)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def seal(folder: Path) -> None:
    """Record the digests of all files in and below ``folder``, which must not change afterwards.

    Raises ``OSError``.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != INDEX]
    _write(folder / INDEX, {path.relative_to(folder).as_posix(): [of_file(path)] for path in files})


def damaged(folder: Path) -> str | None:
    """Return what is wrong in a sealed folder: the first file that is missing or was changed.

    None if nothing is wrong, and for a folder that was never sealed.
    """
    index = folder / INDEX
    try:
        recorded = _read(index)
    except RunError as error:
        return str(error)
    for name, digests in recorded.items():
        path = folder / name
        if not path.is_file():
            fix = f"bring it back from a copy, or {_remedy(index)}"
            return f"{path} is missing, which {index} lists; {fix}"
        if of_file(path) not in digests:
            return _changed(path)
    return None


def _changed(path: Path) -> str:
    index = path.parent / INDEX
    return (
        f"{path} is not as it was written: its SHA-256 is not the one in {index}; one of the two"
        " was changed or damaged. Bring it back from a copy; if you changed it yourself,"
        f" {_remedy(index)}"
    )


def content(path: Path) -> bytes:
    """Return the verified content of a file.

    Raises ``RunError`` if it is not what was written, ``OSError`` if it cannot be read.
    """
    for attempt in range(_ATTEMPTS):
        digests, stored = listed(path), path.read_bytes()
        if not digests or hashlib.sha256(stored).hexdigest() in digests:
            return stored
        if attempt < _ATTEMPTS - 1:
            time.sleep(_PAUSE)
    raise RunError(_changed(path))


def verify(path: Path) -> bool:
    """Return True if a large file is what was written, False if no digest was recorded for it.

    Raises ``RunError`` if it was changed, ``OSError`` if it cannot be read.
    """
    digests = listed(path)
    if digests and of_file(path) not in digests:
        raise RunError(_changed(path))
    return bool(digests)


def problems(folder: Path) -> list[str]:
    """Return a sentence for each file in ``folder`` that is listed, exists and was changed."""
    sentences = []
    try:
        names = sorted(_read(folder / INDEX))
    except RunError as error:
        return [str(error)]
    for name in names:
        with suppress(OSError):
            try:
                content(folder / name)
            except RunError as error:
                sentences.append(str(error))
    return sentences
