"""Where the packs of a sweep run, and the settings of each such place. Needs no torch.

One dataclass is one option of the group ``hydra/launcher/executor``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from hydratune.errors import Problem, refuse
from hydratune.extras import missing

_KEY = "hydra.launcher.executor"
_LEAST_MINUTES = 2  # Slurm counts minutes, and delivers a signal up to a minute early
# what is set by a setting of its own, or by hydratune
_OWN_PARAMETERS = (
    *("partition", "gres", "account", "time", "cpus-per-task", "mem", "array", "signal"),
    *("job-name", "output", "error", "open-mode", "requeue", "nodes", "ntasks"),
)


_RAY_ADDRESS = re.compile(r"auto|[\w.\-\[\]:]+:\d+")  # ray:// is the client of machines outside


@dataclass
class ExecutorOptions:
    """Processes of this machine; what other executors change is in their own class."""

    _kind: str = "local"

    @property
    def waits(self) -> bool:
        """Whether the command waits for the packs that it has started."""
        return True

    @property
    def outlives_driver(self) -> bool:
        """Whether packs continue when the command that started them has ended."""
        return False

    @property
    def runs_alone_jobs(self) -> bool:
        """Whether jobs that cannot share a process are run by the executor as well, and packs may
        be begun again without another command.
        """
        return False

    @property
    def cores(self) -> int | None:
        """How many cores a pack has; None: those of this machine."""
        return None

    @property
    def divides_into(self) -> int | None:
        """Into how many packs jobs are divided unless ``pack_size`` says otherwise; None: the
        number of GPUs of this machine.
        """
        return None

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the settings."""
        yield from ()


