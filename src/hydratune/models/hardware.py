"""The capabilities of this machine, and the settings that follow from them."""

import ctypes
import os
import platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from hydratune.cores import cpu_count
from hydratune.errors import ConfigError, Problem
from hydratune.settings.commands import TrainConfig


def accelerator(config: TrainConfig) -> str:
    """Return "gpu" or "cpu". Raises ``ConfigError`` for GPUs that this machine does not have."""
    setting = config.trainer.accelerator
    available = torch.cuda.is_available()
    if setting == "gpu" and not available:
        without_cuda = "" if torch.version.cuda else " (this PyTorch was built without CUDA)"
        why = f"PyTorch sees no CUDA device on this machine{without_cuda}"
        fix = "set trainer=cpu, or install a CUDA build of PyTorch"
        raise ConfigError([Problem("trainer.accelerator", setting, why, fix)])
    kind = "gpu" if setting == "gpu" or (setting == "auto" and available) else "cpu"
    if kind == "gpu" and config.trainer.devices > torch.cuda.device_count():
        count = torch.cuda.device_count()
        why, fix = f"this machine has {count} GPU(s)", f"set trainer.devices={count}"
        raise ConfigError([Problem("trainer.devices", config.trainer.devices, why, fix)])
    return kind


def precision(config: TrainConfig, kind: str) -> str:
    """Return Lightning's name of the precision on an accelerator of ``kind``.

    bf16 on a CPU without AMX is slower than fp32, so ``auto`` chooses fp32 there.
    """
    if config.trainer.precision != "auto":
        return config.trainer.precision
    fast_bf16 = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if kind == "gpu"
        else torch.cpu._is_amx_tile_supported()
    )
    return "bf16-mixed" if fast_bf16 else "32-true"


def weights_dtype(config: TrainConfig, precision: str) -> torch.dtype:
    """Return the dtype in which the base model is stored.

    A frozen base is stored as it is computed with; trained weights stay in fp32 under mixed
    precision.
    """
    is_frozen = not config.adapter.trains_base
    if precision == "bf16-true" or (precision == "bf16-mixed" and is_frozen):
        return torch.bfloat16
    return torch.float32


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether ``device`` is a GPU with bf16 units.

    They have compute capability 8.0 (Ampere) or newer; others emulate bf16, slower than fp32.
    """
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def memory() -> int:
    """Return the bytes of memory of this machine, or of this process's control group if fewer."""
    if not hasattr(os, "sysconf"):
        return 2**63
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:  # cgroups(7), version 2; "max" without a limit
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


_peaks = [0]  # most bytes allocated on the GPU, each before its counter was reset


def peak_memory() -> int:
    """Return the most bytes that this process ever held, or that PyTorch allocated on the GPU."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return max(*_peaks, int(torch.cuda.max_memory_allocated()))
    try:  # proc(5); ru_maxrss of a new process begins with what its parent holds
        status = Path("/proc/self/status").read_text("ascii")
        return 1024 * int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])
    except (OSError, IndexError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_during(run: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that a GPU held during ``run``, beyond those it held before.

    Returns 0 on a CPU, where nothing is counted.
    """
    if device.type != "cuda":
        run()
        return 0
    _peaks.append(int(torch.cuda.max_memory_allocated(device)))
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device) - before)


def cpu_seconds() -> float:
    """Return the user and system time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def keep_memory() -> None:
    """Let glibc keep freed blocks for the next step instead of returning them to the kernel.

    Otherwise large blocks are mapped and cleared again for every step, which took a tenth of a step
    on a CPU; see mallopt(3). oneDNN keeps a compiled product for each of the last 1024 shapes;
    packs, whose lengths vary, fill that with 0.2 GB, so fewer are kept.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent in musl
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
        mallopt(-8, 1)  # M_ARENA_MAX


class _Mallinfo(ctypes.Structure):
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def give_back(above: int) -> bool:
    """Return freed blocks to the kernel if glibc keeps more than ``above`` bytes of them.

    Many jobs in one process leave free blocks between those in use, which the next allocation
    seldom fits: without this, a pack holds more freed memory than it uses. Returns whether blocks
    were returned. mallinfo(3), malloc_trim(3), proc_pid_statm(5).
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    # absent in musl, and before glibc 2.33
    mallinfo, trim = getattr(libc, "mallinfo2", None), getattr(libc, "malloc_trim", None)
    if mallinfo is None or trim is None:
        return False
    mallinfo.restype = _Mallinfo
    counts = mallinfo()
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text("ascii").split())
    # fordblks cannot be used: it also counts blocks that were returned
    kept = (resident - shared) * resource.getpagesize() - counts.uordblks - counts.hblkhd
    if kept <= above:
        return False
    trim(ctypes.c_size_t(above // 4))
    return True


def describe() -> dict[str, object]:
    """Return what environment.json says of this machine."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [torch.cuda.get_device_name(i) for i in range(count)]
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "system": platform.platform(),
        "cores": cpu_count(),
        "gpus": gpus,
    }


def name_of(device: torch.device) -> str:
    """Return the name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {_processor()}" if device.type == "cpu" else device.type


def _processor() -> str:
    """Return the processor's name, if the system has it.

    Another processor may round differently in the last digits.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor()
