"""Compare hydratune with TRL's SFTTrainer and a plain transformers + PEFT loop on the same rows.

    python benchmarks/training.py --data FOLDER          everything; hours on two cores
    python benchmarks/training.py --only s --rows-share 0.25 --layers 4 --repeats 1
                                                         minutes, to try it
    python benchmarks/training.py --only a --ablate      hydratune with one part left out at a time
    python benchmarks/training.py --show outputs/bench/.../training.json
                                                         the tables again

Each run has a fresh process. Per workload the systems alternate (ours, TRL, plain, ours, TRL ...).
Written down are CPU-seconds and wall seconds of training alone, tokens per second, the peak of
resident memory of the whole process, the largest relative difference of a step's loss from the
plain loop (from hydratune where that did not run), and the distance to the floor (``floor.py``):
CPU-seconds over those of the multiplications that cannot be left out, at the rate measured between
the runs. Of several repeats the median counts.

TRL runs with gradient checkpointing off and on; the better counts, on each measure. Its ``packing``
and ``padding_free`` are made for flash attention, which a CPU has not: with SDPA the rows get one
block-diagonal mask, which costs more than padding (``--systems trl-padding-free`` shows it).
"""

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fresh
from parts import PARTS
from workloads import DATA, WORKLOADS, missing

SYSTEMS = ("ours", "trl", "trl-checkpointing", "plain")
GIB = 2**30
NAMES = {
    "ours": "hydratune",
    "trl": "TRL",
    "trl-checkpointing": "TRL, gradient checkpointing",
    "trl-padding-free": "TRL, padding-free",
    "plain": "transformers + PEFT loop",
    "plain-exact": "the loop, cross-entropy in float64",
}


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Runs what was asked for; the file in ``folder`` is whole after every run."""
    asked = {key: value for key, value in vars(args).items() if key not in ("data", "show")}
    found: dict[str, Any] = {"settings": asked, "workloads": {}}
    for name in args.only:
        why = missing(name, args.data)
        if why:
            print(f"{name} ({WORKLOADS[name].title}) skipped: {why}", flush=True)
            continue
        rows = folder / f"rows-{name}.json"
        data = ["--data", args.data] if args.data else []
        command = (*data, "--rows-share", str(args.rows_share), "--set", *args.set, "--")
        fresh.run("workloads.py", *command, name, log=rows.with_suffix(".log"))
        if not rows.is_file():
            continue
        entry: dict[str, Any] = {
            "title": WORKLOADS[name].title,
            **size(rows),
            "floors": [],
            "runs": {},
        }
        found["workloads"][name] = entry
        for repeat in range(args.repeats):
            entry["floors"].append(
                fresh.run(
                    "floor.py", *layers(args), rows, log=folder / f"floor-{name}-{repeat}.log"
                )
            )
            for system in (
                args.systems
                if not args.ablate
                else ("ours", *(f"without {part}" for part in PARTS))
            ):
                words = (
                    ("ours", "--without", system.removeprefix("without "))
                    if system.startswith("without ")
                    else (system,)
                )
                log = folder / f"{name}-{system.replace(' ', '-')}-{repeat}.log"
                done = fresh.run("systems.py", *layers(args), *words, rows, log=log)
                entry["runs"].setdefault(system, []).append(done)
                if done:
                    cost = (
                        f"{done['cpu_seconds']:.1f} CPU-s, {done['wall_seconds']:.1f} s,"
                        f" {done['peak_memory'] / GIB:.2f} GiB"
                    )
                    print(f"{name} {repeat + 1}/{args.repeats} {system}: {cost}", flush=True)
                fresh.store("training", found, folder)
    return found


def layers(args: argparse.Namespace) -> tuple[str, ...]:
    return ("--layers", str(args.layers)) if args.layers else ()


def size(rows: Path) -> dict[str, int]:
    content = json.loads(rows.read_text())
    return {
        "rows": len(content["ids"]),
        "tokens": sum(map(len, content["ids"])),
        "supervised": sum(map(sum, content["loss_mask"])),
        "steps": len(content["steps"]),
    }


def summary(entry: dict[str, Any]) -> dict[str, dict[str, float]]:
    """system -> measure -> median over the repeats.

    Raises ``AssertionError`` if systems began with different adapters.
    """
    runs = {system: [run for run in repeats if run] for system, repeats in entry["runs"].items()}
    runs = {system: repeats for system, repeats in runs.items() if repeats}
    adapters = {run["adapter"] for repeats in runs.values() for run in repeats}
    assert len(adapters) <= 1, f"the systems began with different adapters: {adapters}"
    floors = [floor for floor in entry["floors"] if floor]
    rate = statistics.median(floor["flops_per_cpu_second"] for floor in floors)
    reference = next(
        (runs[system] for system in ("plain-exact", "plain", "ours") if system in runs), None
    )
    result = {}
    for system, repeats in runs.items():
        values = {
            measure: statistics.median(run[measure] for run in repeats)
            for measure in ("cpu_seconds", "wall_seconds", "peak_memory")
        }
        values["tokens_per_second"] = entry["tokens"] / values["wall_seconds"]
        values |= {
            f"floor_{kind}": values["cpu_seconds"] / (floors[0][kind]["flops"] / rate)
            for kind in ("apart", "shared")
        }
        if reference:
            values["loss"] = max(
                difference(run["losses"], reference[0]["losses"]) for run in repeats
            )
        result[system] = values
    for values in result.values():
        if "ours" in result:
            values["times"] = values["cpu_seconds"] / result["ours"]["cpu_seconds"]
    return result


def difference(losses: Sequence[float], reference: Sequence[float]) -> float:
    """The largest relative difference of a step."""
    return max(abs(a - b) / abs(b) for a, b in zip(losses, reference, strict=True))


def tables(found: dict[str, Any]) -> str:
    """Markdown: one table per workload, and the ratios to the better TRL."""
    out, ratios = [], []
    for name, entry in found["workloads"].items():
        if not any(run for repeats in entry["runs"].values() for run in repeats) or not any(
            entry["floors"]
        ):
            continue
        values = summary(entry)
        floor, shared = (entry["floors"][0][kind] for kind in ("apart", "shared"))
        rates = sorted(floor["flops_per_cpu_second"] / 1e9 for floor in entry["floors"] if floor)
        head = [
            "",
            "CPU-s",
            "x ours",
            "wall s",
            "tokens/s",
            "peak GiB",
            "loss difference",
            "x floor",
            "x floor, prefix once",
        ]
        rows = [[NAMES.get(system, system), *cells(v)] for system, v in values.items()]
        title = (
            f"**({name}) {entry['title']}**: {entry['rows']} rows, {entry['tokens']:,} tokens,"
            f" {entry['supervised']:,} trained"
        )
        what = (
            f"The floor is {floor['flops'] / 1e12:.2f} TFLOP; with the prefix once per batch"
            f" {shared['flops'] / 1e12:.2f} TFLOP"
        )
        what += (
            f" ({shared['tokens']:,} of {floor['tokens']:,} tokens computed). Matrix products:"
            f" {rates[0]:.0f} to {rates[-1]:.0f} GFLOP/s."
        )
        out += [title, "", fresh.markdown(head, rows), "", what, ""]
        peers = [v for system, v in values.items() if system.startswith("trl")]
        if peers and "ours" in values:
            against = [
                values["ours"][m] / min(p[m] for p in peers)
                for m in ("cpu_seconds", "wall_seconds", "peak_memory")
            ]
            ratios.append([f"({name}) {entry['title']}", *(f"{ratio:.3f}" for ratio in against)])
    if ratios:
        out += ["hydratune's share of the better TRL, on each measure:", ""]
        out += [fresh.markdown(["", "CPU-seconds", "wall", "peak memory"], ratios), ""]
    others = [
        run["others"]
        for e in found["workloads"].values()
        for repeats in e["runs"].values()
        for run in repeats
        if run
    ]
    if others and max(others) > 0.1:
        out.append(
            f"Not to be believed: other processes used up to {max(others):.1f} cores during a run."
            " CPU-seconds suffer as well: intra-op threads spin while they wait for one that has"
            " lost its core."
        )
    return "\n".join(out)


def cells(values: dict[str, float]) -> list[str]:
    loss = f"{values['loss']:.1e}" if "loss" in values else ""
    times = f"{values['times']:.2f}" if "times" in values else ""
    speed, memory = f"{values['tokens_per_second']:,.0f}", f"{values['peak_memory'] / GIB:.2f}"
    floors = (f"{values[f'floor_{kind}']:.2f}" for kind in ("apart", "shared"))
    return [
        f"{values['cpu_seconds']:.1f}",
        times,
        f"{values['wall_seconds']:.1f}",
        speed,
        memory,
        loss,
        *floors,
    ]


def several(allowed: Sequence[str]) -> Any:
    """An argparse type: names with commas between them."""

    def parse(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"no {', '.join(unknown)}; there are {', '.join(allowed)}"
            )
        return text.split(",")

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        default=os.environ.get(DATA),
        help=f"folder with cuad, snips, mts-dialog; default: {DATA}",
    )
    parser.add_argument(
        "--only", type=several(list(WORKLOADS)), default=list(WORKLOADS), help="workloads, e.g. a,b"
    )
    parser.add_argument(
        "--systems", type=several(list(NAMES)), default=list(SYSTEMS), help="e.g. ours,plain"
    )
    parser.add_argument("--rows-share", type=float, default=1.0, help="of each workload's rows")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--layers", type=int, help="only the first layers of the model, to try things"
    )
    parser.add_argument(
        "--ablate", action="store_true", help="hydratune with one part left out at a time, no peers"
    )
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        help="settings of hydratune for every system, e.g. optimizer.lr=1e-4",
    )
    parser.add_argument("--show", type=Path, help="print the tables of a result file, run nothing")
    args = parser.parse_args()
    if args.show:
        print(tables(json.loads(args.show.read_text())))
        return
    folder = fresh.named_now("training")
    found = compare(args, folder)
    print(f"\n{tables(found)}\nwritten to {folder / 'training.json'}")


if __name__ == "__main__":
    main()
