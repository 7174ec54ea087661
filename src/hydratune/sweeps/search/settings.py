"""The settings of a search, and the search after they were checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.types import HydraContext
from omegaconf import DictConfig
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import SweepJob
from hydratune.settings.monitor import Monitor
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.search.distinct import points_of, size_of_space
from hydratune.sweeps.search.objectives import SearchObjective
from hydratune.sweeps.search.space import SearchSpace


@dataclass(frozen=True)
class SearchSettings:
    """``hydra.sweeper`` as the user set it."""

    sampler: str
    n_trials: int
    batch: int
    seed: int
    objectives: object
    options: Mapping[str, object]
    storage: str | None
    study_name: str | None
    params: Mapping[str, str] | None


@dataclass(frozen=True)
class Search:
    """A checked search and where it is stored."""

    context: HydraContext
    config: DictConfig
    folder: Path  # of the sweep; trial k is the run in its folder k
    settings: SearchSettings
    packing: PackOptions | None  # None: each trial in a process of its own
    space: SearchSpace
    objectives: Sequence[SearchObjective]
    study: Study
    monitor: Monitor  # of the trials, by which they are ranked

    @property
    def is_halving(self) -> bool:
        return self.packing is not None and self.packing.is_halving

    def record(self, number: int) -> RunDirectory:
        """Return the run directory of the trial with this number."""
        return RunDirectory(self.folder / str(number))

    def job(self, trial: Trial | FrozenTrial) -> SweepJob:
        """Return the job of ``trial``: the fixed overrides and those of its parameters.

        A trial that another program added to the study may lack parameters.
        """
        params = trial.params
        dimensions = [d for d in self.space.dimensions if d.name in params]
        overrides = [dimension.override(params[dimension.name]) for dimension in dimensions]
        varying = dict(override.lstrip("+").split("=", 1) for override in overrides)
        return SweepJob(str(trial.number), (*self.space.fixed, *overrides), varying)

    def requested_trials(self) -> list[FrozenTrial]:
        """Return every trial of the study but those that are queued and not yet taken."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state is not TrialState.WAITING]

    def untried_points(self) -> int | None:
        """Return how many points of the space no trial has; None if there is no end of them."""
        size = size_of_space(self.space.dimensions)
        if size is None:
            return None
        return size - len(points_of(self.requested_trials(), self.space.dimensions))
