"""From a data configuration to rows as they are in their source, one after the other, and what
identifies that source.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hydratune.data.cases import CASES
from hydratune.data.contracts import contract_rows
from hydratune.data.formats.columns import Naming
from hydratune.data.formats.preferences import ANY
from hydratune.data.formats.reader import open_hub, read_file, read_hub
from hydratune.data.rows import Message, Row
from hydratune.data.splits import SPLITS, unit_hash
from hydratune.errors import DataError
from hydratune.settings.data import (
    CaseData,
    ContractsData,
    DataConfig,
    FilesData,
    HubData,
    MixedData,
    RepositoryData,
    TechSupportData,
    part,
)
from hydratune.settings.registry import plain

SPLIT_NAMES = tuple(side.name for side in SPLITS)
_SHARED = {f.name for f in fields(DataConfig)}


@dataclass
class Source:
    """Rows by split; a split that is not in ``rows`` is to be split off the training rows.

    ``identity`` changes when the content of the source does. ``statements`` say what was
    recognised, once rows are read.
    """

    rows: dict[str, Iterator[Row]]
    identity: Any
    about: int = 0  # number of rows, as far as it can be known before reading
    statements: list[str] = field(default_factory=list)


def open_source(data: DataConfig) -> Source:
    """Raises ``InputError``; also while rows are drawn."""
    statements: list[str] = []
    if isinstance(data, ContractsData):
        counts = {
            "train": data.train_rows,
            "validation": data.validation_rows,
            "test": data.test_rows,
        }
        rows = {
            name: iter(contract_rows(name, n, data.difficulty, data.seed))
            for name, n in counts.items()
        }
        statements.append(
            f"contracts: written by the generator, difficulty {data.difficulty.value}, seed"
            f" {data.seed}"
        )
        return Source(rows, "generated", sum(counts.values()), statements)
    if isinstance(data, FilesData):
        files = {name: Path(file) for name in SPLIT_NAMES if (file := getattr(data, name))}
        rows = {
            name: read_file(path, _naming(data), data.encoding, statements)
            for name, path in files.items()
        }
        return Source(
            rows,
            {name: digest(path) for name, path in files.items()},
            sum(map(_lines, files.values())),
            statements,
        )
    if isinstance(data, HubData):
        names = {name: split for name in SPLIT_NAMES if (split := getattr(data, name))}
        opened = {
            name: open_hub(data.id, data.subset, split, data.revision)
            for name, split in names.items()
        }
        rows = {
            name: read_hub(opened[name], data.id, split, _naming(data), statements)
            for name, split in names.items()
        }
        identity = {name: str(getattr(part, "_fingerprint", "")) for name, part in opened.items()}
        return Source(rows, identity, sum(map(len, opened.values())), statements)
    if isinstance(data, CaseData):
        parts = zip(SPLIT_NAMES, CASES[data.source](data), strict=True)
        read = {name: part for name, part in parts if part is not None}
        statements += [f"{data.path}: read as {data.source}"]
        return Source(
            {name: iter(part) for name, part in read.items()},
            _folders(data),
            sum(map(len, read.values())),
            statements,
        )
    if isinstance(data, MixedData):
        return _mixed(data)
    raise AssertionError(type(data))


def _naming(data: FilesData | HubData) -> Naming:
    """What the settings say of columns, speakers and rows; a column that rows are divided by is no
    mark of good answers.
    """
    divides = {data.stratify: ANY} if data.stratify and data.stratify != "answer" else {}
    return Naming(data.columns, data.roles, {**divides, **data.keep})


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _folders(data: CaseData) -> list[tuple[str, int, int]]:
    """Name, size and time of every file that the case may read."""
    folders = [data.path, *([data.tldr] if isinstance(data, TechSupportData) and data.tldr else [])]
    pattern = "*.py" if isinstance(data, RepositoryData) else "*"
    files = [
        path for folder in folders for path in sorted(Path(folder).rglob(pattern)) if path.is_file()
    ]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _lines(path: Path) -> int:
    """About how many rows a file holds; for progress only."""
    if path.suffix.lower() == ".parquet":
        return 0
    with path.open("rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b""))


def _mixed(data: MixedData) -> Source:
    """All parts together. The training rows of a part are as many as its weight allows without
    repeating a row of any.

    Which of its rows take part is decided by a hash, so that adding rows to a part changes few of
    the others.
    """
    parts = {name: part(values) for name, values in data.parts.items()}
    sources = {name: open_source(settings) for name, (settings, _) in parts.items()}
    splits = {name: sorted(source.rows) for name, source in sources.items()}
    if len(set(map(tuple, splits.values()))) > 1:
        listed = "; ".join(f"{name}: {', '.join(own)}" for name, own in splits.items())
        raise DataError(
            f"data.parts: some have rows of their own for a split and others do not ({listed});"
            " give them to all, or to none"
        )
    ranks: dict[str, list[int]] = {}
    for name, (settings, _) in parts.items():
        hashes = [unit_hash(f"mix/{name}/{row.id}") for row in open_source(settings).rows["train"]]
        ranks[name] = sorted(range(len(hashes)), key=hashes.__getitem__)[: settings.max_train_rows]
    unit = min(len(ranks[name]) / weight for name, (_, weight) in parts.items())
    taken = {
        name: frozenset(ranks[name][: round(unit * weight)]) for name, (_, weight) in parts.items()
    }
    total = sum(map(len, taken.values()))
    statements = [
        f"{name}: {len(own):,} of its training rows, {100 * len(own) / total:.0f} % of all"
        for name, own in taken.items()
    ]
    rows = {
        split: _chain(parts, sources, split, taken, statements)
        for split in next(iter(splits.values()))
    }
    return Source(
        rows,
        {name: s.identity for name, s in sources.items()},
        sum(s.about for s in sources.values()),
        statements,
    )


def _chain(
    parts: Mapping[str, tuple[DataConfig, float]],
    sources: Mapping[str, Source],
    split: str,
    taken: Mapping[str, frozenset[int]],
    statements: list[str],
) -> Iterator[Row]:
    for name, (settings, _) in parts.items():
        for number, row in enumerate(sources[name].rows[split]):
            if split == "train" and number not in taken[name]:
                continue
            named = replace(row, id=f"{name}/{row.id}", meta={**row.meta, "part": name})
            yield with_system(named, settings.system_prompt)
        statements += [
            f"{name}: {s}" for s in sources[name].statements if f"{name}: {s}" not in statements
        ]


def with_system(row: Row, system: str | None) -> Row:
    """``row`` with a system turn in front, if it has none of its own."""
    if system is None or row.messages[0].role in ("system", "text"):
        return row
    return replace(row, messages=(Message("system", system), *row.messages))


def settings_of(data: DataConfig) -> dict[str, Any]:
    """The settings that decide what ``open_source`` reads."""
    return {name: value for name, value in plain(data).items() if name not in _SHARED}
