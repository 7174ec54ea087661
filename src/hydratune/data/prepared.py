"""Reads, cleans, checks and splits a data set once; what comes out is kept in the cache and is the
same for every run.

Rows pass through one by one and lie on disk in between, so the memory needed grows with their
number (some hundred bytes each), not with their texts.
"""

import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from hydratune.cache import build_once, cache_folder
from hydratune.console import Ticker, progress
from hydratune.data import cleaning
from hydratune.data.answers import SCHEMA_FILE, json_schema
from hydratune.data.quality import pii
from hydratune.data.quality.findings import MOST_ROWS, refusals
from hydratune.data.quality.inspection import Inspection
from hydratune.data.quality.leaks import Leak
from hydratune.data.quality.verdict import Verdict
from hydratune.data.reading import (
    SPLIT_NAMES,
    Source,
    digest,
    open_source,
    settings_of,
    with_system,
)
from hydratune.data.rows import Row, stable_hash
from hydratune.data.splits import SPLITS, Side
from hydratune.data.store import RowStore, RowWriter, message_from, turns_of
from hydratune.errors import DataError, RunError
from hydratune.records.files import read_json, write_json
from hydratune.settings.data import DataConfig, PreparedData
from hydratune.settings.registry import plain

# shared settings that decide what preparation does
_PREPARING = (
    "validation_fraction",
    "test_fraction",
    "stratify",
    "train_on",
)
_LOOKING = ("ftfy", "phonenumbers", "py3langid", "python-stdnum", "text2num")
_SHOW_PROGRESS = 2_000  # rows
_BATCH = 1_000  # rows written together


@dataclass(frozen=True)
class Prepared:
    """A folder with one Parquet file a split and ``report.json``."""

    path: Path
    report: dict[str, Any]
    reused: bool = False  # it was in the cache

    def rows(self, split: str) -> Iterator[Row]:
        """Of one split, in file order."""
        with pyarrow.parquet.ParquetFile(self.path / f"{split}.parquet") as file:
            for batch in file.iter_batches(_BATCH):
                for record in batch.to_pylist():
                    yield _row(record)

    @property
    def leaks(self) -> frozenset[str]:
        """Ids of the rows that leak from training, as far as they are still there (the first 10,000
        of each kind).
        """
        leaks: set[str] = set()
        for name in Leak:
            check = self.report["checks"].get(name.value, {})
            # older reports do not say where
            found = itertools.zip_longest(
                check.get("rows", ()), check.get("found_in", ()), fillvalue="train"
            )
            leaks.update(row for row, where in found if "train" in where)
        return frozenset(leaks)

    def errors(self) -> dict[str, str]:
        """check -> what it found, why and what to do, for every check that refuses training."""
        return refusals(self.report["checks"])


def prepare(data: DataConfig) -> Prepared:
    """The prepared form of a data set, made or taken from the cache. Raises ``InputError``."""
    if isinstance(data, PreparedData):
        return read_prepared(Path(data.path))
    source = open_source(data)
    schema = json_schema(data)
    shared = {name: value for name, value in plain(data).items() if name in _PREPARING}
    settings = {
        **settings_of(data),
        **shared,
        "clean": plain(data.clean),
        "quality": plain(data.quality),
    }
    key = stable_hash([settings, schema, source.identity, _code()])
    reused = (cache_folder() / "data" / key).is_dir()
    folder = build_once(f"data/{key}", lambda path: _build(data, schema, source, path))
    return Prepared(folder, json.loads((folder / "report.json").read_text("utf-8")), reused)


