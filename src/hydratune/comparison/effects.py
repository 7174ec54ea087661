"""What each setting did, over all finished runs of a comparison.

For each value of a setting its mean score, for numeric settings a rank correlation, and with enough
runs the importance of the setting.
"""

import itertools
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from hydratune import extras
from hydratune.comparison.criterion import Criterion
from hydratune.comparison.entries import Entry, score_of, seed_keys, varying_settings
from hydratune.comparison.formatting import canonical, format_value
from hydratune.comparison.runs import Run
from hydratune.evaluation.statistics import Interval
from hydratune.metric_table import bounds

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MIN_RUNS = 10  # for importances: a forest fitted to fewer runs says nothing
_MOST_LEVELS = 12  # values of a setting that are listed one by one
_BINS = 4  # groups of neighbouring values where there are more
_MIN_POINTS = 4  # for a rank correlation
_MOST_EXACT = 8  # points up to which its p value is computed over all orders
_TREES = 256
ScoredRun = tuple[Run, float]
IntervalOfMean = Callable[[Sequence[float]], Interval | None]


@dataclass(frozen=True)
class SettingValue:
    """The runs with one value of a setting."""

    value: object  # "a to b" where there are too many values to list each
    scores: tuple[float, ...]
    interval: Interval | None  # of the mean over these runs (``interval_of_mean``); None for one

    @property
    def runs(self) -> int:
        return len(self.scores)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)


@dataclass(frozen=True)
class Effect:
    """What one setting did."""

    key: str
    levels: tuple[SettingValue, ...]  # in order; empty for a text with too many values
    correlation: float | None  # Spearman's, of a number with the metric; seeds count as one point
    correlation_p: float | None
    # the share of the variance of a forest that this setting explains by itself (fANOVA);
    # None if the forest predicts nothing
    importance: float | None

    @property
    def is_noise(self) -> bool:
        """Whether this is the seed, which explains only what chance does."""
        return self.key == "seed"


def find_effects(ranked: Sequence[Entry], by: Criterion, confidence: float = 0.95) -> list[Effect]:
    """Return the effect of every setting that varies, the most important first, the seed last.

    Only finished runs count.
    """
    scored = [
        (run, score)
        for entry in ranked
        for run in entry.runs
        if (score := score_of(run, by)) is not None
    ]
    finished = [run for run, _ in scored]
    keys = varying_settings(finished)
    importances = _importances(scored, keys)
    means = [(entry.settings, entry.mean) for entry in ranked if entry.mean is not None]
    seeds = seed_keys(finished)  # their order means nothing, so they have no rank correlation
    effects = []
    for key in keys:
        correlation, p = (None, None) if key in seeds else _rank_correlation(means, key)
        levels = _levels(scored, key, partial(interval_of_mean, by.metric, confidence=confidence))
        effects.append(Effect(key, levels, correlation, p, importances.get(key)))
    return sorted(effects, key=lambda effect: (effect.is_noise, -(effect.importance or 0.0)))


