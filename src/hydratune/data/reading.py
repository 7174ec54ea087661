"""From a data configuration to rows as they are in their source, one after the other, and what identifies that source."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydratune.config import (
    SCHEMAS,
    CaseData,
    ContractsData,
    DataConfig,
    FilesData,
    HubData,
    MixedData,
    RepositoryData,
    TechSupportData,
    plain,
)
from hydratune.data.cases import CASES
from hydratune.data.contracts import contract_rows
from hydratune.data.formats import open_hub, read_file, read_hub
from hydratune.data.rows import Message, Row
from hydratune.data.splits import unit_hash
from hydratune.errors import ConfigError, DataError, Problem

SPLIT_NAMES = ("train", "validation", "test")
_SHARED = {f.name for f in fields(DataConfig)}


@dataclass
class Source:
    """Rows by split; a split that is not in ``rows`` is to be split off the training rows.

    ``identity`` changes when the content of the source does. ``statements`` say what was recognised, once rows are read.
    """

    rows: dict[str, Iterator[Row]]
    identity: Any
    about: int = 0  # number of rows, as far as it can be known before reading
    statements: list[str] = field(default_factory=list)


def open_source(data: DataConfig) -> Source:
    """Raises ``InputError``; also while rows are drawn."""
    statements: list[str] = []
    if isinstance(data, ContractsData):
        counts = {"train": data.train_rows, "validation": data.validation_rows, "test": data.test_rows}
        rows = {name: iter(contract_rows(name, n, data.difficulty, data.seed)) for name, n in counts.items()}
        statements.append(f"contracts: written by the generator, difficulty {data.difficulty.value}, seed {data.seed}")
        return Source(rows, "generated", sum(counts.values()), statements)
    if isinstance(data, FilesData):
        files = {name: Path(file) for name in SPLIT_NAMES if (file := getattr(data, name))}
        rows = {name: read_file(path, data.columns, data.encoding, statements) for name, path in files.items()}
        return Source(rows, {name: _digest(path) for name, path in files.items()}, sum(map(_lines, files.values())), statements)
    if isinstance(data, HubData):
        names = {name: split for name in SPLIT_NAMES if (split := getattr(data, name))}
        opened = {name: open_hub(data.id, data.subset, split, data.revision) for name, split in names.items()}
        rows = {name: read_hub(opened[name], data.id, split, data.columns, statements) for name, split in names.items()}
        identity = {name: str(getattr(part, "_fingerprint", "")) for name, part in opened.items()}
        return Source(rows, identity, sum(map(len, opened.values())), statements)
    if isinstance(data, CaseData):
        parts = zip(SPLIT_NAMES, CASES[data.source](data), strict=True)
        read = {name: part for name, part in parts if part is not None}
        statements += [f"{data.path}: read as {data.source}"]
        return Source({name: iter(part) for name, part in read.items()}, _folders(data), sum(map(len, read.values())), statements)
    if isinstance(data, MixedData):
        return _mixed(data)
    raise AssertionError(type(data))


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _folders(data: CaseData) -> list[tuple[str, int, int]]:
    """Name, size and time of every file that the case may read."""
    folders = [data.path, *([data.tldr] if isinstance(data, TechSupportData) and data.tldr else [])]
    pattern = "*.py" if isinstance(data, RepositoryData) else "*"
    files = [path for folder in folders for path in sorted(Path(folder).rglob(pattern)) if path.is_file()]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _lines(path: Path) -> int:
    """About how many rows a file holds; for progress only."""
    if path.suffix.lower() == ".parquet":
        return 0
    with path.open("rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b""))


@dataclass(frozen=True)
class _Part:
    name: str
    data: DataConfig
    weight: float


def _mixed(data: MixedData) -> Source:
    """All parts together. The training rows of a part are as many as its weight allows without repeating a row of any."""
    parts = mixed_parts(data)
    sources = {part.name: open_source(part.data) for part in parts}
    splits = {name: set(source.rows) for name, source in sources.items()}
    if len({frozenset(s) for s in splits.values()}) > 1:
        listed = "; ".join(f"{name}: {', '.join(sorted(s))}" for name, s in splits.items())
        raise DataError(f"data.parts: some have rows of their own for a split and others do not ({listed}); give them to all, or to none")
    taken = _shares(parts)
    rows = {split: _chain(parts, sources, split, taken) for split in sources[parts[0].name].rows}
    total = sum(map(len, taken.values()))
    statements = [f"{name}: {len(rows):,} of its training rows, {100 * len(rows) / total:.0f} % of all" for name, rows in taken.items()]
    identity = {name: source.identity for name, source in sources.items()}
    return Source(rows, identity, sum(source.about for source in sources.values()), statements)


def mixed_parts(data: MixedData) -> list[_Part]:
    """The parts as typed settings. Raises ``ConfigError`` with every problem."""
    problems: list[Problem] = []
    parts = []
    if not data.parts:
        problems.append(Problem("data.parts", "{}", "there is nothing to mix", "+data.parts.NAME.source=files +data.parts.NAME.train=FILE"))
    for name, values in data.parts.items():
        key = f"data.parts.{name}"
        settings = dict(values) if isinstance(values, Mapping) else {}
        source, weight = settings.pop("source", None), settings.pop("weight", 1)
        kinds = [kind for kind in SCHEMAS["data"] if kind not in ("mixed", "prepared")]
        if source not in kinds:
            problems.append(Problem(f"{key}.source", source, "no such source", f"one of: {', '.join(kinds)}"))
            continue
        if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not 0 < weight < math.inf:
            problems.append(Problem(f"{key}.weight", weight, "must be a number above 0", "for example 1"))
            continue
        try:
            merged = OmegaConf.merge(OmegaConf.structured(SCHEMAS["data"][source]), OmegaConf.create({**settings, "source": source}))
            typed = OmegaConf.to_object(merged)
        except OmegaConfBaseException as error:
            why = str(error).splitlines()[0]
            problems.append(Problem(f"{key}.{getattr(error, 'full_key', '') or ''}".rstrip("."), "", why, f"the settings of data={source}"))
            continue
        assert isinstance(typed, DataConfig)
        parts.append(_Part(str(name), typed, float(weight)))
    if problems:
        raise ConfigError(problems)
    return parts


def _shares(parts: list[_Part]) -> dict[str, frozenset[int]]:
    """part -> the numbers of its training rows that take part: those that come first by a hash of their id."""
    ranks: dict[str, Any] = {}
    for part in parts:
        hashes = np.fromiter((unit_hash(f"mix/{part.name}/{row.id}") for row in open_source(part.data).rows["train"]), float)
        limit = part.data.max_train_rows
        ranks[part.name] = np.argsort(hashes, kind="stable")[: limit if limit is not None else len(hashes)]
    unit = min(len(ranks[part.name]) / part.weight for part in parts)
    return {part.name: frozenset(ranks[part.name][: round(unit * part.weight)].tolist()) for part in parts}


def _chain(parts: list[_Part], sources: dict[str, Source], split: str, taken: dict[str, frozenset[int]]) -> Iterator[Row]:
    for part in parts:
        for number, row in enumerate(sources[part.name].rows[split]):
            if split == "train" and number not in taken[part.name]:
                continue
            group = f"{part.name}/{row.group}" if row.group else None
            named = replace(row, id=f"{part.name}/{row.id}", group=group, meta={**row.meta, "part": part.name})
            yield with_system(named, part.data.system_prompt)


def with_system(row: Row, system: str | None) -> Row:
    """``row`` with a system turn in front, if it has none of its own."""
    if system is None or row.messages[0].role in ("system", "text"):
        return row
    return replace(row, messages=(Message("system", system), *row.messages))


def settings_of(data: DataConfig) -> dict[str, Any]:
    """The settings that decide what ``open_source`` reads."""
    return {name: value for name, value in plain(data).items() if name not in _SHARED}
