"""Read a file as records, one after the other: JSONL, JSON, CSV, TSV, Parquet, plain text.

A record is one row as it stands in the file, with its position (file:line), which every error
names.
"""

from pathlib import Path

from hydratune.data.formats.json_files import read_json_file, read_json_lines
from hydratune.data.formats.padding import mark_padded_records
from hydratune.data.formats.tables import read_csv, read_parquet
from hydratune.data.formats.text_files import (
    open_text,
    read_lines,
    read_paragraphs,
    wrong_encoding_error,
)
from hydratune.data.rows import Records
from hydratune.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
_ARCHIVES = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z")
_SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_UNREADABLE = {
    **dict.fromkeys(_ARCHIVES, "unpack it first"),
    **dict.fromkeys(_SHEETS, "export the sheet as CSV"),
    ".arrow": "give the folder it is in: data=hub data.id=FOLDER",
}


def read_records(
    path: Path,
    encoding: str,
    statements: list[str] | None = None,
    delimiter: str | None = None,
) -> Records:
    """Yield (file:line, record) for every row of a file.

    What was taken as the rows of a JSON file that is not a plain list, and what separates the
    columns of a CSV file if it is no comma, is appended to ``statements``. ``delimiter``: of CSV
    files; None: found in the file. Raises ``DataError``.
    """
    statements = statements if statements is not None else []
    suffix = path.suffix.lower()
    if suffix in _UNREADABLE:
        raise DataError(f"{path}: {suffix} files are not read; {_UNREADABLE[suffix]}")
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path}: unknown file type {suffix or '(none)'!r}; known: {', '.join(SUFFIXES)}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; it needs at least one row")
    if suffix == ".parquet":
        yield from read_parquet(path)
    elif suffix in (".jsonl", ".ndjson", ".json"):
        yield from mark_padded_records(lambda: _read_text(path, encoding, statements))
    else:
        yield from _read_text(path, encoding, statements, delimiter)


def _read_text(
    path: Path, encoding: str, statements: list[str], delimiter: str | None = None
) -> Records:
    """Yield the records of a text file. Raises ``DataError`` if it is in another encoding."""
    suffix = path.suffix.lower()
    with open_text(path, encoding) as stream:
        try:
            if suffix == ".json":
                yield from read_json_file(path, stream.read(), statements)
            elif suffix in (".jsonl", ".ndjson"):
                yield from read_json_lines(path, read_lines(path, stream))
            elif suffix == ".txt":
                yield from read_paragraphs(path, read_lines(path, stream))
            else:
                yield from read_csv(path, read_lines(path, stream), delimiter, statements)
        except UnicodeError:
            raise wrong_encoding_error(path, encoding) from None
