"""How far raters (people or judges) agree: pure functions on their labels.

None is a label that was not given.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np

Label = str | float | int


class Weights(StrEnum):
    """How much a disagreement counts: equally, or by the distance of the ordered categories."""

    none = "none"
    linear = "linear"
    quadratic = "quadratic"


def accuracy(pairs: Sequence[tuple[Label, Label]]) -> float:
    """Return the share of equal labels; nan without rows."""
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else math.nan


def cohen_kappa(
    pairs: Sequence[tuple[Label, Label]],
    categories: Sequence[Label],
    weights: Weights = Weights.none,
) -> float:
    """Return the agreement of two raters beyond chance (Cohen 1960; weighted: Cohen 1968).

    ``categories`` in their order. nan if chance alone agrees always: a rater who gives one label
    only carries no information.
    """
    index = {category: number for number, category in enumerate(categories)}
    observed = np.zeros((len(index), len(index)))
    for a, b in pairs:
        observed[index[a], index[b]] += 1
    distance = np.abs(np.subtract.outer(np.arange(len(index)), np.arange(len(index)))).astype(float)
    cost = {
        Weights.none: (distance > 0).astype(float),
        Weights.linear: distance,
        Weights.quadratic: distance**2,
    }[weights]
    by_chance = np.outer(observed.sum(1), observed.sum(0))
    expected = float((cost * by_chance).sum())
    if not expected:
        return math.nan
    return 1 - float((cost * observed).sum()) * len(pairs) / expected


def krippendorff_alpha(
    units: Sequence[Sequence[Label | None]], categories: Sequence[Label], *, ordinal: bool = False
) -> float:
    """Return the agreement beyond chance of any number of raters with gaps (Krippendorff 2011).

    ``units`` are rows, each with its labels; ``categories`` in their order.
    """
    index = {category: number for number, category in enumerate(categories)}
    coincidences = np.zeros((len(index), len(index)))
    for unit in units:
        labels = [index[label] for label in unit if label is not None]
        if len(labels) < 2:
            continue
        counts = np.bincount(labels, minlength=len(index)).astype(float)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(labels) - 1)
    totals = coincidences.sum(0)
    # the ordinal distance is the number of labels between two categories, with half of their own
    middle = np.cumsum(totals) - totals / 2
    distance = np.subtract.outer(middle, middle) ** 2 if ordinal else 1 - np.eye(len(index))
    expected = float((distance * np.outer(totals, totals)).sum())
    if not expected:
        return math.nan
    return 1 - float((distance * coincidences).sum()) * (totals.sum() - 1) / expected


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the rank correlation, ties sharing their mean rank; nan if one side is constant."""
    a, b = (_ranks(np.asarray(values, dtype=float)) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[index]
