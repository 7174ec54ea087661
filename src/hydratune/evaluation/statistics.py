"""How sure a number is, and whether two numbers differ significantly. Pure functions on numbers.

Nearly every metric is a function of sums over rows: a rate is hits / rows, macro F1 a mean over
labels of ratios of sums. ``Statistic`` is that function; with it, rows can be drawn again and
the metric computed from what was drawn.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]
Columns = Sequence[Sequence[float]]  # column -> row -> what is summed
Statistic = Callable[[np.ndarray], np.ndarray]  # sums (..., columns) -> values (...)


def ratio(sums: np.ndarray) -> np.ndarray:
    """Return the first column over the second; 0 where the second is 0."""
    above, below = sums[..., 0], sums[..., 1]
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)


def wilson(successes: int, trials: int, confidence: float) -> Interval:
    """Return the interval of a rate (Wilson 1927), which covers near 0 and 1 and for few trials."""
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = (
        z
        * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
        / (1 + z * z / trials)
    )
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, (1.0 if successes == trials else min(1.0, centre + half))


def bootstrap(
    columns: Columns,
    of: Statistic,
    groups: Sequence[str],
    confidence: float,
    samples: int,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of ``of`` the sums of ``columns``, from resampled groups.

    Rows of one group (one contract, one dialogue) are not independent, so whole groups are drawn,
    with replacement.
    """
    return _middle(of(_resampled(columns, groups, samples, seed)), confidence)


