"""Hydra launchers ``pack`` and ``process``: hand a sweep to ``hydratune.sweeps``.

Kept tiny: a bug here breaks every Hydra program.
"""

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

    min_steps: int | None = (
        None  # optimizer steps before the first verdict; null: all jobs are trained to their end
    )
    eta: int = 3  # the best one of so many goes on
    metric: str = "val/loss"
    kind: str = "sync"  # or asha: nobody waits for the others


@dataclass
class PackLauncherConfig:
    """Jobs that share base model and data in one process, at the same time."""

    _target_: str = "hydra_plugins.hydratune_launcher.PackLauncher"
    pack_size: int | None = None  # jobs of one pack at most; null: all
    together: int | None = (
        None  # jobs of a pack that run at the same time; null: two more than cores
    )
    patience: float | None = (
        1800.0  # seconds without a sign of life after which a job is given up; null: never
    )
    retries: int = (
        1  # how often a job is tried again whose pack was killed while it ran, the last time alone
    )
    halving: HalvingConfig | None = field(default_factory=HalvingConfig)
    merge_tokens: int | None = (
        # tokens of a pass for short micro-packs of several jobs; 0: none; null: 512 where
        # no bit depends on it
        None
    )
    lay_out: bool | None = (
        # copies of frozen weights as a CPU reads them fastest; null: for several jobs, in
        # 1/8 of the memory
        None
    )


ConfigStore.instance().store(
    group="hydra/launcher", name="pack", node=PackLauncherConfig, provider="hydratune"
)
ConfigStore.instance().store(
    group="hydra/launcher", name="process", node=ProcessLauncherConfig, provider="hydratune"
)


class ProcessLauncher(Launcher):  # type: ignore[misc]
    """See ``hydratune.sweeps.processes``."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from hydratune.sweeps.processes import launch

        launch(self.hydra_context, self.config, job_overrides, initial_job_idx, self.packing())
        return [JobReturn(overrides=list(job), status=JobStatus.COMPLETED) for job in job_overrides]

    def packing(self) -> Any:
        """How jobs share a process; None: not at all."""
        return None


class PackLauncher(ProcessLauncher):
    """See ``hydratune.sweeps.pack``."""

    def __init__(self, halving: dict[str, Any] | None = None, **options: Any) -> None:
        self.halving, self.options = halving, options

    def packing(self) -> Any:
        from hydratune.sweeps.halving import Halving
        from hydratune.sweeps.planning import Packing

        return Packing(**self.options, halving=Halving.asked_for(self.halving or {}))
