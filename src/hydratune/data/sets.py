"""From a prepared data set to the three sets of rows of one run: sampling, controls, the system
prompt.
"""

import logging
import math
import random
from dataclasses import dataclass, replace

from hydratune.data.preparation import prepare
from hydratune.data.prepared import Prepared
from hydratune.data.rows import Row, stable_hash, with_system
from hydratune.data.splits import unit_hash
from hydratune.errors import DataError
from hydratune.settings.data import Control, DataConfig
from hydratune.wording import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowSets:
    """Rows of the three splits, none of them empty."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]

    def items(self) -> list[tuple[str, list[Row]]]:
        """Return (name, rows) of each split."""
        return [("train", self.train), ("validation", self.validation), ("test", self.test)]

    @property
    def fingerprint(self) -> str:
        """A hash that changes when any text of any split changes."""
        return stable_hash(
            {name: [row.content_hash for row in rows] for name, rows in self.items()}
        )


def load_sets(data: DataConfig, seed: int, prepared: Prepared | None = None) -> RowSets:
    """Return the sampled rows of a data set, which is prepared if ``prepared`` is not given.

    ``seed`` decides which rows ``data.train_share`` takes and how the control shuffles, never which
    split a row is in. Raises ``DataError`` if a check forbids training on the data.
    """
    prepared = prepared or prepare(data)
    _refuse_errors(data, prepared)
    sets = _sample_sets(data, seed, prepared)
    for name, rows in sets.items():
        if not rows:
            raise DataError(
                f"the data set has no {name} rows; hydratune prepare, with the same settings, shows"
                " where they went"
            )
    train, validation, test = sets.train, sets.validation, sets.test
    if data.control is Control.shuffled_targets:
        train, validation = _shuffle_targets(train, seed), _shuffle_targets(validation, seed)
    sets = RowSets(
        *(
            [with_system(row, data.system_prompt) for row in rows]
            for rows in (train, validation, test)
        )
    )
    counts = ", ".join(f"{name} {len(rows)}" for name, rows in sets.items())
    log.info("rows: %s; fingerprint %s", counts, sets.fingerprint)
    return sets


def _refuse_errors(data: DataConfig, prepared: Prepared) -> None:
    """Raise ``DataError`` with every check that forbids training."""
    errors = prepared.errors()
    if data.overfit_rows is not None:  # only training rows are needed
        errors.pop("splits", None)
    if errors:
        count = f"{counted(len(errors), 'check')} of the data found errors"
        listed = "\n".join(f"  {error}" for error in errors.values())
        raise DataError(
            f"{count}; nothing was trained.\n{listed}\n  hydratune prepare, with the same settings,"
            " shows the rows"
        )


def _sample_sets(data: DataConfig, seed: int, prepared: Prepared) -> RowSets:
    train = take_share(_sample(prepared, "train", data.max_train_rows), data.train_share, seed)
    validation = _sample(prepared, "validation", data.max_validation_rows)
    test = _sample(prepared, "test", data.max_test_rows)
    if data.overfit_rows is not None:
        train = validation = test = train[: data.overfit_rows]
    return RowSets(train, validation, test)


def test_rows(data: DataConfig, prepared: Prepared) -> list[Row]:
    """Return the test rows alone, as ``load_sets`` takes them."""
    if data.overfit_rows is not None:
        rows = _sample(prepared, "train", data.max_train_rows)[: data.overfit_rows]
    else:
        rows = _sample(prepared, "test", data.max_test_rows)
    return [with_system(row, data.system_prompt) for row in rows]


def _sample(prepared: Prepared, split: str, limit: int | None) -> list[Row]:
    """Return the rows of a split that come first by a hash, in file order.

    They are the same for every seed, and nearly the same when rows are added.
    """
    if limit is None or limit >= prepared.row_count(split):
        return list(prepared.rows(split))
    ranks = [unit_hash(f"sample/{row.id}/{row.content_hash}") for row in prepared.rows(split)]
    chosen = set(sorted(range(len(ranks)), key=ranks.__getitem__)[:limit])
    return [row for number, row in enumerate(prepared.rows(split)) if number in chosen]


def which_rows(data: DataConfig, seed: int) -> str:
    """Return a text that differs where runs with otherwise equal data train on other rows.

    "" where the seed draws none of them: the jobs of a pack share what they make of its rows.
    """
    return f" {data.train_share} of seed {seed}" if data.train_share < 1 else ""


def take_share(rows: list[Row], share: float, seed: int) -> list[Row]:
    """Return the ``share`` of the rows that comes first by a hash with the seed, in their order.

    Larger shares of the same seed contain the rows of smaller ones. Raises ``DataError`` if no row
    would be left.
    """
    count = round(share * len(rows))
    if count == len(rows):
        return rows
    if not count:
        least = math.ceil(1000 / len(rows)) / 1000
        raise DataError(
            f"data.train_share = {share:g} leaves none of {counted(len(rows), 'training row')};"
            f" set data.train_share={least:g} or more"
        )
    ranks = [unit_hash(f"share/{seed}/{row.id}/{row.content_hash}") for row in rows]
    chosen = set(sorted(range(len(rows)), key=ranks.__getitem__)[:count])
    return [row for number, row in enumerate(rows) if number in chosen]


def _shuffle_targets(rows: list[Row], seed: int) -> list[Row]:
    """Give every prompt the answer of another row: a rotation in random order, so that no row keeps
    its own.

    Raises ``DataError`` for plain texts.
    """
    document = next((row for row in rows if row.is_text), None)
    if document is not None:
        raise DataError(
            f"{document.where or document.id}: a text row has no prompt and no answer, so"
            " data.control=shuffled_targets is not possible"
        )
    order = list(range(len(rows)))
    random.Random(f"control/{seed}").shuffle(order)
    giver_of = dict(zip(order, order[1:] + order[:1], strict=True))
    return [
        replace(row, messages=(*row.prompt, rows[giver_of[i]].messages[-1]))
        for i, row in enumerate(rows)
    ]
