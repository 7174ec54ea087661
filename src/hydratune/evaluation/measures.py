"""A metric over rows: columns of numbers, and a function of their sums; what predictions hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hydratune.evaluation import statistics
from hydratune.evaluation.statistics import (
    Columns,
    Difference,
    Interval,
    Statistic,
    UncorrectedDifference,
)
from hydratune.records.files import Json
from hydratune.records.predictions import Prediction

Scores = Mapping[str, Json]  # of one answer, stored in its row


@dataclass(frozen=True)
class Measure:
    """``of`` the sums of ``columns`` over the rows."""

    columns: Columns
    of: Statistic = statistics.ratio
    hits: bool = False  # every row is right or wrong: the columns are hits and ones

    @property
    def value(self) -> float:
        """The metric over all rows."""
        return float(self.of(np.array([float(sum(column)) for column in self.columns])))

    def interval(self, groups: Sequence[str], confidence: float, samples: int) -> Interval | None:
        """Return the confidence interval; None where there is one group.

        It is Wilson's where rows are right or wrong and independent, else a bootstrap over groups.
        """
        if self.hits and len(set(groups)) == len(groups):
            return statistics.wilson(round(sum(self.columns[0])), len(groups), confidence)
        if len(set(groups)) < 2:  # every draw with replacement is the same one group
            return None
        return statistics.bootstrap(self.columns, self.of, groups, confidence, samples)


def rate(values: Sequence[object]) -> Measure:
    """Return the share of the rows whose value is true."""
    return Measure([[float(bool(v)) for v in values], [1.0] * len(values)], hits=True)


def share(numerators: Sequence[float], denominators: Sequence[float]) -> Measure:
    """Return the sum of the numerators over that of the denominators."""
    return Measure([list(map(float, numerators)), list(map(float, denominators))])


def mean(values: Sequence[float]) -> Measure:
    """Return the mean over the rows."""
    return share(values, [1.0] * len(values))


def request_turns(prediction: Prediction) -> list[Mapping[str, Json]]:
    """Return the turns of the row up to the answer.

    What a system's prompt had in addition is not among them: examples, passages, a schema.
    """
    turns = prediction.get("request", prediction.get("prompt"))
    return list(turns) if isinstance(turns, list) else []


def user_text(prediction: Prediction) -> str:
    """Return the user's part of the request."""
    turns = [turn for turn in request_turns(prediction) if turn.get("role") == "user"]
    return "\n\n".join(str(turn.get("content") or "") for turn in turns)


def count_cut(predictions: Sequence[Prediction]) -> int:
    """Return how many answers were cut at the token limit."""
    return sum(p.get("finish_reason") == "length" for p in predictions)


def cut_sentence(cut: int, count: int, system: str) -> str:
    """Return a warning that ``cut`` of ``count`` answers were cut; empty where none was."""
    limit = "at the token limit (evaluation.max_new_tokens) and scored as they stand"
    return f"{cut} of {count} answers of {system} were cut {limit}" if cut else ""


def groups_of(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the group that each row is drawn with in a bootstrap.

    A row without a group is a group by itself, whatever its id.
    """
    return [
        f"group {row['group']}" if row.get("group") else f"row {i}" for i, row in enumerate(rows)
    ]


def comparison(
    ours: Measure, theirs: Measure, groups: Sequence[str], samples: int
) -> UncorrectedDifference:
    """Compare two systems on the same rows.

    Where rows are right or wrong and independent, p is that of McNemar's exact test.
    """
    paired = statistics.paired(ours.columns, theirs.columns, ours.of, groups, samples)
    if is_exact(ours, theirs, groups):
        return replace(paired, discordant=discordant(ours, theirs))
    return paired


def is_exact(ours: Measure, theirs: Measure, groups: Sequence[str]) -> bool:
    """Return whether rows are right or wrong and independent, as McNemar's test needs."""
    return ours.hits and theirs.hits and len(set(groups)) == len(groups)


def discordant(ours: Measure, theirs: Measure) -> tuple[int, int, int]:
    """Return (rows that only ours got right, rows that only theirs got right, all rows)."""
    pairs = list(zip(ours.columns[0], theirs.columns[0], strict=True))
    return sum(a > b for a, b in pairs), sum(b > a for a, b in pairs), len(pairs)


def difference(
    ours: Measure, theirs: Measure, groups: Sequence[str], confidence: float, samples: int
) -> Difference:
    """Return the difference of two systems on the same rows, where it is the only test."""
    (only,) = statistics.corrected([comparison(ours, theirs, groups, samples)], confidence)
    return only
