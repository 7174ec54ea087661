"""The Optuna sampler of a search: checked before anything runs, and seeded per trial."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hydratune import extras
from hydratune.errors import ConfigError, Problem
from hydratune.sweeps.search.distinct import DistinctSampler, size_of_space
from hydratune.sweeps.search.objectives import SearchObjective
from hydratune.sweeps.search.settings import SearchSettings
from hydratune.sweeps.search.space import Dimension

_CLASSES = {
    "tpe": "TPESampler",
    "cmaes": "CmaEsSampler",
    "nsgaii": "NSGAIISampler",
    "random": "RandomSampler",
}
# options that the user cannot set: several trials run at a time (constant_liar)
_FIXED: Mapping[str, Mapping[str, bool]] = {
    "tpe": {"constant_liar": True},
    "cmaes": {"warn_independent_sampling": False},
}


def make_sampler(
    settings: SearchSettings, dimensions: Sequence[Dimension], objectives: Sequence[SearchObjective]
) -> BaseSampler:
    """Return the sampler of ``settings``. Raises ``ConfigError`` with everything it cannot do."""
    problems = _problems_of_numbers(settings)
    if settings.sampler not in _CLASSES:
        fix = f"one of: {', '.join(_CLASSES)}"
        why = "there is no such sampler"
        problems.append(Problem("hydra.sweeper.sampler", settings.sampler, why, fix))
        raise ConfigError(problems, prefix="search: ")
    if settings.sampler == "cmaes":
        problems += _problems_of_cmaes(dimensions, objectives)
    problems += _problems_of_options(settings)

    def make(seed: int) -> BaseSampler:
        fixed = _FIXED.get(settings.sampler, {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an option is experimental
            sampler: BaseSampler = _class_of(settings)(**fixed, **settings.options, seed=seed)
        return sampler

    if not problems:
        try:
            make(0)
        except (TypeError, ValueError) as error:
            fix = f"see optuna.samplers.{_CLASSES[settings.sampler]}"
            options = dict(settings.options)
            problems.append(Problem("hydra.sweeper.options", options, str(error), fix))
    if problems:
        raise ConfigError(problems, prefix="search: ")
    sampler = _PerTrialSampler(make, settings.seed)
    if size_of_space(dimensions) is None:
        return sampler
    return DistinctSampler(sampler, dimensions, settings.seed)


def _class_of(settings: SearchSettings) -> Callable[..., BaseSampler]:
    sampler: Callable[..., BaseSampler] = getattr(optuna.samplers, _CLASSES[settings.sampler])
    return sampler


def _problems_of_numbers(settings: SearchSettings) -> list[Problem]:
    counts = {
        "hydra.sweeper.n_trials": settings.n_trials,
        "hydra.sweeper.batch": settings.batch,
    }
    problems = [
        Problem(key, value, "must be at least 1 trial", f"set {key}=4")
        for key, value in counts.items()
        if value < 1
    ]
    if settings.seed < 0:
        fix = "for example hydra.sweeper.seed=0"
        problems.append(Problem("hydra.sweeper.seed", settings.seed, "must not be negative", fix))
    return problems


def _problems_of_cmaes(
    dimensions: Sequence[Dimension], objectives: Sequence[SearchObjective]
) -> list[Problem]:
    key = "hydra.sweeper.sampler"
    problems = list(extras.missing("cmaes", key, "cmaes"))
    if len(objectives) > 1:
        fix = "give one objective, or set hydra.sweeper.sampler=nsgaii or tpe"
        problems.append(Problem(key, "cmaes", "it optimises one objective only", fix))
    if sum(dimension.is_range() for dimension in dimensions) < 2:
        fix = (
            "search two ranges, for example 'optimizer.lr=tag(log, interval(1e-4,1e-2))'"
            " 'adapter.r=int(interval(4,64))', or set hydra.sweeper.sampler=tpe"
        )
        why = "it needs at least two ranges; choices are drawn at random"
        problems.append(Problem(key, "cmaes", why, fix))
    return problems


def _problems_of_options(settings: SearchSettings) -> list[Problem]:
    """Return a problem for each option that the sampler's class does not have."""
    reserved = ("seed", *_FIXED.get(settings.sampler, {}))
    parameters = inspect.signature(_class_of(settings)).parameters
    names = [name for name in parameters if name not in reserved]
    fix = f"one of: {', '.join(names)}" if names else "it has none"
    why = f"{settings.sampler} has no such option"
    return [
        Problem(f"hydra.sweeper.options.{option}", value, why, fix)
        for option, value in settings.options.items()
        if option not in names
    ]


class _PerTrialSampler(BaseSampler):
    """A sampler that is made anew for every trial and seeded by the trial's number, so that an
    interrupted search draws the same trials when it is resumed.

    Optuna's samplers keep what they have learnt in the study, not in themselves.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._current: tuple[int, BaseSampler] | None = None

    def _sampler_of(self, trial: FrozenTrial) -> BaseSampler:
        if self._current is None or self._current[0] != trial.number:
            state = numpy.random.SeedSequence([self._seed, trial.number]).generate_state(1)
            self._current = trial.number, self._make(int(state[0]))
        return self._current[1]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler_of(trial).before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._sampler_of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        return self._sampler_of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> object:
        sampler = self._sampler_of(trial)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler_of(trial).after_trial(study, trial, state, values)
