"""Rows on disk in Arrow format: written one after the other and read back by number, so that a
large data set need not fit into memory.
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow

from hydratune.data.rows import Message, Row

_BATCH = 512  # rows
_COLUMNS = ("id", "group", "where", "messages", "meta", "tools", "key")
_SCHEMA = pyarrow.schema([(name, pyarrow.string()) for name in _COLUMNS])


def turns_of(row: Row) -> list[dict[str, Any]]:
    """Return the conversation as plain values."""
    return [
        message.turn() | ({} if message.train else {"train": False}) for message in row.messages
    ]


def message_from(turn: Mapping[str, Any]) -> Message:
    """Return the message of one turn: the inverse of ``turns_of``."""
    return Message(
        turn["role"],
        turn["content"],
        reasoning=turn.get("reasoning_content"),
        tool_calls=tuple(turn.get("tool_calls") or ()),
        tool_call_id=turn.get("tool_call_id"),
        name=turn.get("name"),
        train=turn.get("train", True),
    )


class RowWriter:
    """Appends rows to a file."""

    def __init__(self, path: Path) -> None:
        self._writer = pyarrow.ipc.new_file(str(path), _SCHEMA)
        self._columns: list[list[str | None]] = [[] for _ in _SCHEMA]

    def add(self, row: Row, key: str) -> None:
        """Append a row; ``key`` is a text that is stored beside it (its normalised request)."""
        tools = _json(row.tools) if row.tools else None
        messages, meta = _json(turns_of(row)), _json(row.meta)
        values = (row.id, row.group, row.where, messages, meta, tools, key)
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        if len(self._columns[0]) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        columns = [pyarrow.array(column, pyarrow.string()) for column in self._columns]
        self._writer.write_batch(pyarrow.record_batch(columns, schema=_SCHEMA))
        self._columns = [[] for _ in _SCHEMA]

    def close(self) -> None:
        """Write the remaining rows and the end of the file."""
        if self._columns[0]:
            self._flush()
        self._writer.close()


class RowStore:
    """The rows of a file that ``RowWriter`` closed."""

    def __init__(self, path: Path) -> None:
        self._map = pyarrow.memory_map(str(path))
        self._file = pyarrow.ipc.open_file(self._map)
        self._batch = lru_cache(maxsize=64)(self._file.get_batch)
        batches = self._file.num_record_batches
        last = self._file.get_batch(batches - 1).num_rows if batches else 0
        self._count = (batches - 1) * _BATCH + last if batches else 0

    def __len__(self) -> int:
        return self._count

    def id(self, number: int) -> str:
        """Return the id of a row."""
        return str(self._value("id", number))

    def where(self, number: int) -> str:
        """Return file:line of a row, empty where it is not known."""
        return str(self._value("where", number))

    def key(self, number: int) -> str:
        """Return the text that was stored beside a row."""
        return str(self._value("key", number))

    def _value(self, column: str, number: int) -> object:
        return self._batch(number // _BATCH).column(column)[number % _BATCH].as_py()

    def __getitem__(self, number: int) -> Row:
        batch, position = self._batch(number // _BATCH), number % _BATCH
        return _row({name: batch.column(name)[position].as_py() for name in _COLUMNS})

    def __iter__(self) -> Iterator[Row]:
        for number in range(self._file.num_record_batches):
            for record in self._file.get_batch(number).to_pylist():
                yield _row(record)

    def close(self) -> None:
        """Close the file."""
        self._map.close()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _row(record: Mapping[str, Any]) -> Row:
    tools = tuple(json.loads(record["tools"])) if record["tools"] else ()
    messages = tuple(message_from(turn) for turn in json.loads(record["messages"]))
    meta = json.loads(record["meta"])
    return Row(record["id"], messages, record["group"], meta, record["where"], tools)
