"""Short micro-packs of several trials, one by one and in common passes over the frozen base.

    python benchmarks/packs.py              trials 1,2,4,8 x tokens 32,64,128,256,512
    python benchmarks/packs.py --trials 8 --tokens 32,64 --repeats 3 --workers 1 adapter.r=8

Every trial has a LoRA adapter of its own on the default model, and hands in one micro-pack of one
row after the other (half of its tokens trained) to the worker pool that all trials share, for
forward and backward without an optimizer; the pool computes them one by one, or computes in one
pass what waits at the same moment, as in a sweep. The two are measured alternately. Reported are
seconds per micro-pack of every trial: medians of ``--repeats`` rounds. Words with "=" are settings
of `hydratune train`.
"""

import argparse
import copy
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from fresh import _cpu_seconds
from hydratune.adapters import attach
from hydratune.cores import cpu_count
from hydratune.data.encoding.encoded import Encoded
from hydratune.models import hardware, loading
from hydratune.models.compute import on_cpu
from hydratune.records.run_directory import RunDirectory
from hydratune.sweeps.pack_resources import JobWorkers, PackResources
from hydratune.sweeps.watch import Heartbeat
from hydratune.training.objective import Objective
from hydratune.training.patches import with_lean_layers
from workloads import settings

IN_A_ROUND = 4  # micro-packs of every trial


def rows(count: int, tokens: int, vocabulary: int) -> list[list[Encoded]]:
    """``count`` micro-packs of one row."""
    generator = torch.Generator().manual_seed(tokens)
    drawn = torch.randint(5, vocabulary, (count, tokens + 1), generator=generator)
    loss_mask = (*[False] * (tokens + 1 - tokens // 2), *[True] * (tokens // 2))
    return [[Encoded(tuple(ids), loss_mask)] for ids in drawn.tolist()]


class Pack:
    """Trials on one base, as a pack has them."""

    def __init__(
        self, base: Any, config: Any, trials: int, workers: int, merge_tokens: int
    ) -> None:
        self.resources = PackResources(workers, merge_tokens)
        heartbeat = Heartbeat(RunDirectory(Path("job")), self.resources.leave)
        self.objectives = []
        for seed in range(trials):
            torch.manual_seed(seed)
            model = with_lean_layers(
                attach.add_adapter(self.resources.own(base, heartbeat), config.adapter, 10)
            )
            model.train()
            pool = JobWorkers(self.resources, heartbeat, threading.Event())
            self.objectives.append(
                Objective(model, micro_tokens=4096, workers=1, share=False, pool=pool, seed=seed)
            )

    def gradients(self, parts: list[list[Encoded]]) -> tuple[float, float]:
        """(CPU-seconds, wall seconds) of one micro-pack for as many trials as there are parts."""

        def compute(objective: Objective, part: list[Encoded]) -> None:
            for _ in range(IN_A_ROUND):
                objective.gradients(part)

        with ThreadPoolExecutor(len(parts)) as threads:
            cpu, wall = _cpu_seconds(), time.perf_counter()
            list(threads.map(compute, self.objectives, parts))
            return (_cpu_seconds() - cpu) / IN_A_ROUND, (time.perf_counter() - wall) / IN_A_ROUND


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", default="1,2,4,8")
    parser.add_argument("--tokens", default="32,64,128,256,512", help="of a micro-pack")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=cpu_count())
    parser.add_argument(
        "--merge-tokens",
        type=int,
        default=2048,
        help="of a pass at most; above what sweeps use, to see where it ends",
    )
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    trials, sizes = (
        [int(word) for word in words.split(",")] for words in (args.trials, args.tokens)
    )
    torch.set_num_threads(1)
    hardware.keep_memory()
    config = settings(args.overrides)
    base = loading.load_model(config.model, loading.locate(config.model), on_cpu())
    alone, merged = (
        Pack(copy.deepcopy(base), config, max(trials), args.workers, tokens)
        for tokens in (0, args.merge_tokens)
    )
    print(
        f"{args.workers} workers, passes of up to {args.merge_tokens} tokens; medians of"
        f" {args.repeats}, in seconds"
    )
    print("| tokens | trials | one by one: CPU / wall | in common: CPU / wall | share |")
    print("|---|---|---|---|---|", flush=True)
    for tokens in sizes:
        for count in trials:
            parts = rows(count, tokens, base.config.vocab_size)
            taken: dict[Pack, list[tuple[float, float]]] = {alone: [], merged: []}
            for repeat in range(args.repeats + 1):
                for pack, found in taken.items():
                    seconds = pack.gradients(parts)
                    if repeat:  # the first is the warm-up
                        found.append(seconds)
            (cpu, wall), (cpu_merged, wall_merged) = (
                map(statistics.median, zip(*found, strict=True)) for found in taken.values()
            )
            print(
                f"| {tokens} | {count} | {cpu:.2f} / {wall:.2f} | {cpu_merged:.2f} /"
                f" {wall_merged:.2f} | {cpu_merged / cpu:.2f} / {wall_merged / wall:.2f} |",
                flush=True,
            )
    workers = merged.resources.workers
    print(
        f"{workers.merged} of {workers.micro_packs} micro-packs were computed together with others"
    )
    for each in (alone, merged):
        each.resources.workers.close()


if __name__ == "__main__":
    main()
