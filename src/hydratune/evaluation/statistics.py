"""Intervals. Pure functions on numbers."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]


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


def bootstrap_ratio(
    numerators: Sequence[float], denominators: Sequence[float], groups: Sequence[str], confidence: float, samples: int, seed: int = 0
) -> Interval:
    """Percentile interval of sum(numerators) / sum(denominators) when whole groups are drawn again, with replacement.

    Rows of one group (one contract, one dialogue) are not independent, so a group is drawn whole.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    above = np.bincount(index, weights=np.asarray(numerators, dtype=float), minlength=len(names))
    below = np.bincount(index, weights=np.asarray(denominators, dtype=float), minlength=len(names))
    generator = np.random.default_rng(seed)
    sums = np.empty((samples, 2))
    for sample in range(samples):  # one at a time: all at once would not fit for a large test set
        drawn = generator.integers(len(names), size=len(names))
        sums[sample] = above[drawn].sum(), below[drawn].sum()
    ratios = np.divide(sums[:, 0], sums[:, 1], out=np.zeros(samples), where=sums[:, 1] > 0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)
