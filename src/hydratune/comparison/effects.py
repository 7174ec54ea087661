"""What each setting did, over all finished runs of a comparison: means by value, rank correlation,
importance.
"""

import itertools
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydratune.comparison.entries import Entry, canonical, cell, score, seed_keys, varying
from hydratune.comparison.names import Criterion
from hydratune.comparison.runs import Run
from hydratune.evaluation.statistics import Interval

LEAST_RUNS = 10  # for importances: a forest of fewer says nothing
_MOST_LEVELS, _BINS = (
    12,
    4,
)  # values of a setting that are listed; groups of neighbours where there are more
_LEAST_POINTS, _EXACT = (
    4,
    8,
)  # for a rank correlation; up to which all orders are gone through for its p


@dataclass(frozen=True)
class Level:
    """Runs with one value of a setting."""

    value: Any  # "a to b" where there are too many to list each
    scores: tuple[float, ...]
    interval: Interval | None  # of the mean, over these runs, by Student's t; None for a single run

    @property
    def runs(self) -> int:
        return len(self.scores)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)


@dataclass(frozen=True)
class Effect:
    """One setting."""

    key: str
    levels: tuple[Level, ...]  # in order; none where there are too many texts
    correlation: float | None  # Spearman's, of a number with the metric, seeds counted as one
    correlation_p: float | None
    # share of the forest's variance that this setting alone explains (fANOVA); None: the forest
    # predicts nothing
    importance: float | None

    @property
    def is_noise(self) -> bool:
        """The seed: what it explains is what chance does."""
        return self.key == "seed"


def effects(ranked: Sequence[Entry], by: Criterion, confidence: float = 0.95) -> list[Effect]:
    """Of every setting that varies over finished runs, the most important first, the seed last.

    Halved and failed runs take no part.
    """
    counted = [
        (run, value)
        for entry in ranked
        for run in entry.runs
        if (value := score(run, by)) is not None
    ]
    keys = varying([run for run, _ in counted])
    shares = _importances(counted, keys)
    means = [(entry.settings, entry.mean) for entry in ranked if entry.mean is not None]
    # an entry has several, and no order among them means anything
    drawn = seed_keys([run for run, _ in counted])
    ranks = {key: (None, None) if key in drawn else _correlation(means, key) for key in keys}
    found = [
        Effect(key, _levels(counted, key, confidence), *ranks[key], shares.get(key)) for key in keys
    ]
    return sorted(found, key=lambda effect: (effect.is_noise, -(effect.importance or 0.0)))


def _levels(counted: Sequence[tuple[Run, float]], key: str, confidence: float) -> tuple[Level, ...]:
    by_value: dict[str, list[float]] = {}
    first: dict[str, Any] = {}
    for run, value in counted:
        name = canonical(run.settings.get(key))
        by_value.setdefault(name, []).append(value)
        first.setdefault(name, run.settings.get(key))
    numeric = all(map(_is_number, first.values()))
    names = sorted(by_value, key=lambda name: (float(first[name]), "") if numeric else (0.0, name))
    if len(names) <= _MOST_LEVELS:
        return tuple(_level(first[name], by_value[name], confidence) for name in names)
    if not numeric:
        return ()
    size = -(-len(names) // _BINS)
    bins = [names[start : start + size] for start in range(0, len(names), size)]
    named = [
        (
            f"{cell(first[some[0]])} to {cell(first[some[-1]])}",
            [v for name in some for v in by_value[name]],
        )
        for some in bins
    ]
    return tuple(_level(name, scores, confidence) for name, scores in named)


def _level(value: Any, scores: Sequence[float], confidence: float) -> Level:
    return Level(value, tuple(scores), _mean_interval(scores, confidence))


def _correlation(
    means: Sequence[tuple[Mapping[str, Any], float]], key: str
) -> tuple[float | None, float | None]:
    """(Spearman's rank correlation of a numeric setting with the metric, p); None where there is
    none.
    """
    settings, values = [found.get(key) for found, _ in means], [value for _, value in means]
    if (
        len(values) < _LEAST_POINTS
        or not all(map(_is_number, settings))
        or len({float(s) for s in settings if s is not None}) < 2
    ):
        return None, None
    if len(set(values)) < 2:
        return None, None
    from scipy.stats import rankdata, spearmanr

    found = spearmanr(settings, values)
    if len(values) > _EXACT:
        return float(found.statistic), float(found.pvalue)
    x, y = rankdata(settings), rankdata(values)
    orders = np.array(list(itertools.permutations(y - y.mean())))  # (orders, points): all there are
    strength = np.abs(orders @ (x - x.mean()))
    return float(found.statistic), float(np.mean(strength >= strength[0] - 1e-9))


def _mean_interval(values: Sequence[float], confidence: float) -> Interval | None:
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean, n = statistics.fmean(values), len(values)
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return mean - half, mean + half


def _importances(counted: Sequence[tuple[Run, float]], keys: Sequence[str]) -> dict[str, float]:
    """fANOVA's of Optuna: a forest is fitted, and its variance split over the settings.

    Empty where there are too few runs, or where a forest does not predict runs that it has not
    seen: its variance is then chance.
    """
    if len(counted) < LEAST_RUNS or len(keys) < 2 or len({value for _, value in counted}) < 2:
        return {}
    import optuna
    from optuna.importance import FanovaImportanceEvaluator

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {key: _distribution([run.settings.get(key) for run, _ in counted]) for key in keys}
    if not _predictable(counted, space):
        return {}
    study = optuna.create_study()
    for run, value in counted:
        params = {key: _parameter(run.settings.get(key), space[key]) for key in keys}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(
            study, evaluator=FanovaImportanceEvaluator(seed=0), params=list(keys), normalize=False
        )
    return {key: float(share) for key, share in found.items()}


def _predictable(counted: Sequence[tuple[Run, float]], space: Mapping[str, Any]) -> bool:
    """Whether a forest predicts runs left out of its trees better than their mean does."""
    import optuna
    from sklearn.ensemble import RandomForestRegressor

    columns = []
    for key, distribution in space.items():
        values = [_parameter(run.settings.get(key), distribution) for run, _ in counted]
        if isinstance(distribution, optuna.distributions.CategoricalDistribution):
            columns += [
                [float(value == choice) for value in values] for choice in distribution.choices
            ]
        else:
            columns.append(values)
    forest = RandomForestRegressor(n_estimators=256, oob_score=True, random_state=0)
    forest.fit(np.array(columns).T, [value for _, value in counted])
    return bool(forest.oob_score_ > 0)


def _distribution(values: Sequence[Any]) -> Any:
    import optuna

    if all(map(_is_number, values)):
        low, high = min(values), max(values)
        return optuna.distributions.FloatDistribution(low, high, log=low > 0 and high / low >= 10)
    return optuna.distributions.CategoricalDistribution(sorted({str(value) for value in values}))


def _parameter(value: Any, distribution: Any) -> Any:
    import optuna

    return (
        float(value)
        if isinstance(distribution, optuna.distributions.FloatDistribution)
        else str(value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
