"""Files -> records, one after the other:

JSONL, JSON, CSV, TSV, Parquet and plain text. Every refusal names file:line.
"""

import codecs
import csv
import functools
import io
import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydratune.data.formats.layouts import is_row, is_turn_list
from hydratune.data.formats.padding import typed, unpadded_records
from hydratune.errors import DataError

log = logging.getLogger(__name__)
MOST_CHARACTERS = 2**25  # of one row: more than any model reads at once, and little memory
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
_UNREADABLE = {
    **dict.fromkeys(
        (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z"), "unpack it first"
    ),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods", ".numbers"), "export the sheet as CSV"),
    ".arrow": "give the folder it is in: data=hub data.id=FOLDER",
}


def records(
    path: Path, encoding: str, statements: list[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (file:line, raw record); what was taken as the rows of a file that is no plain list is
    appended to ``statements``.
    """
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
        yield from _parquet_records(path)
        return
    if suffix in (".jsonl", ".ndjson", ".json"):
        read = functools.partial(
            _json_values, path, encoding, statements if statements is not None else []
        )
        yield from unpadded_records(read)
        return
    with _text(path, encoding) as stream:
        lines = _lines(path, stream)
        try:
            if suffix == ".txt":
                yield from _paragraphs(path, lines)
            else:
                yield from _csv_records(path, lines, "\t" if suffix == ".tsv" else ",")
        except UnicodeError:
            raise _wrong_encoding(path, encoding) from None


def _json_values(
    path: Path, encoding: str, statements: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    with _text(path, encoding) as stream:
        try:
            if path.suffix.lower() == ".json":
                yield from _json_records(path, stream.read(), statements)
            else:
                yield from _jsonl_records(path, _lines(path, stream))
        except UnicodeError:
            raise _wrong_encoding(path, encoding) from None


def _text(path: Path, encoding: str) -> io.TextIOWrapper:
    """The file as text whose lines end with a line feed only, without a byte-order mark."""
    try:
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError):
        codec = None
    if codec is None or not getattr(codec, "_is_text_encoding", True):  # hex, rot13 and the like
        raise DataError(
            f"{path}: data.encoding = {encoding}: no such encoding of text; usual: utf-8, latin-1,"
            " cp1252"
        )
    with path.open("rb") as stream:
        head = stream.read(65536)
    name = codec.name
    if not name.startswith(("utf-16", "utf-32")):
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(
                f"{path}: this is UTF-16 text; state it: data.encoding=utf-16, or save the file as"
                " UTF-8"
            )
        if (wide := _utf16_without_mark(head)) is not None:
            raise DataError(
                f"{path}: this looks like UTF-16 text; state it: data.encoding={wide}, or save the"
                " file as UTF-8"
            )
        if b"\0" in head:
            raise DataError(
                f"{path}: this is a binary file, not text; give JSONL, JSON, CSV or Parquet with"
                " the right ending"
            )
    if name == "utf-8":
        name = "utf-8-sig"
    if name.startswith("utf-16") and head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = "utf-16"  # utf-16-le would leave the mark in the first column's name
    return io.TextIOWrapper(path.open("rb"), encoding=name, newline="\n")


def _lines(path: Path, stream: io.TextIOWrapper) -> Iterator[str]:
    """The lines of a file; one that is no row but a mistake, or an attack, is refused before it is
    in memory.
    """
    for number, line in enumerate(iter(lambda: stream.readline(MOST_CHARACTERS + 1), ""), 1):
        if len(line) > MOST_CHARACTERS:
            raise _too_large(f"{path}:{number}", "this line")
        yield line


def _too_large(where: str, what: str = "this row") -> DataError:
    return DataError(
        f"{where}: {what} has more than {MOST_CHARACTERS:,} characters, which no model reads; split"
        " it into rows, or take it out"
    )


def _characters(value: Any) -> int:
    """Of all texts in a record."""
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    if isinstance(value, list):
        return sum(map(_characters, value))
    return len(value) if isinstance(value, str | bytes) else 1


def _utf16_without_mark(head: bytes) -> str | None:
    """Of mostly ASCII characters every second byte is zero."""
    for name, high, low in (
        ("utf-16-le", head[1::2], head[::2]),
        ("utf-16-be", head[::2], head[1::2]),
    ):
        if len(head) > 3 and high.count(0) > 0.7 * len(high) and low.count(0) == 0:
            return name
    return None


def _wrong_encoding(path: Path, encoding: str) -> DataError:
    """Finds the first byte that is not ``encoding``; decoding in chunks cannot say where it is."""
    raw = path.read_bytes()
    try:
        raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        place = f"{path}:{line}: not {encoding} (byte 0x{raw[error.start]:02x})"
    except UnicodeError:
        place = f"{path}: not {encoding}"
    one_byte = [
        name
        for name in ("latin-1", "cp1252")
        if codecs.lookup(name).name != codecs.lookup(encoding).name
    ]
    others = f"{one_byte[0]} (or {one_byte[1]})" if len(one_byte) > 1 else one_byte[0]
    return DataError(
        f"{place}; save the file as UTF-8, or state its encoding: data.encoding={others}"
    )


def _jsonl_records(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = load_json(line, where)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: broken JSON at column {error.colno} ({error.msg}); one whole JSON object"
                " per line is needed"
            ) from None
        yield where, _object(value, where)


def load_json(text: str, where: str) -> Any:
    """JSON whose objects have every key once.

    Raises ``json.JSONDecodeError``, and ``DataError`` for what only Python minds.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DataError(
                f"{where}: the key {ascii(twice)[1:-1]!r} occurs twice in one JSON object; keep one"
                " of them"
            )
        return value

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise DataError(f"{where}: the JSON is nested too deeply to be a row") from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # CVE-2020-10735: Python limits the digits of whole numbers
        raise DataError(
            f"{where}: a number with thousands of digits; put it in quotes, as text"
        ) from None


def _json_records(
    path: Path, text: str, statements: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A JSON file is one value, so it is read whole."""
    try:
        value = load_json(text, _place_of_long_number(path, text))
    except json.JSONDecodeError as error:
        hint = "; this looks like JSONL: name it .jsonl" if error.msg == "Extra data" else ""
        raise DataError(
            f"{path}:{error.lineno}: broken JSON at column {error.colno} ({error.msg}){hint}"
        ) from None
    rows, how = _rows_in(value, path)
    if how and how not in statements:  # the file may be read twice
        log.info("%s", how)
        statements.append(how)
    for number, item in enumerate(rows, 1):
        where = f"{path}[{number}]"
        if len(text) > MOST_CHARACTERS and _characters(item) > MOST_CHARACTERS:
            raise _too_large(where)
        yield where, _object(item, where)


def _rows_in(value: Any, path: Path) -> tuple[list[Any], str]:
    """The rows of a JSON file, and what is to be said where it is no plain list of them."""
    if is_turn_list(value):
        return [
            {"messages": value}
        ], f"{path}: the whole file is one conversation, so it is one row"
    if isinstance(value, list):
        return value, ""
    if not isinstance(value, dict):
        raise DataError(f"{path}: a list of rows is needed, this is {type(value).__name__}")
    if is_row(value):
        return [value], f"{path}: the whole file is one object, so it is one row"
    lists = {key: item for key, item in value.items() if isinstance(item, list)}
    if len(lists) > 1:  # beside the rows there may be lists of something else
        lists = {
            key: item
            for key, item in lists.items()
            if item and all(isinstance(row, dict | list) for row in item)
        }
        known = {
            key: item
            for key, item in lists.items()
            if is_turn_list(item[0]) or (isinstance(item[0], dict) and is_row(item[0]))
        }
        lists = known or lists
    if len(lists) != 1:
        which = (
            f"; this object has {len(lists)}: {', '.join(lists)}; give each a file of its own"
            if lists
            else ""
        )
        raise DataError(
            f"{path}: a list of rows is needed, or an object with exactly one list in it (as in"
            f' {{"data": [...]}}){which}'
        )
    key = next(iter(lists))
    others = ", ".join(name for name in value if name != key)
    return lists[key], f"{path}: rows taken from the list {key!r}" + (
        f"; ignored beside it: {others}" if others else ""
    )


def _place_of_long_number(path: Path, text: str) -> str:
    """A whole file has no line of its own, but a number that Python refuses can be found."""
    found = re.search(r"[\s:,\[]-?\d{4301}", text)
    return f"{path}:{text.count(chr(10), 0, found.end()) + 1}" if found else str(path)


def _paragraphs(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Plain text: each paragraph, up to an empty line, is one row."""
    paragraph: list[str] = []
    length = 0
    for number, line in enumerate(itertools.chain(lines, [""]), 1):
        if line.strip():
            paragraph.append(line)
            length += len(line)
            if length > MOST_CHARACTERS:
                raise _too_large(
                    f"{path}:{number - len(paragraph) + 1}", "the paragraph that begins here"
                )
        elif paragraph:
            yield f"{path}:{number - len(paragraph)}", {"text": "".join(paragraph).rstrip("\r\n")}
            paragraph, length = [], 0


def _object(value: Any, where: str) -> dict[str, Any]:
    if is_turn_list(value):  # a conversation without anything around it
        return {"messages": value}
    if not isinstance(value, dict):
        raise DataError(f"{where}: a row must be a JSON object, this is {type(value).__name__}")
    return value


def _csv_records(
    path: Path, lines: Iterable[str], delimiter: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(MOST_CHARACTERS)
    blank, first, lines = _peek(lines)
    if delimiter not in first:
        _refuse_other_delimiter(first, delimiter, f"{path}:{blank + 1}")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    start = blank  # the line where the last record ends
    try:
        for cells in reader:
            where, start = f"{path}:{start + 1}", blank + reader.line_num
            if not cells:
                continue
            if names is None:
                names = cells
                twice = next((name for name in names if names.count(name) > 1), None)
                if twice is not None:
                    raise DataError(
                        f"{where}: the column {twice!r} occurs twice; every column needs a name of"
                        " its own"
                    )
                continue
            if len(cells) > len(names):
                raise DataError(
                    f"{where}: more cells than the header has columns; quote cells that contain"
                    f" {delimiter!r}"
                )
            if len(cells) < len(names):
                raise DataError(f"{where}: fewer cells than the header has columns")
            yield where, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        if "field larger" in str(error):
            raise _too_large(f"{path}:{start + 1}", "a cell of the row that begins here") from None
        if "new-line" in str(error):
            fix = (
                "a carriage return alone ends no line; save the file with line feeds, or quote the"
                " cell that holds it"
            )
        else:
            fix = (
                f"{error}; a cell that starts with a quote must end with one, and quotes inside it"
                ' are doubled: "5"" nails"'
            )
        raise DataError(
            f"{path}:{start + 1}: broken CSV in the row that begins here: {fix}"
        ) from None


def _refuse_other_delimiter(header: str, delimiter: str, where: str) -> None:
    ours = "commas, or with tabs as .tsv" if delimiter == "," else "tabs, or with commas as .csv"
    for sign, name in ((";", "semicolons"), ("|", "pipes"), ("\t", "tabs"), (",", "commas")):
        if sign in header:
            raise DataError(
                f"{where}: the columns are separated by {name}; save the file with {ours}"
            )


def _peek(lines: Iterable[str]) -> tuple[int, str, Iterator[str]]:
    """How many empty lines come first, the first other line, and all lines from there."""
    iterator = iter(lines)
    for blank, line in enumerate(iterator):
        if line.strip():
            return blank, line, itertools.chain([line], iterator)
    return 0, "", iterator


def _parquet_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            kinds = {item.name: item.type for item in file.schema_arrow}
            metadata = file.metadata
            groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
            for group in groups:  # the size is that of the unpacked columns
                if group.num_rows and group.total_byte_size / group.num_rows > 4 * MOST_CHARACTERS:
                    raise _too_large(str(path), "a row of this file")
            largest = max(
                (group.total_byte_size / max(1, group.num_rows) for group in groups), default=1
            )
            for batch in file.iter_batches(
                max(1, min(1000, int(4 * MOST_CHARACTERS / max(1, largest))))
            ):
                for record in batch.to_pylist():
                    number += 1
                    where = f"{path}[{number}]"
                    if batch.nbytes > MOST_CHARACTERS and _characters(record) > MOST_CHARACTERS:
                        raise _too_large(where)
                    yield (
                        where,
                        {name: typed(value, kinds[name], where) for name, value in record.items()},
                    )
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})"
        ) from None