@dataclass(frozen=True)
class Difference:
    """How much more one system has than another on the same rows.

    The interval excludes 0 exactly where ``p`` is significant.
    """

    value: float
    interval: Interval | None  # None: too few ``groups`` to show any difference, however large
    p: float  # probability of a difference at least as large, by chance
    groups: int = 0  # independent rows, or groups of rows

    @property
    def significant(self) -> bool:
        """Whether the interval is all on one side of zero."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    def interval_text(self, form: str = "+.3g", scale: float = 1.0) -> str:
        """Return the interval for people, or why there is none."""
        if not math.isfinite(self.value):
            return "(no number)"
        if self.interval is None:
            return f"(too few independent rows for an interval: {self.groups})"
        return f"[{scale * self.interval[0]:{form}}, {scale * self.interval[1]:{form}}]"

    def within(self, largest: float) -> "Difference":
        """Return the same with its interval cut at plus and minus ``largest``.

        ``largest`` is the largest possible difference of two values of the metric: 1 for rates. The
        true difference lies within it, so what is cut off is no part of what the interval must
        cover. Whether the interval excludes 0 does not change.
        """
        if self.interval is None:
            return self
        low, high = self.interval
        largest = max(largest, abs(self.value))
        return replace(self, interval=(max(low, -largest), min(high, largest)))

    def negative(self) -> "Difference":
        """Return the difference of theirs to ours."""
        return replace(
            self,
            value=-self.value,
            interval=None if self.interval is None else (-self.interval[1], -self.interval[0]),
        )


VarianceComponent = tuple[float, float]  # (variance, its degrees of freedom)


def half_width(parts: Sequence[VarianceComponent], alpha: float) -> float:
    """Return half the interval of a normal value whose variance is the sum of ``parts``.

    The parts are estimated independently; the result is sqrt(sum of t^2 * variance), where t is
    Student's for the degrees of freedom of each part. It covers in at least 1 - ``alpha`` of all
    cases whatever the true variances are (Banerjee 1960, Sankhya 22, 359; Cochran 1964, Biometrics
    20, 191): the probability that Z^2 <= x is concave in x, so that of a mixture is at least the
    mixture of the probabilities, each of which is 1 - alpha. Satterthwaite's t (1946), which
    estimates the degrees of freedom of the sum, has no such bound: a spread of two seeds that is
    small by chance makes its interval too narrow.
    """
    from scipy.special import stdtrit

    return math.sqrt(
        math.fsum(
            variance * float(stdtrit(freedom, alpha / 2)) ** 2
            for variance, freedom in parts
            if variance > 0
        )
    )


def p_from_parts(value: float, parts: Sequence[VarianceComponent]) -> float:
    """Return p: the largest ``alpha`` for which the interval of ``half_width`` still holds 0."""
    from scipy.special import stdtr

    if value == 0:
        return 1.0
    positive = [(variance, freedom) for variance, freedom in parts if variance > 0]
    if not positive:
        return 0.0
    if len(positive) == 1:
        ((variance, freedom),) = positive
        return float(2 * stdtr(freedom, -abs(value) / math.sqrt(variance)))
    low, high = math.log(1e-300), 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if half_width(positive, math.exp(middle)) > abs(value) else (low, middle)
        )
    return math.exp(high)


@dataclass(frozen=True)
class UncorrectedDifference:
    """A difference before it is known how many others are tested with it.

    ``bounds`` are the parts of its variance, estimated in one or several ways, of which the most
    careful counts. ``informative`` is how many groups differ at all: if there is no difference,
    each of them is as likely to differ to either side, so p is at least 2^(1 - informative). For
    rows that are right or wrong, ``discordant`` is (rows that only ours got right, rows that only
    theirs got right, all rows); p is then McNemar's.
    """

    value: float
    bounds: tuple[tuple[VarianceComponent, ...], ...]
    groups: int
    informative: int
    discordant: tuple[int, int, int] | None = None

    @property
    def _is_finite(self) -> bool:
        """Whether the value and its variances are finite; without them, nothing is known."""
        return math.isfinite(self.value) and all(
            math.isfinite(variance) for parts in self.bounds for variance, _ in parts
        )

    @property
    def p(self) -> float:
        """The p of this comparison as the only one."""
        if self.discordant is not None:
            return mcnemar(self.discordant[0], self.discordant[1])
        if not self._is_finite:
            return 1.0
        return min(
            1.0,
            max(
                2.0 ** (1 - self.informative),
                *(p_from_parts(self.value, parts) for parts in self.bounds),
            ),
        )

    def interval(self, alpha: float) -> Interval | None:
        """Return the interval, which excludes 0 exactly where p < ``alpha``.

        None where there are too few groups for a significant difference, whatever their values.
        """
        if 2.0 ** (1 - self.groups) >= alpha or not self._is_finite:
            return None
        half = max(half_width(parts, alpha) for parts in self.bounds)
        low, high = self.value - half, self.value + half
        if self.discordant is not None:
            return self._exact(alpha, low, high)
        if 2.0 ** (1 - self.informative) >= alpha:
            return min(low, 0.0), max(high, 0.0)
        return low, high

    def _exact(self, alpha: float, low: float, high: float) -> Interval:
        """Return the interval that belongs to McNemar's test.

        It is Clopper and Pearson's interval of the share of ours among the rows that differ, times
        their share of all rows (Fay and Lumbard 2021, Statistics in Medicine 40, 1147). Away from
        0, the wider of it and ``low``, ``high`` counts: how many rows differ is subject to chance
        as well.
        """
        from scipy.special import betaincinv

        assert self.discordant is not None
        ours, theirs, rows = self.discordant
        trials = ours + theirs
        if not trials:
            return 0.0, 0.0
        least = float(betaincinv(ours, theirs + 1, alpha / 2)) if ours else 0.0
        most = float(betaincinv(ours + 1, theirs, 1 - alpha / 2)) if theirs else 1.0
        exact_low, exact_high = (2 * least - 1) * trials / rows, (2 * most - 1) * trials / rows
        return (
            exact_low if ours > theirs else min(exact_low, low),
            exact_high if ours < theirs else max(exact_high, high),
        )


def corrected(comparisons: Sequence[UncorrectedDifference], confidence: float) -> list[Difference]:
    """Return all comparisons of one family, corrected for each other (Holm 1979).

    The intervals exclude 0 exactly where the corrected p is below 1 - ``confidence``: each is at
    the level at which Holm's procedure judges its comparison. That is alpha / n for the smallest p
    and alpha / (n - 1) for the next; from the first one that is not significant on, its level.
    """
    raw = [one.p for one in comparisons]
    levels = holm_levels(raw, 1 - confidence)
    return [
        Difference(one.value, one.interval(level), p, one.groups)
        for one, level, p in zip(comparisons, levels, holm(raw), strict=True)
    ]


def paired(
    ours: Columns,
    theirs: Columns,
    of: Statistic,
    groups: Sequence[str],
    samples: int,
    seed: int = 0,
) -> UncorrectedDifference:
    """Compare ``of`` the sums of ``ours`` with that of ``theirs``, over the same groups of rows.

    The test is Student's t. The variance is that over groups drawn again, with replacement
    (bootstrap), times n / (n - 1) for n groups.
    """
    sums = _resampled([*ours, *theirs], groups, samples, seed)
    differences = of(sums[:, : len(ours)]) - of(sums[:, len(ours) :])
    value = of(np.array([math.fsum(column) for column in ours])) - of(
        np.array([math.fsum(column) for column in theirs])
    )
    return from_samples(
        float(value), differences, groups, count_differing([ours], [theirs], groups)
    )


def from_samples(
    value: float, samples: np.ndarray, groups: Sequence[str], informative: int
) -> UncorrectedDifference:
    """Return the comparison of a difference whose ``samples`` are over groups drawn again."""
    count = len(set(groups))
    return UncorrectedDifference(
        without_rounding(value), ((bootstrap_part(samples, count),),), count, informative
    )


def bootstrap_part(samples: np.ndarray, groups: int) -> VarianceComponent:
    """Return the variance of the rows, from ``samples`` over ``groups`` drawn again."""
    finite = bool(np.isfinite(samples).all())
    variance = float(np.var(samples, ddof=1)) * groups / max(1, groups - 1) if finite else math.inf
    # smaller ones are rounding errors of equal rows that were summed in another order
    return (variance if variance > 1e-24 else 0.0), float(max(1, groups - 1))


def without_rounding(value: float) -> float:
    """Return 0 for a rounding error: equal rows may be summed in another order."""
    return 0.0 if abs(value) < 1e-12 else value


def count_differing(
    ours: Sequence[Columns], theirs: Sequence[Columns], groups: Sequence[str]
) -> int:
    """Return in how many groups the two sides differ.

    Each side is the mean of several runs.
    """
    sides = [
        np.mean([np.asarray(columns, dtype=float) for columns in runs], axis=0)
        for runs in (ours, theirs)
    ]  # (columns, rows)
    rows = (np.abs(sides[0] - sides[1]) > 1e-12).any(axis=0)
    return len({group for group, differs in zip(groups, rows, strict=True) if differs})


def pooled_variance(samples: Sequence[Sequence[float]]) -> tuple[float, int] | None:
    """Return (variance of values around the mean of their own sample, its degrees of freedom).

    None where no sample has two values.
    """
    freedom = sum(len(sample) - 1 for sample in samples if sample)
    if freedom < 1:
        return None
    squares = math.fsum(
        (value - math.fsum(sample) / len(sample)) ** 2 for sample in samples for value in sample
    )
    return squares / freedom, freedom


def mcnemar(ours_alone: int, theirs_alone: int) -> float:
    """Return the exact two-sided p of two systems on the same rows (McNemar 1947).

    The arguments count the rows that only one of them got right.
    """
    trials, fewer = ours_alone + theirs_alone, min(ours_alone, theirs_alone)
    return min(1.0, 2 * sum(math.comb(trials, k) for k in range(fewer + 1)) / 2**trials)


def holm(ps: Sequence[float]) -> list[float]:
    """Return ``ps`` of several comparisons, corrected for each other (Holm 1979).

    All of them together are then wrong as rarely as one.
    """
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, largest = [0.0] * len(ps), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - place) * ps[index]))
        adjusted[index] = largest
    return adjusted


def holm_levels(ps: Sequence[float], alpha: float) -> list[float]:
    """Return the level at which Holm's procedure judges each of ``ps``: significant below it."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    levels, level = [alpha] * len(ps), 0.0
    for place, index in enumerate(order):
        if place == 0 or ps[order[place - 1]] < level:  # so far all were significant
            level = alpha / (len(ps) - place)
        levels[index] = level
    return levels


def _resampled(columns: Columns, groups: Sequence[str], samples: int, seed: int) -> np.ndarray:
    """Return the sums of every column over groups drawn with replacement (samples, columns)."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    totals = [
        np.bincount(index, weights=np.asarray(column, dtype=float), minlength=len(names))
        for column in columns
    ]
    generator = np.random.default_rng(seed)
    sums = np.empty((samples, len(columns)))
    for sample in range(samples):  # all at once would not fit into memory for a large test set
        drawn = generator.integers(len(names), size=len(names))
        sums[sample] = [total[drawn].sum() for total in totals]
    return sums


def _middle(values: np.ndarray, confidence: float) -> Interval:
    """Return the middle share ``confidence`` of the values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
