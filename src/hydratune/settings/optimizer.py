"""The settings of every optimizer, and the interface of ``hydratune.training.optimizers``."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from hydratune import extras
from hydratune.errors import Problem
from hydratune.settings.ranges import at_least, between

if TYPE_CHECKING:
    import torch


class Schedule(StrEnum):
    """Learning rate after warm-up. All but ``constant`` end at ``optimizer.min_lr_ratio``."""

    cosine = "cosine"  # falls along half a cosine
    linear = "linear"  # falls by the same amount in every step
    constant = "constant"  # stays at optimizer.lr
    # warm-up, stable, decay: falls only in the last ``optimizer.decay_ratio`` of the steps
    # (arXiv:2404.06395)
    wsd = "wsd"
    # (1 - progress) ** ``optimizer.power``, with progress from 0 to 1
    polynomial = "polynomial"


@dataclass(frozen=True)
class OptimizerContext:
    """The settings outside the group ``optimizer`` that the rules of an optimizer read."""

    trains_base: bool = False  # whether parameters of the base model itself are trained
    accelerator: str = "auto"  # auto, cpu or gpu


@dataclass
class OptimizerConfig:
    """The learning rate, its schedule, and which parameters get how much of it.

    A parameter's learning rate is ``lr`` times the schedule's factor times the factors of
    ``lr_groups``, ``loraplus_lr_ratio`` and ``layer_lr_decay``. Patterns are regular expressions
    that may match anywhere in a parameter's name
    (``model.layers.0.self_attn.q_proj.lora_A.default.weight``). Of several that match, the first
    counts.

    A subclass is one module of ``hydratune.training.optimizers`` with its settings, its rules and
    its implementation. It is registered by ``@variant("optimizer", NAME)``, and has a field
    ``kind`` with that name.
    """

    # whether a step multiplies large matrices, so that several threads are worthwhile on a CPU
    multiplies_matrices: ClassVar[bool] = False
    # an optional package (its module) that has the implementation
    package: ClassVar[str | None] = None

    lr: float = 1e-3  # learning rate after the warm-up
    weight_decay: float = 0.0  # decoupled: a step subtracts lr * weight_decay * weight
    # whether one-dimensional parameters decay: norms, biases, adapters' scaling vectors
    decay_norms_and_biases: bool = False
    schedule: Schedule = Schedule.cosine  # how the learning rate falls after the warm-up
    warmup_ratio: float | None = 0.05  # share of all optimizer steps; null: see warmup_steps
    warmup_steps: int | None = None  # optimizer steps, instead of warmup_ratio
    min_lr_ratio: float = 0.0  # the schedule ends at lr * min_lr_ratio
    # with schedule=wsd: the share of all optimizer steps, at the end, in which the rate falls
    # linearly
    decay_ratio: float = 0.2
    power: float = 2.0  # with schedule=polynomial; 1 is linear
    # learning rate of LoRA's B over that of A (LoRA+, arXiv:2402.12354); null: 1
    loraplus_lr_ratio: float | None = None
    # learning rate of each layer over that of the layer above it; null: 1
    layer_lr_decay: float | None = None
    lr_groups: dict[str, float] = field(default_factory=dict)  # pattern -> factor of lr
    # pattern -> factor of weight_decay
    weight_decay_groups: dict[str, float] = field(default_factory=dict)

    def problems(self, context: OptimizerContext) -> Iterator[Problem]:
        """Yield what is wrong with the settings, whatever the model."""
        if not (self.lr > 0 and math.isfinite(self.lr)):
            why, fix = "the learning rate must be above 0", "usual for LoRA: 1e-4 to 1e-3"
            yield Problem("optimizer.lr", self.lr, why, fix)
        yield from at_least("optimizer.weight_decay", self.weight_decay, 0)
        yield from self._schedule_problems()
        yield from self._rate_problems(context)
        yield from self._group_problems()
        yield from self.own_problems(context)
        if self.package is not None:
            yield from extras.missing(self.package, "optimizer", getattr(self, "kind", ""))
        yield from self.accelerator_problems(context.accelerator)

    def own_problems(self, context: OptimizerContext) -> Iterator[Problem]:
        """Yield what is wrong with the settings that only this optimizer has."""
        yield from ()

    def accelerator_problems(self, accelerator: str) -> Iterator[Problem]:
        """Yield why the optimizer cannot work on ``accelerator`` ("cpu", "gpu" or "auto")."""
        yield from ()

    def build(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        """Return the optimizer of all that ``model`` trains, on the device where it is now."""
        raise NotImplementedError(type(self).__name__)

    def _schedule_problems(self) -> Iterator[Problem]:
        ratio = self.warmup_ratio
        if ratio is not None:
            yield from between("optimizer.warmup_ratio", ratio, 0, 1, open_high=True)
        yield from at_least("optimizer.warmup_steps", self.warmup_steps, 0, " steps")
        if ratio is not None and self.warmup_steps is not None:
            why = "optimizer.warmup_ratio is set as well"
            fix = "give one of the two; the other is null"
            yield Problem("optimizer.warmup_steps", self.warmup_steps, why, fix)
        yield from between("optimizer.min_lr_ratio", self.min_lr_ratio, 0, 1)
        if self.schedule is Schedule.wsd:
            yield from between("optimizer.decay_ratio", self.decay_ratio, 0, 1)
            if self.decay_ratio + (ratio or 0) > 1:
                why = "the rate would have to fall before it has risen"
                fix = "keep its sum with optimizer.warmup_ratio at 1 or below"
                yield Problem("optimizer.decay_ratio", self.decay_ratio, why, fix)
        has_power = self.power > 0 and math.isfinite(self.power)
        if self.schedule is Schedule.polynomial and not has_power:
            fix = "usual: 2, which falls faster at first; 1 is linear"
            yield Problem("optimizer.power", self.power, "must be above 0", fix)

    def _rate_problems(self, context: OptimizerContext) -> Iterator[Problem]:
        """Yield what is wrong with the learning rates of layers and of LoRA's matrices."""
        for name, usual in (("loraplus_lr_ratio", "16"), ("layer_lr_decay", "0.9")):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                yield Problem(f"optimizer.{name}", value, "must be above 0", f"usual: {usual}")
        if self.layer_lr_decay is not None and self.layer_lr_decay > 1:
            why = "above 1, the layers next to the input would learn fastest"
            fix = "usual: 0.9; 1 or null for equal rates"
            yield Problem("optimizer.layer_lr_decay", self.layer_lr_decay, why, fix)
        if self.loraplus_lr_ratio is not None and context.trains_base:
            why = "it is the rate of LoRA's matrix B, and full fine-tuning has none"
            fix = "set adapter=lora, or leave it at null"
            yield Problem("optimizer.loraplus_lr_ratio", self.loraplus_lr_ratio, why, fix)

    def _group_problems(self) -> Iterator[Problem]:
        """Yield factors that are out of range, and patterns that are no regular expression."""
        for key, least in (("lr_groups", "above 0"), ("weight_decay_groups", "at least 0")):
            for pattern, factor in getattr(self, key).items():
                name = f"optimizer.{key}.{pattern}"
                if not math.isfinite(factor) or factor < 0 or (factor == 0 and key == "lr_groups"):
                    why = f"the factor must be {least}"
                    yield Problem(name, factor, why, "1 changes nothing")
                try:
                    re.compile(pattern)
                except re.error as error:
                    why = f"the pattern is no regular expression ({error})"
                    fix = "a part of a parameter's name will do, such as lora_B"
                    yield Problem(name, factor, why, fix)


def betas_problems(betas: list[float]) -> Iterator[Problem]:
    """Yield a problem if ``betas`` are not two decay rates of moments."""
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        why = "two numbers in [0, 1) are needed"
        yield Problem("optimizer.betas", betas, why, "usual: [0.9,0.999]")
