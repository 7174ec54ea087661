"""How sure a number is, and whether two can be told apart. Pure functions on numbers.

Nearly every metric is a function of sums over rows: a rate is hits / rows, macro F1 a mean over labels of ratios of sums.
``Of`` is that function; with it, rows can be drawn again and the metric taken of what was drawn.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]
Columns = Sequence[Sequence[float]]  # column -> row -> what is summed
Of = Callable[[np.ndarray], np.ndarray]  # sums (..., columns) -> values (...)


def ratio(sums: np.ndarray) -> np.ndarray:
    """The first column over the second; 0 where there is nothing to divide by."""
    above, below = sums[..., 0], sums[..., 1]
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)


def wilson(successes: int, trials: int, confidence: float) -> Interval:
    """Interval of a rate (Wilson 1927): honest near 0 and 1 and for few trials."""
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, (1.0 if successes == trials else min(1.0, centre + half))


def bootstrap(columns: Columns, of: Of, groups: Sequence[str], confidence: float, samples: int, seed: int = 0) -> Interval:
    """Percentile interval of ``of`` the sums of ``columns`` when whole groups are drawn again, with replacement.

    Rows of one group (one contract, one dialogue) are not independent, so a group is drawn whole.
    """
    return _middle(of(_resampled(columns, groups, samples, seed)), confidence)


def bootstrap_ratio(
    numerators: Sequence[float], denominators: Sequence[float], groups: Sequence[str], confidence: float, samples: int, seed: int = 0
) -> Interval:
    """Of sum(numerators) / sum(denominators)."""
    return bootstrap([numerators, denominators], ratio, groups, confidence, samples, seed)


@dataclass(frozen=True)
class Difference:
    """How much more one system has than another on the same rows."""

    value: float
    interval: Interval
    p: float  # how often chance alone makes as much of a difference, or more

    @property
    def told_apart(self) -> bool:
        """Whether the interval is all on one side of zero."""
        return self.interval[0] > 0 or self.interval[1] < 0


def paired(ours: Columns, theirs: Columns, of: Of, groups: Sequence[str], confidence: float, samples: int, seed: int = 0) -> Difference:
    """Of ``of`` the sums of ``ours`` to that of ``theirs``, both over the same drawn groups.

    ``p`` is twice the share of samples on the other side of zero than most, at least one of them; and never less than the chance
    that all groups differ to the same side, for two groups drawn again and again stay two.
    """
    sums = _resampled([*ours, *theirs], groups, samples, seed)
    differences = of(sums[:, : len(ours)]) - of(sums[:, len(ours) :])
    below = float(np.sum(differences < 0) + 0.5 * np.sum(differences == 0))
    p = min(1.0, max(2 * (min(below, samples - below) + 1) / (samples + 1), 2.0 ** (1 - len(set(groups)))))
    value = of(np.array([math.fsum(column) for column in ours])) - of(np.array([math.fsum(column) for column in theirs]))
    return Difference(float(value), _middle(differences, confidence), p)


def paired_bootstrap(
    ours: Sequence[float],
    theirs: Sequence[float],
    denominators: Sequence[float],
    groups: Sequence[str],
    confidence: float,
    samples: int,
    seed: int = 0,
) -> Difference:
    """Of sum(ours) / sum(denominators) to sum(theirs) / sum(denominators)."""
    return paired([ours, denominators], [theirs, denominators], ratio, groups, confidence, samples, seed)


def within(samples: Sequence[Sequence[float]]) -> tuple[float, int] | None:
    """(variance of values around the mean of their own sample, its degrees of freedom); None where no sample has two values."""
    freedom = sum(len(sample) - 1 for sample in samples if sample)
    if freedom < 1:
        return None
    squares = math.fsum((value - math.fsum(sample) / len(sample)) ** 2 for sample in samples for value in sample)
    return squares / freedom, freedom


def by_t(value: float, parts: Sequence[tuple[float, float]], confidence: float) -> Difference:
    """Of a difference whose variance is the sum of ``parts``, (variance, degrees of freedom) each: Student's t (Satterthwaite 1946)."""
    from scipy.stats import t

    total = math.fsum(variance for variance, _ in parts)
    if total <= 0:
        return Difference(value, (value, value), 1.0 if value == 0 else 0.0)
    freedom = total**2 / math.fsum(variance**2 / free for variance, free in parts if variance > 0)
    error = math.sqrt(total)
    half = float(t.ppf(0.5 + confidence / 2, freedom)) * error
    return Difference(value, (value - half, value + half), float(2 * t.sf(abs(value) / error, freedom)))


def mcnemar(ours_alone: int, theirs_alone: int) -> float:
    """Exact two-sided p of two systems on the same rows, by the rows that one of them alone got right (McNemar 1947)."""
    trials, fewer = ours_alone + theirs_alone, min(ours_alone, theirs_alone)
    return min(1.0, 2 * sum(math.comb(trials, k) for k in range(fewer + 1)) / 2**trials)


def holm(ps: Sequence[float]) -> list[float]:
    """``ps`` of several comparisons, made larger so that all of them together are wrong as rarely as one (Holm 1979)."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, largest = [0.0] * len(ps), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - place) * ps[index]))
        adjusted[index] = largest
    return adjusted


def least_difference(rows: int, disagreeing: float, confidence: float, power: float = 0.8) -> float:
    """The smallest difference of two rates on the same ``rows`` that a test would find with probability ``power``.

    ``disagreeing`` is the share of rows on which one system is right and the other is wrong (Connor 1987); 1 if the rows are
    too few for any difference.
    """
    if rows == 0 or disagreeing <= 0:
        return 1.0
    normal = NormalDist()
    alpha, beta = normal.inv_cdf(0.5 + confidence / 2), normal.inv_cdf(power)
    low, high = 0.0, disagreeing
    if alpha * math.sqrt(disagreeing) + beta * math.sqrt(disagreeing - high * high) > high * math.sqrt(rows):
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        needed = alpha * math.sqrt(disagreeing) + beta * math.sqrt(disagreeing - middle * middle)
        low, high = (middle, high) if needed > middle * math.sqrt(rows) else (low, middle)
    return high


def _resampled(columns: Columns, groups: Sequence[str], samples: int, seed: int) -> np.ndarray:
    """Sums of every column over groups drawn with replacement (samples, columns)."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    totals = [np.bincount(index, weights=np.asarray(column, dtype=float), minlength=len(names)) for column in columns]
    generator = np.random.default_rng(seed)
    sums = np.empty((samples, len(columns)))
    for sample in range(samples):  # one at a time: all at once would not fit for a large test set
        drawn = generator.integers(len(names), size=len(names))
        sums[sample] = [total[drawn].sum() for total in totals]
    return sums


def _middle(values: np.ndarray, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