def _levels(
    scored: Sequence[ScoredRun], key: str, interval: IntervalOfMean
) -> tuple[SettingValue, ...]:
    """Group scores by the values of a setting, or by ranges of them where there are many."""
    scores: dict[str, list[float]] = {}
    values: dict[str, object] = {}
    for run, score in scored:
        name = canonical(run.settings.get(key))
        scores.setdefault(name, []).append(score)
        values.setdefault(name, run.settings.get(key))
    numbers = {name: value for name, value in values.items() if _is_number(value)}
    is_numeric = len(numbers) == len(values)
    names = sorted(
        scores, key=lambda name: (float(numbers[name]), "") if is_numeric else (0.0, name)
    )
    if len(names) <= _MOST_LEVELS:
        return tuple(_level(values[name], scores[name], interval) for name in names)
    if not is_numeric:
        return ()
    size = -(-len(names) // _BINS)
    levels = []
    for start in range(0, len(names), size):
        neighbours = names[start : start + size]
        first, last = (format_value(values[name]) for name in (neighbours[0], neighbours[-1]))
        together = [score for name in neighbours for score in scores[name]]
        levels.append(_level(f"{first} to {last}", together, interval))
    return tuple(levels)


def _level(value: object, scores: Sequence[float], interval: IntervalOfMean) -> SettingValue:
    return SettingValue(value, tuple(scores), interval(scores))


def _rank_correlation(
    means: Sequence[tuple[Mapping[str, object], float]], key: str
) -> tuple[float | None, float | None]:
    """Return (Spearman's rank correlation of a numeric setting with the metric, its p value).

    Both are None for a setting that is not numeric, for too few points, and if either side is
    constant. For few points the p value is exact: the share of all orders of the scores that
    correlate at least as strongly.
    """
    settings = [own.get(key) for own, _ in means]
    values = [value for _, value in means]
    numbers = [float(value) for value in settings if _is_number(value)]
    if len(values) < _MIN_POINTS or len(numbers) < len(settings):
        return None, None
    if len(set(numbers)) < 2 or len(set(values)) < 2:
        return None, None
    from scipy.stats import rankdata, spearmanr

    result = spearmanr(settings, values)
    if len(values) > _MOST_EXACT:
        return float(result.statistic), float(result.pvalue)
    x, y = rankdata(settings), rankdata(values)
    orders = np.array(list(itertools.permutations(y - y.mean())))  # (orders, points)
    strength = np.abs(orders @ (x - x.mean()))
    return float(result.statistic), float(np.mean(strength >= strength[0] - 1e-9))


def interval_of_mean(metric: str, values: Sequence[float], confidence: float) -> Interval | None:
    """Return Student's t interval, cut at the bounds of the metric; None for a single value.

    The true mean lies within the bounds (0 and 100 % for a rate), so the interval that is cut
    covers it exactly as often. An interval on the scale of log odds would stay within them by
    itself, but for the mean of the log odds instead of the mean that stands beside it, and values
    of 0 and 1 have none. Bounds that the mean itself is beyond are ignored.
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean, n = statistics.fmean(values), len(values)
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    least, largest = bounds(metric)
    return max(mean - half, min(least, mean)), min(mean + half, max(largest, mean))


def _importances(scored: Sequence[ScoredRun], keys: Sequence[str]) -> dict[str, float]:
    """Return Optuna's fANOVA importances: a forest is fitted and its variance split over settings.

    Empty if there are too few runs, or if the forest does not predict runs outside its training
    sample: its variance is then chance.
    """
    if len(scored) < MIN_RUNS or len(keys) < 2 or len({score for _, score in scored}) < 2:
        return {}
    if not can_find_importances():
        return {}
    import optuna
    from optuna.importance import FanovaImportanceEvaluator

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {key: _distribution([run.settings.get(key) for run, _ in scored]) for key in keys}
    if not _is_predictable(scored, space):
        return {}
    study = optuna.create_study()
    for run, score in scored:
        params = {key: _parameter(run.settings.get(key), space[key]) for key in keys}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=score))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = optuna.importance.get_param_importances(
            study, evaluator=FanovaImportanceEvaluator(seed=0), params=list(keys), normalize=False
        )
    return {key: float(share) for key, share in shares.items()}


def can_find_importances() -> bool:
    """Return whether the optional packages that importances need are installed."""
    return extras.is_installed("optuna") and extras.is_installed("sklearn")


def _is_predictable(scored: Sequence[ScoredRun], space: Mapping[str, "BaseDistribution"]) -> bool:
    """Return whether a forest predicts out-of-bag runs better than their mean does."""
    from optuna.distributions import CategoricalDistribution
    from sklearn.ensemble import RandomForestRegressor

    columns = []
    for key, distribution in space.items():
        values = [_parameter(run.settings.get(key), distribution) for run, _ in scored]
        if isinstance(distribution, CategoricalDistribution):
            choices = distribution.choices
            columns += [[float(value == choice) for value in values] for choice in choices]
        else:
            columns.append([float(value) for value in values])
    forest = RandomForestRegressor(n_estimators=_TREES, oob_score=True, random_state=0)
    forest.fit(np.array(columns).T, [score for _, score in scored])
    return bool(forest.oob_score_ > 0)


def _distribution(values: Sequence[object]) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    numbers = [value for value in values if _is_number(value)]
    if len(numbers) == len(values):
        low, high = min(numbers), max(numbers)
        return FloatDistribution(low, high, log=low > 0 and high / low >= 10)
    return CategoricalDistribution(sorted({str(value) for value in values}))


def _parameter(value: object, distribution: "BaseDistribution") -> float | str:
    from optuna.distributions import FloatDistribution

    if isinstance(distribution, FloatDistribution) and _is_number(value):
        return float(value)
    return str(value)


def _is_number(value: object) -> TypeGuard[int | float]:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value)
