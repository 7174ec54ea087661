"""What each setting did, over all finished runs of a comparison: means by value, rank correlation, importance."""

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydratune.comparison.entries import score, varying
from hydratune.comparison.names import Criterion
from hydratune.comparison.runs import Run
from hydratune.evaluation.statistics import Interval

LEAST_RUNS = 10  # for importances: a forest of fewer says nothing
_MOST_LEVELS = 12  # values of a setting that are listed


@dataclass(frozen=True)
class Level:
    """Runs with one value of a setting."""

    value: Any
    runs: int
    mean: float
    interval: Interval | None  # of the mean, over these runs, by Student's t; None for a single run


@dataclass(frozen=True)
class Effect:
    """One setting."""

    key: str
    levels: tuple[Level, ...]  # in order; none where there are too many values
    correlation: float | None  # Spearman's, of a number with the metric
    correlation_p: float | None
    importance: float | None  # share of the metric's variance that this setting alone explains (fANOVA)

    @property
    def is_noise(self) -> bool:
        """The seed: what it explains is what chance does."""
        return self.key == "seed"


def effects(runs: Sequence[Run], by: Criterion, confidence: float = 0.95) -> list[Effect]:
    """Of every setting that varies over finished runs, the most important first, the seed last. Halved and failed runs take no part."""
    counted = [(run, value) for run in runs if (value := score(run, by)) is not None]
    keys = varying([run for run, _ in counted])
    shares = _importances(counted, keys)
    found = [_effect(counted, key, shares.get(key), confidence) for key in keys]
    return sorted(found, key=lambda effect: (effect.is_noise, -(effect.importance or 0.0)))


def _effect(counted: Sequence[tuple[Run, float]], key: str, share: float | None, confidence: float) -> Effect:
    known = [(run.settings.get(key), value) for run, value in counted]
    numbers = [(float(setting), value) for setting, value in known if setting is not None and _is_number(setting)]
    by_value: dict[str, list[float]] = {}
    for setting, value in known:
        by_value.setdefault(str(setting), []).append(value)
    first = {str(setting): setting for setting, _ in known}
    levels = [Level(first[name], len(some), statistics.fmean(some), _mean_interval(some, confidence)) for name, some in by_value.items()]
    numeric = len(numbers) == len(known)
    levels.sort(key=lambda level: (float(level.value), "") if numeric else (0.0, str(level.value)))
    correlation = p = None
    if numeric and len(levels) > 1 and len({value for _, value in numbers}) > 1 and len(numbers) > 2:
        from scipy.stats import spearmanr

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = spearmanr([setting for setting, _ in numbers], [value for _, value in numbers])
        correlation, p = float(found.statistic), float(found.pvalue)
    return Effect(key, tuple(levels) if len(levels) <= _MOST_LEVELS else (), correlation, p, share)


def _mean_interval(values: Sequence[float], confidence: float) -> Interval | None:
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean, n = statistics.fmean(values), len(values)
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return mean - half, mean + half


def _importances(counted: Sequence[tuple[Run, float]], keys: Sequence[str]) -> dict[str, float]:
    """fANOVA's of Optuna: a forest is fitted, and its variance split over the settings. Empty where there are too few runs."""
    if len(counted) < LEAST_RUNS or len(keys) < 2 or len({value for _, value in counted}) < 2:
        return {}
    import optuna
    from optuna.importance import FanovaImportanceEvaluator

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {key: _distribution([run.settings.get(key) for run, _ in counted]) for key in keys}
    study = optuna.create_study()
    for run, value in counted:
        params = {key: _parameter(run.settings.get(key), space[key]) for key in keys}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=list(keys))
    return {key: float(share) for key, share in found.items()}


def _distribution(values: Sequence[Any]) -> Any:
    import optuna

    if all(map(_is_number, values)):
        low, high = min(values), max(values)
        return optuna.distributions.FloatDistribution(low, high, log=low > 0 and high / low >= 10)
    return optuna.distributions.CategoricalDistribution(sorted({str(value) for value in values}))


def _parameter(value: Any, distribution: Any) -> Any:
    import optuna

    return float(value) if isinstance(distribution, optuna.distributions.FloatDistribution) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
