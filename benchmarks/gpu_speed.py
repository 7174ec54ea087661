"""The measurements of gpu.py: training steps of hydratune and of a plain transformers + PEFT loop.

Trials of a sweep are measured one by one and in a pack.

A step is timed from the end of one optimizer update to the end of another, by torch's hook on all
optimizers, so both systems are measured alike and whole: hydratune with Lightning, its history and
its watchdog. The first steps and a profiled one do not count. Model FLOPs utilisation is the work
of ``floor.py`` (padding not counted, 4-bit weights as if they were dense) per second, over the rate
of a large product of matrices on the same device.
"""

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from floor import weights_of, work
from gpu_model import (
    ComputeDevice,
    Shape,
    build,
    deterministic,
    encoded,
    fit,
    halving,
    objective,
    ours,
    plain_training,
    random_rows,
    theirs,
)
from systems import trainable

WARM_UP, TIMED = 2, 4  # optimizer steps; one more is profiled
ANCHORS = (  # published by others, on other data and settings: what is usual, no comparison
    ("torchtune README, Llama-3.1-8B LoRA, RTX 4090", "3,083 tokens/s"),
    ("torchtune README, Llama-3.1-8B QLoRA, RTX 4090", "2,413 tokens/s"),
    ("NVIDIA NeMo, Llama-2-7B LoRA in fp8, per H100", "25,206 tokens/s"),
    ("LoRAFusion, Llama-3.1-8B LoRA, one H100: its baselines", "9,800 to 12,400 tokens/s"),
    ("LoRAFusion, Llama-3.1-8B LoRA, one H100: fused", "13,900 to 14,900 tokens/s"),
)


def device_rate(place: ComputeDevice) -> float:
    """FLOP/s of a large product of matrices: in bf16 on a GPU, in fp32 on a CPU."""
    on_gpu = place.accelerator == "gpu"
    size, dtype, repeats = (
        (8192, torch.bfloat16, (5, 50)) if on_gpu else (512, torch.float32, (2, 5))
    )
    a = torch.randn(size, size, device=place.device, dtype=dtype)
    for repeat in repeats:  # the first round is the warm-up
        place.synchronize()
        started = time.perf_counter()
        for _ in range(repeat):
            a @ a
        place.synchronize()
    return repeats[-1] * 2 * size**3 / (time.perf_counter() - started)


