"""From a data configuration to three sets of rows: reading, splitting, sampling, controls."""

import hashlib
import logging
import random
from dataclasses import dataclass, replace
from pathlib import Path

from hydratune.config import CaseData, ContractsData, Control, DataConfig, FilesData, HubData
from hydratune.data.cases import CASES
from hydratune.data.contracts import contract_rows
from hydratune.data.formats import read_file, read_hub
from hydratune.data.rows import Message, Row, stable_hash
from hydratune.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowSets:
    """Rows of the three splits, none of them empty."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]

    def items(self) -> list[tuple[str, list[Row]]]:
        return [("train", self.train), ("validation", self.validation), ("test", self.test)]

    @property
    def fingerprint(self) -> str:
        """Changes when any text of any split changes."""
        return stable_hash({name: [row.content_hash for row in rows] for name, rows in self.items()})


def load_sets(data: DataConfig, seed: int) -> RowSets:
    """Reads, splits and samples. ``seed`` decides only what is sampled, never which split a row is in."""
    train, validation, test = _read(data)
    train, validation, test = _split_off(data, train, validation, test)
    train = _sample(train, data.max_train_rows, "train")
    validation = _sample(validation, data.max_validation_rows, "validation")
    test = _sample(test, data.max_test_rows, "test")
    if data.overfit_rows is not None:
        train = validation = test = train[: data.overfit_rows]
    for name, rows in (("train", train), ("validation", validation), ("test", test)):
        if not rows:
            raise DataError(
                f"the data set has no {name} rows; give data.{name}=FILE, or a data.{name}_fraction large enough for the number of rows"
            )
    if data.control is Control.shuffled_targets:
        train, validation = _shuffled_targets(train, seed), _shuffled_targets(validation, seed)
    system = data.system_prompt
    sets = RowSets(*([_with_system(row, system) for row in rows] for rows in (train, validation, test)))
    log.info("rows: %s; fingerprint %s", ", ".join(f"{name} {len(rows)}" for name, rows in sets.items()), sets.fingerprint)
    return sets


def _read(data: DataConfig) -> tuple[list[Row], list[Row] | None, list[Row] | None]:
    """(train, validation, test); None: to be split off the training rows."""
    if isinstance(data, ContractsData):
        counts = (("train", data.train_rows), ("validation", data.validation_rows), ("test", data.test_rows))
        train, validation, test = (list(contract_rows(name, n, data.difficulty, data.seed)) for name, n in counts)
        return train, validation, test
    if isinstance(data, FilesData):
        files = [Path(p) if p else None for p in (data.train, data.validation, data.test)]
        read = [read_file(path, data.columns, data.encoding) if path else None for path in files]
        assert read[0] is not None
        return read[0], read[1], read[2]
    if isinstance(data, HubData):
        names = (data.train, data.validation, data.test)
        hub = [read_hub(data.id, data.subset, name, data.revision, data.columns) if name else None for name in names]
        assert hub[0] is not None
        return hub[0], hub[1], hub[2]
    if isinstance(data, CaseData):
        return CASES[data.source](data)
    raise AssertionError(type(data))


def _split_off(
    data: DataConfig, train: list[Row], validation: list[Row] | None, test: list[Row] | None
) -> tuple[list[Row], list[Row], list[Row]]:
    """Splits by the hash of a row's group (or of its prompt), so adding rows moves no other row."""
    validation_share = data.validation_fraction if validation is None else 0.0
    test_share = data.test_fraction if test is None else 0.0
    kept: list[Row] = []
    off_validation: list[Row] = []
    off_test: list[Row] = []
    for row in train:
        place = _place(row)
        if place < validation_share:
            off_validation.append(row)
        elif place < validation_share + test_share:
            off_test.append(row)
        else:
            kept.append(row)
    for wanted, off in ((validation_share, off_validation), (test_share, off_test)):
        if wanted and not off and len({_place(row) for row in kept}) > 1:  # a small set: the hashes may leave a split empty
            first = min(map(_place, kept))
            off += [row for row in kept if _place(row) == first]
            kept = [row for row in kept if _place(row) != first]
    return kept, off_validation if validation is None else validation, off_test if test is None else test


def _place(row: Row) -> float:
    """A number in [0, 1) that depends only on the row's group, or on its prompt where it has none."""
    key = row.group or stable_hash([(m.role, m.content) for m in row.prompt])
    return int(hashlib.sha256(f"split/{key}".encode()).hexdigest()[:13], 16) / 16**13


def _sample(rows: list[Row], limit: int | None, name: str) -> list[Row]:
    """A fixed sample, whatever the run's seed, so that runs with other seeds are compared on the same rows."""
    if limit is None or limit >= len(rows):
        return rows
    return random.Random(f"sample/{name}").sample(rows, limit)


def _shuffled_targets(rows: list[Row], seed: int) -> list[Row]:
    """Every prompt gets the answer of another row: a rotation in random order, so none keeps its own."""
    order = list(range(len(rows)))
    random.Random(f"control/{seed}").shuffle(order)
    given = dict(zip(order, order[1:] + order[:1], strict=True))
    return [replace(row, messages=(*row.prompt, rows[given[i]].messages[-1])) for i, row in enumerate(rows)]


def _with_system(row: Row, system: str | None) -> Row:
    if system is None or row.messages[0].role == "system":
        return row
    return replace(row, messages=(Message("system", system), *row.messages))
