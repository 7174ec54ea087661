"""Read and write the files of a record.

Every file is written to a temporary file beside its target, flushed to disk and renamed, so a
reader never sees half a file and a full disk never damages a good one.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeAlias

from hydratune import digests
from hydratune.errors import RunError

Json: TypeAlias = Any  # a value read from JSON, or to be written: its type is that of the file


@contextmanager
def atomic(path: Path, *, digest: bool = False) -> Iterator[IO[bytes]]:
    """Open a binary file that appears at ``path`` complete or not at all.

    ``digest``: its digest is stored, so that it is verified when it is read. Raises ``RunError`` if
    it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if digest:
            digests.replace(temporary, path)
        else:
            temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise RunError(
                f"cannot write {path}: {error.strerror or error}; free some space or choose another"
                " place"
            ) from error
        raise


def write_text(path: Path, text: str, *, digest: bool = False) -> None:
    """Write UTF-8; half a character, which a model may write, becomes an escape."""
    with atomic(path, digest=digest) as stream:
        stream.write(text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """Write one JSON value, indented."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", digest=True)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object per line."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, lines, digest=True)


def read_json(path: Path) -> Json:
    """Read one JSON value.

    Raises ``RunError`` if the file is missing, not JSON or not what was written.
    """
    try:
        return json.loads(digests.content(path).decode("utf-8"))
    except FileNotFoundError:
        raise _missing(path) from None
    except (ValueError, RecursionError) as error:
        reason = error if isinstance(error, json.JSONDecodeError) else _reason(error)
        raise RunError(
            f"{path} is not readable JSON ({reason}); the file was changed or cut"
        ) from None


def read_text(path: Path) -> str:
    """Read a text file of a record, with line ends as "\\n".

    Raises ``RunError`` if it is not what was written, or no text, ``OSError`` if it cannot be read.
    """
    try:
        return digests.content(path).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not UTF-8 ({error}); the file was changed or cut") from None


def read_jsonl(path: Path) -> list[dict[str, Json]]:
    """Read one JSON object per line.

    Raises ``RunError`` with file:line for a broken line, or if the file is not what was written.
    """
    rows: list[dict[str, Json]] = []
    try:
        lines = read_text(path).removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise _missing(path) from None
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise RunError(
                f"{path}:{number}: not readable JSON ({_reason(error)}); the file was changed or"
                " cut"
            ) from None
    return rows


def _reason(error: Exception) -> str:
    """Return why a text is no JSON that can be read; Python's advice on its limits is left out."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "no UTF-8" if isinstance(error, UnicodeDecodeError) else "a number of too many digits"


def _missing(path: Path) -> RunError:
    return RunError(
        f"{path} does not exist: the run did not get that far, or this is not a run directory"
    )
