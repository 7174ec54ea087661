"""Compare whole sweeps of hydratune, as typed, with TRL's SFTTrainer run after run.

    python benchmarks/sweeps.py                             16 jobs: 4 learning rates x 4 ranks, for
                                                            256 rows x 2 epochs; takes hours
    python benchmarks/sweeps.py --rows 64 --batch 4         a quarter of it
    python benchmarks/sweeps.py --workload a --data FOLDER  rows that share a long prompt
    python benchmarks/sweeps.py --ranks 16                  fewer jobs: 4 learning rates x 1 rank
    python benchmarks/sweeps.py --winners 5 --workload b --data FOLDER --rows 32 --batch 4
                                                            whether halving finds as good a winner,
                                                            over 5 seeds
    python benchmarks/sweeps.py --show outputs/bench/.../sweeps.json

hydratune sweeps in packs, in packs with halving, and with one process per job.

Measured are whole commands with their imports: CPU-seconds of all their processes, wall seconds,
the peak of resident memory of the largest process. hydratune's commands validate, save adapters and
answer two test rows besides; TRL's runs only load and train, but for those that validate as often:
without validation losses a sweep has no winner. TRL and the one-process-per-job launcher are run
for some jobs and scaled up, which the table says. TRL has two arrangements: one run on all cores,
and one run per core side by side; the better counts, on each measure.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fresh
import workloads

RATES, RANKS = ("1e-4", "3e-4", "1e-3", "3e-3"), ("4", "8", "16", "32")
QUIET = ("evaluation.baselines=[]", "tracking=disabled", "trainer.precision=32-true")
GIB = 2**30


def words(
    args: argparse.Namespace, rates: Sequence[str], ranks: Sequence[str], seed: int = 0
) -> list[str]:
    """Overrides of the sweep."""
    files = [
        f"data.{split}={args.folder / split}.jsonl" for split in ("train", "validation", "test")
    ]
    rows = ["data=files", *files, f"data.batch_size={args.batch}"]
    epochs = f"trainer.max_epochs={args.epochs}"
    return [
        *QUIET,
        *rows,
        epochs,
        f"optimizer.lr={','.join(rates)}",
        f"adapter.r={','.join(ranks)}",
        f"seed={seed}",
        *args.set,
    ]


def measured(
    commands: Sequence[Sequence[str]], log: Path, environment: dict[str, str] | None = None
) -> dict[str, float] | None:
    """Runs ``commands`` at the same time; None if one failed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    options = {**os.environ, **fresh._ENVIRONMENT, **(environment or {})}
    before, start = fresh._others(), time.perf_counter()
    with log.open("w") as stream:
        started = [
            subprocess.Popen(list(c), stdout=stream, stderr=subprocess.STDOUT, env=options)
            for c in commands
        ]
        # the usage of a process and of its children
        ended = [os.wait4(process.pid, 0) for process in started]
    wall = time.perf_counter() - start
    if any(status for _, status, _ in ended):
        print(f"  failed; the end of {log}:\n{log.read_text()[-1500:]}", flush=True)
        return None
    cpu = sum(used.ru_utime + used.ru_stime for _, _, used in ended)
    peak = max(used.ru_maxrss for _, _, used in ended) * 1024
    return {
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "peak_memory": peak,
        "others": round((fresh._others() - before) / wall, 2),
    }


def hydratune(
    args: argparse.Namespace, folder: Path, name: str, settings: Sequence[str], *options: str
) -> dict[str, Any] | None:
    """One sweep, and the validation loss it found best."""
    place = (folder / name).resolve()
    found = measured(
        [
            [
                sys.executable,
                "-m",
                "hydratune",
                "train",
                "-m",
                *settings,
                *options,
                f"hydra.sweep.dir={place}",
            ]
        ],
        folder / f"{name}.log",
    )
    if found is None:
        return None
    metrics = [json.loads(file.read_text()) for file in sorted(place.glob("*/metrics.json"))]
    steps = sum(
        max(0, len(file.read_text().splitlines()) - 1) for file in place.glob("*/history.csv")
    )
    return {
        **found,
        "best": min(m["val/loss"] for m in metrics),
        "finished": len(metrics),
        "steps": steps,
    }


