"""What is trained on what, and with the help of whom: the arguments of ``fit``."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from hydratune.data.encoding.encoded import Encoded
from hydratune.models.compute import Compute
from hydratune.models.hardware import cpu_seconds
from hydratune.models.memory_plan import MemoryPlan
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.commands import TrainConfig
from hydratune.training.protocols import (
    HalvingDecisions,
    NeverHalved,
    OwnResources,
    SharedResources,
)
from hydratune.training.schedules import total_steps, updates_per_epoch

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from peft import PeftModel
    from transformers import PreTrainedModel


class Measured(NamedTuple):
    """A metric and its confidence interval."""

    value: float
    interval: tuple[float, float] | None = None


# step -> metrics of the model's answers to validation rows, by name: val/field_f1
Answer = Callable[[int], Mapping[str, Measured]]

Checkpoint: TypeAlias = Mapping[str, Any]  # Lightning's content of a checkpoint, and this package's


@dataclass(frozen=True)
class TrainingTask:
    """A prepared model, its rows, the settings, and where the run is recorded."""

    model: "PreTrainedModel | PeftModel"
    train: Sequence[Encoded]
    validation: Sequence[Encoded]
    config: TrainConfig
    record: RunDirectory
    compute: Compute
    logger: "Logger | bool" = False  # False: none
    row_names: Sequence[str] = ()  # what the training rows are called in messages
    base_identity: str = ""  # identifies the frozen weights

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return total_steps(self.config, len(self.train))

    @property
    def updates_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return updates_per_epoch(self.config, len(self.train))


@dataclass(frozen=True)
class Resumption:
    """From where a run is resumed, and what its own checkpoints hold besides the weights."""

    checkpoint: Checkpoint | None = None  # None: the run begins anew
    # compared with that of a later run before it is resumed
    identity: Mapping[str, object] = field(default_factory=dict)
    cpu_seconds: Callable[[], float] = cpu_seconds  # of the run so far


@dataclass(frozen=True)
class TrainingServices:
    """What a run gets from its surroundings; by default it is alone in its process."""

    pool: Executor | None = None  # threads that are shared with other runs; None: its own
    resources: SharedResources = field(default_factory=OwnResources)
    decisions: HalvingDecisions = field(default_factory=NeverHalved)
    answer: Answer | None = None  # lets the model answer the validation rows
    on_plan: Callable[[MemoryPlan], None] = lambda plan: None  # learns how much is computed at once
