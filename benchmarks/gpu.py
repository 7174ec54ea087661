"""Check hydratune on one GPU, and compare its speed with a plain transformers + PEFT loop.

    python benchmarks/gpu.py               needs CUDA; ends within 6.5 minutes
    python benchmarks/gpu.py --minutes 3   less: parts that would take too long are skipped, by name
    python benchmarks/gpu.py --only check  parts whose names contain one of these words
    python benchmarks/gpu.py --toy         the very same code on a CPU with toys, in a minute

The results are written to ``outputs/bench/gpu-*/gpu.json``.

First come the checks (``gpu_checks.py``), then the measurements (``gpu_speed.py``): models of the
shapes of Llama 3.2 1B and Llama 3.1 8B with random weights, LoRA r=16 on all linear layers, on a
bf16 or an nf4 base, steps of 8,192 tokens in rows of 1,024 and of 4,096; and 16 trials of a sweep
one by one and in a pack. Every part has a time estimate, catches its own errors, and is in the file
as soon as it is done, so a run that is cut short keeps what it has. Running out of memory is a
result. Exit code 1: a check failed, or a part broke. ``gpu_wheels.sh`` collects the packages that a
machine without a network lacks.
"""

import argparse
import gc
import math
import os
import platform
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

import fresh

STARTED = time.monotonic()
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "lightning",
    "bitsandbytes",
    "triton",
    "numpy",
    "hydra-core",
)
GRACE = 20.0  # seconds after its time at which a run that hangs in a kernel is ended
STATUSES = (
    "passed",
    "FAILED",
    "measured",
    "skipped",
    "out of memory",
    "out of time",
    "error",
    "interrupted",
    "running",
)
MEASURED = ("speed: ", "trials: ")  # parts whose results are lines of one table
GIB = 2**30
HEAD = [
    "",
    "tokens/s",
    "MFU*",
    "ms/step",
    "peak GiB",
    "launches",
    "stream syncs",
    "copies to host",
    "tokens per pass",
    "trials",
]
NOTE = (
    "* model FLOPs per second over the rate of a large bf16 matrix product measured on this card,"
    " not over its data sheet's peak"
)


class OutOfTime(BaseException):
    """A part took longer than the whole run may.

    Not an ``Exception``, so that no ``except Exception`` on the way catches it.
    """


@dataclass(frozen=True)
class Part:
    """One check or measurement."""

    name: str
    run: Callable[[], dict[str, Any]]
    seconds: Callable[[], float] = lambda: 5.0  # it takes, about; asked right before it
    lacks: Callable[[], str | None] = lambda: None  # why it cannot run here


