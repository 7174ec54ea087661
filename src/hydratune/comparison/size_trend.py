"""How a metric changes with the number of training rows. Pure functions on numbers.

Learning curves of a fixed model are usually close to a power law: every doubling of the rows
multiplies the error by the same factor (Hestness et al. 2017, arXiv:1712.00409). The error is
what is left to the best possible value: 1 less a rate, or a loss itself. A metric without such a
bound is taken to change by the same amount with every doubling.

How far curves usually bend is taken into account: labels with errors leave a floor that no data
removes, and the curve then flattens. The curvature is estimated together with the slope, and shrunk
towards none as if it had a normal distribution with an assumed standard deviation (ridge
regression); what is then still unknown of it widens the interval of the extrapolation.

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
# assumed standard deviation of the curvature, as a share of the mean slope: a floor of 10 % of the
# first error, where doublings halve the rest, makes 0.08 of it, and one of 20 % makes 0.14
_USUAL_BEND = 0.15
_KNOWN = 1e6  # degrees of freedom of a variance that is known
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

    factor: float | None  # of the error, by each doubling on average; None: a metric without one
    next_change: Estimate  # of the metric by one more doubling
    next_value: Estimate  # the metric after it
    curvature_p: float  # that the curve bends so much, by chance
    flattens: bool  # each doubling gains less than the one before, measured by the error


def error_of(lower: bool | None, bounds: tuple[float, float]) -> tuple[float, float] | None:
    """Return (best value, sign) with error = sign * (value - best); None without a bound."""
    if lower is True and math.isfinite(bounds[0]):
        return bounds[0], 1.0
    if lower is False and math.isfinite(bounds[1]):
        return bounds[1], -1.0
    return None


def fit_trend(sizes: Sizes, error: tuple[float, float] | None, confidence: float) -> Trend | None:
    """Fit the trend and extrapolate it by one doubling; None for fewer than three sizes.

    ``error``: of ``error_of``.
    """
    if len(sizes.means) < FEWEST_SIZES:
        return None
    curve = _Curve(sizes, error)
    bend = estimate(sizes, curve.curvature, confidence)
    spread = _USUAL_BEND * abs(float(curve.slope(sizes.means)))
    known = max((sum(v for v, _ in parts) for parts in _bounds(sizes, curve.curvature)), default=0)
    kept = spread**2 / (spread**2 + known) if spread else 1.0
    change = _Extrapolated(curve, kept)
    doubt = (1 - kept) * spread * abs(curve.reach) * change.slope_by_bend(sizes.means)
    found = estimate(sizes, change, confidence, doubt**2)
    value = estimate(sizes, lambda means: means[..., -1] + change(means), confidence, doubt**2)
    factor = None
    if error is not None:
        best, sign = error
        factor = float(2.0 ** curve.slope(sizes.means))
        found = _within_best(found, float(best - sizes.means[-1]), sign)
        value = _within_best(value, best, sign)
    gain = float(np.diff(sizes.means)[-1])
    flattens = bend.value > 0 if error is not None else bend.value * gain < 0
    return Trend(factor, found, value, bend.p, bool(flattens))


class _Curve:
    """The error on a logarithmic scale, or the metric, as a polynomial of log2 of the rows.

    It has a straight line, and what no straight line can follow: a square, orthogonal to it.
    """

    def __init__(self, sizes: Sizes, error: tuple[float, float] | None) -> None:
        x = sizes.doublings - sizes.doublings.mean()
        line = np.polyfit(x, x**2, 1)
        square = x**2 - np.polyval(line, x)
        after = (x[-1] + 1) ** 2 - np.polyval(line, x[-1] + 1)
        self.reach = float(after - square[-1])  # of the square, in the next doubling
        self._line_weights = x / float(x @ x)
        self._square_weights = square / float(square @ square)
        self.error = error
        self._least = 0.5 / max(1, sizes.groups)  # an error of half a row, where none is left

    def heights(self, means: np.ndarray) -> np.ndarray:
        """Return the logarithms of the errors (to base 2), or the means where there is none."""
        if self.error is None:
            return means
        best, sign = self.error
        return np.log2(np.maximum(sign * (means - best), self._least if sign < 0 else 1e-9))

    def slope(self, means: np.ndarray) -> np.ndarray:
        """Return the mean change of the heights by a doubling."""
        return np.asarray(self.heights(means) @ self._line_weights)

    def curvature(self, means: np.ndarray) -> np.ndarray:
        """Return the factor of the square."""
        return np.asarray(self.heights(means) @ self._square_weights)


@dataclass(frozen=True)
class _Extrapolated:
    """The change of the metric by one more doubling, as a function of the means.

    ``kept``: the part of the measured curvature that is believed.
    """

    curve: _Curve
    kept: float

    def __call__(self, means: np.ndarray) -> np.ndarray:
        curve = self.curve
        step = curve.slope(means) + self.kept * curve.reach * curve.curvature(means)
        if curve.error is None:
            return np.asarray(step)
        return np.asarray((2.0**step - 1) * (means[..., -1] - curve.error[0]))

    def slope_by_bend(self, means: np.ndarray) -> float:
        """Return how much the change differs where the step differs by a little, per unit of it."""
        if self.curve.error is None:
            return 1.0
        left = float(means[-1]) - self.curve.error[0]
        return math.log(2) * abs(float(self(means)) + left)


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


def estimate(sizes: Sizes, of: Function, confidence: float, doubt: float = 0.0) -> Estimate:
    """Return ``of`` the means, its interval, and the p of no difference from 0.

    ``doubt``: a variance besides those of the rows and of the seeds, which is known.
    """
    value = without_rounding(float(of(sizes.means)))
    bounds = [(*parts, (doubt, _KNOWN)) for parts in _bounds(sizes, of)]
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
