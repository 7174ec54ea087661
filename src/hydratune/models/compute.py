"""Where a run computes and in which arithmetic: decided once, before anything is loaded.

In a data-parallel run every rank computes on the device of its own rank. The device is made current
before any weight is loaded, so nothing of a rank ever lands on the first GPU, and weights are read
straight onto it.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from hydratune.console import console
from hydratune.models import hardware
from hydratune.settings.commands import TrainConfig

CPU = torch.device("cpu")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Compute:
    """The device of this process and the number formats on it."""

    accelerator: str  # "gpu" or "cpu": Lightning's names
    device: torch.device
    precision: str  # Lightning's name: 32-true, bf16-mixed or bf16-true
    weights: torch.dtype  # in which the base model is stored

    def stored(self) -> dict[str, str]:
        """For environment.json."""
        device = f"{self.device}, {hardware.name_of(self.device)}"
        return {"accelerator": self.accelerator, "device": device, "precision": self.precision}

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype of products under mixed precision; None: that of the weights."""
        return torch.bfloat16 if self.precision == "bf16-mixed" else None


def on_cpu(weights: torch.dtype = torch.float32) -> Compute:
    """The CPU, without autocast."""
    return Compute("cpu", CPU, "32-true" if weights is torch.float32 else "bf16-true", weights)


def for_answers() -> Compute:
    """The first GPU in bf16 where it has that, else in fp32, else the CPU: for a model that is only
    asked.
    """
    if not torch.cuda.is_available():
        return on_cpu()
    device = torch.device("cuda", 0)
    if hardware.has_fast_bf16(device):
        return Compute("gpu", device, "bf16-true", torch.bfloat16)
    return Compute("gpu", device, "32-true", torch.float32)


def compute_of(config: TrainConfig) -> Compute:
    """What ``config`` asks for on this machine; a GPU is made the current device.

    Raises ``ConfigError`` if it cannot be had.
    """
    accelerator = hardware.accelerator(config)
    device = device_of_rank(accelerator, config.trainer.strategy)
    precision = hardware.precision(config, accelerator)
    hardware.keep_memory()
    if accelerator == "gpu":
        (
            be_deterministic()
            if config.trainer.deterministic
            else torch.use_deterministic_algorithms(False)
        )
        torch.cuda.set_device(device)
        if "bf16" in precision and not hardware.has_fast_bf16(device):
            name = torch.cuda.get_device_name(device)
            console.print(
                f"[yellow]{name} has no bf16 units and emulates it, slower than fp32: leave"
                " trainer.precision at auto"
            )
    return Compute(accelerator, device, precision, hardware.weights_dtype(config, precision))


def device_of_rank(accelerator: str, strategy: str) -> torch.device:
    """The CPU, the first GPU, or in a data-parallel run the GPU whose number is this process's rank
    (``LOCAL_RANK``).
    """
    if accelerator == "cpu":
        return CPU
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) if strategy == "ddp" else 0)


def be_deterministic() -> None:
    """Has CUDA add up in the same order every time, from here on in this process.

    By default flash-attention's backward pass adds in whatever order its blocks end, and cuBLAS may
    choose between workspaces. Filling fresh memory, which PyTorch's deterministic mode does as
    well, is for finding bugs: it is left out.
    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    # the two that PyTorch knows to be deterministic
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (
        ":4096:8",
        ":16:8",
    ):
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


# part of the error that PyTorch raises for such an operation
_NOT_DETERMINISTIC = "does not have a deterministic implementation"


def deterministic_if_possible(
    compute: Callable[[], Result], before_again: Callable[[], None] = lambda: None
) -> Result:
    """The result of ``compute``; where PyTorch refuses an operation of it, computed again without
    deterministic algorithms.

    ``before_again`` is called in between. From then on this process warns of such operations
    instead of refusing them. Whatever runs a model belongs inside.
    """
    try:
        return compute()
    except RuntimeError as error:
        if _NOT_DETERMINISTIC not in str(error):
            raise
        operation = str(error).partition(_NOT_DETERMINISTIC)[0].strip().rpartition("\n")[2]
    torch.use_deterministic_algorithms(True, warn_only=True)
    console.print(
        f"[yellow]{operation} has no deterministic implementation on this device: the same run"
        " twice may differ in its last digits. trainer.deterministic=false turns this check off,"
        " and is a little faster",
        soft_wrap=True,
    )
    before_again()
    return compute()


@contextmanager
def nothing_refused() -> Iterator[None]:
    """PyTorch only warns of operations without a deterministic implementation: for those whose used
    results are deterministic.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(before[0], warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f".*{_NOT_DETERMINISTIC}")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def has_one_autograd_thread(device: torch.device) -> bool:
    """Whether all backward passes on ``device`` run in one thread, as on every GPU; on a CPU each
    runs in its caller's.

    Then nothing in a backward pass may wait for another backward pass.
    """
    return device.type != "cpu"


def sent(values: Sequence[Sequence[int]], device: torch.device | None) -> list[torch.Tensor]:
    """Lists of integers as int64 tensors on ``device``, in one copy that the host does not wait
    for.

    Making each tensor on a GPU by itself would stop the host until the GPU has done all it was
    given before.
    """
    lengths = [len(part) for part in values]
    together = torch.tensor([number for part in values for number in part], dtype=torch.long)
    if device is None or device.type == "cpu":
        return list(together.split(lengths))
    if device.type == "cuda":
        together = together.pin_memory()
    return list(together.to(device, non_blocking=True).split(lengths))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that a device or this machine had no memory left for a tensor."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def remember_autocast(model: torch.nn.Module, autocast: torch.dtype | None) -> None:
    """Notes on ``model`` what its products are computed in, for whoever evaluates it; see
    ``as_trained``.
    """
    model.hydratune_autocast = autocast  # type: ignore[assignment]


def autocast_of(model: Any) -> torch.dtype | None:
    """The dtype of products of ``model``, with or without an adapter around it; None: that of its
    weights.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    dtype: torch.dtype | None = getattr(base, "hydratune_autocast", None)
    return dtype


@contextmanager
def as_trained(model: Any) -> Iterator[None]:
    """In this thread, ``model`` computes in the arithmetic of its training steps: whatever
    evaluates it belongs inside.
    """
    dtype = autocast_of(model)
    context: AbstractContextManager[Any] = nullcontext()
    if dtype is not None:
        context = torch.autocast(next(model.parameters()).device.type, dtype=dtype)
    with context:
        yield
