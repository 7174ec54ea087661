"""The processor, the memory, and what torch can use of them.

torch is imported in a process of its own: where it is broken, that process ends, and not this one.
"""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from hydratune.doctor.finding import Finding, Level, size
from hydratune.doctor.packages import specification, version_of

_LIMIT = 60  # seconds for importing torch
_LITTLE_MEMORY = 4 * 2**30  # the default run takes about 3 GiB
_X86 = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # what the kernels of torch look for
_ARM = ("asimd", "bf16", "i8mm", "sve")
_PROBE = """
import json, torch
found = {"version": torch.__version__, "cuda": torch.version.cuda,
         "hip": getattr(torch.version, "hip", None), "threads": torch.get_num_threads(),
         "capability": torch.backends.cpu.get_cpu_capability(), "devices": []}
found["available"] = torch.cuda.is_available()
if found["available"]:
    for number in range(torch.cuda.device_count()):
        one = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        found["devices"].append({"name": one.name, "memory": total, "free": free,
                                 "capability": [one.major, one.minor]})
torch.ones(2, 2) @ torch.ones(2, 2)
print("FOUND" + json.dumps(found))
"""
_KERNELS = {  # distribution -> (its module, what it brings)
    "bitsandbytes": ("bitsandbytes", "QLoRA, 8-bit optimizers"),
    "flash-attn": ("flash_attn", "attention kernels of GPUs"),
    "liger-kernel": ("liger_kernel", "fused kernels of GPUs"),
    "triton": ("triton", "compiled kernels on GPUs"),
}


class TorchProbe:
    """A process that imports torch and says what it can use; it runs beside the other checks."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        if importlib.util.find_spec("torch") is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROBE],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                text=True,
            )

    def result(self) -> tuple[dict[str, Any] | None, str]:
        """Return what torch can use, or None and why it cannot be used.

        Raises:
            TimeoutError: If the import took so long that nothing is known.
        """
        if self._process is None:
            return None, "is not installed"
        try:
            out, errors = self._process.communicate(timeout=_LIMIT)
        except subprocess.TimeoutExpired as error:
            self.close()
            text = f"not imported within {_LIMIT} s: a slow disk, or a machine busy with other work"
            raise TimeoutError(text) from error
        line = next((text for text in out.splitlines() if text.startswith("FOUND")), "")
        if line:
            return dict(json.loads(line.removeprefix("FOUND"))), ""
        reason = (errors.strip().splitlines() or [f"exit code {self._process.returncode}"])[-1]
        return None, f"cannot be used: {reason}"

    def close(self) -> None:
        """End the process if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def processor() -> Iterator[Finding]:
    """Say which processor this is, and which of its instructions matter."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags, name = _cpu_flags()
    wanted = _ARM if platform.machine() in ("aarch64", "arm64") else _X86
    there = [flag for flag in wanted if flag in flags]
    facts = {"cores": cores, "flags": there, "name": name, "machine": platform.machine()}
    text = f"{cores} cores, {name or platform.machine()}; {', '.join(there) or 'no known flags'}"
    if flags and wanted is _X86 and "avx2" not in flags:
        remedy = "train on another machine, or on a GPU"
        yield Finding("CPU", f"{text}: without AVX2 torch is slow", Level.warning, remedy, facts)
        return
    yield Finding("CPU", text, facts=facts)


def _cpu_flags() -> tuple[set[str], str]:
    """Return the instruction sets and the name of the processor, as far as Linux says them."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return set(), platform.processor()
    found = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    flags = set((found.get("flags") or found.get("Features") or "").split())
    return flags, found.get("model name", "").strip()


def memory() -> Iterator[Finding]:
    """Say how much memory there is."""
    if not hasattr(os, "sysconf"):
        return
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _control_group_limit()
    most = min(total, limit or total)
    available = _available()
    text = f"{size(most)}{' (of a control group)' if most < total else ''}"
    text += f", {size(available)} available" if available is not None else ""
    facts = {"bytes": most, "available": available}
    if min(most, available or most) < _LITTLE_MEMORY:
        remedy = "end other programs, or set data.batch_size=1, or choose a smaller model"
        yield Finding("memory", text, Level.warning, remedy, facts)
        return
    yield Finding("memory", text, facts=facts)


