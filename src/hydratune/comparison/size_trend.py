"""How a metric changes with the number of training rows. Pure functions on numbers.

Learning curves of a fixed model are usually close to a power law: every doubling of the rows
multiplies the error by the same factor (Hestness et al. 2017, arXiv:1712.00409). The error is
what is left to the best possible value: 1 less a rate, or a loss itself. A metric without such a
bound is taken to change by the same amount with every doubling.

What is estimated is a function of the mean of each size over its seeds. Its variance has two parts,
as that of a difference of two means has (``seed_noise.compare_means``): the rows' part is that over
bootstrap samples of the test rows, less what these contain of the seeds; the seeds' part is
sum(g^2 v / n), where g is the derivative by the mean of a size, n its number of seeds, and v the
variance of runs around the mean of their size. v is that of all sizes together; where the larger
variances of the sizes that weigh most make more of it, each size has its own.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hydratune.comparison.seed_noise import SeedNoise
from hydratune.evaluation.statistics import (
    Interval,
    VarianceComponent,
    bootstrap_part,
    half_width,
    p_from_parts,
    without_rounding,
)

FEWEST_SIZES = 3  # for a trend that can be checked
_STEP = 1e-5  # of a numerical derivative, times the size of the value
Function = Callable[[np.ndarray], np.ndarray]  # means (..., sizes) -> values (...)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    interval: Interval | None  # None: one seed of each size, and no rows
    p: float  # probability of a value at least as far from 0, by chance


@dataclass(frozen=True)
class Sizes:
    """The mean of a metric by number of training rows, smallest first, and what is known of it."""

    doublings: np.ndarray  # (sizes,), log2 of the training rows
    means: np.ndarray  # (sizes,), over the seeds
    seeds: Sequence[int]  # of each size
    spreads: Sequence[float]  # the variance of the seeds of each size; 0 for one seed
    samples: np.ndarray | None  # (samples, sizes), over test rows drawn again; None: no rows
    groups: int  # independent test rows
    noise: SeedNoise | None  # None: no size has several seeds


@dataclass(frozen=True)
class Trend:
    """What the sizes together say."""

    factor: float | None  # of the error, by each doubling; None: a metric without an error
    next_change: Estimate | None  # of the metric by one more doubling; None: the trend is none
    next_value: Estimate | None  # the metric after it
    curvature_p: float  # that the curve is as far from the trend, by chance
    flattens: bool  # less is gained with each doubling than the trend says


def error_of(lower: bool | None, bounds: tuple[float, float]) -> tuple[float, float] | None:
    """Return (best value, sign) with error = sign * (value - best); None without a bound."""
    if lower is True and math.isfinite(bounds[0]):
        return bounds[0], 1.0
    if lower is False and math.isfinite(bounds[1]):
        return bounds[1], -1.0
    return None


def fit_trend(sizes: Sizes, error: tuple[float, float] | None, confidence: float) -> Trend | None:
    """Fit the trend and extrapolate it by one doubling; None for fewer than three sizes.

    Where the sizes contradict the trend significantly, nothing is extrapolated.
    """
    if len(sizes.means) < FEWEST_SIZES:
        return None
    x = sizes.doublings - sizes.doublings.mean()
    slope_weights = x / float(x @ x)
    square = x**2 - np.polyval(np.polyfit(x, x**2, 1), x)  # what no straight line can follow
    curve_weights = square / float(square @ square)
    least = 0.5 / max(1, sizes.groups)  # an error of half a row, where none is left
    best, sign = error or (0.0, 0.0)

    def log_errors(means: np.ndarray) -> np.ndarray:
        return np.log2(np.maximum(sign * (means - best), least if sign < 0 else 1e-9))

    def next_change(means: np.ndarray) -> np.ndarray:
        if error is None:
            return np.asarray(means @ slope_weights)
        factor = 2.0 ** (log_errors(means) @ slope_weights)
        return np.asarray((factor - 1) * (means[..., -1] - best))

    def curvature(means: np.ndarray) -> np.ndarray:
        return np.asarray((means if error is None else log_errors(means)) @ curve_weights)

    factor = None
    if error is not None:
        factor = float(2.0 ** (log_errors(sizes.means) @ slope_weights))
    bend = estimate(sizes, curvature, confidence)
    gain = np.diff(sizes.means)[-1]
    is_trend = bend.p >= 1 - confidence
    change = value = None
    if is_trend:
        change = estimate(sizes, next_change, confidence)
        value = estimate(sizes, lambda means: means[..., -1] + next_change(means), confidence)
        if error is not None:
            change = _within_best(change, float(best - sizes.means[-1]), sign)
            value = _within_best(value, best, sign)
    flattens = bend.value > 0 if error is not None else bend.value * gain < 0
    return Trend(factor, change, value, bend.p, bool(flattens))


def _within_best(found: Estimate, best: float, sign: float) -> Estimate:
    """Return an estimate whose interval ends at the best possible value.

    ``sign``: 1 where lower values are better, -1 where higher ones are.
    """
    if found.interval is None:
        return found
    low, high = found.interval
    edges = (low, min(high, max(best, found.value)))
    if sign > 0:
        edges = (max(low, min(best, found.value)), high)
    return replace(found, interval=edges)


def estimate(sizes: Sizes, of: Function, confidence: float) -> Estimate:
    """Return ``of`` the means, its interval, and the p of no difference from 0."""
    value = without_rounding(float(of(sizes.means)))
    bounds = _bounds(sizes, of)
    if not bounds or not math.isfinite(value):
        return Estimate(value, None, 1.0)
    half = max(half_width(parts, 1 - confidence) for parts in bounds)
    p = max(p_from_parts(value, parts) for parts in bounds)
    return Estimate(value, (value - half, value + half), p)


def _bounds(sizes: Sizes, of: Function) -> list[tuple[VarianceComponent, ...]]:
    """Return the parts of the variance: by the rows alone, and by rows and seeds."""
    slopes = _gradient(of, sizes.means)
    share = float(np.sum(slopes**2 / np.asarray(sizes.seeds)))
    noise, bounds = sizes.noise, list[tuple[VarianceComponent, ...]]()
    rows: VarianceComponent | None = None
    if sizes.samples is not None:
        rows = bootstrap_part(of(sizes.samples), sizes.groups)
        bounds.append((rows,))
    if noise is not None:
        own_spreads = float(np.sum(slopes**2 * np.asarray(sizes.spreads) / np.asarray(sizes.seeds)))
        seeds: VarianceComponent = max(share * noise.variance, own_spreads), float(noise.freedom)
        own = (max(0.0, rows[0] - share * noise.by_rows), rows[1]) if rows else None
        bounds.append((own, seeds) if own else (seeds,))
    return bounds


def _gradient(of: Function, means: np.ndarray) -> np.ndarray:
    """Return the derivatives of ``of`` by each mean, (sizes,)."""
    steps = _STEP * np.maximum(np.abs(means), 1e-3)
    moved = means + np.concatenate([np.diag(steps), -np.diag(steps)])
    values = of(moved)
    half = len(means)
    return np.asarray((values[:half] - values[half:]) / (2 * steps))
