"""Compare the memory of QLoRA with that of training on an fp32 base, each in a fresh process.

    python benchmarks/qlora.py                                     synthetic contracts, whole model
    python benchmarks/qlora.py --rows-share 0.125 --train-rows 16  quickly

Shown are the base's weights as stored, resident memory when the model is loaded and its peak over
the whole process (imports, loading and training included), and the loss of the first and last step.
Activations are bounded to 256 tokens per worker, or they hide the base of a small model. An fp32
base is mapped from its file and becomes resident when it is first used; a quantised one has been
fp32 before, and what that took is kept by the allocator for training. The run that learns is
``hydratune train model.quantization=nf4``; its validation loss is read from its history.
"""

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fresh
from workloads import DATA, WORKLOADS, missing

BASES = {"none": "fp32", "nf4": "nf4 (4-bit, double quantisation)", "int8": "int8"}


def learns(args: argparse.Namespace, folder: Path) -> list[tuple[int, float]]:
    """(step, validation loss) of one QLoRA run of the command line."""
    record = folder.resolve() / "run"
    words = [
        f"hydra.run.dir={record}",
        "model.quantization=nf4",
        f"data.max_train_rows={args.train_rows}",
        "trainer.validations_per_epoch=4",
    ]
    words += [
        "data.max_validation_rows=16",
        "data.max_test_rows=4",
        "evaluation.baselines=[]",
        "evaluation.max_new_tokens=8",
    ]
    command = [
        sys.executable,
        "-m",
        "hydratune",
        "train",
        "trainer=cpu",
        "tracking=disabled",
        *words,
    ]
    with (folder / "run.log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{(folder / 'run.log').read_text()[-2000:]}")
    with (record / "history.csv").open() as stream:
        return [
            (int(row["step"]), float(row["val/loss"]))
            for row in csv.DictReader(stream)
            if row["val/loss"]
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=os.environ.get(DATA))
    parser.add_argument("--only", choices=WORKLOADS, default="s")
    parser.add_argument("--rows-share", type=float, default=0.5)
    parser.add_argument(
        "--train-rows", type=int, default=96, help="of the run that learns; 2 rows per step"
    )
    parser.add_argument(
        "--set",
        nargs="*",
        default=["trainer.micro_tokens=256"],
        help="settings of hydratune for every base",
    )
    args = parser.parse_args()
    why = missing(args.only, args.data)
    if why:
        raise SystemExit(f"{args.only} ({WORKLOADS[args.only].title}) cannot be had: {why}")
    folder = fresh.named_now("qlora")
    rows = folder / "rows.json"
    data = ("--data", args.data) if args.data else ()
    command = (*data, "--rows-share", str(args.rows_share), "--set", *args.set, "--", args.only)
    fresh.run("workloads.py", *command, log=rows.with_suffix(".log"))
    found: dict[str, Any] = {"runs": {}}
    table = []
    for base, name in BASES.items():
        run = fresh.run(
            "systems.py",
            "--set",
            f"model.quantization={base}",
            "--",
            "ours",
            rows,
            log=folder / f"{base}.log",
        )
        if run is None:
            raise SystemExit(1)
        found["runs"][base] = run
        sizes = [
            f"{run[key] / 2**20:,.0f}" for key in ("base_weights", "loaded_memory", "peak_memory")
        ]
        table.append(
            [
                name,
                *sizes,
                f"{run['cpu_seconds']:.1f}",
                f"{run['losses'][0]:.4f}",
                f"{run['losses'][-1]:.4f}",
            ]
        )
    found["validation"] = learns(args, folder)
    fresh.store("qlora", found, folder)
    print(
        fresh.markdown(
            ["base", "weights MiB", "loaded MiB", "peak MiB", "CPU-s", "first loss", "last loss"],
            table,
        )
    )
    print(
        "\nhydratune train model.quantization=nf4: validation loss "
        + ", ".join(f"{loss:.4f} (step {s})" for s, loss in found["validation"])
    )


if __name__ == "__main__":
    main()
