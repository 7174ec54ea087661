"""Rows written to a file and read back, for the tests of the file formats."""

from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.data.formats import reader
from hydratune.data.rows import Row
from hydratune.errors import DataError

QUESTION, ANSWER = "Where is the kettle?", "In the attic."
USER_TURN = {"role": "user", "content": QUESTION}
ASSISTANT_TURN = {"role": "assistant", "content": ANSWER}
CHAT = [USER_TURN, ASSISTANT_TURN]
TURNS = [("user", QUESTION), ("assistant", ANSWER)]  # turns_of() the row of CHAT
PAIR = {"prompt": QUESTION, "completion": ANSWER}
SHORT_PAIR = {"prompt": "p", "completion": "c"}


def read(path: Path, naming: Any = None) -> tuple[list[Row], list[str]]:
    """Return the rows of a file, and the reader's statements without the path."""
    statements: list[str] = []
    rows = list(reader.read_file(path, naming or {}, "utf-8", statements))
    return rows, [s.removeprefix(f"{path}: ") for s in statements]


def read_rows(path: Path, naming: Any, encoding: str = "utf-8") -> list[Row]:
    """Return the rows of a file."""
    return list(reader.read_file(path, naming, encoding))


def statements_of(path: Path, naming: Any = None) -> list[str]:
    """Return the reader's statements about a file, without its path."""
    return read(path, naming)[1]


def write_and_read(
    path: Path, records: list[dict[str, Any]], naming: Any = None
) -> tuple[list[Row], list[str]]:
    """Write ``records`` and return what ``read`` returns for the file."""
    return read(write_rows(path, records), naming)


def read_row(path: Path, record: dict[str, Any], columns: dict[str, str] | None = None) -> Row:
    """Write a file of one record and return its only row."""
    (row,) = write_and_read(path, [record], columns)[0]
    return row


def read_chat(path: Path, *turns: dict[str, Any], **columns: Any) -> Row:
    """Write a conversation, with further ``columns``, and return its row."""
    return read_row(path, {"messages": list(turns), **columns})


def turns_of(row: Row) -> list[tuple[str, str]]:
    """Return role and content of each turn."""
    return [(m.role, m.content) for m in row.messages]


def error_of(path: Path, naming: Any = None) -> str:
    """Return the message with which a file is refused."""
    with pytest.raises(DataError) as caught:
        read(path, naming)
    return str(caught.value)


def refusal_of(path: Path, *turns: dict[str, Any], **columns: Any) -> str:
    """Write a conversation and return the message, with its place, that refuses it."""
    with pytest.raises(DataError) as caught:
        read_chat(path, *turns, **columns)
    assert f"{path}:1: " in str(caught.value)
    return str(caught.value)
