"""Find what a row says in the columns of its source.

These are the sides of a pair, its context, history and thoughts, a conversation, and tools.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydratune.data.formats.json_files import load_json
from hydratune.data.formats.layouts import (
    ALIASES,
    CONTEXT,
    EXTRA,
    HISTORY,
    OPTIONAL_OF_PAIRS,
    REASONING,
    is_turn_list,
    layout_of_named_columns,
    layout_of_record,
)
from hydratune.data.formats.preferences import chosen_column, refuse_preferences
from hydratune.data.formats.roles import RoleMapping
from hydratune.data.formats.turns import read_turn_list
from hydratune.data.rows import Record
from hydratune.data.thoughts import count_closing_tags
from hydratune.errors import DataError

CHAT_LAYOUTS = ("messages", "sharegpt")
_SIDES = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
}


@dataclass(frozen=True)
class Naming:
    """What the settings say about a source.

    ``columns`` maps canonical names to the source's own, ``roles`` maps speakers to roles, and
    ``keep`` names the value that a column of every row must have.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    roles: RoleMapping = field(default_factory=dict)
    keep: Mapping[str, object] = field(default_factory=dict)


def is_absent(value: object) -> bool:
    """Return whether a value is null, an empty text, or not a number (pandas writes null so)."""
    return (
        value is None
        or (isinstance(value, str) and value == "")
        or (isinstance(value, float) and math.isnan(value))
    )


def rename_columns(record: Record, columns: Mapping[str, str], where: str) -> dict[str, object]:
    """Return a record with the columns that the user named under their canonical names as well.

    Raises ``DataError`` for a column that is not there.
    """
    renamed = dict(record)
    for canonical, own in columns.items():
        if own not in record:
            raise DataError(
                f"{where}: data.columns.{canonical} = {own}: no such column; this row has:"
                f" {', '.join(map(str, record))}"
            )
        renamed[canonical] = record[own]
    return renamed


def resolve_aliases(record: Record, columns: Mapping[str, str]) -> dict[str, object]:
    """Return canonical name -> value for columns under another usual name (see ``ALIASES``)."""
    aliases = {name: find_alias(name, record) for name in ALIASES.keys() - columns.keys()}
    return {
        name: record[alias]
        for name, alias in aliases.items()
        if alias is not None and alias not in columns.values()
    }


def find_alias(canonical: str, record: Record) -> str | None:
    """Return the column that stands for ``canonical``, if the row has no such column itself."""
    if not is_absent(record.get(canonical)):
        return None
    names = (name for name in ALIASES.get(canonical, ()) if not is_absent(record.get(name)))
    return next(names, None)


