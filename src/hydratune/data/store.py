"""Rows on disk as Arrow: written one after the other, read back by number, so that a large set need
not fit into memory.
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow

from hydratune.data.rows import Message, Row

_BATCH = 512  # rows
_SCHEMA = pyarrow.schema(
    [
        (name, pyarrow.string())
        for name in ("id", "group", "where", "messages", "meta", "tools", "key")
    ]
)


def turns_of(row: Row) -> list[dict[str, Any]]:
    """The conversation as plain values."""
    return [
        message.turn() | ({} if message.train else {"train": False}) for message in row.messages
    ]


def message_from(turn: Mapping[str, Any]) -> Message:
    """The inverse of ``turns_of`` for one turn."""
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
    """Appends rows to a file; ``key`` is a text that is kept beside each row (its normalised
    request).
    """

    def __init__(self, path: Path) -> None:
        self._writer = pyarrow.ipc.new_file(str(path), _SCHEMA)
        self._columns: list[list[str | None]] = [[] for _ in _SCHEMA]

    def add(self, row: Row, key: str) -> None:
        values = (
            row.id,
            row.group,
            row.where,
            _json(turns_of(row)),
            _json(row.meta),
            _json(row.tools) if row.tools else None,
            key,
        )
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        if len(self._columns[0]) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_batch(
            pyarrow.record_batch(
                [pyarrow.array(c, pyarrow.string()) for c in self._columns], schema=_SCHEMA
            )
        )
        self._columns = [[] for _ in _SCHEMA]

    def close(self) -> None:
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
        self._count = (
            (batches - 1) * _BATCH + self._file.get_batch(batches - 1).num_rows if batches else 0
        )

    def __len__(self) -> int:
        return self._count

    def value(self, column: str, number: int) -> Any:
        return self._batch(number // _BATCH).column(column)[number % _BATCH].as_py()

    def __getitem__(self, number: int) -> Row:
        batch, at = self._batch(number // _BATCH), number % _BATCH
        return _row({name: batch.column(name)[at].as_py() for name in _SCHEMA.names})

    def __iter__(self) -> Iterator[Row]:
        for number in range(self._file.num_record_batches):
            for record in self._file.get_batch(number).to_pylist():
                yield _row(record)

    def close(self) -> None:
        self._map.close()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _row(record: Mapping[str, Any]) -> Row:
    tools = tuple(json.loads(record["tools"])) if record["tools"] else ()
    messages = tuple(message_from(turn) for turn in json.loads(record["messages"]))
    return Row(
        record["id"], messages, record["group"], json.loads(record["meta"]), record["where"], tools
    )
