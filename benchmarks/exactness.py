"""Compare hydratune with a plain transformers + PEFT loop (padded, full logits), step by step.

    python benchmarks/exactness.py                         30 steps on synthetic contracts
    python benchmarks/exactness.py --only c --data FOLDER  MTS-Dialog: rows of 50 to 600 tokens
    python benchmarks/exactness.py --layers 4              a part of the model, which is quick

Two rows per micro-batch, two micro-batches per step, and a last step of three rows, so that the
micro-batches of a step have unequal numbers of trained tokens. Compared are the loss of every step,
and the adapter after the last one: of each of its tensors the norm of the difference over the norm
of the tensor, and over the norm of what training changed.

The reference computes the cross-entropy of its logits in float64 (``systems.py`` says why;
``--fp32-loss`` takes PyTorch's). A second plain loop that takes its rows one by one, unpadded,
shows what rounding alone makes of the same training: Adam divides every gradient by its size, so
the smallest of them, which rounding decides, move the adapter as far as the largest.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import fresh
from training import difference
from workloads import DATA, WORKLOADS, missing


def adapters(ours: Path, plain: Path, start: Path) -> dict[str, Any]:
    """Relative differences of two trained adapters that began as ``start``; the largest over their
    tensors.
    """
    from safetensors.torch import load_file

    a, b, begin = load_file(ours), load_file(plain), load_file(start)
    assert a.keys() == b.keys() == begin.keys()
    apart = {name: (a[name] - b[name]).norm().item() for name in a}
    of_tensor = {name: apart[name] / b[name].norm().item() for name in a}
    of_change = {name: apart[name] / (b[name] - begin[name]).norm().item() for name in a}
    worst = max(of_tensor, key=of_tensor.__getitem__)
    return {
        "tensor": of_tensor[worst],
        "worst": worst,
        "change": max(of_change.values()),
        "tensors": len(a),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=os.environ.get(DATA))
    parser.add_argument("--only", choices=WORKLOADS, default="s")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--layers", type=int)
    parser.add_argument(
        "--fp32-loss",
        action="store_true",
        help="the reference uses PyTorch's cross-entropy in fp32",
    )
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        help="settings of hydratune for both, e.g. optimizer.lr=1e-4",
    )
    args = parser.parse_args()
    why = missing(args.only, args.data)
    if why:
        raise SystemExit(f"{args.only} ({WORKLOADS[args.only].title}) cannot be had: {why}")
    folder = fresh.named_now("exactness")
    layers = ("--layers", str(args.layers)) if args.layers else ()
    data = ("--data", args.data) if args.data else ()
    shape = ("data.batch_size=2", "trainer.accumulate_grad_batches=2")
    count = ("--count", str(4 * args.steps - 1))
    rows = folder / "rows.json"
    found: dict[str, Any] = {
        "steps": args.steps,
        "layers": args.layers,
        "workload": args.only,
        "set": args.set,
    }
    fresh.run(
        "workloads.py",
        *data,
        *count,
        "--set",
        *shape,
        *args.set,
        "--",
        args.only,
        log=rows.with_suffix(".log"),
    )
    runs = {}
    reference = "plain" if args.fp32_loss else "plain-exact"
    for system in ("ours", reference, "plain-alone"):
        saved = (
            "--save",
            folder / f"{system}.safetensors",
            "--save-start",
            folder / "start.safetensors",
        )
        runs[system] = fresh.run(
            "systems.py", *layers, *saved, system, rows, log=folder / f"{system}.log"
        )
        if not runs[system]:
            raise SystemExit(1)
    assert len({run["adapter"] for run in runs.values()}) == 1, "they began with different adapters"
    losses = {system: run["losses"] for system, run in runs.items()}
    found["losses"] = losses
    for step, (a, b, c) in enumerate(zip(*losses.values(), strict=True), 1):
        print(
            f"step {step:2}: {a:.7f} {b:.7f}  {abs(a - b) / abs(b):.1e}   row by row"
            f" {abs(c - b) / abs(b):.1e}"
        )
    table = []
    for system, name in (("ours", "hydratune"), ("plain-alone", "plain loop, row by row")):
        own = adapters(*(folder / f"{file}.safetensors" for file in (system, reference, "start")))
        own["loss"] = difference(losses[system], losses[reference])
        found[system] = own
        table.append([name, *(f"{own[measure]:.1e}" for measure in ("loss", "tensor", "change"))])
    fresh.store("exactness", found, folder)
    print(f"\nLargest relative difference from the plain loop over {args.steps} steps:\n")
    print(
        fresh.markdown(["", "loss of a step", "a tensor of the adapter", "over its change"], table)
    )


if __name__ == "__main__":
    main()
