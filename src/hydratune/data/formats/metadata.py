"""Keep other columns of a row as meta data, and state which columns were kept and ignored."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from hydratune.data.formats.columns import Columns, is_absent
from hydratune.data.formats.contents import refuse_half_characters
from hydratune.data.formats.json_files import load_json
from hydratune.data.formats.layouts import HISTORY
from hydratune.data.formats.notes import Notes
from hydratune.data.formats.preferences import refuse_marked
from hydratune.data.rows import Record

_OBJECTS = ("meta", "metadata")  # columns whose value may be an object of meta data
_MAX_CHARACTERS = 200  # of a value of meta data
_RESERVED = "encoding"  # in the meta data of case studies: how the file had to be decoded
_MOST_NAMES = 20  # listed in one statement


@dataclass
class MetaColumns:
    """Reads the meta data of a source's rows, and keeps which columns were used, in file order."""

    columns: Columns
    notes: Notes
    taken: dict[str, None] = field(default_factory=dict)  # read as part of the row itself
    kept: dict[str, None] = field(default_factory=dict)
    ignored: dict[str, None] = field(default_factory=dict)

    def read(self, raw: Record, record: Record, where: str) -> dict[str, object]:
        """Return the meta data of a row; ``record`` has the canonical names too.

        Raises ``DataError`` if a column marks the row's answer as bad.
        """
        read_columns = self.columns.read_columns(raw, record, where)
        refuse_marked(
            add_nested_columns(raw, where),
            {*read_columns, *_OBJECTS, *self.columns.naming.keep},
            where,
            is_document=self.columns.is_text,
        )
        values = self._other_values(raw, read_columns, where)
        meta = {
            name: value
            for name, value in values.items()
            if (_is_label(value) and name != _RESERVED) or _is_for_scoring(name, value)
        }
        self._count_truths(meta)
        self.kept |= dict.fromkeys(meta)
        self.ignored |= dict.fromkeys(name for name in values if name not in meta)
        text = "".join(map(str, (*raw, *meta, *meta.values())))
        refuse_half_characters(text, "meta data", where)
        return meta

    def _other_values(self, raw: Record, read_columns: set[str], where: str) -> dict[str, object]:
        """Return the columns that are not read as the row itself, then those of nested objects."""
        values: dict[str, object] = {}
        nested: dict[str, object] = {}
        for name, value in raw.items():
            if is_absent(value) or value in ([], {}) or (name == HISTORY and value == "[]"):
                continue
            if name in read_columns:
                self.taken[name] = None
            elif name in _OBJECTS and (inner := _as_object(value, where)) is not None:
                nested |= {key: item for key, item in inner.items() if not is_absent(item)}
            else:
                values[name] = value
        return {**values, **{name: nested[name] for name in nested if name not in values}}

    def _count_truths(self, meta: Record) -> None:
        """Count columns of true and false, which may be marks that nobody recognised."""
        if self.columns.is_text:
            return
        for name, value in meta.items():
            if isinstance(value, bool) and name not in self.columns.naming.keep:
                self.notes.truths.setdefault(name, Counter())[value] += 1

    def statement(self) -> str:
        """Return the sentence that says how the source was read."""
        layout = self.columns.layout
        is_usual = set(self.taken) == set(layout.split("/"))
        taken = "" if is_usual else f" from {', '.join(self.taken)}"
        kept = f"; kept as meta data: {_listed(self.kept)}" if self.kept else ""
        names = [f"{name} (in some rows)" if name in self.kept else name for name in self.ignored]
        ignored = f"; ignored: {_listed(names)}" if names else ""
        return f"{self.columns.source}: read as {layout}{taken}{kept}{ignored}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _is_label(value: object) -> bool:
    """Return whether a value can be a label: a short text, a number, true or false."""
    if isinstance(value, float) and math.isinf(value):
        return False
    return isinstance(value, bool | int | float | str) and len(str(value)) <= _MAX_CHARACTERS


def _is_for_scoring(name: str, value: object) -> bool:
    """Return whether answers are scored by a value: other right answers, or tests of code."""
    if name == "references":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return name == "tests" and isinstance(value, str)


def add_nested_columns(record: Record, where: str) -> Record:
    """Return the columns of a row, and beside them what its objects of meta data hold."""
    objects = [_as_object(record.get(name), where) for name in _OBJECTS]
    nested = [inner for inner in objects if inner is not None]
    if not nested:
        return record
    return {key: value for columns in (*nested, record) for key, value in columns.items()}


def _as_object(value: object, where: str) -> dict[str, object] | None:
    """Return a value that is an object, or the JSON text of one."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = load_json(value, where)
        except json.JSONDecodeError:
            return None
    return value if isinstance(value, dict) else None
