"""Hydra sweepers ``random`` and ``optuna``: they hand a search to ``hydratune.sweeps.search``.

Kept tiny: a bug here breaks every Hydra program.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


@dataclass
class RandomSweeperConfig:
    """Trials drawn at random from the space of the overrides, the same ones by the same command."""

    _target_: str = "hydra_plugins.hydratune_sweeper.SearchSweeper"
    sampler: str = "random"
    n_trials: int = 20  # of the whole study, those of earlier calls included
    # trials handed to the launcher together: with hydra/launcher=pack they share a process
    batch: int = 4
    seed: int = 0
    # METRIC:min or METRIC:max, as in metrics.json; or a list or mapping of several; null: what
    # trainer.monitor names
    objectives: Any = None
    # of the sampler's class in Optuna, for example n_startup_trials
    options: dict[str, Any] = field(default_factory=dict)
    # a journal file, or the URL of a database; null: study.log in the sweep's folder
    storage: str | None = None
    study_name: str | None = None  # null: the name of the sweep's folder
    params: dict[str, str] | None = None  # dimensions, as on the command line


@dataclass
class OptunaSweeperConfig(RandomSweeperConfig):
    """Trials that Optuna chooses from the results of the earlier ones."""

    sampler: str = "tpe"  # or cmaes, nsgaii, random


def register() -> None:
    """Make the sweepers known to hydratune's own commands.

    Another program may have installed another sweeper ``optuna``, so this is not done when Hydra
    discovers its plugins, and only after that.
    """
    Plugins.instance()  # whatever is installed has registered itself now
    for name, config in (("random", RandomSweeperConfig), ("optuna", OptunaSweeperConfig)):
        ConfigStore.instance().store(
            group="hydra/sweeper", name=name, node=config, provider="hydratune"
        )


class SearchSweeper(Sweeper):
    """Runs the trials of a search, see ``hydratune.sweeps.search``."""

    hydra_context: "HydraContext"
    config: "DictConfig"
    launcher: "Launcher"

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(
        self, *, hydra_context: "HydraContext", task_function: "TaskFunction", config: "DictConfig"
    ) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from hydratune.sweeps.search.run import search
        from hydratune.sweeps.search.settings import SearchSettings

        settings = SearchSettings(**self.settings)
        search(self.hydra_context, self.config, self.launcher, settings, arguments)
