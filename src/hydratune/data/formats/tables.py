"""Read tables (CSV, TSV, Parquet) as records."""

import csv
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hydratune.data.formats import limits
from hydratune.data.formats.delimiters import find_delimiter
from hydratune.data.formats.padding import from_arrow
from hydratune.data.rows import Records
from hydratune.errors import DataError

if TYPE_CHECKING:
    import pyarrow.parquet

_MAX_BATCH_ROWS = 1000  # of a Parquet file, read at once


def read_csv(
    path: Path, lines: Iterable[str], delimiter: str | None, statements: list[str]
) -> Records:
    """Yield the records of a CSV or TSV file; the first row that is not empty is the header.

    ``delimiter``: None for that of the first rows, which is appended to ``statements`` where the
    file's suffix stands for another. Raises ``DataError`` with the line where the broken row
    begins.
    """
    csv.field_size_limit(limits.MAX_ROW_CHARACTERS)
    empty_lines, lines = _skip_empty_lines(lines)
    if delimiter is None:
        delimiter, lines = find_delimiter(path, lines, f"{path}:{empty_lines + 1}", statements)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    last_line = empty_lines  # where the last record ends
    try:
        for cells in reader:
            where, last_line = f"{path}:{last_line + 1}", empty_lines + reader.line_num
            if not cells:
                continue
            if names is None:
                names = _column_names(cells, where)
                continue
            _check_cell_count(cells, names, delimiter, where)
            yield where, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise _broken_csv_error(error, f"{path}:{last_line + 1}") from None


def _skip_empty_lines(lines: Iterable[str]) -> tuple[int, Iterator[str]]:
    """Return the number of empty lines at the start, and all lines after them."""
    iterator = iter(lines)
    for empty_lines, line in enumerate(iterator):
        if line.strip():
            return empty_lines, itertools.chain([line], iterator)
    return 0, iterator


def _column_names(cells: list[str], where: str) -> list[str]:
    twice = next((name for name in cells if cells.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"{where}: the column {twice!r} occurs twice; every column needs a name of its own"
        )
    return cells


def _check_cell_count(cells: list[str], names: list[str], delimiter: str, where: str) -> None:
    if len(cells) > len(names):
        raise DataError(
            f"{where}: more cells than the header has columns; quote cells that contain"
            f" {delimiter!r}"
        )
    if len(cells) < len(names):
        raise DataError(f"{where}: fewer cells than the header has columns")


def _broken_csv_error(error: csv.Error, where: str) -> DataError:
    if "field larger" in str(error):
        return limits.too_large_error(where, "a cell of the row that begins here")
    if "new-line" in str(error):
        reason = (
            "a carriage return alone ends no line; save the file with line feeds, or quote the cell"
            " that holds it"
        )
    else:
        reason = (
            f"{error}; a cell that starts with a quote must end with one, and quotes inside it are"
            ' doubled: "5"" nails"'
        )
    return DataError(f"{where}: broken CSV in the row that begins here: {reason}")


def read_parquet(path: Path) -> Records:
    """Yield the records of a Parquet file, a batch of rows in memory at a time.

    Raises ``DataError`` if it is broken or holds a row that is too large.
    """
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            kinds = {column.name: column.type for column in file.schema_arrow}
            for batch in file.iter_batches(_rows_per_batch(path, file)):
                for record in batch.to_pylist():
                    number += 1
                    where = f"{path}[{number}]"
                    limits.refuse_large_record(record, batch.nbytes, where)
                    yield (
                        where,
                        {
                            name: from_arrow(value, kinds[name], where)
                            for name, value in record.items()
                        },
                    )
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a readable Parquet file ({reason})") from None


def _rows_per_batch(path: Path, file: "pyarrow.parquet.ParquetFile") -> int:
    """Return how many rows fit into memory at once, from the unpacked size of the row groups."""
    metadata = file.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    most_bytes = 4 * limits.MAX_ROW_CHARACTERS  # a character takes up to four bytes
    for group in groups:
        if group.num_rows and group.total_byte_size / group.num_rows > most_bytes:
            raise limits.too_large_error(str(path), "a row of this file")
    row_sizes = (group.total_byte_size / max(1, group.num_rows) for group in groups)
    return max(1, min(_MAX_BATCH_ROWS, int(most_bytes / max(1, max(row_sizes, default=1)))))
