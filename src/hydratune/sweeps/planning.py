"""Which jobs of a sweep can share a process, and why the others cannot. Needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from hydratune.data.rows import stable_hash
from hydratune.errors import ConfigError, Problem
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import Job
from hydratune.settings.adapter import FullFinetune, LoraAdapter, LoraBias
from hydratune.settings.commands import TrainConfig
from hydratune.settings.data import Control
from hydratune.settings.registry import plain
from hydratune.sweeps.halving import Halving

RUNS_ALONE = "runs alone"  # begins the status of a job that a pack found it cannot hold
GOES_ON = 75  # exit code of a pack that cannot go on, and whose jobs can
SETTINGS = ".pack"  # folder in that of the sweep: settings of the jobs that a pack is to run
_BASE_CHANGING_STARTS = ("pissa", "olora", "loftq")


@dataclass(frozen=True)
class Planned:
    """A job, its folder and what it is run with."""

    job: Job
    record: RunDirectory
    settings: TrainConfig
    composed: DictConfig


@dataclass(frozen=True)
class Packing:
    """How jobs share a process."""

    pack_size: int | None = None  # jobs in a pack at most; None: as many as there are
    together: int | None = (
        None  # jobs of a pack that run at the same time; None: two more than cores
    )
    halving: Halving | None = None  # who leaves early; None: nobody
    patience: float | None = (
        1800.0  # seconds without a sign of life after which a job is given up; None: never
    )
    merge_tokens: int | None = (
        # tokens of a pass for short micro-packs of several jobs; 0: none; None: where no
        # bit depends on it
        None
    )
    lay_out: bool | None = (
        # copies of frozen weights as a CPU reads them fastest; None: for several jobs, if
        # there is room
        None
    )
    retries: int = 1  # how often a job is tried again whose pack was killed while it ran

    def __post_init__(self) -> None:
        """Raises ``ConfigError``."""
        checks = {
            "pack_size": (
                self.pack_size is None or self.pack_size >= 1,
                "somebody has to run",
                "set 1 or more, or null",
            ),
            "together": (
                self.together is None or self.together >= 1,
                "somebody has to run",
                "set 1 or more, or null",
            ),
            "patience": (
                self.patience is None or self.patience > 0,
                "a job needs some time for each step",
                "set seconds, or null: never",
            ),
            "merge_tokens": (
                self.merge_tokens is None or self.merge_tokens >= 0,
                "there is no negative number of tokens",
                "set 0 for no such pass, or null",
            ),
            "retries": (
                self.retries >= 0,
                "a job is tried once at least",
                "set 0 for no second try, or more",
            ),
        }
        wrong = {key: (why, fix) for key, (right, why, fix) in checks.items() if not right}
        problems = [
            Problem(f"hydra.launcher.{key}", getattr(self, key), why, fix)
            for key, (why, fix) in wrong.items()
        ]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Plan:
    """``packs``: numbers of the jobs that run together; ``alone``: number -> why it runs by itself."""  # noqa: E501

    packs: tuple[tuple[int, ...], ...]
    alone: Mapping[int, str]


def why_alone(config: TrainConfig) -> str | None:
    """Why a job cannot share frozen weights and threads with others, or None."""
    trainer = config.trainer
    if isinstance(config.adapter, FullFinetune):
        return "it trains the base model's own weights"
    start = str(getattr(config.adapter, "init_lora_weights", ""))
    if isinstance(config.adapter, LoraAdapter) and start.startswith(_BASE_CHANGING_STARTS):
        return f"adapter.init_lora_weights={start} changes the base model's weights"
    if isinstance(config.adapter, LoraAdapter) and config.adapter.bias is not LoraBias.none:
        return f"adapter.bias={config.adapter.bias.value} trains biases of the base model"
    if trainer.devices > 1 or trainer.strategy != "auto":
        return "it runs on several devices"
    drawn = getattr(config.adapter, "lora_dropout", 0.0) > 0 or trainer.neftune_alpha > 0
    if trainer.gradient_checkpointing and drawn:
        return "trainer.gradient_checkpointing draws dropout from the process's generator"
    return None


def shared_by(config: TrainConfig) -> str:
    """Equal for jobs that have base model, rows, tokens and precision in common."""
    data = {key: value for key, value in plain(config.data).items() if key != "batch_size"}
    trainer = config.trainer
    control = config.data.control is not Control.none
    drawn = config.seed if control or config.evaluation.canaries else None
    canaries = config.evaluation.canaries
    how = [
        trainer.accelerator,
        trainer.precision,
        trainer.deterministic,
    ]  # which are those of a process
    model = {
        key: value for key, value in plain(config.model).items() if key != "adapter"
    }  # which each job puts on its own copy
    return stable_hash([model, data, how, drawn, canaries])


def plan(configs: Mapping[int, TrainConfig], size: int | None) -> Plan:
    """Packs of at most ``size`` jobs, in the order of the jobs."""
    alone = {
        number: why for number, config in configs.items() if (why := why_alone(config)) is not None
    }
    groups: dict[str, list[int]] = {}
    for number, config in configs.items():
        if number not in alone:
            groups.setdefault(shared_by(config), []).append(number)
    packs: list[tuple[int, ...]] = []
    for numbers in groups.values():
        if len(numbers) == 1:
            alone[numbers[0]] = "no other job has the same base model, data and precision"
        else:
            packs += _parts(numbers, size or len(numbers))
    return Plan(tuple(packs), alone)


def _parts(numbers: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(numbers[start : start + size]) for start in range(0, len(numbers), size)]


def without_hydra(composed: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(composed, [str(k) for k in composed if k != "hydra"])
