"""Hydra sweepers: ``random`` and ``optuna`` hand a search to ``hydratune.sweeps.search``, ``wandb``
a W&B sweep to ``hydratune.sweeps.wandb_sweep``.

``basic`` is Hydra's own, which leaves no folder behind if it refuses a sweep, and refuses one of
too many jobs.

Kept tiny: a bug here breaks every Hydra program.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
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
    seed: int = 0  # of the sampler
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


@dataclass
class GridSweeperConfig(BasicSweeperConf):  # type: ignore[misc]  # Hydra's class is untyped
    """Every combination of the values."""

    _target_: str = "hydra_plugins.hydratune_sweeper.GridSweeper"


@dataclass
class WandbSweeperConfig:
    """Trials that a W&B sweep hands out."""

    _target_: str = "hydra_plugins.hydratune_sweeper.WandbSweeper"
    sweep: str | None = None  # of a sweep that exists: ID, PROJECT/ID or ENTITY/PROJECT/ID
    file: str | None = None  # or the YAML file of a sweep, which is created
    count: int | None = None  # trials that this driver runs at most; null: all
    # trials that are asked for and handed to the launcher together
    together: int = 4
    params: dict[str, str] | None = None  # not used: the sweep says what varies


def register() -> None:
    """Make the sweepers known to hydratune's own commands.

    Another program may have installed another sweeper ``optuna``, so this is not done when Hydra
    discovers its plugins, and only after that.
    """
    Plugins.instance()  # whatever is installed has registered itself now
    sweepers = {
        "basic": GridSweeperConfig,
        "random": RandomSweeperConfig,
        "optuna": OptunaSweeperConfig,
        "wandb": WandbSweeperConfig,
    }
    for name, config in sweepers.items():
        ConfigStore.instance().store(
            group="hydra/sweeper", name=name, node=config, provider="hydratune"
        )


class GridSweeper(BasicSweeper):  # type: ignore[misc]  # Hydra's class is untyped
    """Hydra's sweeper, which removes the folder that it made for a sweep that is refused, and
    refuses one of too many jobs before it makes them.
    """

    config: "DictConfig"

    def sweep(self, arguments: list[str]) -> Any:
        from hydratune.sweeps.launch import remove_folder_of_refused

        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        try:
            result = super().sweep(arguments)
        except Exception:
            remove_folder_of_refused(folder)
            raise
        if self.config.hydra.job.config_name == "plan":  # nothing was run
            remove_folder_of_refused(folder)
        return result

    @staticmethod
    def split_arguments(overrides: Any, max_batch_size: int | None) -> Any:
        from hydratune.sweeps.size import refuse_too_many

        refuse_too_many(overrides)
        return BasicSweeper.split_arguments(overrides, max_batch_size)

    def validate_batch_is_legal(self, batch: Any) -> None:
        """Do nothing: the launcher composes and checks every job before it runs any."""


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
        from hydratune import extras

        if self.config.hydra.job.config_name == "plan":
            from hydratune.planning.sweep import plan_search

            plan_search(self.hydra_context, self.config, self.settings, arguments)
            return
        extras.require("optuna", f"a search (the sampler {self.settings.get('sampler')})")
        from hydratune.sweeps.search.run import search
        from hydratune.sweeps.search.settings import SearchSettings

        settings = SearchSettings(**self.settings)
        search(self.hydra_context, self.config, self.launcher, settings, arguments)


class WandbSweeper(SearchSweeper):
    """Runs trials of a W&B sweep, see ``hydratune.sweeps.wandb_sweep``."""

    def sweep(self, arguments: list[str]) -> None:
        if self.config.hydra.job.config_name == "plan":
            from hydratune.errors import InputError

            raise InputError(
                "the trials of a W&B sweep are known to its server alone; plan one of them, or give"
                " the values: hydratune plan -m optimizer.lr=1e-4,1e-3"
            )
        from hydratune.composition.problems import find_problem
        from hydratune.sweeps.wandb_sweep.run import drive
        from hydratune.sweeps.wandb_sweep.settings import WandbSweepSettings

        settings = {key: self.settings[key] for key in ("sweep", "file", "count", "together")}
        drive(
            self.hydra_context,
            self.config,
            self.launcher,
            WandbSweepSettings(**settings),
            arguments,
            lambda error, overrides: find_problem(error, "train", overrides),
        )
