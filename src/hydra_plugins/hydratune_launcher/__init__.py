"""Hydra launchers ``pack`` and ``process``: hand a sweep to ``hydratune.sweeps``. Kept tiny: a bug here breaks every Hydra program."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher


@dataclass
class ProcessLauncherConfig:
    """One process per job, one after the other."""

    _target_: str = "hydra_plugins.hydratune_launcher.ProcessLauncher"


@dataclass
class HalvingConfig:
    """Most jobs leave early, see ``hydratune.sweeps.halving``."""

    min_steps: int | None = None  # optimizer steps before the first verdict; null: all jobs are trained to their end
    eta: int = 3  # the best one of so many goes on
    metric: str = "val/loss"
    kind: str = "sync"  # or asha: nobody waits for the others


@dataclass
class PackLauncherConfig:
    """Jobs that share base model and data in one process, at the same time."""

    _target_: str = "hydra_plugins.hydratune_launcher.PackLauncher"
    pack_size: int | None = None  # jobs of one pack at most; null: all
    together: int | None = None  # jobs of a pack that run at the same time; null: two more than cores
    halving: HalvingConfig | None = field(default_factory=HalvingConfig)
    merge_tokens: int | None = None  # tokens of a pass that serves short micro-packs of several jobs; null: 512 on a CPU; 0: no such pass


ConfigStore.instance().store(group="hydra/launcher", name="pack", node=PackLauncherConfig, provider="hydratune")
ConfigStore.instance().store(group="hydra/launcher", name="process", node=ProcessLauncherConfig, provider="hydratune")


class ProcessLauncher(Launcher):  # type: ignore[misc]
    """See ``hydratune.sweeps.processes``."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hydratune.sweeps.processes import launch

        launch(self.hydra_context, self.config, job_overrides, initial_job_idx)
        return [JobReturn(overrides=list(job), status=JobStatus.COMPLETED) for job in job_overrides]


class PackLauncher(ProcessLauncher):
    """See ``hydratune.sweeps.pack``."""

    def __init__(
        self,
        pack_size: int | None = None,
        together: int | None = None,
        halving: dict[str, Any] | None = None,
        merge_tokens: int | None = None,
    ) -> None:
        self.pack_size, self.together, self.halving, self.merge_tokens = pack_size, together, halving, merge_tokens

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hydratune.errors import ConfigError, Problem
        from hydratune.sweeps.halving import Halving
        from hydratune.sweeps.processes import Packing, launch

        given = {"pack_size": self.pack_size, "together": self.together}
        few = {f"hydra.launcher.{name}": value for name, value in given.items() if value is not None and value < 1}
        if few:
            raise ConfigError([Problem(key, value, "somebody has to run", "set 1 or more, or null") for key, value in few.items()])
        halving = Halving.of(self.halving) if self.halving and self.halving["min_steps"] is not None else None
        packing = Packing(self.pack_size, self.together, halving, self.merge_tokens)
        launch(self.hydra_context, self.config, job_overrides, initial_job_idx, packing)
        return [JobReturn(overrides=list(job), status=JobStatus.COMPLETED) for job in job_overrides]
