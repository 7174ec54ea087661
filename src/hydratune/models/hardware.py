"""What this machine can do, and the settings that follow from it."""

import ctypes
import os
import platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hydratune.errors import ConfigError, Problem
from hydratune.settings.commands import TrainConfig


def accelerator(config: TrainConfig) -> str:
    """ "gpu" or "cpu". Raises ``ConfigError`` if a GPU is asked for where there is none."""
    asked = config.trainer.accelerator
    available = torch.cuda.is_available()
    if asked == "gpu" and not available:
        why = "PyTorch sees no CUDA device on this machine" + (
            "" if torch.version.cuda else " (this PyTorch was built without CUDA)"
        )
        raise ConfigError(
            [
                Problem(
                    "trainer.accelerator",
                    asked,
                    why,
                    "set trainer=cpu, or install a CUDA build of PyTorch",
                )
            ]
        )
    kind = "gpu" if asked == "gpu" or (asked == "auto" and available) else "cpu"
    if kind == "gpu" and config.trainer.devices > torch.cuda.device_count():
        why = f"this machine has {torch.cuda.device_count()} GPU(s)"
        raise ConfigError(
            [
                Problem(
                    "trainer.devices",
                    config.trainer.devices,
                    why,
                    f"set trainer.devices={torch.cuda.device_count()}",
                )
            ]
        )
    return kind


def precision(config: TrainConfig, kind: str) -> str:
    """Lightning's name of the precision. bf16 on a CPU without AMX is slower than fp32, so ``auto``
    takes fp32 there.
    """
    if config.trainer.precision != "auto":
        return config.trainer.precision
    fast_bf16 = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if kind == "gpu"
        else torch.cpu._is_amx_tile_supported()
    )
    return "bf16-mixed" if fast_bf16 else "32-true"


def weights_dtype(config: TrainConfig, chosen: str) -> torch.dtype:
    """A frozen base is stored as it is computed with; trained weights stay in fp32 under mixed
    precision.
    """
    if chosen == "bf16-true" or (chosen == "bf16-mixed" and not config.adapter.trains_base):
        return torch.bfloat16
    return torch.float32


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a GPU has bf16 units: compute capability 8.0 (Ampere) or newer.

    Others emulate it, slower than fp32.
    """
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def cpu_count() -> int:
    """Cores this process may use."""
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    )


def memory() -> int:
    """Bytes that this machine has, or the control group of this process may take."""
    limit = Path("/sys/fs/cgroup/memory.max")  # cgroups(7), version 2
    try:
        known = [int(text) for text in (limit.read_text("ascii").strip(),) if text.isdigit()]
    except OSError:
        known = []
    return (
        min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *known])
        if hasattr(os, "sysconf")
        else 2**63
    )


_peaks = [0]  # bytes allocated on the GPU at most, before its count was set back


def peak_memory() -> int:
    """Bytes: the most this process ever held, or on a GPU the most PyTorch ever allocated there."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return max(*_peaks, int(torch.cuda.max_memory_allocated()))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def peak_during(run: Callable[[], object], device: torch.device) -> int:
    """Most bytes that a GPU held while ``run`` ran, beyond what it held before; 0 on a CPU, where
    nothing is counted.
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
    """User and system time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def keep_memory() -> None:
    """Lets glibc keep freed blocks for the next step instead of handing them back to the kernel and
    asking again.

    Blocks of this size are otherwise mapped and cleared anew every time: a tenth of a CPU step went
    there. mallopt(3). oneDNN keeps a compiled product for each of the last 1024 shapes; packs of
    ever new lengths fill that with 0.2 GB.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent in musl
    if mallopt is not None:
        # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX
        for option, value in (
            (-3, 1 << 30),
            (-1, (1 << 31) - 1),
            (-8, 1),
        ):
            mallopt(option, value)


_COUNTS = (
    "arena",
    "ordblks",
    "smblks",
    "hblks",
    "hblkhd",
    "usmblks",
    "fsmblks",
    "uordblks",
    "fordblks",
    "keepcost",
)


class _Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _COUNTS]


def give_back(above: int) -> bool:
    """Hands freed blocks to the kernel where glibc keeps more than ``above`` bytes of them in
    memory.

    Many jobs in one process leave holes between what they keep, which the next block seldom fits:
    without this a pack holds more freed memory than it uses. mallinfo(3), malloc_trim(3),
    proc_pid_statm(5).
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    mallinfo, trim = (
        getattr(libc, "mallinfo2", None),
        getattr(libc, "malloc_trim", None),
    )  # absent in musl, and before glibc 2.33
    if mallinfo is None or trim is None:
        return False
    mallinfo.restype = _Mallinfo
    known = mallinfo()
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text("ascii").split())
    # fordblks counts what was handed back as well
    kept = (resident - shared) * resource.getpagesize() - known.uordblks - known.hblkhd
    if kept <= above:
        return False
    trim(ctypes.c_size_t(above // 4))
    return True


def describe() -> dict[str, Any]:
    """For environment.json."""
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "system": platform.platform(),
        "cores": cpu_count(),
        "gpus": gpus,
    }


def name_of(device: torch.device) -> str:
    """What computes there: the name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {_processor()}" if device.type == "cpu" else device.type


def _processor() -> str:
    """Its name, where the system tells: another one rounds otherwise in the last digits."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    return (
        next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
        )
        or platform.processor()
    )