def _code() -> str:
    """Of this package's own sources and of the libraries that look at texts: another version
    prepares anew.
    """
    code = hashlib.sha256("".join(map(version, _LOOKING)).encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    return code.hexdigest()


def _build(
    data: DataConfig, schema: Mapping[str, Any] | None, source: Source, folder: Path
) -> None:
    folder.mkdir()
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix="rows-") as temporary,
        _progress(source.about) as ticker,
    ):
        inspection = Inspection(data, schema)
        cleaner = cleaning.Cleaner(data.clean)
        store = _read(source, cleaner, inspection, Path(temporary), ticker)
        given = {Side[name] for name in source.rows if name != "train"} | {Side.train}
        inspection.divide(store, given, ticker.advance)
        report: dict[str, Any] = {
            "source": source.statements,
            "cleaning": {**_changed(cleaner, inspection), **_removed(inspection, store)},
            "checks": {
                finding.name: finding.plain() for finding in Verdict(inspection, store).findings()
            },
            "splits": {},
            "labels": inspection.label_counts(),
        }
        for side in SPLITS:
            rows = (store[i] for i in inspection.numbers(side))
            report["splits"][side.name] = _write(folder / f"{side.name}.parquet", rows, ticker)
        report["left_out"] = {"straddles": _listed(inspection, store, Side.straddles)}
        report["fingerprint"] = _fingerprint(report["splits"])
        store.close()
    write_json(folder / "report.json", report)


@contextmanager
def _progress(about: int) -> Iterator[Ticker]:
    """Every row is read, compared with the others, and written."""
    with progress("preparing data", 3 * about, "rows", quiet=about < _SHOW_PROGRESS) as ticker:
        yield ticker


def _read(
    source: Source, cleaner: cleaning.Cleaner, inspection: Inspection, folder: Path, ticker: Ticker
) -> RowStore:
    """Cleaned rows on disk, in the order of the splits; ``inspection`` has seen each."""
    boilerplate = cleaning.Boilerplate()
    path = folder / "rows.arrow"
    writer = RowWriter(path)
    two_passes = cleaner.config.boilerplate
    sides: list[int] = []
    for name in SPLIT_NAMES:
        for raw in source.rows.get(name, ()):
            row = cleaner(raw)
            if not row.answer.strip() and not row.messages[-1].tool_calls:
                raise DataError(
                    f"{row.where or row.id}: cleaning leaves nothing of the assistant's answer;"
                    " correct it, or see data.clean"
                )
            boilerplate.see(row)
            writer.add(row, "" if two_passes else inspection.see(row, Side[name]))
            sides.append(Side[name])
            ticker.advance(1, 1)
    writer.close()
    store = RowStore(path)
    lines = boilerplate.lines()
    changes = cleaner.changes["boilerplate"]
    changes.examples = [
        {"id": f"{n:,} rows", "before": line, "after": ""} for line, n in list(lines.items())[:20]
    ]
    if not two_passes:
        changes.numbers.extend(boilerplate.changed())
        changes.rows = len(changes.numbers)
        return store
    path = folder / "without.arrow"
    writer = RowWriter(path)
    for number, (row, side) in enumerate(zip(store, sides, strict=True)):
        stripped = cleaning.without_lines(row, lines)
        if stripped is not row:
            changes.rows += 1
            changes.numbers.append(number)
        writer.add(stripped, inspection.see(stripped, Side(side)))
    writer.close()
    store.close()
    return RowStore(path)


def _changed(cleaner: cleaning.Cleaner, inspection: Inspection) -> dict[str, Any]:
    """What was repaired, or would be, in which splits; examples without personal data."""
    told = cleaning.summary(cleaner.changes)
    for name, entry in told.items():
        entry["splits"] = inspection.by_split(cleaner.changes[name].numbers)
        for example in entry["examples"]:
            example |= {
                "before": pii.hidden(example["before"]),
                "after": pii.hidden(example["after"]),
            }
    return told


def _removed(inspection: Inspection, store: RowStore) -> dict[str, Any]:
    """The rows that cleaning took out, as the report shows other changes; of leaks also the rows
    they concerned.
    """
    titles = {
        "drop_duplicates": (Side.duplicate, "repeated training rows removed"),
        "drop_leaks": (Side.leak, "leaking rows removed"),
    }
    told: dict[str, Any] = {
        name: {
            "on": bool(getattr(inspection.data.clean, name)),
            "title": title,
            "examples": [],
            **_listed(inspection, store, side),
        }
        for name, (side, title) in titles.items()
    }
    told["drop_leaks"] |= {
        name: [store.value("id", i) for i in rows[:MOST_ROWS]]
        for name, rows in inspection.leaked.items()
    }
    return told


