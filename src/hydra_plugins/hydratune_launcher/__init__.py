"""Hydra launcher ``process``: hands a sweep to ``hydratune.sweeps``. Kept tiny: a bug here breaks every Hydra program."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher


@dataclass
class ProcessLauncherConfig:
    """One process per job, one after the other."""

    _target_: str = "hydra_plugins.hydratune_launcher.ProcessLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="process", node=ProcessLauncherConfig, provider="hydratune")


class ProcessLauncher(Launcher):  # type: ignore[misc]
    """See ``hydratune.sweeps.processes``."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hydratune.sweeps.processes import launch

        launch(self.hydra_context, self.config, job_overrides, initial_job_idx)
        return [JobReturn(overrides=list(job), status=JobStatus.COMPLETED) for job in job_overrides]