class Run:
    """Runs parts one after the other within a time limit.

    The JSON file of results is complete after each part.
    """

    def __init__(
        self,
        file: Path,
        facts: Mapping[str, Any],
        minutes: float,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.file, self.release = file, release
        self.ends = STARTED + 60 * minutes
        self.found: dict[str, Any] = {**facts, "minutes": minutes, "parts": {}}
        self._write()

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        parts: dict[str, dict[str, Any]] = self.found["parts"]
        return parts

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

    def do(self, part: Part) -> dict[str, Any]:
        """Whatever happens to ``part`` is in the file afterwards, as its status: one of
        ``STATUSES``.
        """
        began = time.monotonic()
        entry: dict[str, Any] = {
            "status": "running",
            "reason": None,
            "estimate": None,
            "result": None,
        }
        self.parts[part.name] = entry
        try:
            entry |= self._tried(part, entry)
        except KeyboardInterrupt:
            entry |= {"status": "interrupted"}
            raise
        finally:
            entry["seconds"] = round(time.monotonic() - began, 2)
            self._write()
        self.release()
        return entry

    def _tried(self, part: Part, entry: dict[str, Any]) -> dict[str, Any]:
        try:
            missing = part.lacks()
            if missing is not None:
                return {"status": "skipped", "reason": missing}
            estimate = part.seconds()
            entry["estimate"] = round(estimate, 1)
            if estimate > self.left:
                return {
                    "status": "skipped",
                    "reason": (
                        f"it takes about {estimate:.0f} s, and {max(0.0, self.left):.0f} s are left"
                    ),
                }
            with at_most(self.left):
                result = part.run()
        except OutOfTime:
            return {
                "status": "out of time",
                "reason": f"not done when the {self.found['minutes']:g} minutes were over",
            }
        except Exception as error:
            if isinstance(error, MemoryError):
                return {"status": "out of memory", "reason": str(error)}
            return {
                "status": "error",
                "reason": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc(),
            }
        passed = result.get("passed")
        return {
            "status": "measured" if passed is None else "passed" if passed else "FAILED",
            "result": finite(result),
        }

    def _write(self) -> None:
        from hydratune.records.files import write_json

        write_json(self.file, {**self.found, "seconds": round(time.monotonic() - STARTED, 1)})

    @property
    def bad(self) -> list[str]:
        return [
            name for name, entry in self.parts.items() if entry["status"] in ("FAILED", "error")
        ]

    @contextmanager
    def ended_at_last(self) -> Iterator[None]:
        """Ends the process where no signal gets through: a kernel that hangs, a thread that waits
        for ever.
        """

        def end() -> None:
            self.found["ended"] = "it did not end by itself"
            self._write()
            os._exit(3)

        timer = threading.Timer(max(0.0, self.left) + GRACE, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def finite(value: Any) -> Any:
    """``value`` with words for infinity and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises ``OutOfTime`` in the block after so many seconds, as soon as Python is reached."""

    def over(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def facts(toy: bool) -> dict[str, Any]:
    """What the numbers are of."""
    import torch

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    device: dict[str, Any] = {"name": "the CPU"}
    if not toy:
        known = torch.cuda.get_device_properties(0)
        capability = f"{known.major}.{known.minor}"
        device = {
            "name": known.name,
            "memory": known.total_memory,
            "capability": capability,
            "cuda": torch.version.cuda,
        }
    return {
        "toy": toy,
        "device": device,
        "python": platform.python_version(),
        "versions": versions,
        "machine": fresh.machine(),
    }


def imports() -> dict[str, Any]:
    """Imports whatever the parts import, and has Python's collector leave it alone: it would look
    at all of it after every part.
    """
    import lightning  # noqa: F401
    import peft  # noqa: F401
    from transformers import LlamaForCausalLM  # noqa: F401

    from hydratune.evaluation import generation  # noqa: F401
    from hydratune.sweeps import pack  # noqa: F401
    from hydratune.training import fit  # noqa: F401

    gc.collect()
    gc.freeze()
    return {"after": round(time.monotonic() - STARTED, 1)}


def kernel_facts() -> dict[str, Any]:
    """Which kernel rows laid end to end get: where it lacks a parameter, attention loops over rows,
    right but slow.
    """
    import inspect

    from hydratune.models import varlen

    found = list(inspect.signature(varlen.kernel).parameters) if varlen.kernel is not None else None
    return {
        "varlen_attn": found,
        "used": found is not None and bool({"window_size", "is_causal"} & set(found)),
    }


def no_bitsandbytes() -> str | None:
    try:
        import bitsandbytes  # noqa: F401
    except Exception as error:  # its native library may be missing
        return f"bitsandbytes cannot be imported ({type(error).__name__}: {error})"
    return None


def planned(run: Run, toy: bool) -> list[Part]:
    """All parts in their order."""
    import torch

    import gpu_checks as checks
    import gpu_speed as speed
    from gpu_model import CHECKED, LLAMA_1B, LLAMA_8B, TOY_1B, TOY_8B, TOY_CHECKED, ComputeDevice

    place = ComputeDevice(torch.device("cpu" if toy else "cuda"))
    setting = checks.Setting(place, TOY_CHECKED if toy else CHECKED, 16, 48 if toy else 400)
    shapes = (TOY_1B, TOY_8B) if toy else (LLAMA_1B, LLAMA_8B)
    many = speed.Trials(TOY_1B, count=4, length=16, bf16=False) if toy else speed.Trials(LLAMA_1B)
    step, short, long = (64, 16, 32) if toy else (8192, 1024, 4096)

    def release() -> None:
        torch.use_deterministic_algorithms(False)
        place.release()

    def no_rate() -> str | None:
        return (
            None
            if (run.parts.get("device rate") or {}).get("result")
            else "the device's rate was not measured"
        )

    def rate() -> float:
        entry = run.parts.get("device rate")
        if entry is None or entry["result"] is None:
            raise RuntimeError("the device's rate is not known")
        measured: float = entry["result"]["flops_per_second"]
        return measured

    def cell_part(cell: speed.Cell) -> Part:
        lacks = (lambda: no_rate() or no_bitsandbytes()) if cell.nf4 else no_rate
        return Part(
            f"speed: {cell.name}",
            lambda: speed.speed(cell, place, rate()),
            lambda: cell.seconds(rate()),
            lacks,
        )

    def pack_part(way: str) -> Part:
        def measure() -> dict[str, Any]:
            result = speed.trials(way, many, place)
            others = {
                n: e["result"]
                for n, e in run.parts.items()
                if n.startswith("trials: ") and e["result"] is not None
            }
            return {**result, "losses_apart": speed.same_losses({**others, way: result})}

        return Part(
            f"trials: {many.count} of {many.tokens} tokens a step, {way}",
            measure,
            lambda: 3.0 if toy else 15.0,
        )

    run.release = release
    freely = speed.Cell(
        "ours", shapes[0], False, short, step // short, bf16=not toy, in_any_order=True
    )
    mixed = [
        speed.Cell(s, shapes[0], False, short, step // short, shortest=short // 8, bf16=not toy)
        for s in ("plain", "ours")
    ]
    guess = 3.0 if toy else 12.0
    return [
        Part("imports", imports),
        Part("attention kernel", kernel_facts, lambda: 0.1),
        Part(
            "check: packed step, fp32", partial(checks.packed_step, setting, "fp32"), lambda: guess
        ),
        Part(
            "check: packed step, bf16", partial(checks.packed_step, setting, "bf16"), lambda: guess
        ),
        Part(
            "check: shared prefix, fp32",
            partial(checks.shared_prefix, setting, "fp32"),
            lambda: guess,
        ),
        Part(
            "check: shared prefix, bf16",
            partial(checks.shared_prefix, setting, "bf16"),
            lambda: guess,
        ),
        Part("check: same bits twice", partial(checks.same_bits, setting), lambda: guess),
        Part("check: resumed run", partial(checks.resumed, setting), lambda: guess),
        Part("check: generation, fp32", partial(checks.generation, setting, "fp32"), lambda: guess),
        Part("check: generation, bf16", partial(checks.generation, setting, "bf16"), lambda: guess),
        Part("check: nf4 step", partial(checks.nf4_step, setting), lambda: guess, no_bitsandbytes),
        Part("device rate", lambda: {"flops_per_second": speed.device_rate(place)}),
        *map(cell_part, speed.cells(shapes, step, short, bf16=not toy)),
        cell_part(freely),
        *map(pack_part, speed.MODES),
        *map(cell_part, speed.cells(shapes, step, long, bf16=not toy)),
        *map(cell_part, mixed),
    ]


def line(name: str, entry: Mapping[str, Any]) -> list[str]:
    """One line of the table of measurements."""
    result, name = entry["result"], name.partition(": ")[2]
    if result is None:
        return [name, entry["status"], *[""] * (len(HEAD) - 2)]

    def shown(key: str, form: Callable[[Any], str] = lambda value: f"{value:,}") -> str:
        return form(result[key]) if result.get(key) is not None else "-"

    at_once = (result.get("plan") or {}).get("micro_tokens", result["batch"])
    halved = f"{at_once:,}" + (" (halved)" if result.get("out_of_memory") else "")
    last = ["-", halved] if "trial_steps_per_second" in result else [halved, "-"]
    tokens, used = (
        shown("tokens_per_second", lambda v: f"{v:,.0f}"),
        shown("utilisation", lambda v: f"{100 * v:.1f} %"),
    )
    took, peak = (
        shown("step_seconds", lambda v: f"{1000 * v:.1f}"),
        shown("peak_memory", lambda v: f"{v / GIB:.2f}"),
    )
    return [
        name,
        tokens,
        used,
        took,
        peak,
        *map(shown, ("kernel_launches", "stream_syncs", "copies_to_host")),
        *last,
    ]


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def told(name: str, entry: Mapping[str, Any]) -> str:
    """One part as a line of text."""
    result = entry["result"] or {}
    known = {
        key: value
        for key, value in result.items()
        if not isinstance(value, list | dict) and key != "passed"
    }
    shown = [
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in known.items()
    ]
    return f"{name}: {entry['status']} ({entry['seconds']:.1f} s)" + "".join(
        f"; {part}" for part in [entry["reason"], *shown] if part
    )


def report(run: Run) -> str:
    """All results as Markdown."""
    from gpu_speed import ANCHORS

    checks = [
        [name, e["status"], e["reason"] or ""]
        for name, e in run.parts.items()
        if name.startswith("check: ")
    ]
    measured = [line(n, e) for n, e in run.parts.items() if n.startswith(MEASURED)]
    tables = [fresh.markdown(["check", "result", "why"], checks), fresh.markdown(HEAD, measured)]
    published = fresh.markdown(
        ["published elsewhere, on other data and settings", ""],
        [list(anchor) for anchor in ANCHORS],
    )
    return "\n\n".join(
        [
            f"{run.found['device']['name']}, versions {run.found['versions']}",
            *tables,
            NOTE,
            published,
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=6.5, help="all in all, imports included")
    parser.add_argument(
        "--only",
        nargs="*",
        default=[],
        help="parts whose names contain one of these words; the device's rate is always measured",
    )
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--out", type=Path, help="the JSON file")
    args = parser.parse_args(arguments)
    if args.minutes <= 0:
        parser.error(f"--minutes {args.minutes:g}: give more than 0")
    # before CUDA begins: cuBLAS adds up the same way every time
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch

    if not args.toy and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: not run on a GPU (--toy runs the same code on a CPU)")
    if args.toy:
        torch.set_num_threads(1)
    from hydratune.errors import HydratuneError

    try:
        run = Run(args.out or fresh.named_now("gpu") / "gpu.json", facts(args.toy), args.minutes)
        parts = planned(run, args.toy)
        unknown = [word for word in args.only if not any(word in part.name for part in parts)]
        if unknown:
            listed = "\n  ".join(part.name for part in parts)
            parser.error(f"--only {unknown[0]}: no part has this in its name; parts:\n  {listed}")
        return work_through(run, parts, args.only)
    except HydratuneError as error:  # a full disk, a folder that cannot be written
        print(f"gpu.py: {error}", file=sys.stderr)
        return 1


def work_through(run: Run, parts: Sequence[Part], only: Sequence[str]) -> int:
    """Runs the ``parts`` whose names contain one of the words of ``only``, and prints the report;
    the exit code.
    """
    with run.ended_at_last():
        head = [HEAD]  # of the table that grows line by line
        ended = "by itself"
        try:
            for part in parts:
                if (
                    only
                    and part.name != "device rate"
                    and not any(word in part.name for word in only)
                ):
                    continue
                entry = run.do(part)
                if part.name.startswith(MEASURED):
                    print(
                        (
                            fresh.markdown(head.pop(), [line(part.name, entry)])
                            if head
                            else row(line(part.name, entry))
                        ),
                        flush=True,
                    )
                if not part.name.startswith(MEASURED) or entry["reason"]:
                    print(told(part.name, entry), flush=True)
        except KeyboardInterrupt:
            ended = "interrupted"
        run.found["ended"] = ended
        run._write()
        print(f"\n{report(run)}\n\n{run.file}")
    if ended == "interrupted":
        return 130
    if all(entry["status"] == "skipped" for entry in run.parts.values()):
        print("nothing was run; the reasons are above")
        return 1
    return 1 if run.bad else 0


if __name__ == "__main__":
    sys.exit(main())