def _listed(inspection: Inspection, store: RowStore, side: Side) -> dict[str, Any]:
    numbers = inspection.numbers(side)
    return {"rows": len(numbers), "ids": [store.value("id", i) for i in numbers[:MOST_ROWS]]}


def _write(path: Path, rows: Iterable[Row], ticker: Ticker | None = None) -> dict[str, Any]:
    """One split as Parquet. Returns what the report says of it."""
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
            if ticker is not None:
                ticker.advance(len(batch), len(batch))
    return {
        "rows": count,
        "groups": len(groups),
        "characters": characters,
        "hash": content.hexdigest()[:16],
    }


_TURN = pyarrow.struct([(name, pyarrow.string()) for name in ("role", "content")])
_SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("messages", pyarrow.list_(_TURN)),
        ("group", pyarrow.string()),
        ("where", pyarrow.string()),
        ("meta", pyarrow.string()),  # JSON
        ("turns", pyarrow.string()),  # JSON; only where turns hold more than role and content
        ("tools", pyarrow.string()),  # JSON
    ]
)


def _record(row: Row) -> dict[str, Any]:
    turns = turns_of(row)
    more = any(turn.keys() - {"role", "content"} for turn in turns)
    return {
        "id": row.id,
        "messages": [{"role": m.role, "content": m.content} for m in row.messages],
        "group": row.group,
        "where": row.where,
        "meta": json.dumps(row.meta, ensure_ascii=False, default=str),
        "turns": json.dumps(turns, ensure_ascii=False) if more else None,
        "tools": json.dumps(row.tools, ensure_ascii=False) if row.tools else None,
    }


def _row(record: Mapping[str, Any]) -> Row:
    turns = json.loads(record["turns"]) if record["turns"] else record["messages"]
    tools = tuple(json.loads(record["tools"])) if record["tools"] else ()
    return Row(
        record["id"],
        tuple(map(message_from, turns)),
        record["group"],
        json.loads(record["meta"] or "{}"),
        record["where"] or "",
        tools,
    )


_NOTHING = "it holds no prepared data set, or one that was found unfit for training"


def read_prepared(folder: Path) -> Prepared:
    """What ``write_prepared`` wrote. Raises ``DataError`` if a file was changed since."""
    try:
        report = read_json(folder / "report.json")
        files = dict(report["files"])
    except RunError as error:
        if (folder / "report.json").is_file():
            raise DataError(
                f"data.path = {folder}: {error}, or run hydratune prepare again"
            ) from None
        raise DataError(
            f"data.path = {folder}: {_NOTHING}; make one with hydratune prepare"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"data.path = {folder}: {_NOTHING}; make one with hydratune prepare"
        ) from None
    for name, expected in files.items():
        if not (folder / name).is_file() or digest(folder / name) != expected:
            raise DataError(
                f"{folder / name}: changed since hydratune prepare checked it; run it again, or use"
                " the file as data=files"
            )
    return Prepared(folder, report)


def _fingerprint(splits: Mapping[str, Mapping[str, Any]]) -> str:
    return stable_hash([splits[side.name]["hash"] for side in SPLITS])


def write_prepared(prepared: Prepared, folder: Path, data: DataConfig) -> dict[str, Any]:
    """Writes the three Parquet files, with the system turn in every row, and the schema of the
    answers.

    Returns the parts of the report that depend on it. Raises ``OSError``.
    """
    splits = {}
    for side in SPLITS:
        rows = (with_system(row, data.system_prompt) for row in prepared.rows(side.name))
        splits[side.name] = _write(folder / f"{side.name}.parquet", rows)
    schema = json_schema(data)
    if schema is not None:
        write_json(folder / SCHEMA_FILE, schema)
    files = {
        path.name: digest(path)
        for path in sorted(folder.iterdir())
        if path.suffix == ".parquet" or path.name == SCHEMA_FILE
    }
    return {"splits": splits, "fingerprint": _fingerprint(splits), "files": files}
