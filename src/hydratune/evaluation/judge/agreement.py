"""How far raters agree, people or judges: pure functions on their labels.

None is a label that was not given.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np

Label = str | float | int


class Weights(StrEnum):
    """How much a disagreement counts: all the same, or by the distance of the categories in their
    order.
    """

    none = "none"
    linear = "linear"
    quadratic = "quadratic"


def both(
    first: Sequence[Label | None], second: Sequence[Label | None]
) -> list[tuple[Label, Label]]:
    """The pairs of labels of the rows that both raters labelled."""
    return [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]


def accuracy(pairs: Sequence[tuple[Label, Label]]) -> float:
    """Share of equal labels; nan without rows."""
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else math.nan


def cohen_kappa(
    pairs: Sequence[tuple[Label, Label]],
    categories: Sequence[Label],
    weights: Weights = Weights.none,
) -> float:
    """Agreement beyond chance of two raters (Cohen 1960; weighted: 1968). ``categories`` in their
    order.

    nan where chance alone agrees always: a rater who says one thing only tells nothing.
    """
    place = {category: number for number, category in enumerate(categories)}
    seen = np.zeros((len(place), len(place)))
    for a, b in pairs:
        seen[place[a], place[b]] += 1
    distance = np.abs(np.subtract.outer(np.arange(len(place)), np.arange(len(place)))).astype(float)
    cost = {
        Weights.none: (distance > 0).astype(float),
        Weights.linear: distance,
        Weights.quadratic: distance**2,
    }[weights]
    by_chance = np.outer(seen.sum(1), seen.sum(0))
    expected = float((cost * by_chance).sum())
    return 1 - float((cost * seen).sum()) * len(pairs) / expected if expected else math.nan


def krippendorff_alpha(
    units: Sequence[Sequence[Label | None]], categories: Sequence[Label], *, ordinal: bool = False
) -> float:
    """Agreement beyond chance of any number of raters with gaps (Krippendorff 2011); ``units`` are
    rows, each with its labels.
    """
    place = {category: number for number, category in enumerate(categories)}
    together = np.zeros((len(place), len(place)))
    for unit in units:
        given = [place[label] for label in unit if label is not None]
        if len(given) < 2:
            continue
        counts = np.bincount(given, minlength=len(place)).astype(float)
        together += (np.outer(counts, counts) - np.diag(counts)) / (len(given) - 1)
    totals = together.sum(0)
    # the ordinal distance is the number of labels between two categories, half of their own
    middle = np.cumsum(totals) - totals / 2
    distance = np.subtract.outer(middle, middle) ** 2 if ordinal else 1 - np.eye(len(place))
    expected = float((distance * np.outer(totals, totals)).sum())
    return (
        1 - float((distance * together).sum()) * (totals.sum() - 1) / expected
        if expected
        else math.nan
    )


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Correlation of ranks, ties sharing their mean rank; nan where one of the two never varies."""
    a, b = (_ranks(np.asarray(values, dtype=float)) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[index]
