"""Rows that are in memory: written to files, which a run reads like any others.

So the rows of a run are kept, and ``hydratune evaluate`` finds them later.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hydratune.data.rows import SPLIT_NAMES
from hydratune.errors import HydratuneError, InputError
from hydratune.records.files import write_text

if TYPE_CHECKING:
    import datasets
    import pandas

    Table: TypeAlias = pandas.DataFrame | datasets.Dataset | Sequence[Mapping[str, object]]
    # one table, of which validation and test rows are split off; or tables by split
    Rows: TypeAlias = Table | Mapping[str, Table]

_FOLDER = Path("outputs") / "rows"
_FILE = rf"{_FOLDER}/rows-[0-9a-f]{{12}}/({'|'.join(SPLIT_NAMES)})\.jsonl(?::(\d+))?"


def write_rows(rows: "Rows") -> dict[str, Path]:
    """Write each table of ``rows`` into a JSONL file; return the files by split.

    Equal rows have the same files, below ``outputs/rows``. The paths are absolute: a run finds its
    rows from any folder. Raises ``InputError`` for rows that are none, or with values that JSON
    cannot hold.
    """
    lines = {split: list(_lines(table, split)) for split, table in _by_split(rows).items()}
    content = "\0".join(f"{split}\0{line}" for split, own in lines.items() for line in own)
    folder = _FOLDER.absolute() / f"rows-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    files = {}
    for split, own in lines.items():
        files[split] = folder / f"{split}.jsonl"
        if not files[split].is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_text(files[split], "".join(f"{line}\n" for line in own))
    return files


@contextmanager
def named_as_given() -> Iterator[None]:
    """Let errors that leave the block name rows that were given in memory, not their files."""
    try:
        yield
    except HydratuneError as error:
        error.args = tuple(as_given(part) if isinstance(part, str) else part for part in error.args)
        raise


def as_given(text: str) -> str:
    """Return ``text`` with "data, train row 8" in place of line 8 of a file of ``write_rows``."""
    here = re.escape(str(Path.cwd()))
    folder = rf"""(?:{here}/|^/[^'":\n]*/|/[^\s'":]*/)?"""  # a space may stand in a message's first
    return re.sub(rf"{folder}{_FILE}", _given, text, flags=re.MULTILINE)


def _given(match: re.Match[str]) -> str:
    split, line = match.groups()
    return f"data, {split} row {line}" if line else f"data, {split} rows"


def _by_split(rows: "Rows") -> "Mapping[str, Table]":
    if not isinstance(rows, Mapping):
        return {"train": rows}
    if "train" not in rows or (unknown := [name for name in rows if name not in SPLIT_NAMES]):
        named = ", ".join(map(str, rows)) if "train" not in rows else ", ".join(map(str, unknown))
        raise InputError(
            f"data = a mapping with {named}: give the rows as one table, or as"
            ' {"train": ..., "validation": ..., "test": ...}, of which only train is needed'
        )
    return {name: rows[name] for name in SPLIT_NAMES if name in rows}


def _lines(table: "Table", split: str) -> Iterator[str]:
    """Yield every row as JSON."""
    number = 0
    for number, record in enumerate(_records(table), 1):
        if not isinstance(record, Mapping):
            raise InputError(
                f"data: {split} row {number} is of the type {type(record).__name__}: give a mapping"
                " from columns to values, such as {'prompt': ..., 'completion': ...}"
            )
        plain = {str(column): value for column, value in record.items()}
        try:
            yield json.dumps(plain, ensure_ascii=False, default=_plain, allow_nan=False)
        except ValueError:  # a number that is not finite is no value
            yield json.dumps(_without_nan(plain), ensure_ascii=False, default=_plain)
        except TypeError as error:
            raise InputError(
                f"data: {split} row {number} holds a value that JSON cannot hold ({error});"
                " convert it to text or numbers"
            ) from error
    if not number:
        raise InputError(f"data: the {split} rows are empty")


def _records(table: "Table") -> Iterable[Any]:
    """Return the rows of a table as mappings."""
    if hasattr(table, "to_dict") and hasattr(table, "columns"):  # pandas
        return list(table.to_dict("records"))
    if isinstance(table, str | bytes) or not hasattr(table, "__iter__"):
        raise InputError(
            f"data = {str(table)[:60]!r}: give a pandas DataFrame, a datasets.Dataset or a list of"
            ' mappings; rows in a file are named in the settings: "data=files data.train=FILE"'
        )
    return table


def _plain(value: object) -> object:
    """Return what JSON holds of a value of NumPy, pandas or ``datetime``."""
    if isinstance(value, date):
        return value.isoformat()
    for convert in ("item", "tolist"):
        if hasattr(value, "dtype") and hasattr(value, convert):
            try:
                return getattr(value, convert)()
            except ValueError:  # more than one element
                continue
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return list(value)
    raise TypeError(f"of the type {type(value).__name__}")


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return value
