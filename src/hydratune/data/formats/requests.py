"""Read rows that are to be answered: like training rows, but their answer may be missing.

The readers of training rows require an answer. Where a record has none, it gets a placeholder for
one, which is taken out of the row again; so requests and training rows are read by the same code.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydratune.data.formats.columns import Naming, is_absent
from hydratune.data.formats.files import read_records
from hydratune.data.formats.json_files import load_json
from hydratune.data.formats.layouts import PAIRS, ROLE_KEYS, is_turn_list
from hydratune.data.formats.preferences import ANY
from hydratune.data.formats.reader import to_rows
from hydratune.data.formats.roles import CALL, is_known, role_of
from hydratune.data.rows import Message, Record, Records, Row
from hydratune.errors import DataError

# stands for a missing answer: no text has it, and no repair of texts changes it
_NO_ANSWER = "\u241fanswer\u241f"
_CHATS = ("messages", "conversations")
_PAIRS = (("instruction", "output"), *PAIRS)
_USUAL = dict(reversed(_PAIRS))  # of several answers of a request the first one
_ANSWER_OF = {request: _USUAL[request] for request, _ in _PAIRS}  # in the order of _PAIRS


@dataclass(frozen=True)
class Request:
    """A row to be answered: ``row`` ends with the reference, or with an empty assistant turn."""

    number: int  # from 1, in the file
    row: Row
    has_reference: bool
    id: str | None  # as in the file

    @property
    def is_text(self) -> bool:
        """Whether the row was a text without roles."""
        return self.row.is_text


def read_requests(
    path: Path,
    naming: Naming,
    usual: Naming,
    encoding: str = "utf-8",
    statements: list[str] | None = None,
    delimiter: str | None = None,
) -> Iterator[Request]:
    """Yield the rows of a file in order; how it was read is appended to ``statements``.

    ``usual`` names columns and speakers where ``naming`` names none and the file has them. Columns
    that mark an answer as good or bad say nothing about its request, so they select no rows.
    Raises ``DataError``.
    """
    statements = [] if statements is None else statements
    records = read_records(path, encoding, statements, delimiter)
    return to_requests(records, str(path), naming, usual, statements)


def to_requests(
    records: Records,
    source: str,
    naming: Naming,
    usual: Naming,
    statements: list[str] | None = None,
) -> Iterator[Request]:
    """Yield the requests of records, as ``read_requests`` those of a file. Raises ``DataError``."""
    first = next(records, None)
    if first is None:
        raise DataError(f"{source}: no rows in it; at least one is needed")
    columns = _columns_for(first[1], naming.columns, usual.columns)
    marks = {str(name): ANY for name in first[1]}
    naming = Naming(columns, naming.roles or usual.roles, marks)
    every = _with_answers(itertools.chain([first], records), naming)
    for number, row in enumerate(to_rows(every, source, naming, statements), 1):
        yield _as_request(number, row)


def without_answers(statement: str) -> str:
    """Return how a source was read, if no row of it had an answer: without the added column."""
    for request, answer in _PAIRS:
        layout = f"read as {request}/{answer}"
        if layout in statement:
            before, _, after = statement.partition(layout)
            columns, separator, rest = after.partition(";")
            columns = columns.replace(f", {answer}", "")
            return f"{before}read as {request} without {answer}{columns}{separator}{rest}"
    return statement


def _as_request(number: int, row: Row) -> Request:
    own = None if row.id == row.content_hash else row.id
    if row.is_text:
        return Request(number, row, False, own)
    has_reference = row.messages[-1].content != _NO_ANSWER
    if not has_reference:
        row = replace(row, messages=(*row.prompt, replace(row.messages[-1], content="")))
    return Request(number, replace(row, id=own or f"row {number}"), has_reference, own)


def _columns_for(
    record: Record, named: Mapping[str, str], usual: Mapping[str, str]
) -> dict[str, str]:
    """Return canonical name -> column of a file.

    Where only the request's column is named, the answer has its usual name: it may be missing.
    """
    columns = dict(named) or {name: own for name, own in usual.items() if own in record}
    if not any(request in columns and answer in columns for request, answer in _PAIRS):
        request = next((name for name in _ANSWER_OF if name in columns), None)
        if request is not None:
            columns[_ANSWER_OF[request]] = _ANSWER_OF[request]
    return columns


def _with_answers(records: Records, naming: Naming) -> Records:
    """Yield records with a placeholder where they have no answer."""
    for where, record in records:
        yield where, _with_answer(record, naming, where)


def _with_answer(record: Record, naming: Naming, where: str) -> Record:
    columns = naming.columns
    for name in _CHATS:
        column = columns.get(name, name)
        if not is_absent(record.get(column)):
            turns = _turns(record[column], where)
            if turns is None or _is_answered(turns, naming, where):
                return record
            return {**record, column: [*turns, _new_turn(turns[-1])]}
    sides = _sides(record, columns)
    if sides is None or not is_absent(record.get(sides[1])):
        return record
    return {**record, sides[1]: _NO_ANSWER}


def _sides(record: Record, columns: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the columns of request and answer; None if the record is no pair."""
    for request, answer in _PAIRS:
        if request in columns and answer in columns:
            return columns[request], columns[answer]
    if "text" in columns:
        return None
    for request, answer in _PAIRS:
        if request in record and answer in record:
            return request, answer
    if "text" in record:
        return None
    request = next((name for name in _ANSWER_OF if name in record), "")
    return (request, _ANSWER_OF[request]) if request else None


def _turns(value: object, where: str) -> list[dict[str, Any]] | None:
    """Return the turns of a conversation, also from JSON text; None if it has another form."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = load_json(value, where)
        except ValueError:
            return None
    return [dict(turn) for turn in value] if is_turn_list(value) else None


def _is_answered(turns: list[dict[str, Any]], naming: Naming, where: str) -> bool:
    """Return whether the last turn is the assistant's."""
    last = turns[-1]
    speaker = next((last[key] for key in ROLE_KEYS if isinstance(last.get(key), str)), "")
    if not is_known(speaker, naming.roles):
        return False
    return role_of(speaker, naming.roles, where) in ("assistant", CALL)


def _new_turn(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Return an assistant turn with the keys that ``turn`` has for speaker and content."""
    if isinstance(turn.get("from"), str):
        return {"from": "gpt", "value": _NO_ANSWER}
    return {"role": "assistant", "content": _NO_ANSWER}


def as_question(row: Row) -> Row:
    """Return a text as the turn of a user, with an empty assistant turn."""
    return replace(row, messages=(Message("user", row.text), Message("assistant", "")))