def write_rows(args: argparse.Namespace, folder: Path) -> None:
    """The same rows for everybody: as files of conversations, and as tokens in the order of
    hydratune's first epoch.
    """
    batch = [f"data.batch_size={args.batch}"]
    config, taken = workloads.first(
        args.workload, args.data, args.rows + args.validation + 2, batch
    )
    training = taken[: args.rows]
    workloads.write_chats(training, folder / "train.jsonl")
    workloads.write_chats(taken[args.rows : -2], folder / "validation.jsonl")
    workloads.write_chats(taken[-2:], folder / "test.jsonl")
    ids, masks = (
        [list(row.ids) for _, row in training],
        [list(row.loss_mask) for _, row in training],
    )
    steps = workloads.order(masks, config) * args.epochs
    judges = [row for _, row in taken[args.rows : -2]]
    validation = [[list(row.ids) for row in judges], [list(row.loss_mask) for row in judges]]
    # twice an epoch, hydratune's default
    title, validations = (workloads.WORKLOADS[args.workload].title, 2 * args.epochs)
    workloads.Rows(title, ids, masks, steps, batch, validation, validations).write(
        folder / "rows.json"
    )


def trl(args: argparse.Namespace, folder: Path, *, validating: bool = False) -> dict[str, Any]:
    """One run on all cores, and one per core side by side; of the jobs in the middle of the grid.

    ``validating``: one run only.
    """
    rows = folder / "rows.json"
    cores = len(os.sched_getaffinity(0))

    def command(number: int, system: str = "trl") -> list[str]:
        result = str(folder / f"{system}-{number}.json")
        return [
            sys.executable,
            str(fresh.HERE / "systems.py"),
            system,
            str(rows),
            result,
            "--set",
            f"adapter.r={RANKS[1 + number % 2]}",
        ]

    if validating:
        return {
            "one": measured([command(0, "trl-validating")], folder / "trl-validating.log"),
            "cores": cores,
        }
    found: dict[str, Any] = {"one": measured([command(0)], folder / "trl-one.log"), "cores": cores}
    needed, there = (
        (found["one"] or {}).get("peak_memory", 0) * cores,
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )
    if needed > 0.95 * there:
        print(
            f"  {cores} runs of TRL side by side would need {needed / GIB:.1f} GiB; this machine"
            f" has {there / GIB:.1f}",
            flush=True,
        )
        return found
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    found["side by side"] = measured(
        [command(number) for number in range(cores)], folder / "trl-side.log", single
    )
    return found


