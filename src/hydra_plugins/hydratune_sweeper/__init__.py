"""Hydra sweepers ``random`` and ``optuna``: hand a search to ``hydratune.sweeps``.

Kept tiny: a bug here breaks every Hydra program.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


@dataclass
class RandomSweeperConfig:
    """Trials drawn at random from what the overrides span; the same command draws the same ones."""

    _target_: str = "hydra_plugins.hydratune_sweeper.SearchSweeper"
    sampler: str = "random"
    n_trials: int = 20  # of the whole study, those of earlier calls included
    batch: int = (
        4  # trials handed to the launcher together: with hydra/launcher=pack they share a process
    )
    seed: int = 0
    # METRIC:min or METRIC:max, as in metrics.json; or a list or mapping of several
    objectives: Any = "val/loss:min"
    # of the sampler's class in Optuna, for example n_startup_trials
    options: dict[str, Any] = field(default_factory=dict)
    storage: str | None = (
        None  # a journal file, or the URL of a database; null: study.log in the sweep's folder
    )
    study_name: str | None = None  # null: the name of the sweep's folder
    params: dict[str, str] | None = None  # dimensions, as on the command line


@dataclass
class OptunaSweeperConfig(RandomSweeperConfig):
    """Trials chosen by what the ones before have shown."""

    sampler: str = "tpe"  # or cmaes, nsgaii, random


def register() -> None:
    """For hydratune's own commands alone: another program may have installed another sweeper
    ``optuna``.
    """
    Plugins.instance()  # whatever is installed has put its own there now
    store = ConfigStore.instance()
    store.store(
        group="hydra/sweeper", name="random", node=RandomSweeperConfig, provider="hydratune"
    )
    store.store(
        group="hydra/sweeper", name="optuna", node=OptunaSweeperConfig, provider="hydratune"
    )


class SearchSweeper(Sweeper):
    """See ``hydratune.sweeps.search``."""

    hydra_context: Any
    config: Any
    launcher: Any

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from hydratune.sweeps.search import search
        from hydratune.sweeps.study import Wanted

        search(self.hydra_context, self.config, self.launcher, Wanted(**self.settings), arguments)
