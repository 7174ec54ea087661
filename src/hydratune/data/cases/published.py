"""Read published files: decoded and parsed, or refused with the place and what to do."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydratune.errors import DataError

_AS_PUBLISHED = "take the file as it was published"


def published_file(folder: str, name: str, key: str = "data.path") -> Path:
    """Return the path of ``name`` in ``folder``.

    Raises ``DataError`` that names ``key``, the setting of the folder.
    """
    path = Path(folder) / name
    if not path.is_file():
        raise DataError(
            f"{key} = {folder}: there is no file {name} in it; give the folder that holds it (see"
            " conf/data for its source)"
        )
    return path


def published_text(path: Path) -> str:
    """Read UTF-8 without a byte order mark, with line feeds alone as line ends.

    Raises ``DataError``.
    """
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}); {_AS_PUBLISHED}"
        ) from None


def published_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (file:line where the row ends, row) of a CSV file that has at least ``columns``.

    Raises ``DataError``.
    """
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.StringIO(published_text(path), newline=""), strict=True)
    begin = 1  # line of the record that is being read
    try:
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        begin = reader.line_num + 1
        if missing:
            raise DataError(f"{path}:1: no column {', '.join(missing)}; {_AS_PUBLISHED}")
        for row in reader:
            where, begin = f"{path}:{reader.line_num}", reader.line_num + 1
            if None in row or None in row.values():
                raise DataError(
                    f"{where}: not as many cells as the header has columns; {_AS_PUBLISHED}"
                )
            yield where, row
    except csv.Error as error:
        raise DataError(
            f"{path}:{begin}: broken CSV from here on ({error}); {_AS_PUBLISHED}"
        ) from None


def published_objects(path: Path, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (file:line, object) of a JSONL file whose objects have at least the texts ``keys``.

    Raises ``DataError``.
    """
    for number, line in enumerate(published_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: broken JSON ({error}); {_AS_PUBLISHED}") from None
        if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in keys):
            raise DataError(f"{where}: an object with the texts {', '.join(keys)} is needed")
        yield where, value
