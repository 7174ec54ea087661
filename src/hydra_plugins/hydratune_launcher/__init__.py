"""Hydra launchers ``pack`` and ``process``: they hand a sweep to ``hydratune.sweeps.launch``.

Kept tiny: a bug here breaks every Hydra program.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from hydratune.sweeps.executor_options import EXECUTORS
from hydratune.sweeps.options import PackOptions

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


@dataclass
class ProcessLauncherConfig:
    """One process per job, one after the other."""

    _target_: str = "hydra_plugins.hydratune_launcher.ProcessLauncher"


@dataclass
class PackLauncherConfig(PackOptions, ProcessLauncherConfig):
    """Jobs that share base model and data in one process, at the same time."""

    _target_: str = "hydra_plugins.hydratune_launcher.PackLauncher"
    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"executor": "local"}])


for _name, _config in (("pack", PackLauncherConfig), ("process", ProcessLauncherConfig)):
    ConfigStore.instance().store(
        group="hydra/launcher", name=_name, node=_config, provider="hydratune"
    )


for _name, _executor in EXECUTORS.items():
    ConfigStore.instance().store(
        group="hydra/launcher/executor", name=_name, node=_executor, provider="hydratune"
    )


class ProcessLauncher(Launcher):  # type: ignore[misc]  # Hydra's class is untyped
    """Runs the jobs of a sweep one after the other, each in a process of its own."""

    hydra_context: "HydraContext"
    config: "DictConfig"

    def setup(
        self, *, hydra_context: "HydraContext", task_function: "TaskFunction", config: "DictConfig"
    ) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        options = self.pack_options()
        if self.config.hydra.job.config_name == "plan":  # nothing is run
            from hydratune.planning.sweep import plan_sweep as launch
        else:
            from hydratune.sweeps.launch import launch
        launch(self.hydra_context, self.config, job_overrides, initial_job_idx, options)
        return [JobReturn(overrides=list(job), status=JobStatus.COMPLETED) for job in job_overrides]

    def pack_options(self) -> PackOptions | None:
        """Return how jobs share a process; None: they do not."""
        return None


class PackLauncher(ProcessLauncher):
    """Runs the jobs of a sweep in packs, see ``hydratune.sweeps``."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def pack_options(self) -> PackOptions:
        return PackOptions.from_mapping(self.options)
