"""Settings of the training loop; field names are those of Lightning's Trainer."""

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hydratune.errors import Problem
from hydratune.settings import monitor, packages
from hydratune.settings.ranges import at_least, between, one_of
from hydratune.settings.registry import variant

ACCELERATORS = ("auto", "cpu", "gpu")
STRATEGIES = ("auto", "ddp")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "bf16-true")
LOCAL_RANK = "LOCAL_RANK"  # environment variable of a process of a data-parallel run


def local_rank() -> int:
    """Return the number of this process in a data-parallel run; 0: the main process."""
    return int(os.environ.get(LOCAL_RANK, "0"))


@variant("trainer", "trainer")
@dataclass
class TrainerConfig:
    """Settings of Lightning's Trainer, and of the training step."""

    accelerator: str = "auto"  # auto, cpu or gpu
    devices: int = 1  # processes, one for each GPU
    strategy: str = "auto"  # auto or ddp
    # 32-true, bf16-mixed, bf16-true; auto: bf16-mixed where the hardware has fast bf16, else
    # 32-true
    precision: str = "auto"
    # on a GPU: the same run twice gives the same bits, a little slower; always so on a CPU
    deterministic: bool = True
    max_epochs: int = 1  # passes over the training rows
    max_steps: int | None = None  # optimizer steps; ends training before max_epochs
    accumulate_grad_batches: int = 1  # batches of one optimizer step
    gradient_clip_val: float | None = 1.0  # norm; null: no clipping
    validations_per_epoch: int = 2  # how often the validation loss is measured
    # the metric of the validation rows that chooses the best checkpoint, and by which early
    # stopping, halving, searches and the ranking judge: val/loss, val/field_f1, val/label_accuracy,
    # val/rougeL ...; one without a known direction: val/my_metric:max
    monitor: str = monitor.LOSS
    early_stopping_patience: int | None = None  # validations without improvement; null: off
    # stop at a loss above this times the median of the last 20 steps; null: only at NaN or inf
    max_loss_ratio: float | None = 5.0
    # number of threads that share the rows of a batch on a CPU; null: one per core
    cpu_workers: int | None = None
    # tokens of one forward and backward pass; null: by the memory of the GPU, 1,024 on a CPU
    micro_tokens: int | None = None
    # compute the common beginning of rows of a batch once; the same losses, fewer tokens
    share_prefix: bool = True
    # GB on disk, at most, for outputs of the layers below the first trained one; 0: none are kept
    frozen_cache_gb: float = 20.0
    # recompute layers in the backward pass: less memory, about a third more time
    gradient_checkpointing: bool = False
    # minutes between two writes of last.ckpt, besides after every validation; null: never
    checkpoint_minutes: float | None = 10.0
    # names of callbacks that installed packages bring, called in this order; null: none
    callbacks: list[str] | None = None
    # name of a callback -> its settings, e.g. {stop_at: {loss: 0.5}}
    callback_settings: dict[str, Any] = field(default_factory=dict)
    # fuse elementwise operations by torch.compile; half a minute at the start, and needs a C++
    # compiler
    compile: bool = False
    # share of the target spread evenly over the vocabulary; in the training loss only
    label_smoothing: float = 0.0
    # weight of the squared log-normaliser, usual 1e-4; in the training loss only
    z_loss: float = 0.0
    # noise on the embeddings while training (arXiv:2310.05914), usual 5; 0: none
    neftune_alpha: float = 0.0

    def problems(self) -> Iterator[Problem]:
        """Yield every problem of these settings."""
        yield from at_least("trainer.max_epochs", self.max_epochs, 1, " epoch")
        for name in ("max_steps", "devices", "accumulate_grad_batches", "validations_per_epoch"):
            yield from at_least(f"trainer.{name}", getattr(self, name), 1)
        yield from monitor.problems(self.monitor)
        yield from at_least("trainer.early_stopping_patience", self.early_stopping_patience, 1)
        if self.max_loss_ratio is not None and not self.max_loss_ratio > 1:
            why = "a loss equal to the usual one would stop the run"
            fix = "usual: 5; null stops only at NaN or inf"
            yield Problem("trainer.max_loss_ratio", self.max_loss_ratio, why, fix)
        yield from at_least("trainer.cpu_workers", self.cpu_workers, 1)
        yield from at_least("trainer.micro_tokens", self.micro_tokens, 16)
        smoothing = self.label_smoothing
        yield from between("trainer.label_smoothing", smoothing, 0, 1, open_high=True)
        yield from at_least("trainer.z_loss", self.z_loss, 0)
        yield from at_least("trainer.frozen_cache_gb", self.frozen_cache_gb, 0)
        yield from at_least("trainer.neftune_alpha", self.neftune_alpha, 0)
        if self.gradient_clip_val is not None and not self.gradient_clip_val > 0:
            why, fix = "must be above 0", "set a positive norm, or null for no clipping"
            yield Problem("trainer.gradient_clip_val", self.gradient_clip_val, why, fix)
        yield from one_of("trainer.accelerator", self.accelerator, ACCELERATORS)
        yield from one_of("trainer.strategy", self.strategy, STRATEGIES)
        yield from one_of("trainer.precision", self.precision, PRECISIONS)
        yield from self._callback_problems()
        yield from self._device_problems()

    def _callback_problems(self) -> Iterator[Problem]:
        """Yield names of callbacks that no package has, and settings that belong to none."""
        key, known, chosen = "trainer.callbacks", packages.names("callback"), self.callbacks or []
        for name in chosen:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                listed = f"installed are: {', '.join(known)}" if known else "install its package"
                fix = f"did you mean {near[0]}?" if near else listed
                why = f"no package has an entry point of this name in {packages.GROUPS['callback']}"
                yield Problem(key, name, why, fix)
        for name in sorted({name for name in chosen if chosen.count(name) > 1}):
            yield Problem(key, name, "it is listed twice", "name it once")
        for name, values in self.callback_settings.items():
            own = f"trainer.callback_settings.{name}"
            if name not in chosen:
                yield Problem(own, values, "this callback is not used", f"add it to {key}")
            elif not isinstance(values, dict):
                why = "the settings of a callback are a mapping"
                yield Problem(own, values, why, f"{own}.SETTING=VALUE")

    def _device_problems(self) -> Iterator[Problem]:
        """Yield what does not fit the strategy: several devices, or a process of several."""
        if self.strategy == "ddp":
            return
        rank = os.environ.get(LOCAL_RANK, "0")
        if rank != "0":
            why = (
                f"this process was started as number {rank} of several (the environment variable"
                " LOCAL_RANK)"
            )
            fix = "set trainer=ddp trainer.devices=N, or unset LOCAL_RANK"
            yield Problem("trainer.strategy", self.strategy, why, fix)
        if self.devices > 1:
            why = "several devices need a strategy"
            yield Problem("trainer.devices", self.devices, why, "set trainer=ddp")
