"""Read, clean, check and split a data set; the result is kept in the cache and is the same for
every run.

Rows pass through one by one and lie on disk in between, so the memory needed grows with their
number (some hundred bytes each), not with their texts.
"""

import gc
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hydratune.cache import build_once, cache_folder
from hydratune.console import Ticker, progress
from hydratune.data.answers import REPORT_FILE, json_schema
from hydratune.data.boilerplate import Boilerplate, remove_lines
from hydratune.data.cleaning import Cleaner, summarise_changes
from hydratune.data.prepared import Prepared, fingerprint, read_prepared, write_split
from hydratune.data.quality import pii
from hydratune.data.quality.findings import MOST_ROWS
from hydratune.data.quality.inspection import Inspection
from hydratune.data.quality.set_checks import run_checks
from hydratune.data.quality.skipped import skipped_for_packages
from hydratune.data.rows import SPLIT_NAMES, Row, stable_hash
from hydratune.data.source_errors import open_source
from hydratune.data.sources.base import OpenedSource, SourceConfig
from hydratune.data.sources.prepared import PreparedData
from hydratune.data.splits import SPLITS, Side
from hydratune.data.store import RowStore, RowWriter
from hydratune.errors import DataError
from hydratune.lean_imports import has_frozen
from hydratune.records.files import write_json
from hydratune.settings import packages
from hydratune.settings.data import DataConfig
from hydratune.settings.registry import is_own, plain
from hydratune.wording import counted

# Settings of every source on which the prepared rows depend.
_PREPARING = ("validation_fraction", "test_fraction", "stratify", "train_on")
_LIBRARIES = ("ftfy", "phonenumbers", "py3langid", "python-stdnum", "text2num")
_SHOW_PROGRESS = 2_000  # rows
_MOST_LINES = 20  # of boilerplate, as examples
_PASSES = 3  # every row is read, compared with the others, and written


def prepare(data: DataConfig) -> Prepared:
    """Return the prepared form of a data set, made or taken from the cache.

    Raises ``InputError``.
    """
    if isinstance(data, PreparedData):
        return read_prepared(Path(data.path))
    assert isinstance(data, SourceConfig), type(data)
    source = open_source(data)
    schema = json_schema(data)
    shared = {name: value for name, value in plain(data).items() if name in _PREPARING}
    settings = {
        **data.own_settings(),
        **shared,
        "clean": plain(data.clean),
        "quality": plain(data.quality),
    }
    content = [settings, schema, source.identity, _code_version()]
    if not is_own(type(data)):  # its code is no part of this package's
        content.append(packages.source_hash(type(data)))
    key = stable_hash(content)
    reused = (cache_folder() / "data" / key).is_dir()
    folder = build_once(f"data/{key}", lambda path: _build(data, schema, source, path))
    report = json.loads((folder / REPORT_FILE).read_text("utf-8"))
    return Prepared(folder, report, reused)


@contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """Leave the million objects of imported modules out of garbage collection, which would take a
    tenth of the time, and collect less often, because rows make few cycles.
    """
    before, was_frozen = gc.get_threshold(), has_frozen()
    if not was_frozen:
        gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if not was_frozen and not has_frozen():
            gc.unfreeze()


def _code_version() -> str:
    """Return a hash of this package's files and of the versions of the libraries that it uses, so
    that another version prepares the data again.
    """
    code = hashlib.sha256("".join(map(_version, _LIBRARIES)).encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    return code.hexdigest()


def _version(library: str) -> str:
    """Return the version of a package, or that it is missing: its checks are then skipped."""
    try:
        return version(library)
    except PackageNotFoundError:
        return f"{library} is missing"


def _build(
    data: DataConfig, schema: Mapping[str, object] | None, source: OpenedSource, folder: Path
) -> None:
    """Write the prepared data set into a new folder."""
    folder.mkdir()
    quiet = source.about < _SHOW_PROGRESS
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix="rows-") as temporary,
        progress("preparing data", _PASSES * source.about, "rows", quiet=quiet) as ticker,
    ):
        inspection = Inspection(data, schema)
        cleaner = Cleaner(data.clean)
        store = _read(source, cleaner, inspection, Path(temporary), ticker)
        given = {Side[name] for name in source.rows if name != "train"} | {Side.train}
        inspection.divide(store, given, ticker.advance)
        cleaning = {**_changes(cleaner, inspection), **_removals(inspection, store)}
        checks = {finding.name: finding.plain() for finding in run_checks(inspection, store)}
        splits = {}
        for side in SPLITS:
            rows = (store[i] for i in inspection.rows_on(side))
            path = folder / f"{side.name}.parquet"
            splits[side.name] = write_split(path, rows, lambda n: ticker.advance(n, n))
        report = {
            "source": source.statements,
            "cleaning": cleaning,
            "checks": checks,
            "splits": splits,
            "labels": inspection.label_counts(),
            "left_out": {"straddles": _listed(inspection, store, Side.straddles)},
            "fingerprint": fingerprint(splits),
        }
        if skipped := skipped_for_packages(data):
            report["skipped"] = skipped
        store.close()
    write_json(folder / REPORT_FILE, report)


