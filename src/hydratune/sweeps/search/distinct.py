"""A sampler for a finite space that asks for no point twice."""

from collections.abc import Mapping, Sequence

import numpy
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hydratune.sweeps.search.space import Dimension, Value

Point = tuple[int, ...]  # the number of the value in each dimension


def size_of_space(dimensions: Sequence[Dimension]) -> int | None:
    """Return the number of points, or None if there is no end of them."""
    counts = [dimension.count() for dimension in dimensions]
    size = 1
    for count in counts:
        if count is None:
            return None
        size *= count
    return size


def points_of(trials: Sequence[FrozenTrial], dimensions: Sequence[Dimension]) -> set[Point]:
    """Return the points that trials have; one of another program may have none."""
    return {
        tuple(d.number_of(trial.params[d.name]) for d in dimensions)
        for trial in trials
        if all(d.name in trial.params for d in dimensions)
    }


class DistinctSampler(BaseSampler):
    """Draws what ``base`` draws, unless an earlier trial has that point.

    Then the next point that none has is taken, counted from one that is drawn by ``seed`` and the
    trial's number.
    """

    def __init__(self, base: BaseSampler, dimensions: Sequence[Dimension], seed: int) -> None:
        self._base, self._dimensions, self._seed = base, dimensions, seed
        self._drawn: tuple[int, Mapping[str, Value]] = -1, {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._base.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._base.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        relative = self._base.sample_relative(study, trial, search_space)
        values: dict[str, Value] = {}
        for dimension in self._dimensions:  # in the order in which the trial asks for them
            name, distribution = dimension.name, dimension.distribution
            if distribution.single():
                values[name] = dimension.value(0)
            elif name in relative:
                values[name] = relative[name]
            else:
                values[name] = self._base.sample_independent(study, trial, name, distribution)
        others = [
            other for other in study.get_trials(deepcopy=False) if other.number != trial.number
        ]
        tried = points_of(others, self._dimensions)
        if tuple(d.number_of(values[d.name]) for d in self._dimensions) in tried:
            values = self._untried(tried, trial.number)
        self._drawn = trial.number, values
        return {name: values[name] for name in relative}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> object:
        number, values = self._drawn
        if number == trial.number and param_name in values:
            return values[param_name]
        return self._base.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._base.after_trial(study, trial, state, values)

    def _untried(self, tried: set[Point], number: int) -> dict[str, Value]:
        """Return a point that is not in ``tried``; any if all are."""
        counts = [dimension.count() or 1 for dimension in self._dimensions]
        size = size_of_space(self._dimensions) or 1
        start = int(numpy.random.default_rng([self._seed, number]).integers(size))
        for index in range(start, start + size):
            point = tuple(int(i) for i in numpy.unravel_index(index % size, counts))
            if point not in tried:
                break
        return {d.name: d.value(i) for d, i in zip(self._dimensions, point, strict=True)}
