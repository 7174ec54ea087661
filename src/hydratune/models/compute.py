"""The device and the number formats of a run, decided once, before anything is loaded.

In a data-parallel run every rank computes on the device of its own rank. The device is made current
before any weight is loaded, so that no rank uses the first GPU by mistake, and weights are loaded
directly onto it.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch

from hydratune.console import console
from hydratune.models import hardware
from hydratune.settings.commands import TrainConfig
from hydratune.settings.trainer import local_rank

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
        """Return what environment.json says of it."""
        device = f"{self.device}, {hardware.name_of(self.device)}"
        return {"accelerator": self.accelerator, "device": device, "precision": self.precision}

    @property
    def autocast(self) -> torch.dtype | None:
        """Return the dtype of products under mixed precision; None: that of the weights."""
        return torch.bfloat16 if self.precision == "bf16-mixed" else None


def on_cpu(weights: torch.dtype = torch.float32) -> Compute:
    """Return the CPU, without autocast."""
    return Compute("cpu", CPU, "32-true" if weights is torch.float32 else "bf16-true", weights)


def for_answers() -> Compute:
    """Return the device of a model that only generates.

    That is the first GPU, in bf16 if it has bf16 units and else in fp32; without a GPU, the CPU.
    """
    if not torch.cuda.is_available():
        return on_cpu()
    device = torch.device("cuda", 0)
    if hardware.has_fast_bf16(device):
        return Compute("gpu", device, "bf16-true", torch.bfloat16)
    return Compute("gpu", device, "32-true", torch.float32)


def compute_of(config: TrainConfig) -> Compute:
    """Return the device and formats of ``config``, and make a GPU the current device.

    Raises ``ConfigError`` if this machine does not have them.
    """
    accelerator = hardware.accelerator(config)
    device = device_of_rank(accelerator, config.trainer.strategy)
    precision = hardware.precision(config, accelerator)
    hardware.keep_memory()
    if accelerator == "gpu":
        if config.trainer.deterministic:
            be_deterministic()
        else:
            torch.use_deterministic_algorithms(False)
        torch.cuda.set_device(device)
        if "bf16" in precision and not hardware.has_fast_bf16(device):
            name = torch.cuda.get_device_name(device)
            console.print(
                f"[yellow]{name} has no bf16 units and emulates it, slower than fp32: leave"
                " trainer.precision at auto"
            )
    return Compute(accelerator, device, precision, hardware.weights_dtype(config, precision))


def device_of_rank(accelerator: str, strategy: str) -> torch.device:
    """Return the device of this process.

    That is the CPU, the first GPU, or in a data-parallel run the GPU whose number is this process's
    rank (``LOCAL_RANK``).
    """
    if accelerator == "cpu":
        return CPU
    number = local_rank() if strategy == "ddp" else 0
    return torch.device("cuda", number)


def be_deterministic() -> None:
    """Make CUDA add numbers in the same order every time, from now on in this process.

    By default the sums of flash-attention's backward pass depend on the order in which its blocks
    end, and cuBLAS may choose between workspaces. PyTorch's deterministic mode also fills new
    memory, which helps to find bugs and is not needed here.
    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    # the two settings with which PyTorch knows cuBLAS to be deterministic
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    # torch does not declare the attribute
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


# part of the error that PyTorch raises for an operation that is not deterministic
_NOT_DETERMINISTIC = "does not have a deterministic implementation"


def deterministic_if_possible(
    compute: Callable[[], Result], before_again: Callable[[], None] = lambda: None
) -> Result:
    """Return the result of ``compute``, without deterministic algorithms if there are none.

    If PyTorch refuses an operation, ``before_again`` is called and ``compute`` a second time. From
    then on this process only warns of such operations. Every use of a model belongs inside.
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
    """Let PyTorch run operations without a deterministic implementation, without a warning.

    For operations of which only deterministic results are used.
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
    """Return whether all backward passes on ``device`` run in one thread.

    They do on a GPU, so that nothing in a backward pass may wait for another backward pass. On a
    CPU each runs in the thread of its caller.
    """
    return device.type != "cpu"


def to_device(values: Sequence[Sequence[int]], device: torch.device | None) -> list[torch.Tensor]:
    """Return lists of integers as int64 tensors on ``device``, sent in one copy.

    The CPU does not wait for the copy. To create each tensor on a GPU by itself would block the CPU
    until the GPU has finished all earlier work.
    """
    lengths = [len(part) for part in values]
    joined = torch.tensor([number for part in values for number in part], dtype=torch.long)
    if device is None or device.type == "cpu":
        return list(joined.split(lengths))
    if device.type == "cuda":
        joined = joined.pin_memory()
    return list(joined.to(device, non_blocking=True).split(lengths))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that there was no memory left for a tensor."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def remember_autocast(model: torch.nn.Module, autocast: torch.dtype | None) -> None:
    """Store on ``model`` the dtype of its products, which ``as_trained`` reads."""
    # a module takes any attribute, though its declaration says tensors and modules
    model.hydratune_autocast = autocast  # type: ignore[assignment]


def autocast_of(model: torch.nn.Module) -> torch.dtype | None:
    """Return the dtype of products of ``model``; None: that of its weights.

    ``model`` may have an adapter around it.
    """
    unwrap = getattr(model, "get_base_model", None)
    base = unwrap() if callable(unwrap) else model
    dtype: torch.dtype | None = getattr(base, "hydratune_autocast", None)
    return dtype


@contextmanager
def as_trained(model: torch.nn.Module) -> Iterator[None]:
    """Let ``model`` compute in the number formats of its training steps, in this thread.

    Every evaluation of it belongs inside.
    """
    dtype = autocast_of(model)
    context: AbstractContextManager[object] = nullcontext()
    if dtype is not None:
        context = torch.autocast(next(model.parameters()).device.type, dtype=dtype)
    with context:
        yield