@dataclass(frozen=True)
class Columns:
    """The columns of one source: its layout, and where a record has what the layout reads.

    ``named`` says whether the user named columns that hold text, so that no other column is text.
    """

    source: str
    layout: str
    naming: Naming
    named: bool

    @property
    def sides(self) -> tuple[str, ...]:
        """The columns that the layout needs; two for a pair."""
        return _SIDES.get(self.layout) or tuple(self.layout.split("/"))

    @property
    def is_pair(self) -> bool:
        """Whether a row is a request and an answer in columns of their own."""
        return len(self.sides) == 2

    @property
    def is_text(self) -> bool:
        """Whether rows are documents."""
        return self.layout == "text"

    def find_context(self, record: Record) -> str | None:
        """Return the column with what the request is about, if it is filled."""
        if not self.is_pair:
            return None
        by_default = not self.named and self.sides[0] in ("instruction", "question")
        names = (
            name
            for name in CONTEXT
            if name in record
            and name not in self.sides
            and (by_default or name in self.naming.columns)
        )
        return next((name for name in names if not is_absent(record[name])), None)

    def read_history(self, record: Record, where: str) -> list[Any]:
        """Return the earlier turns of a pair: [request, answer] lists, or turns.

        The list is empty if there are none or the column holds something else. Raises
        ``DataError`` if the user named the column and it is no history.
        """
        value = record.get(HISTORY) if self.is_pair else None
        named = HISTORY in self.naming.columns
        # CSV cells hold lists as JSON text
        if isinstance(value, str) and (named or value.lstrip().startswith("[[")):
            value = read_turn_list(value, where) if value.strip() not in ("", "[]") else None
        if is_absent(value) or value == [] or (isinstance(value, str) and not named):
            return []
        if isinstance(value, list) and (all(map(_is_text_pair, value)) or is_turn_list(value)):
            return value
        raise DataError(
            f"{where}: history must be a list of [request, answer], this is {str(value)[:60]!r};"
            " correct it, or rename it"
        )

    def read_reasoning(self, record: Record, where: str) -> str | None:
        """Return the thoughts before the answer of a pair.

        None: there are none, or the answer itself is written with its thoughts. Raises
        ``DataError`` if the user named the column and it holds no texts.
        """
        named = REASONING in self.naming.columns
        value = record.get(REASONING) if self.is_pair and (named or not self.named) else None
        if is_absent(value) or count_closing_tags(str(record.get(self.sides[1]))):
            return None
        if isinstance(value, str):
            return value if value.strip() else None
        if named:
            raise DataError(
                f"{where}: data.columns.{REASONING} must name a column of texts, this is"
                f" {type(value).__name__}"
            )
        return None

    def find_functions(self, record: Record) -> object:
        """Return the column ``functions``, which was OpenAI's name for ``tools`` before."""
        if self.layout not in CHAT_LAYOUTS or "tools" in self.naming.columns:
            return None
        value = record.get("functions")
        if isinstance(value, str) and value.lstrip().startswith("[{"):
            return value
        is_functions = isinstance(value, list) and all(
            isinstance(item, dict) and isinstance(item.get("name"), str) for item in value
        )
        return value if is_functions else None

    def read_columns(self, raw: Record, record: Record, where: str) -> set[str]:
        """Return the columns of ``raw`` whose content becomes part of the row itself.

        ``record`` has the canonical names too.
        """
        context = self.find_context(record)
        canonical = {*self.sides, *EXTRA, *([context] if context else [])}
        if self.read_history(record, where):
            canonical.add(HISTORY)
        if self.find_functions(record) and not record.get("tools"):
            canonical.add("functions")
        if self.read_reasoning(record, where) is not None:
            canonical.add(REASONING)
        canonical -= self.naming.columns.keys()
        names = {*canonical, *self.naming.columns.values()}
        if not self.is_text:
            aliases = (find_alias(name, raw) for name in canonical)
            names |= {alias for alias in aliases if alias is not None}
        return names

    def parse_cell(self, value: object, where: str) -> object:
        """Return the turns that a cell of a CSV file holds as JSON text; other values unchanged."""
        is_table = self.source.lower().endswith((".csv", ".tsv"))
        if not isinstance(value, str) or not is_table or not value.lstrip().startswith("[{"):
            return value
        try:
            turns = load_json(value, where)
        except json.JSONDecodeError:
            return value
        return turns if is_turn_list(turns) else value


def _is_text_pair(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(text, str) for text in value)
    )


def recognise_columns(record: Record, naming: Naming, source: str, where: str) -> Columns:
    """Return the columns of a source from its first record.

    Raises ``DataError`` for an unknown layout, a preference pair, and a column that the user named
    and the layout does not use.
    """
    named = bool(naming.columns.keys() - EXTRA - {"context", HISTORY, REASONING})
    chosen = None if named else chosen_column(record)
    if chosen is not None and not _has_answer(record):
        refuse_preferences(record, chosen, where)
    layout = (
        layout_of_named_columns(naming.columns, where) if named else layout_of_record(record, where)
    )
    columns = Columns(source, layout, naming, named)
    used = {*columns.sides, *EXTRA, *(OPTIONAL_OF_PAIRS if columns.is_pair else ())}
    unused = next((name for name in naming.columns if name not in used), None)
    if unused is not None:
        raise DataError(
            f"{where}: data.columns.{unused} has no place in rows read as {layout}; take it out, or"
            " name other columns"
        )
    return columns


def _has_answer(record: Record) -> bool:
    """Return whether a row with a preference pair also has a whole conversation or a completion."""
    names = ("messages", "conversations")
    turns = next((record[name] for name in names if is_turn_list(record.get(name))), None)
    if turns is not None:
        return str(turns[-1].get("role") or turns[-1].get("from")).lower() in ("assistant", "gpt")
    answers = ("completion", "response", "output", "answer")
    return any(record.get(name) not in (None, "") for name in answers)
