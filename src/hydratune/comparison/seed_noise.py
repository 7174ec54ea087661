"""The variance of a difference of two means over seeds: from the test rows and from the seeds.

The rows' part is estimated by a bootstrap: groups of rows are drawn with replacement, the same ones
for both sides. The seeds' part is the variance of runs around the mean of their entry.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hydratune.evaluation.measures import Measure, discordant, is_exact
from hydratune.evaluation.statistics import (
    UncorrectedDifference,
    VarianceComponent,
    bootstrap_part,
    count_differing,
    from_samples,
    pooled_variance,
    without_rounding,
)

_SAMPLES = 2000
_BLOCK = 1024  # samples whose draws are held in one array


class GroupBootstrap:
    """Bootstrap samples of test rows, the same ones for every measure.

    ``groups`` names the group of each row; whole groups are drawn.
    """

    def __init__(self, groups: Sequence[str], samples: int = _SAMPLES) -> None:
        names, self.index = np.unique(np.asarray(groups), return_inverse=True)
        self.groups, self.count = groups, len(names)
        generator, share = np.random.default_rng(0), [1 / self.count] * self.count
        sizes = [min(_BLOCK, samples - start) for start in range(0, samples, _BLOCK)]
        # how often each sample draws each group; arrays of (block, groups)
        self.draws = [
            generator.multinomial(self.count, share, size=size).astype(np.uint16) for size in sizes
        ]
        # id of a measure -> (the measure, so that its id is not reused, and its values)
        self._values: dict[int, tuple[Measure, np.ndarray]] = {}

    def of(self, measure: Measure) -> np.ndarray:
        """Return the value of ``measure`` for every sample, (samples,)."""
        if id(measure) not in self._values:
            sums = [
                np.bincount(self.index, weights=np.asarray(c, dtype=float), minlength=self.count)
                for c in measure.columns
            ]
            totals = np.stack(sums, axis=1)  # (groups, columns)
            sampled = [block.astype(np.float64) @ totals for block in self.draws]
            self._values[id(measure)] = measure, measure.of(np.concatenate(sampled))
        return self._values[id(measure)][1]

    def mean(self, seeds: Sequence[Measure]) -> np.ndarray:
        """Return the mean over seeds for every sample, (samples,)."""
        return np.mean([self.of(measure) for measure in seeds], axis=0)


@dataclass(frozen=True)
class SeedNoise:
    """The variance of runs around the mean of their entry."""

    variance: float
    freedom: int  # degrees of freedom
    by_rows: float  # the part of it that comes from drawing rows, which suit seeds differently
    logits: float | None = None  # the variance of log odds, if each row is right or wrong


def estimate_seed_noise(
    entries: Sequence[Sequence[Measure]], bootstrap: GroupBootstrap
) -> SeedNoise | None:
    """Estimate the noise from the seeds of several entries; None if no entry has two seeds."""
    spread = pooled_variance([[measure.value for measure in seeds] for seeds in entries])
    if spread is None:
        return None
    variance, freedom = spread
    squares = 0.0
    for seeds in entries:
        if len(seeds) > 1:
            deviations = [bootstrap.of(measure) - bootstrap.mean(seeds) for measure in seeds]
            squares += float(np.var(deviations, axis=1, ddof=1).sum())
    by_rows = squares / freedom * bootstrap.count / max(1, bootstrap.count - 1)
    if not all(measure.hits for seeds in entries for measure in seeds):
        return SeedNoise(variance, freedom, by_rows)
    logits = pooled_variance([[log_odds(measure) for measure in seeds] for seeds in entries])
    return SeedNoise(variance, freedom, by_rows, logits[0] if logits else None)


def log_odds(measure: Measure) -> float:
    """Return the log odds of a row being right, half a row away from 0 and from all rows."""
    right, rows = float(sum(measure.columns[0])), len(measure.columns[0])
    return math.log((right + 0.5) / (rows - right + 0.5))


def compare_means(
    ours: Sequence[Measure],
    theirs: Sequence[Measure],
    bootstrap: GroupBootstrap,
    noise: SeedNoise | None,
) -> UncorrectedDifference:
    """Compare the means of two entries, ``theirs`` less ``ours``, with one measure for each seed.

    Without ``noise`` only the variance over rows counts.

    A run's mean is m + s + r + e: the effect of its settings, of its seed, of how these rows suit
    its settings, and of how they suit its seed. The difference of two means over n and k seeds has
    the variance R + T, with T = (1/n + 1/k) (var s + var e), and R the variance of r. ``noise``
    estimates T, with the few degrees of freedom of the seeds. R is the variance over bootstrap
    samples, which also contains (1/n + 1/k) var e; that is subtracted. The interval is that of
    ``half_width`` for R and T, but at least as wide as the interval by the rows alone, so that two
    seeds that happen to agree cannot make it narrower. Both intervals hold their level, so the
    wider one does as well (benchmarks/ties.py).
    """
    groups = bootstrap.groups
    samples = bootstrap.mean(theirs) - bootstrap.mean(ours)
    value = float(np.mean([m.value for m in theirs]) - np.mean([m.value for m in ours]))
    informative = count_differing([m.columns for m in theirs], [m.columns for m in ours], groups)
    if noise is None:
        by_rows = from_samples(value, samples, groups, informative)
        one_each = len(ours) == len(theirs) == 1
        if one_each and is_exact(theirs[0], ours[0], groups):
            return replace(by_rows, discordant=discordant(theirs[0], ours[0]))
        return by_rows
    odds = None
    if noise.logits is not None:
        odds = statistics.fmean(map(log_odds, theirs)) - statistics.fmean(map(log_odds, ours))
    rows = bootstrap_part(samples, bootstrap.count)
    share = 1 / len(ours) + 1 / len(theirs)
    bounds = variance_bounds(rows, noise, share, value, odds)
    return UncorrectedDifference(without_rounding(value), bounds, bootstrap.count, informative)


def variance_bounds(
    rows: VarianceComponent, noise: SeedNoise, share: float, value: float, odds: float | None
) -> tuple[tuple[VarianceComponent, ...], ...]:
    """Return (the rows alone, R and T) of ``compare_means``.

    ``share`` is 1/n + 1/k, ``odds`` the difference of the mean log odds. Shares of right rows crowd
    near 0 and 1, where two seeds that differ much agree too often for Student's t. Log odds do not
    crowd, so the difference must be significant there as well: T is at least as many times
    ``value``^2 as it is ``odds``^2 on the scale of log odds.
    """
    rows_variance = max(0.0, rows[0] - share * noise.by_rows)
    seed_variance = noise.variance
    if noise.logits is not None and odds:
        seed_variance = max(seed_variance, noise.logits * (value / odds) ** 2)
    seeds: VarianceComponent = share * seed_variance, float(noise.freedom)
    return (rows,), ((rows_variance, rows[1]), seeds)