@dataclass
class SlurmOptions(ExecutorOptions):
    """Jobs of a Slurm cluster that shares this machine's file system."""

    _kind: str = "slurm"
    partition: str | None = None  # null: the cluster's default
    account: str | None = None  # to which the time is charged; null: the user's default
    gres: str | None = None  # generic resources of each job, such as gpu:1
    cpus: int = 1  # cores of each job
    memory_gb: float | None = None  # of each job; null: the cluster's default
    minutes: int = 60  # time limit of each job; what is not finished by then is queued again
    # seconds before the time limit at which the runs are told to save a checkpoint and leave
    seconds_to_save: int = 120
    # how often a job that reached its time limit is queued again; preempted ones always are
    time_limits: int = 20
    # jobs that run at the same time, and packs that a sweep is divided into unless pack_size is set
    at_once: int = 1
    wait: bool = True  # false: submit and return; the same command later collects the results
    # lines of the shell that each job runs first, such as [module load cuda]
    setup: list[str] = field(default_factory=list)
    # further options of sbatch without their dashes, such as {qos: long}
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def waits(self) -> bool:
        return self.wait

    @property
    def outlives_driver(self) -> bool:
        return True

    @property
    def runs_alone_jobs(self) -> bool:
        return True

    @property
    def cores(self) -> int | None:
        return self.cpus

    @property
    def divides_into(self) -> int | None:
        return self.at_once

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the settings, and a package that is missing."""
        yield from missing("submitit", "hydra/launcher/executor", self._kind)
        for name in ("cpus", "at_once"):
            if getattr(self, name) < 1:
                yield self._problem(name, "a job needs at least one", "set 1 or more")
        if self.time_limits < 0:
            yield self._problem("time_limits", "it counts", "set 0 for never, or more")
        if self.memory_gb is not None and self.memory_gb <= 0:
            yield self._problem("memory_gb", "a job needs some", "set more than 0, or null")
        if self.minutes < _LEAST_MINUTES:
            why = "Slurm counts minutes, and loading a model takes a part of the first"
            yield self._problem("minutes", why, f"set {_LEAST_MINUTES} or more")
        elif not 0 < self.seconds_to_save < 60 * self.minutes:
            why = f"a checkpoint has to be saved within the {self.minutes} minutes of a job"
            yield self._problem("seconds_to_save", why, "set 30 or more, and less than that")
        for name in self.parameters:
            if name in _OWN_PARAMETERS:
                why = f"{name} is set by hydratune, or by a setting of its own"
                yield self._problem("parameters", why, "leave it out of the parameters")
            elif not re.fullmatch(r"[a-z][a-z-]*", name):
                why = f"{name!r} is no option of sbatch"
                yield self._problem("parameters", why, "write names as in {qos: long}")

    def _problem(self, name: str, why: str, fix: str) -> Problem:
        return Problem(f"{_KEY}.{name}", getattr(self, name), why, fix)


@dataclass
class RayOptions(ExecutorOptions):
    """Tasks of a Ray cluster that shares this machine's file system, or of this machine."""

    _kind: str = "ray"
    # host:port of a running cluster of which this machine is a node, or auto: the one that runs
    # here; null: one is started on this machine for the sweep
    address: str | None = None
    num_cpus: float = 1.0  # cores of each pack
    # GPUs of each pack, or a share of one, such as 0.5; null: one where the cluster has any, unless
    # trainer.accelerator=cpu
    num_gpus: float | None = None
    # further resources of each pack, such as {spot: 1}
    resources: dict[str, float] = field(default_factory=dict)
    # packs that run at the same time, and that a sweep is divided into unless pack_size is set
    at_once: int = 1
    # how often a pack whose node was lost is begun again; hydra.launcher.retries counts crashes
    lost_nodes: int = 20

    @property
    def runs_alone_jobs(self) -> bool:
        return True

    @property
    def cores(self) -> int | None:
        return max(1, int(self.num_cpus))

    @property
    def divides_into(self) -> int | None:
        return self.at_once

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the settings, and a package that is missing."""
        yield from missing("ray", "hydra/launcher/executor", self._kind)
        if self.num_cpus <= 0:
            yield self._problem("num_cpus", "a pack needs a core", "set 1 or more")
        if self.at_once < 1:
            yield self._problem("at_once", "a pack has to run", "set 1 or more")
        if self.lost_nodes < 0:
            yield self._problem("lost_nodes", "it counts", "set 0 for never, or more")
        gpus = self.num_gpus or 0.0
        if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            why = "a pack has a share of one GPU, or whole ones"
            yield self._problem("num_gpus", why, "set 0.5, 1 or 2, or 0 for none")
        for name, amount in self.resources.items():
            if amount <= 0 or name in ("CPU", "GPU"):
                why = "these are amounts of resources of the nodes' own, by their names"
                yield self._problem("resources", why, "write them as in {spot: 1}")
        if self.address is not None and not _RAY_ADDRESS.fullmatch(self.address):
            why = "it is the address of a running cluster of which this machine is a node"
            yield self._problem("address", why, "set auto, or host:port; or leave it out")

    def _problem(self, name: str, why: str, fix: str) -> Problem:
        return Problem(f"{_KEY}.{name}", getattr(self, name), why, fix)


def refuse_not_waiting(options: ExecutorOptions, whose: str) -> None:
    """Raise ``ConfigError`` if a command is not to wait for results that it needs."""
    if not options.waits:
        why = f"{whose} needs the results of its trials before it can choose the next ones"
        refuse([Problem(f"{_KEY}.wait", "false", why, "leave it out")])


EXECUTORS: Mapping[str, type[ExecutorOptions]] = {
    "local": ExecutorOptions,
    "slurm": SlurmOptions,
    "ray": RayOptions,
}


def executor_options(values: Mapping[str, Any]) -> ExecutorOptions:
    """Return the options in ``values``, as Hydra gives them."""
    plain = OmegaConf.to_container(OmegaConf.create(dict(values)))
    assert isinstance(plain, dict)
    own = {str(key): value for key, value in plain.items() if key != "_kind"}
    return EXECUTORS[values.get("_kind", "local")](**own)
