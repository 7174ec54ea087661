"""A metric over rows: columns of numbers, and what is made of their sums."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hydratune.evaluation import statistics
from hydratune.evaluation.statistics import Columns, Comparison, Difference, Interval, Of


@dataclass(frozen=True)
class Measure:
    """``of`` the sums of ``columns`` over the rows."""

    columns: Columns
    of: Of = statistics.ratio
    hits: bool = False  # every row is right or wrong: the columns are hits and ones

    @property
    def value(self) -> float:
        return float(self.of(np.array([float(sum(column)) for column in self.columns])))

    def interval(self, groups: Sequence[str], confidence: float, samples: int) -> Interval | None:
        """Wilson's where rows are right or wrong and independent, else a bootstrap over groups;
        None where there is one group.
        """
        if self.hits and len(set(groups)) == len(groups):
            return statistics.wilson(round(sum(self.columns[0])), len(groups), confidence)
        if len(set(groups)) < 2:  # drawn again and again, one stays as it is
            return None
        return statistics.bootstrap(self.columns, self.of, groups, confidence, samples)


def rate(values: Sequence[Any]) -> Measure:
    """Share of the rows that are right."""
    return Measure([[float(bool(v)) for v in values], [1.0] * len(values)], hits=True)


def share(above: Sequence[float], below: Sequence[float]) -> Measure:
    """Sum over sum."""
    return Measure([list(map(float, above)), list(map(float, below))])


def mean(values: Sequence[float]) -> Measure:
    return share(values, [1.0] * len(values))


def request_of(prediction: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The turns of its row up to the answer, without what a prompt had beside them: examples,
    passages, a schema.
    """
    found = prediction.get("request", prediction.get("prompt"))
    return list(found) if isinstance(found, list) else []


def asked_by_user(prediction: Mapping[str, Any]) -> str:
    """What the user says in it."""
    return "\n\n".join(
        str(turn.get("content") or "")
        for turn in request_of(prediction)
        if turn.get("role") == "user"
    )


def cut_of(predictions: Sequence[Mapping[str, Any]]) -> int:
    """How many answers were cut at the token limit."""
    return sum(p.get("finish_reason") == "length" for p in predictions)


def told_cut(cut: int, of: int, whose: str) -> str:
    """A sentence; empty where none was cut."""
    limit = "at the token limit (evaluation.max_new_tokens) and scored as they stand"
    return f"{cut} of {of} answers of {whose} were cut {limit}" if cut else ""


def groups_of(predictions: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is drawn whole; a row without a group is one of its own, whatever its id."""
    return [
        f"group {p['group']}" if p.get("group") else f"row {i}" for i, p in enumerate(predictions)
    ]


def comparison(ours: Measure, theirs: Measure, groups: Sequence[str], samples: int) -> Comparison:
    """Of two systems on the same rows.

    Where rows are right or wrong and independent, p is McNemar's, which is exact.
    """
    found = statistics.paired(ours.columns, theirs.columns, ours.of, groups, samples)
    return replace(found, alone=alone(ours, theirs)) if exact(ours, theirs, groups) else found


def exact(ours: Measure, theirs: Measure, groups: Sequence[str]) -> bool:
    """Whether rows are right or wrong and independent."""
    return ours.hits and theirs.hits and len(set(groups)) == len(groups)


def alone(ours: Measure, theirs: Measure) -> tuple[int, int, int]:
    """Rows that only one side got right: ours, theirs, of all."""
    pairs = list(zip(ours.columns[0], theirs.columns[0], strict=True))
    return sum(a > b for a, b in pairs), sum(b > a for a, b in pairs), len(pairs)


def difference(
    ours: Measure, theirs: Measure, groups: Sequence[str], confidence: float, samples: int
) -> Difference:
    """Of two systems on the same rows, where nothing else is tested beside it."""
    (found,) = statistics.corrected([comparison(ours, theirs, groups, samples)], confidence)
    return found
