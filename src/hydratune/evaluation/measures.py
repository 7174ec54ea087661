"""A metric over rows: columns of numbers, and what is made of their sums."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydratune.evaluation import statistics
from hydratune.evaluation.statistics import Columns, Difference, Interval, Of


@dataclass(frozen=True)
class Measure:
    """``of`` the sums of ``columns`` over the rows."""

    columns: Columns
    of: Of = statistics.ratio
    hits: bool = False  # every row is right or wrong: the columns are hits and ones

    @property
    def value(self) -> float:
        return float(self.of(np.array([float(sum(column)) for column in self.columns])))

    def interval(self, groups: Sequence[str], confidence: float, samples: int) -> Interval:
        """Wilson's where rows are right or wrong and independent, else a bootstrap over groups."""
        if self.hits and len(set(groups)) == len(groups):
            return statistics.wilson(round(sum(self.columns[0])), len(groups), confidence)
        return statistics.bootstrap(self.columns, self.of, groups, confidence, samples)


def rate(values: Sequence[Any]) -> Measure:
    """Share of the rows that are right."""
    return Measure([[float(bool(v)) for v in values], [1.0] * len(values)], hits=True)


def share(above: Sequence[float], below: Sequence[float]) -> Measure:
    """Sum over sum."""
    return Measure([list(map(float, above)), list(map(float, below))])


def mean(values: Sequence[float]) -> Measure:
    return share(values, [1.0] * len(values))


def groups_of(predictions: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is drawn whole; a row without a group is one of its own, whatever its id."""
    return [f"group {p['group']}" if p.get("group") else f"row {i}" for i, p in enumerate(predictions)]


def difference(ours: Measure, theirs: Measure, groups: Sequence[str], confidence: float, samples: int) -> Difference:
    """Of two systems on the same rows. Where rows are right or wrong and independent, p is McNemar's, which is exact."""
    found = statistics.paired(ours.columns, theirs.columns, ours.of, groups, confidence, samples)
    if not (ours.hits and theirs.hits and len(set(groups)) == len(groups)):
        return found
    alone = [sum(a > b for a, b in zip(one.columns[0], other.columns[0], strict=True)) for one, other in ((ours, theirs), (theirs, ours))]
    return Difference(found.value, found.interval, statistics.mcnemar(*alone))