def _control_group_limit() -> int | None:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    value = next((line.split()[1] for line in lines if line.startswith("MemAvailable")), None)
    return None if value is None else 1024 * int(value)


def torch_of(probe: TorchProbe) -> Callable[[], Iterator[Finding]]:
    """Return the check of torch and of the GPUs."""

    def torch() -> Iterator[Finding]:
        facts = {"version": version_of("torch")}
        try:
            found, why = probe.result()
        except TimeoutError as error:
            remedy = "type hydratune doctor again: a second import is usually faster"
            yield Finding("torch", str(error), Level.warning, remedy, facts)
            return
        if found is None:
            remedy = f"pip install --force-reinstall '{specification('torch')}'"
            yield Finding("torch", why, Level.problem, remedy, facts)
            return
        build = f"for CUDA {found['cuda']}" if found["cuda"] else "for CPUs"
        build = f"for ROCm {found['hip']}" if found["hip"] else build
        text = f"{found['version']}, built {build}; {found['threads']} threads,"
        yield Finding("torch", f"{text} {found['capability']} kernels", facts=found)
        yield from _driver(found)

    return torch


def _driver(found: dict[str, Any]) -> Iterator[Finding]:
    """Yield the GPUs that torch sees, and why it sees none although there are some."""
    for number, device in enumerate(found["devices"]):
        major, minor = device["capability"]
        text = f"{device['name']}, {size(device['memory'])}, {size(device['free'])} free"
        low = " (no bf16 units: fp32 is used)" if major < 8 else ""
        yield Finding(f"GPU {number}", f"{text}, compute capability {major}.{minor}{low}")
    if found["devices"]:
        return
    driver = _driver_version()
    if driver is None:
        yield Finding("GPU", "none that torch can use; training runs on the CPU")
    elif not found["cuda"]:
        remedy = "install torch for CUDA: docs/howto/gpu.md says how"
        text = f"NVIDIA driver {driver} is there, and this torch is built without CUDA"
        yield Finding("GPU", text, Level.warning, remedy)
    else:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        text = f"NVIDIA driver {driver} is there, and torch sees no GPU"
        remedy = "nvidia-smi shows whether the driver works; it may be too old for this torch"
        if hidden is not None:
            text += f" (CUDA_VISIBLE_DEVICES={hidden!r})"
            remedy = "unset CUDA_VISIBLE_DEVICES"
        yield Finding("GPU", text, Level.warning, remedy)


def _driver_version() -> str | None:
    """Return the version of NVIDIA's driver; None if there is none."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text("utf-8").splitlines()[0].split()
        return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")
    except (OSError, IndexError):
        return "unknown" if shutil.which("nvidia-smi") else None


def kernels() -> Iterator[Finding]:
    """Say which packages with kernels of their own are installed; they are not imported."""
    here, missing = [], []
    for name, (module, meaning) in _KERNELS.items():
        version = version_of(name)
        if version is None or importlib.util.find_spec(module) is None:
            missing.append(f"{name} ({meaning})")
        else:
            here.append(f"{name} {version}{_native(name)}")
    facts = {"installed": here, "missing": missing}
    text = f"{', '.join(here) or 'none'}; not installed, and not required: {', '.join(missing)}"
    yield Finding("kernels", text if missing else ", ".join(here), facts=facts)


def _native(name: str) -> str:
    """Return for which devices the installed bitsandbytes has compiled code; else nothing."""
    if name != "bitsandbytes":
        return ""
    files = [file.name for file in metadata.files(name) or [] if "libbitsandbytes" in file.name]
    cuda = sorted({f.split("cuda")[1][:3].rstrip(".") for f in files if "cuda" in f})
    cpu = any("cpu" in file for file in files)
    parts = [f"CUDA {cuda[0]} to {cuda[-1]}"] if cuda else []
    return f" (for {' and '.join(parts + (['CPU'] if cpu else []))})" if parts or cpu else ""
