"""Micro-packs that can be computed together with those of other trials: what they have to hold.

``hydratune.training.merged`` computes them, ``hydratune.sweeps.worker_pool`` decides which of those
that wait at the same time go into one pass.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from peft.tuners.lora import Linear as PeftLinear

from hydratune.data.encoding.encoded import Encoded
from hydratune.models.memory_plan import CPU_LOSS_POSITIONS
from hydratune.training.elementwise import Elementwise
from hydratune.training.lora_layers import SIBLINGS
from hydratune.training.losses import LossOptions

Output = TypeVar("Output")
Result = tuple[torch.Tensor, Sequence[torch.Tensor]]  # summed loss, and its gradients


@dataclass(frozen=True, eq=False)
class TrialAdapter:
    """All that is trained in a model, where that is plain LoRA on dense linear layers alone."""

    layers: Mapping[str, PeftLinear]  # by the name of the module in the base model
    parameters: Sequence[torch.nn.Parameter]  # in the order in which gradients are returned

    @cached_property
    def first(self) -> str:
        """The name of the first layer, or of the first of its siblings: everything below it is
        computed as in the base model.
        """
        parent, _, leaf = next(iter(self.layers)).rpartition(".")
        return f"{parent}.{next((names[0] for names in SIBLINGS if leaf in names), leaf)}"

    @cached_property
    def order(self) -> dict[int, int]:
        """``id`` of a parameter -> its number among ``parameters``."""
        return {id(p): number for number, p in enumerate(self.parameters)}

    def can_merge(self, autocast: torch.dtype | None) -> bool:
        """Return whether all layers are in use, and in the dtypes of a merged pass."""
        dtype = autocast or self.parameters[0].dtype
        return all(
            not (m.disable_adapters or m.merged) and m.base_layer.weight.dtype == dtype
            for m in self.layers.values()
        )


@dataclass(frozen=True, eq=False)
class MergeableBatch:
    """One micro-pack of one trial, with all that is needed to compute it in any thread."""

    adapter: TrialAdapter
    rows: Sequence[Encoded]
    loss_options: LossOptions
    head: torch.Tensor  # (vocabulary, width)
    elementwise: Elementwise
    seed: int | None  # of its dropout
    gradients: bool  # False: the loss alone
    autocast: torch.dtype | None
    positions: int = CPU_LOSS_POSITIONS  # trained tokens whose logits exist at once

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) - 1 for row in self.rows)

    @property
    def kind(self) -> tuple[object, ...]:
        """Micro-packs of one kind can be computed in one pass."""
        return (
            self.gradients,
            self.autocast,
            id(self.elementwise),
            id(self.head),
            self.adapter.first,
            self.positions,
        )


class Replica(Protocol):
    """A copy of the base model that computes micro-packs of several trials in one pass."""

    def accepts(self, adapter: TrialAdapter, /) -> bool:
        """Return whether ``adapter`` is on top of this very base model."""

    def supports(self, autocast: torch.dtype | None, /) -> bool:
        """Return whether passes may be merged in this dtype, or that of the base model."""

    def run(self, batches: Sequence[MergeableBatch], /) -> list[Result]:
        """Return (summed loss, gradients) of every micro-pack; all are of one kind."""


class MergingPool(Executor):
    """Threads that may compute a micro-pack together with others that wait at the same time."""

    replica: Replica | None = None  # None: nothing is computed together

    def merges(self, tokens: int) -> bool:
        """Return whether a micro-pack of so many tokens may be computed together with others."""
        return True

    @abstractmethod
    def map_mergeable(
        self,
        work: Callable[..., Output],
        arguments: Sequence[tuple[object, ...]],
        batches: Sequence[MergeableBatch | None],
    ) -> Iterator[Output | Result]:
        """Yield what ``work`` returns for each of ``arguments``, as ``map`` does.

        What has a mergeable batch may be computed by ``replica`` instead.
        """
