"""A prepared data set on disk: one Parquet file per split, and ``report.json``.

``preparation`` makes it, in the cache; ``write_prepared`` writes a copy that people can edit, and
``read_prepared`` reads this copy.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pyarrow
import pyarrow.parquet

from hydratune import digests
from hydratune.data.answers import REPORT_FILE, SCHEMA_FILE, json_schema
from hydratune.data.quality.findings import refusals
from hydratune.data.quality.leaks import Leak
from hydratune.data.rows import SPLIT_NAMES, Row, stable_hash, with_system
from hydratune.data.store import message_from, turns_of
from hydratune.errors import DataError, RunError
from hydratune.records.files import read_json, write_json
from hydratune.settings.data import DataConfig

_BATCH = 1_000  # rows written together

Report = Mapping[str, Any]  # the content of report.json


class SplitReport(TypedDict):
    """One split in report.json."""

    rows: int
    groups: int
    characters: int
    hash: str  # of the conversations, in order


@dataclass(frozen=True)
class Prepared:
    """A prepared data set: its folder and the content of its report."""

    path: Path
    report: dict[str, Any]
    reused: bool = False  # it was taken from the cache

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the rows of one split, in file order."""
        with pyarrow.parquet.ParquetFile(self.path / f"{split}.parquet") as file:
            for batch in file.iter_batches(_BATCH):
                for record in batch.to_pylist():
                    yield _row(record)

    def row_count(self, split: str) -> int:
        """Return the number of rows of one split."""
        return int(self.report["splits"][split]["rows"])

    @property
    def leaks(self) -> frozenset[str]:
        """Ids of the rows that leak from training and are still there: at most 10,000 of a kind."""
        leaks: set[str] = set()
        for kind in Leak:
            check = self.report["checks"].get(kind.value, {})
            rows, found_in = check.get("rows", ()), check.get("found_in", ())
            # Reports of older versions do not say in which split a row was found.
            for row, splits in itertools.zip_longest(rows, found_in, fillvalue="train"):
                if "train" in splits:
                    leaks.add(row)
        return frozenset(leaks)

    def errors(self) -> dict[str, str]:
        """Return check -> finding, reason and advice, for every check that forbids training."""
        return refusals(self.report["checks"])


_TURN = pyarrow.struct([(name, pyarrow.string()) for name in ("role", "content")])
_SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("messages", pyarrow.list_(_TURN)),
        ("group", pyarrow.string()),
        ("where", pyarrow.string()),
        ("meta", pyarrow.string()),  # JSON
        ("turns", pyarrow.string()),  # JSON; only if turns have more than role and content
        ("tools", pyarrow.string()),  # JSON
    ]
)


def write_split(
    path: Path, rows: Iterable[Row], advance: Callable[[int], None] = lambda rows: None
) -> SplitReport:
    """Write one split as Parquet; ``advance`` is called with the number of rows written."""
    content, groups, count, characters = hashlib.sha256(), set(), 0, 0
    remaining = iter(rows)
    with pyarrow.parquet.ParquetWriter(path, _SCHEMA) as writer:
        while batch := list(itertools.islice(remaining, _BATCH)):
            writer.write_table(pyarrow.Table.from_pylist([_record(row) for row in batch], _SCHEMA))
            for row in batch:
                content.update(row.content_hash.encode())
                groups.add(stable_hash(row.group or row.id))
                characters += sum(len(m.content) for m in row.messages)
            count += len(batch)
            advance(len(batch))
    return {
        "rows": count,
        "groups": len(groups),
        "characters": characters,
        "hash": content.hexdigest()[:16],
    }


def _record(row: Row) -> dict[str, object]:
    turns = turns_of(row)
    needs_turns = any(turn.keys() - {"role", "content"} for turn in turns)
    return {
        "id": row.id,
        "messages": [{"role": m.role, "content": m.content} for m in row.messages],
        "group": row.group,
        "where": row.where,
        "meta": json.dumps(row.meta, ensure_ascii=False, default=str),
        "turns": json.dumps(turns, ensure_ascii=False) if needs_turns else None,
        "tools": json.dumps(row.tools, ensure_ascii=False) if row.tools else None,
    }


def _row(record: Mapping[str, Any]) -> Row:
    turns = json.loads(record["turns"]) if record["turns"] else record["messages"]
    return Row(
        record["id"],
        tuple(map(message_from, turns)),
        group=record["group"],
        meta=json.loads(record["meta"] or "{}"),
        where=record["where"] or "",
        tools=tuple(json.loads(record["tools"])) if record["tools"] else (),
    )


def fingerprint(splits: Mapping[str, SplitReport]) -> str:
    """Return a hash that changes when a conversation of any split changes."""
    return stable_hash([splits[name]["hash"] for name in SPLIT_NAMES])


def write_prepared(prepared: Prepared, folder: Path, data: DataConfig) -> dict[str, object]:
    """Write the three Parquet files, with the system turn in every row, and the JSON schema of the
    answers.

    Returns the parts of the report that depend on them. Raises ``OSError``.
    """
    splits = {}
    for name in SPLIT_NAMES:
        rows = (with_system(row, data.system_prompt) for row in prepared.rows(name))
        splits[name] = write_split(folder / f"{name}.parquet", rows)
    schema = json_schema(data)
    if schema is not None:
        write_json(folder / SCHEMA_FILE, schema)
    files = {
        path.name: digests.of_file(path)
        for path in sorted(folder.iterdir())
        if path.suffix == ".parquet" or path.name == SCHEMA_FILE
    }
    return {"splits": splits, "fingerprint": fingerprint(splits), "files": files}


def read_prepared(folder: Path) -> Prepared:
    """Read what ``write_prepared`` wrote.

    Raises ``DataError`` if there is none, or if a file was changed since.
    """
    report_file = folder / REPORT_FILE
    nothing = DataError(
        f"data.path = {folder}: no prepared data set in it, or one that is not fit for training;"
        " make one with hydratune prepare"
    )
    try:
        report = read_json(report_file)
        files = dict(report["files"])
    except RunError as error:
        if not report_file.is_file():
            raise nothing from None
        message = f"data.path = {folder}: {error}, or run hydratune prepare again"
        raise DataError(message) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise nothing from None
    for name, expected in files.items():
        if not (folder / name).is_file() or digests.of_file(folder / name) != expected:
            raise DataError(
                f"{folder / name}: changed since hydratune prepare checked it; run it again, or use"
                " the file as data=files"
            )
    return Prepared(folder, report)
