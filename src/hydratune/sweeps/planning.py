"""Which jobs of a sweep can share a process, and why the others cannot. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from omegaconf import DictConfig, OmegaConf

from hydratune.data.rows import stable_hash
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import Status
from hydratune.records.sweep import SweepJob
from hydratune.settings import packages
from hydratune.settings.commands import TrainConfig
from hydratune.settings.data import Control
from hydratune.settings.registry import plain

_OWN_OF_A_JOB = ("batch_size", "train_share")  # settings of data that jobs of a pack may vary


@dataclass(frozen=True)
class PlannedJob:
    """A job of a sweep that was composed and checked: its folder and its settings."""

    job: SweepJob
    record: RunDirectory
    settings: TrainConfig
    composed: DictConfig  # the whole Hydra config, with the node ``hydra``

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def status(self) -> Status:
        """What the job's folder says of it now."""
        return self.record.read_status()


@dataclass(frozen=True)
class PlannedPack:
    """Jobs that are to share a process."""

    title: str
    jobs: tuple[PlannedJob, ...]
    together: int  # jobs that run at the same time
    failed: tuple[str, ...] = ()  # names of jobs that have failed and only count in the halving
    # names of jobs -> rungs that halving has let them pass; None: the pack itself decides
    passed: Mapping[str, int] | None = None
    # names of all jobs that are judged together by asha, in their order, where other packs have
    # some of them; empty: no other pack has
    group: tuple[str, ...] = ()
    # runs the only job, which cannot share a process; empty: the process of a pack runs the jobs
    command: tuple[str, ...] = ()

    @property
    def alone_in(self) -> str:
        """The folder of the only job, if its own process is all that runs; else ""."""
        return str(self.jobs[0].record.path) if self.command else ""


@dataclass(frozen=True)
class Plan:
    """How the jobs of a sweep, given by their numbers, are divided among processes."""

    packs: tuple[tuple[int, ...], ...]  # jobs that run together
    alone: Mapping[int, str]  # job that runs in a process of its own -> reason


def plan(configs: Mapping[int, TrainConfig], size: int | None) -> Plan:
    """Divide jobs into packs of at most ``size`` jobs (None: any number), in the order of the jobs.

    ``configs``: number of a job -> its settings.
    """
    alone: dict[int, str] = {}
    groups: dict[str, list[int]] = {}  # jobs that can share a process
    for number, config in configs.items():
        reason = why_alone(config)
        if reason is None:
            groups.setdefault(shared_by(config), []).append(number)
        else:
            alone[number] = reason
    packs: list[tuple[int, ...]] = []
    for numbers in groups.values():
        if len(numbers) == 1:
            alone[numbers[0]] = (
                "no other job has the same base model, data and precision"
                if len(configs) > 1
                else "no other job is left to run"
            )
            continue
        length = size or len(numbers)
        starts = range(0, len(numbers), length)
        packs += [tuple(numbers[start : start + length]) for start in starts]
    return Plan(tuple(packs), alone)


def why_alone(config: TrainConfig) -> str | None:
    """Return why a job cannot share frozen weights and threads with others, or None."""
    adapter, trainer = config.adapter, config.trainer
    obstacle = adapter.pack_obstacle()
    if obstacle is not None:
        return obstacle
    if trainer.devices > 1 or trainer.strategy != "auto":
        return "it runs on several devices"
    draws = adapter.draws_random() or trainer.neftune_alpha > 0
    for name in trainer.callbacks or ():
        callback = packages.load("callback", name, "trainer.callbacks")
        if obstacle := getattr(callback, "pack_obstacle", ""):
            return f"its callback {name} has a pack_obstacle: {obstacle}"
    if trainer.gradient_checkpointing and draws:
        return "trainer.gradient_checkpointing draws dropout from the process's generator"
    return None


def shared_by(config: TrainConfig) -> str:
    """Return a hash that is equal for jobs with the same base model, data, tokens and precision.

    Which share of the training rows a job takes may differ: ``which_rows`` keeps these apart.
    """
    data = {key: value for key, value in plain(config.data).items() if key not in _OWN_OF_A_JOB}
    # an adapter that is trained further is attached to each job's own copy of the model
    model = {key: value for key, value in plain(config.model).items() if key != "adapter"}
    trainer = config.trainer
    of_process = [trainer.accelerator, trainer.precision, trainer.deterministic]
    # rows that are drawn with the seed
    control = config.data.control is not Control.none
    seed = config.seed if control or config.evaluation.canaries else None
    return stable_hash([model, data, of_process, seed, config.evaluation.canaries])


def without_hydra(composed: DictConfig) -> DictConfig:
    """Return a composed config without Hydra's own settings."""
    return OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])


def of_train(composed: DictConfig) -> DictConfig:
    """Return the settings of train in a composed config, without those of another command."""
    names = {field.name for field in fields(TrainConfig)}
    return OmegaConf.masked_copy(composed, [str(key) for key in composed if key in names])
