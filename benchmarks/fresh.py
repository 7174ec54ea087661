"""One measurement in one fresh process.

`run` is the parent's side, `Meter` and `peak_memory` are the child's side. The parent
imports nothing heavy: it must not warm or crowd the machine on which its children are measured.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = Path("outputs") / "bench"
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
    "PYTHONUNBUFFERED": "1",
}


def run(script: str, *arguments: str | Path, log: Path) -> dict[str, Any] | None:
    """The JSON that ``script`` writes to the path given as its last argument; None if it failed
    (its log says why).
    """
    result = log.with_suffix(".json")
    result.unlink(missing_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    before, started = _others(), time.perf_counter()
    with log.open("w") as stream:
        command = [sys.executable, str(HERE / script), *map(str, arguments), str(result)]
        done = subprocess.run(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_ENVIRONMENT},
            check=False,
        )
    if done.returncode or not result.is_file():
        print(
            f"  {script} failed with exit code {done.returncode}; the end of"
            f" {log}:\n{log.read_text()[-1500:]}",
            flush=True,
        )
        return None
    others = (_others() - before) / (time.perf_counter() - started)
    return {**json.loads(result.read_text()), "others": round(others, 2)}


def _others() -> float:
    """CPU-seconds that went to anybody but this process and its finished children, or were stolen
    by a host; 0 without /proc.
    """
    file = Path("/proc/stat")
    if not file.is_file():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(
        int, file.read_text().split("\n", 1)[0].split()[1:9]
    )
    own = sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - own


class Meter:
    """CPU-seconds (user and system, all threads of this process) and wall seconds since ``start``,
    at the end of each step.
    """

    def __init__(self) -> None:
        self.adapter = ""  # digest of what training began with
        self.save_start: Path | None = None  # where that goes
        self.loaded: int | None = None  # bytes resident before training
        self.weights = 0  # bytes of the frozen weights
        self.losses: list[float] = []
        self.stamps: list[tuple[float, float]] = []  # (cpu, wall)

    def start(self) -> None:
        self._cpu, self._wall = _cpu_seconds(), time.perf_counter()

    def step(self, loss: float) -> None:
        """At the end of an optimizer step, with the mean loss of its trained tokens."""
        self.losses.append(loss)
        self.stamps.append((_cpu_seconds() - self._cpu, time.perf_counter() - self._wall))

    def result(self) -> dict[str, Any]:
        """From ``start`` to the end of the last step; the first step is part of it."""
        cpu, wall = self.stamps[-1]
        return {
            "cpu_seconds": cpu,
            "wall_seconds": wall,
            "losses": self.losses,
            "stamps": self.stamps,
        }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_memory() -> int:
    """Bytes: the high-water mark of this process's resident memory.

    ``ru_maxrss`` will not do on Linux: there a child begins with the mark of the process that
    started it.
    """
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def resident_memory() -> int | None:
    """Bytes now; None where the system has no /proc."""
    return _status("VmRSS")


def _status(key: str) -> int | None:
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), None)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if "model name" in line
        ]
        if info.is_file()
        else []
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": cores,
        "memory": memory,
        "system": platform.platform(),
    }


def store(name: str, content: dict[str, Any], folder: Path) -> Path:
    """Writes ``content`` to a JSON file named after ``name`` and the time."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(
        json.dumps(
            {"machine": machine(), "date": datetime.now().isoformat(timespec="seconds"), **content},
            indent=1,
        )
        + "\n"
    )
    return path


def named_now(name: str) -> Path:
    """A folder for the results of one call."""
    return RESULTS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table; every column but the first is aligned to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *rows])
