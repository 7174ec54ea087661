"""From a prepared data set to the three sets of rows of one run: sampling, controls, the system
prompt.
"""

import logging
import random
from dataclasses import dataclass, replace

from hydratune.data.prepared import Prepared, prepare
from hydratune.data.reading import with_system
from hydratune.data.rows import Row, stable_hash
from hydratune.data.splits import unit_hash
from hydratune.errors import DataError
from hydratune.settings.data import Control, DataConfig

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
        return stable_hash(
            {name: [row.content_hash for row in rows] for name, rows in self.items()}
        )


def load_sets(data: DataConfig, seed: int, prepared: Prepared | None = None) -> RowSets:
    """Prepared rows, sampled. ``seed`` decides only the control's shuffling, never which split a
    row is in.

    Raises ``DataError`` if a check refuses the data.
    """
    prepared = prepared or prepare(data)
    errors = list(prepared.errors().values())
    if data.overfit_rows is not None:  # needs training rows only
        errors = [error for name, error in prepared.errors().items() if name != "splits"]
    if errors:
        count = f"{len(errors)} check{'s' if len(errors) > 1 else ''} of the data found errors"
        listed = "\n".join(f"  {error}" for error in errors)
        raise DataError(
            f"{count}; nothing was trained.\n{listed}\n  hydratune prepare, with the same settings,"
            " shows the rows"
        )
    limits = {
        "train": data.max_train_rows,
        "validation": data.max_validation_rows,
        "test": data.max_test_rows,
    }
    train, validation, test = (_sample(prepared, name, limit) for name, limit in limits.items())
    if data.overfit_rows is not None:
        train = validation = test = train[: data.overfit_rows]
    for name, rows in (("train", train), ("validation", validation), ("test", test)):
        if not rows:
            raise DataError(
                f"the data set has no {name} rows; hydratune prepare, with the same settings, shows"
                " where they went"
            )
    if data.control is Control.shuffled_targets:
        train, validation = _shuffled_targets(train, seed), _shuffled_targets(validation, seed)
    sets = RowSets(
        *(
            [with_system(row, data.system_prompt) for row in rows]
            for rows in (train, validation, test)
        )
    )
    log.info(
        "rows: %s; fingerprint %s",
        ", ".join(f"{name} {len(rows)}" for name, rows in sets.items()),
        sets.fingerprint,
    )
    return sets


def test_rows(data: DataConfig, prepared: Prepared) -> list[Row]:
    """The test rows alone, as ``load_sets`` takes them."""
    if data.overfit_rows is not None:
        rows = _sample(prepared, "train", data.max_train_rows)[: data.overfit_rows]
    else:
        rows = _sample(prepared, "test", data.max_test_rows)
    return [with_system(row, data.system_prompt) for row in rows]


def _sample(prepared: Prepared, split: str, limit: int | None) -> list[Row]:
    """The rows that come first by a hash, in file order: the same for every seed, and nearly the
    same when rows are added.
    """
    if limit is None or limit >= prepared.report["splits"][split]["rows"]:
        return list(prepared.rows(split))
    ranks = [unit_hash(f"sample/{row.id}/{row.content_hash}") for row in prepared.rows(split)]
    chosen = set(sorted(range(len(ranks)), key=ranks.__getitem__)[:limit])
    return [row for number, row in enumerate(prepared.rows(split)) if number in chosen]


def _shuffled_targets(rows: list[Row], seed: int) -> list[Row]:
    """Every prompt gets the answer of another row: a rotation in random order, so none keeps its
    own. Raises ``DataError``.
    """
    document = next((row for row in rows if row.is_text), None)
    if document is not None:
        raise DataError(
            f"{document.where or document.id}: a text row has no prompt and no answer, so"
            " data.control=shuffled_targets cannot be had"
        )
    order = list(range(len(rows)))
    random.Random(f"control/{seed}").shuffle(order)
    given = dict(zip(order, order[1:] + order[:1], strict=True))
    return [
        replace(row, messages=(*row.prompt, rows[given[i]].messages[-1]))
        for i, row in enumerate(rows)
    ]
