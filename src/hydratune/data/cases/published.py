"""Published files: found, decoded and parsed, or refused with the place and what to do."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydratune.errors import DataError


def published_file(folder: str, name: str, key: str = "data.path") -> Path:
    """``folder/name``.

    Raises ``DataError`` that names ``key``, the setting the folder came from.
    """
    path = Path(folder) / name
    if not path.is_file():
        raise DataError(
            f"{key} = {folder}: there is no file {name} in it; give the folder that holds it (see"
            " conf/data for its source)"
        )
    return path


def published_text(path: Path) -> str:
    """UTF-8 without a byte order mark, lines ended by a line feed alone. Raises ``DataError``."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}); take the file as it was"
            " published"
        ) from None


def published_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(file:line where the row ends, row) of a CSV file that has at least ``columns``.

    Raises ``DataError``.
    """
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.StringIO(published_text(path), newline=""), strict=True)
    begin = 1  # of the record that is being read
    try:
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        begin = reader.line_num + 1
        if missing:
            raise DataError(
                f"{path}:1: no column {', '.join(missing)}; take the file as it was published"
            )
        for row in reader:
            where, begin = f"{path}:{reader.line_num}", reader.line_num + 1
            if None in row or None in row.values():
                raise DataError(
                    f"{where}: not as many cells as the header has columns; take the file as it was"
                    " published"
                )
            yield where, row
    except csv.Error as error:
        raise DataError(
            f"{path}:{begin}: broken CSV from here on ({error}); take the file as it was published"
        ) from None


def published_objects(path: Path, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of a JSONL file whose objects hold at least ``keys`` as texts.

    Raises ``DataError``.
    """
    for number, line in enumerate(published_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}:{number}: broken JSON ({error}); take the file as it was published"
            ) from None
        if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in keys):
            raise DataError(
                f"{path}:{number}: an object with the texts {', '.join(keys)} is needed"
            )
        yield f"{path}:{number}", value