@dataclass
class StepClock:
    """Times ``TIMED`` optimizer steps after ``WARM_UP`` others and profiles one more, of whatever
    optimizer steps inside.
    """

    place: ComputeDevice
    seconds: float | None = None  # of all timed steps
    peak: int | None = None  # bytes, up to the last of them
    counters: dict[str, Any] = field(default_factory=dict)
    _steps: int = 0
    _profiler: Any = None

    def __enter__(self) -> "StepClock":
        self._hook = register_optimizer_step_post_hook(self._step)
        return self

    def __exit__(self, *exception: object) -> None:
        self._hook.remove()
        if self._profiler is not None:  # something failed in the profiled step
            with suppress(Exception):
                self._profiler.stop()

    def _step(self, *_: Any) -> None:
        self._steps += 1
        if self._steps == WARM_UP:
            self.place.synchronize()
            self._started = time.perf_counter()
        elif self._steps == WARM_UP + TIMED:
            self.place.synchronize()
            self.seconds = time.perf_counter() - self._started
            self.peak = self.place.peak()
            self._begin_profile()
        elif self._steps == WARM_UP + TIMED + 1:
            self._end_profile()

    def _begin_profile(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        if self.place.accelerator != "gpu":
            self.counters = no_counters("no CUDA device")
            return
        try:
            self._profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            self._profiler.start()
        except Exception as error:  # where the driver allows no profiling
            self._profiler, self.counters = None, no_counters(f"torch.profiler: {error}")

    def _end_profile(self) -> None:
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        try:
            profiler.stop()
            self.counters = counted({event.key: event.count for event in profiler.key_averages()})
        except Exception as error:
            self.counters = no_counters(f"torch.profiler: {error}")


# name -> beginnings of the profiler's names; the profiler itself synchronises the device once or
# twice
COUNTED = {
    "kernel_launches": ("cudaLaunchKernel", "cuLaunchKernel"),
    "stream_syncs": ("cudaStreamSynchronize", "cudaEventSynchronize"),
    "device_syncs": ("cudaDeviceSynchronize",),
    "copies_to_host": ("Memcpy DtoH",),
}


def counted(events: Mapping[str, int]) -> dict[str, Any]:
    """What one step asked of the device."""
    if not any(key.startswith(COUNTED["kernel_launches"]) for key in events):
        return no_counters("the profiler saw no kernel")
    found = {
        name: sum(n for key, n in events.items() if key.startswith(starts))
        for name, starts in COUNTED.items()
    }
    return {**found, "why_no_counters": None}


def no_counters(why: str) -> dict[str, Any]:
    return {**dict.fromkeys(COUNTED), "why_no_counters": why}


@dataclass(frozen=True)
class Cell:
    """One line of the table."""

    system: str  # "ours" or "plain"
    shape: Shape
    nf4: bool
    length: int  # tokens of a row
    rows: int  # of an optimizer step
    shortest: int | None = None  # of a row; None: all are of ``length``
    bf16: bool = True
    in_any_order: bool = False  # trainer.deterministic=false

    @property
    def name(self) -> str:
        lengths = f"{self.shortest}-{self.length}" if self.shortest else f"{self.length}"
        order = ", not deterministic" if self.in_any_order else ""
        return (
            f"{self.shape.name}, {'QLoRA nf4' if self.nf4 else 'LoRA'}, {lengths} tokens,"
            f" {self.system}{order}"
        )

    def config(self, place: ComputeDevice) -> Any:
        precision = "bf16-mixed" if self.bf16 else "32-true"
        order = f"trainer.deterministic={str(not self.in_any_order).lower()}"
        return place.settings(
            f"trainer.precision={precision}",
            f"data.batch_size={self.rows}",
            "trainer.frozen_cache_gb=0",
            order,
        )

    def seconds(self, rate: float) -> float:
        """A guess: a third of the device's rate, 4-bit weights half as fast, and what making the
        model and beginning takes.
        """
        weights = weights_of(self.shape.config(), 16)
        flops = (
            self.rows
            * self.length
            * (4 * weights["frozen"] + weights["head"] + 6 * weights["attention"] * self.length)
        )
        return (
            3
            + 5e-10 * weights["frozen"]
            + (WARM_UP + TIMED + 1) * flops / rate * (6 if self.nf4 else 3)
        )


def speed(cell: Cell, place: ComputeDevice, rate: float) -> dict[str, Any]:
    """Tokens per second of one system. Out of memory: with half as much at once, and the same
    optimizer step.

    Ours begins with as much at once as its own plan of memory says, in the order of additions that
    its setting asks for; the plain loop in any order, as it is written everywhere.
    """
    config = cell.config(place)
    count = cell.rows * (WARM_UP + TIMED + 1)
    rows = random_rows(count, cell.shape, cell.shortest or cell.length, cell.length, config)
    micro = cell.rows * cell.length
    dtype = torch.bfloat16 if cell.bf16 else torch.float32

    def run(at_once: int) -> dict[str, Any]:
        base = build(cell.shape, place, dtype, nf4=cell.nf4)
        model = (ours if cell.system == "ours" else theirs)(base, config)
        place.release()
        plan = None
        with (
            deterministic(cell.system == "ours" and not cell.in_any_order),
            StepClock(place) as clock,
        ):
            if cell.system == "ours":
                config.trainer.micro_tokens = None if at_once == micro else at_once
                fitted = fit(model, rows, config, place)
                losses, plan = fitted.losses, fitted.plan
            else:
                losses = plain_training(model, rows, config, place, max(1, at_once // cell.length))
        if clock.seconds is None:
            raise RuntimeError("no optimizer was seen to step")
        measured = {
            "step_seconds": clock.seconds / TIMED,
            "peak_memory": clock.peak,
            "first_loss": losses[0],
            **clock.counters,
        }
        return {**measured, "plan": plan}

    found = halving(run, micro, cell.length, place)
    timed = [i for step in rows.steps[WARM_UP : WARM_UP + TIMED] for part in step for i in part]
    tokens = sum(len(rows.ids[i]) for i in timed) / TIMED
    flops = work(rows, weights_of(cell.shape.config(), config.adapter.r), shared=False)[
        "flops"
    ] / len(rows.steps)
    rates = {
        "tokens_per_second": tokens / found["step_seconds"],
        "utilisation": flops / found["step_seconds"] / rate,
    }
    facts = {
        "system": cell.system,
        "deterministic": cell.system == "ours" and not cell.in_any_order,
    }
    return {**facts, "tokens_per_step": tokens, "flops_per_step": flops, **rates, **found}


@dataclass(frozen=True)
class Trials:
    """Of a pack: each takes its own steps on its own rows."""

    shape: Shape
    count: int = 16
    length: int = 256  # tokens of a row
    rows: int = 2  # of a step
    rounds: int = 3  # timed steps of each
    bf16: bool = True

    @property
    def tokens(self) -> int:
        return self.rows * self.length


MODES = ("one by one", "pack", "pack, merged")


def trials(way: str, many: Trials, place: ComputeDevice) -> dict[str, Any]:
    """All trials' steps by one of ``MODES``: ``Objective``, clipping and AdamW, in threads as jobs
    of a pack are.

    The machinery is that of ``hydratune.sweeps`` (``PackResources``, ``JobWorkers``,
    ``WorkerPool``, ``BaseReplica``) without Lightning, files and processes around it. Merged:
    micro-packs that wait at the same moment are one pass over the frozen base.
    """
    return halving(lambda count: _trials(way, many, count, place), many.count, 1, place)


def _trials(way: str, many: Trials, count: int, place: ComputeDevice) -> dict[str, Any]:
    from hydratune.adapters import attach
    from hydratune.models.attention import NAME
    from hydratune.records.run_directory import RunDirectory
    from hydratune.sweeps.pack_resources import JobWorkers, PackResources
    from hydratune.sweeps.watch import Heartbeat
    from hydratune.training.patches import with_lean_layers

    config = place.settings(f"data.batch_size={many.rows}")
    base = build(many.shape, place, torch.bfloat16 if many.bf16 else torch.float32)
    base.set_attn_implementation(NAME)
    merge_tokens = 4 * many.tokens * count if way == "pack, merged" else 0
    resources = PackResources(1, merge_tokens)
    packed = way != "one by one"
    heartbeat = Heartbeat(RunDirectory(Path("pack")), resources.leave)
    taken = []
    for seed in range(count):
        torch.manual_seed(seed)
        model = with_lean_layers(
            attach.add_adapter(resources.own(base, heartbeat), config.adapter)
        ).train()
        pool = JobWorkers(resources, heartbeat, threading.Event()) if packed else None
        drawn = random_rows(
            many.rows * (many.rounds + 1), many.shape, many.length, many.length, config, seed=seed
        )
        taken.append(
            Trial(
                objective(model, many.tokens, pool=pool, share=False),
                config,
                encoded(drawn),
                many,
                place,
                resources.leave,
            )
        )
    place.release()
    try:
        with ThreadPoolExecutor(count if packed else 1) as threads:
            try:
                list(threads.map(lambda trial: trial.steps(0, 1), taken))
                place.synchronize()
                started = time.perf_counter()
                list(threads.map(lambda trial: trial.steps(1, many.rounds + 1), taken))
                place.synchronize()
                seconds = time.perf_counter() - started
            except BaseException:
                resources.leave.set()  # the others end as soon as they can
                raise
    finally:
        resources.workers.close()
    steps = count * many.rounds
    workers = resources.workers
    return {
        "trial_steps_per_second": steps / seconds,
        "tokens_per_second": steps * many.tokens / seconds,
        "peak_memory": place.peak(),
        "merged": workers.merged / workers.micro_packs if workers.micro_packs else 0.0,
        "losses": [trial.losses[-1].item() for trial in taken],
    }


@dataclass
class Trial:
    """One job of a pack, without what is around its training steps."""

    objective: Any
    config: Any
    rows: list[Any]
    many: Trials
    place: ComputeDevice
    asked: threading.Event  # to end
    losses: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parameters = trainable(self.objective.model)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.config.optimizer.lr)

    def steps(self, first: int, last: int) -> None:
        for number in range(first, last):
            if self.asked.is_set():
                return
            part = self.rows[number * self.many.rows : (number + 1) * self.many.rows]
            with self.place.mixed(self.many.bf16):
                loss, gradients = self.objective.gradients(part)
            count = sum(row.supervised for row in part)
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient / count
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.trainer.gradient_clip_val)
            self.optimizer.step()
            self.losses.append(loss / count)


def same_losses(results: Mapping[str, Mapping[str, Any]]) -> float:
    """How far the losses of equal trials are apart, at most, between the ways that were measured;
    relative.
    """
    every = [result["losses"] for result in results.values()]
    fewest = min(map(len, every))
    return max(
        (
            abs(a - b) / abs(b)
            for losses in every
            for a, b in zip(losses[:fewest], every[0][:fewest], strict=True)
        ),
        default=0.0,
    )


def cells(shapes: Sequence[Shape], step: int, length: int, *, bf16: bool) -> list[Cell]:
    """LoRA and QLoRA of ``shapes``, plain and ours, in optimizer steps of ``step`` tokens in rows
    of ``length``.
    """
    rows = max(1, step // length)
    every = itertools.product((False, True), shapes, ("plain", "ours"))
    return [Cell(system, shape, nf4, length, rows, bf16=bf16) for nf4, shape, system in every]
