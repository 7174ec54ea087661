"""The contract between a run and what executes it.

A run asks its ``RunContext`` for everything that does not belong to the run itself: ``resources``
(the base model, the rows, the random generators, the W&B run), ``compute`` (what executes a pass)
and ``schedule`` (what a sweep decides: whether to continue, when to stop). The three protocols are
independent of each other, so one can be replaced without the others: another compute engine, say,
may merge the passes of several trials on a GPU while every trial keeps its own hooks, optimizer and
logger. The defaults in this module are those of a run that is alone in its process;
``hydratune.sweeps`` has those of a job of a pack.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from hydratune.experiment.interrupts import ignore_signals, in_training, is_to_leave
from hydratune.experiment.lifecycle import STARTED
from hydratune.training.protocols import (
    HalvingDecisions,
    NeverHalved,
    OwnResources,
    SharedResources,
)

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hydratune.models.compute import Compute
    from hydratune.settings.commands import TrainConfig
    from hydratune.settings.model import Source

Made = TypeVar("Made")
Model = TypeVar("Model", bound="nn.Module")


@dataclass(frozen=True)
class LoadedBase:
    """The base model as it is loaded, frozen."""

    source: "Source"
    tokenizer: "PreTrainedTokenizerBase"
    model: "PreTrainedModel"


class Resources(SharedResources, Protocol):
    """What a run has to itself, or shares with the other runs of its process."""

    def own(self, model: Model) -> Model:
        """Return a form of the base ``model`` to which the run may attach its adapter."""

    def seeded(self, seed: int) -> AbstractContextManager[None]:
        """Seed the random generators of the process; no other run draws from them inside."""

    def one_at_a_time(self, name: str) -> AbstractContextManager[None]:
        """Let one run at a time into the blocks of the same ``name``."""

    def tracker(self, start: Callable[[], Made]) -> tuple[Made, bool]:
        """Return the W&B run, and whether ``start`` has just started it.

        A run that was paused by its sweep gets the one that it had before.
        """


class ComputeEngine(Protocol):
    """What executes the passes of a run."""

    @property
    def pool(self) -> Executor | None:
        """The threads that compute; None: the run creates its own."""

    def accept(self, model: "nn.Module") -> None:
        """Raise ``CannotSharePackError`` if this engine cannot execute ``model`` with its
        adapter.
        """

    def cpu_seconds(self) -> float:
        """Return the CPU-seconds that the run has taken so far."""


class RunSchedule(HalvingDecisions, Protocol):
    """When a run began, and what decides whether it continues.

    A run that may not continue saves its work and raises ``Paused``.
    """

    @property
    def began(self) -> float:
        """When the run began, by ``time.perf_counter``."""

    @property
    def stop(self) -> Callable[[], None] | None:
        """Ends this run alone and keeps its work; None: an interrupt of the process does that."""

    def ignore_interrupts(self) -> None:
        """Ignore interrupts from here on, because the run only saves its work."""


class SingleRunResources(OwnResources):
    """Everything is the run's own."""

    def own(self, model: Model) -> Model:
        return model

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        import lightning

        lightning.seed_everything(seed, verbose=False)
        yield

    @contextmanager
    def one_at_a_time(self, name: str) -> Iterator[None]:
        yield

    def tracker(self, start: Callable[[], Made]) -> tuple[Made, bool]:
        return start(), True


class SingleRunCompute:
    """The run computes with its own threads, and the whole process works for it."""

    pool: Executor | None = None

    def accept(self, model: "nn.Module") -> None:
        pass

    def cpu_seconds(self) -> float:
        from hydratune.models import hardware

        return hardware.cpu_seconds()


@dataclass(frozen=True)
class SingleRunSchedule(NeverHalved):
    """The run continues to its end, unless the user interrupts it or its cluster asks it to
    leave.
    """

    began: float = STARTED
    stop: Callable[[], None] | None = None

    def training(self) -> AbstractContextManager[None]:
        return in_training()

    def is_to_leave(self) -> bool:
        return is_to_leave()

    def ignore_interrupts(self) -> None:
        ignore_signals()


@dataclass(frozen=True)
class RunContext:
    """Where a run is executed; by default alone in its process."""

    resources: Resources = field(default_factory=SingleRunResources)
    compute: ComputeEngine = field(default_factory=SingleRunCompute)
    schedule: RunSchedule = field(default_factory=SingleRunSchedule)
    # returns the base model; None: it is loaded as the settings say
    load_base: "Callable[[TrainConfig, Compute], LoadedBase] | None" = None