def sweep(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The reference sweep by every system; the file in ``folder`` is whole after each."""
    found: dict[str, Any] = {
        "settings": {k: v for k, v in vars(args).items() if k not in ("show", "folder")},
        "jobs": len(args.rates) * len(args.ranks),
    }
    every, few = words(args, args.rates, args.ranks), words(args, RATES[1:3], RANKS[2:3])
    halving = f"hydra.launcher.halving={{min_steps: {args.min_steps}, eta: 3}}"
    measurements = {
        "pack": lambda: hydratune(args, folder, "pack", every),
        "trl": lambda: trl(args, folder),
        "trl validating": lambda: trl(args, folder, validating=True),
        "halving": lambda: hydratune(args, folder, "halving", every, halving),
        "process": lambda: hydratune(args, folder, "process", few, "hydra/launcher=process"),
        "pack of two": lambda: hydratune(args, folder, "two", few),
        "one": lambda: hydratune(
            args, folder, "one", words(args, RATES[1:2], RANKS[2:3]), "hydra/launcher=process"
        ),
    }
    for name in args.only or measurements:
        found[name] = measurements[name]()
        print(name, found[name], flush=True)
        fresh.store("sweeps", found, folder)
    return found


def winners(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return how much worse the winner's validation loss is with halving, over several seeds."""
    found: dict[str, Any] = {
        "settings": {k: v for k, v in vars(args).items() if k not in ("show", "folder")},
        "winners": [],
    }
    halving = f"hydra.launcher.halving={{min_steps: {args.min_steps}, eta: 3}}"
    for seed in range(args.winners):
        settings = words(args, args.rates, args.ranks[::2], seed)
        pair = {
            "whole": hydratune(args, folder, f"whole-{seed}", settings),
            "halved": hydratune(args, folder, f"halved-{seed}", settings, halving),
        }
        found["winners"].append(pair)
        print(seed, pair, flush=True)
        fresh.store("sweeps", found, folder)
    return found


def tables(found: dict[str, Any]) -> str:
    if found.get("winners"):
        lines = []
        for seed, pair in enumerate(found["winners"]):
            if pair["whole"] and pair["halved"]:
                whole, halved = pair["whole"], pair["halved"]
                worse = f"{100 * (halved['best'] / whole['best'] - 1):+.2f} %"
                shares = [
                    f"{halved[key] / whole[key]:.2f}"
                    for key in ("steps", "cpu_seconds", "wall_seconds")
                ]
                lines.append(
                    [str(seed), f"{whole['best']:.4f}", f"{halved['best']:.4f}", worse, *shares]
                )
        return fresh.markdown(
            ["seed", "best", "with halving", "worse by", "steps", "CPU-s", "wall"], lines
        )
    jobs = found["jobs"]
    lines = []

    def line(title: str, values: dict[str, float] | None, factor: float = 1.0) -> None:
        if values:
            cost = (
                f"{values['cpu_seconds'] * factor:,.0f}",
                f"{values['wall_seconds'] * factor:,.0f}",
            )
            best = f"{values['best']:.4f}" if factor == 1.0 and "best" in values else ""
            lines.append([title, *cost, f"{values['peak_memory'] / GIB:.2f}", best])

    line(f"pack, {jobs} jobs", found.get("pack"))
    line(f"pack with halving, {jobs} jobs", found.get("halving"))
    line(f"one process per job, 2 jobs x {jobs // 2}", found.get("process"), jobs / 2)
    line(f"pack of 2 jobs x {jobs // 2}", found.get("pack of two"), jobs / 2)
    line("one job", found.get("one"))
    theirs = found.get("trl") or {}
    line(f"TRL, one run x {jobs}", theirs.get("one"), jobs)
    line(
        f"TRL, {theirs.get('cores')} runs side by side x {jobs / (theirs.get('cores') or 1):g}",
        theirs.get("side by side"),
        jobs / (theirs.get("cores") or 1),
    )
    line(
        f"TRL, one run that validates x {jobs}",
        (found.get("trl validating") or {}).get("one"),
        jobs,
    )
    return fresh.markdown(["", "CPU-s", "wall s", "peak GiB", "best validation loss"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--workload", choices=workloads.WORKLOADS, default="s")
    parser.add_argument("--data", default=os.environ.get(workloads.DATA))
    parser.add_argument("--validation", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rates", nargs="+", default=RATES)
    parser.add_argument("--ranks", nargs="+", default=RANKS)
    parser.add_argument("--min-steps", type=int, default=4)
    parser.add_argument("--winners", type=int, default=0, metavar="SEEDS")
    parser.add_argument(
        "--only",
        nargs="*",
        help="pack, trl, 'trl validating', halving, process, 'pack of two', one",
    )
    parser.add_argument("--set", nargs="*", default=[], help="settings of hydratune's runs")
    parser.add_argument("--show", type=Path)
    args = parser.parse_args()
    if args.show:
        print(tables(json.loads(args.show.read_text())))
        return
    folder = args.folder = fresh.named_now("sweeps").resolve()
    write_rows(args, folder)
    print(tables(winners(args, folder) if args.winners else sweep(args, folder)))


if __name__ == "__main__":
    main()
