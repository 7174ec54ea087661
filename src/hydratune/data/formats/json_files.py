"""Read JSON and JSONL files as records."""

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydratune.data.formats import limits
from hydratune.data.formats.layouts import is_row, is_turn_list
from hydratune.data.rows import Records
from hydratune.errors import DataError

log = logging.getLogger(__name__)


def load_json(text: str, where: str) -> Any:
    """Parse JSON whose objects have every key once.

    Raises ``json.JSONDecodeError`` for broken JSON, and ``DataError`` for a key that occurs twice
    and for the limits of Python's parser (depth, digits of a whole number).
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
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


def read_json_lines(path: Path, lines: Iterable[str]) -> Records:
    """Yield the record of every line that is not empty. Raises ``DataError`` for broken JSON."""
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
        yield where, _as_record(value, where)


def read_json_file(path: Path, text: str, statements: list[str]) -> Records:
    """Yield the records of a JSON file, which is one value and therefore read whole.

    Where the file is not a plain list, what was taken as its rows is logged and appended to
    ``statements``. Raises ``DataError``.
    """
    try:
        value = load_json(text, _position_of_long_number(path, text))
    except json.JSONDecodeError as error:
        hint = "; this looks like JSONL: name it .jsonl" if error.msg == "Extra data" else ""
        raise DataError(
            f"{path}:{error.lineno}: broken JSON at column {error.colno} ({error.msg}){hint}"
        ) from None
    rows, statement = _find_rows(value, path)
    if statement and statement not in statements:  # the file may be read twice
        log.info("%s", statement)
        statements.append(statement)
    for number, item in enumerate(rows, 1):
        where = f"{path}[{number}]"
        limits.refuse_large_record(item, len(text), where)
        yield where, _as_record(item, where)


def _find_rows(value: object, path: Path) -> tuple[list[Any], str]:
    """Return the rows of a JSON file, and a statement where it is not a plain list of them."""
    if is_turn_list(value):
        statement = f"{path}: the whole file is one conversation, so it is one row"
        return [{"messages": value}], statement
    if isinstance(value, list):
        return value, ""
    if not isinstance(value, dict):
        raise DataError(f"{path}: a list of rows is needed, this is {type(value).__name__}")
    if is_row(value):
        return [value], f"{path}: the whole file is one object, so it is one row"
    lists = _lists_of_rows(value)
    if len(lists) != 1:
        names = f"; this object has {len(lists)}: {', '.join(lists)}; give each a file of its own"
        raise DataError(
            f"{path}: a list of rows is needed, or an object with exactly one list in it (as in"
            f' {{"data": [...]}}){names if lists else ""}'
        )
    (key,) = lists
    others = ", ".join(name for name in value if name != key)
    ignored = f"; ignored beside it: {others}" if others else ""
    return lists[key], f"{path}: rows taken from the list {key!r}{ignored}"


def _lists_of_rows(value: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the lists in an object that may be its rows.

    Of several lists, those of plain values are no rows; and if some hold rows of a known layout,
    the others are none either.
    """
    lists = {key: item for key, item in value.items() if isinstance(item, list)}
    if len(lists) <= 1:
        return lists
    lists = {
        key: items
        for key, items in lists.items()
        if items and all(isinstance(item, dict | list) for item in items)
    }
    of_known_layout = {
        key: items
        for key, items in lists.items()
        if is_turn_list(items[0]) or (isinstance(items[0], dict) and is_row(items[0]))
    }
    return of_known_layout or lists


def _position_of_long_number(path: Path, text: str) -> str:
    """Return file:line of a number that is too long for Python's parser; the file if none is."""
    match = re.search(r"[\s:,\[]-?\d{4301}", text)
    return f"{path}:{text.count(chr(10), 0, match.end()) + 1}" if match else str(path)


def _as_record(value: object, where: str) -> dict[str, object]:
    if is_turn_list(value):  # a conversation without an object around it
        return {"messages": value}
    if not isinstance(value, dict):
        raise DataError(f"{where}: a row must be a JSON object, this is {type(value).__name__}")
    return value


def parse_json_text(text: str, name: str, where: str) -> Any:
    """Parse a text that must be JSON, such as the tool calls in a cell of a CSV file.

    Raises ``DataError`` that calls the text ``name``.
    """
    try:
        return load_json(text, where)
    except json.JSONDecodeError:
        # pandas writes lists into CSV files as Python prints them
        is_python = re.match(r"\s*[\[{]+\s*'", text) is not None
        advice = (
            "; it is written as Python prints it: write it with json.dumps(...), or the file as"
            " JSON lines or Parquet"
        )
        raise DataError(
            f"{where}: {name} is a text that is not JSON: {text[:60]!r}"
            f"{advice if is_python else ''}"
        ) from None