def _read(
    source: OpenedSource, cleaner: Cleaner, inspection: Inspection, folder: Path, ticker: Ticker
) -> RowStore:
    """Write the cleaned rows to disk, in the order of the splits, and let ``inspection`` see each.

    If boilerplate is removed, this takes two passes: its lines are known after the first.
    """
    removes_lines = cleaner.config.boilerplate

    def see(row: Row, side: Side) -> str:
        return "" if removes_lines else inspection.see(row, side)

    boilerplate = Boilerplate()
    store, sides = _write_cleaned(source, cleaner, boilerplate, see, folder, ticker)
    lines = boilerplate.lines()
    changes = cleaner.changes["boilerplate"]
    changes.examples = [
        {"id": f"{counted(count, 'row')}", "before": line, "after": ""}
        for line, count in list(lines.items())[:_MOST_LINES]
    ]
    if not removes_lines:
        changes.numbers.extend(boilerplate.changed_rows())
        changes.rows = len(changes.numbers)
        return store
    path = folder / "without-boilerplate.arrow"
    writer = RowWriter(path)
    for number, (row, side) in enumerate(zip(store, sides, strict=True)):
        stripped = remove_lines(row, lines)
        if stripped is not row:
            changes.rows += 1
            changes.numbers.append(number)
        writer.add(stripped, inspection.see(stripped, side))
    writer.close()
    store.close()
    return RowStore(path)


def _write_cleaned(
    source: OpenedSource,
    cleaner: Cleaner,
    boilerplate: Boilerplate,
    see: Callable[[Row, Side], str],
    folder: Path,
    ticker: Ticker,
) -> tuple[RowStore, list[Side]]:
    """Write the cleaned rows to disk; ``see`` is called with each, and returns its key.

    Returns the rows and the split of each in its source. Raises ``DataError`` if cleaning leaves
    nothing of an answer.
    """
    path = folder / "rows.arrow"
    writer = RowWriter(path)
    sides: list[Side] = []
    for name in SPLIT_NAMES:
        for raw in source.rows.get(name, ()):
            row = cleaner(raw)
            if not row.answer.strip() and not row.messages[-1].tool_calls:
                raise DataError(
                    f"{row.where or row.id}: cleaning leaves nothing of the assistant's answer;"
                    " correct it, or see data.clean"
                )
            boilerplate.see(row)
            writer.add(row, see(row, Side[name]))
            sides.append(Side[name])
            ticker.advance(1, 1)
    writer.close()
    return RowStore(path), sides


def _changes(cleaner: Cleaner, inspection: Inspection) -> dict[str, dict[str, object]]:
    """Return repair -> the rows that it changed or would change.

    Personal data in examples is masked.
    """
    report = summarise_changes(cleaner.changes)
    for name, changes in cleaner.changes.items():
        report[name]["splits"] = inspection.count_by_split(changes.numbers)
        for example in changes.examples:
            example["before"] = pii.mask_all(example["before"])
            example["after"] = pii.mask_all(example["after"])
    return report


def _removals(inspection: Inspection, store: RowStore) -> dict[str, dict[str, object]]:
    """Return the rows that cleaning removed, in the form of ``_changes``.

    For leaks also the rows that they concerned.
    """
    report = {
        name: {
            "on": bool(getattr(inspection.data.clean, name)),
            "title": title,
            "examples": [],
            **_listed(inspection, store, side),
        }
        for name, side, title in (
            ("drop_duplicates", Side.duplicate, "repeated training rows removed"),
            ("drop_leaks", Side.leak, "leaking rows removed"),
        )
    }
    for kind, rows in inspection.leaks_before_removal.items():
        report["drop_leaks"][kind] = [store.id(i) for i in rows[:MOST_ROWS]]
    return report


def _listed(inspection: Inspection, store: RowStore, side: Side) -> dict[str, object]:
    rows = inspection.rows_on(side)
    return {"rows": len(rows), "ids": [store.id(i) for i in rows[:MOST_ROWS]]}
