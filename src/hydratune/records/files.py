"""Read and write the files of a record.

Every file is written to a temporary file beside its target, flushed to disk and renamed, so a
reader never sees half a file and a full disk never damages a good one.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hydratune import digests
from hydratune.errors import RunError


@contextmanager
def atomic(path: Path, *, digest: bool = False) -> Iterator[IO[bytes]]:
    """A binary file that appears at ``path`` whole or not at all. Raises ``RunError`` if the disk
    refuses it.

    ``digest``: it is read again one day, and verified then.
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
    with atomic(path, digest=digest) as stream:
        stream.write(
            text.encode("utf-8", errors="backslashreplace")
        )  # a model may write half a character


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", digest=True)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(
        path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), digest=True
    )


def read_json(path: Path) -> Any:
    """Raises ``RunError`` if the file is missing, not JSON or not what was written."""
    try:
        return json.loads(digests.content(path).decode("utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{path} does not exist: the run did not get that far, or this is not a run directory"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(
            f"{path} is not readable JSON ({error}); the file was changed or cut"
        ) from error


def read_text(path: Path) -> str:
    """Of a record or a file like it.

    Raises ``RunError`` if it is not what was written, or no text, ``OSError`` if it cannot be read.
    """
    try:
        return digests.content(path).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not UTF-8 ({error}); the file was changed or cut") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Raises ``RunError`` with file:line for a broken line, or if the file is not what was written."""  # noqa: E501
    rows: list[dict[str, Any]] = []
    try:
        lines = read_text(path).removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise RunError(
            f"{path} does not exist: the run did not get that far, or this is not a run directory"
        ) from None
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise RunError(
                f"{path}:{number}: not readable JSON ({error.msg}); the file was changed or cut"
            ) from None
    return rows
