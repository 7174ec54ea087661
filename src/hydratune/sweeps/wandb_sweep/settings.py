"""The settings of a driver of a W&B sweep, and the sweep after it was checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hydra.types import HydraContext
from omegaconf import DictConfig

from hydratune.errors import ConfigError, Problem
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import WandbSweep
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.wandb_sweep.definition import SweepDefinition

SWEEPER = "hydra.sweeper"


@dataclass(frozen=True)
class WandbSweepSettings:
    """``hydra.sweeper`` as the user set it."""

    sweep: str | None  # id, project/id or entity/project/id of a sweep that exists
    file: str | None  # YAML of a sweep that is created; started again, the created one continues
    count: int | None  # trials that this driver runs at most; null: all that the sweep has
    together: int  # trials that are asked for, and handed to the launcher, together

    def __post_init__(self) -> None:
        """Check the settings. Raises ``ConfigError``."""
        problems = []
        if (self.sweep is None) == (self.file is None):
            why = "either an existing sweep or the file of a new one is needed"
            fix = f"set {SWEEPER}.sweep=ENTITY/PROJECT/ID or {SWEEPER}.file=FILE.yaml"
            value = "both" if self.sweep is not None else None
            problems.append(Problem(f"{SWEEPER}.sweep", value, why, fix))
        if self.count is not None and self.count < 1:
            fix = "set 1 or more, or leave it out: all that the sweep has"
            problems.append(Problem("count", self.count, "there would be no trial", fix))
        if self.together < 1:
            why = "there would be no trial"
            problems.append(Problem("together", self.together, why, "set 1 or more"))
        if problems:
            raise ConfigError(problems, prefix="W&B sweep: ")

    @property
    def source(self) -> str:
        """The sweep as the user named it."""
        return str(self.file or self.sweep)


@dataclass(frozen=True)
class CheckedSweep:
    """A checked W&B sweep, and where its trials are kept."""

    context: HydraContext
    config: DictConfig
    folder: Path  # of the sweep; trial k is the run in its folder k
    settings: WandbSweepSettings
    packing: PackOptions | None  # None: each trial in a process of its own
    definition: SweepDefinition
    place: WandbSweep
    words: tuple[str, ...]  # overrides that all trials have in common

    def overrides(self, varying: Mapping[str, str]) -> tuple[str, ...]:
        """Return the overrides of the trial with these settings."""
        return (*self.words, *(f"{key}={value}" for key, value in varying.items()))

    def record(self, name: str) -> RunDirectory:
        """Return the run directory of the trial with this folder."""
        return RunDirectory(self.folder / name)
