"""Compare hydratune's batched greedy answers with transformers' ``generate``, in fresh processes.

    python benchmarks/generation.py --data FOLDER                  100 prompts of workload (a)
    python benchmarks/generation.py --only s --count 8 --layers 3  synthetic contracts, quickly
    python benchmarks/generation.py --adapter DIR                  a fine-tuned model, whose answers
                                                                   end by themselves

Both get the same batches (rows sorted by length, as few batches of at most ``--batch-size`` as
possible), the same end tokens and limit, two threads, fp32, SDPA. ``generate`` gets left-padded
batches; hydratune is asked for the likelihood of one token besides, which is the least it can be
asked for. Where the answers differ, the gap between the logits of the two tokens is shown, from one
forward of the whole row without a cache: near 0, the two were a tie that rounding decided.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import fresh
from workloads import DATA, WORKLOADS, Rows, missing, settings


def answers(system: str, args: argparse.Namespace) -> dict[str, Any]:
    """What one system says, and what it cost."""
    import torch

    from hydratune.evaluation.batches import even_batches
    from hydratune.evaluation.generation import answer
    from hydratune.models import loading
    from hydratune.models.hardware import keep_memory

    keep_memory()
    prompts, model, tokenizer = prepared(args, own=system == "ours")
    stop, pad = loading.turn_end_ids(tokenizer, model), tokenizer.pad_token_id
    meter, limit = fresh.Meter(), args.max_new_tokens
    meter.start()
    if system == "ours":
        one = [[min(stop)]] * len(prompts)
        limits: dict[str, Any] = {"max_new_tokens": limit, "batch_size": args.batch_size}
        said = [
            a.tokens
            for a in answer(
                model, prompts, one, stop=stop, pad=pad, title="answers", quiet=True, **limits
            )
        ]
    else:
        said = [()] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for batch in even_batches(len(order), args.batch_size):
            numbers = [order[i] for i in batch]
            longest = max(len(prompts[i]) for i in numbers)
            ids = torch.tensor(
                [[*[pad] * (longest - len(prompts[i])), *prompts[i]] for i in numbers]
            )
            mask = torch.tensor(
                [[*[0] * (longest - len(prompts[i])), *[1] * len(prompts[i])] for i in numbers]
            )
            ends = {"eos_token_id": sorted(stop), "pad_token_id": pad, "max_new_tokens": limit}
            with torch.inference_mode():
                written = model.generate(
                    input_ids=ids, attention_mask=mask, do_sample=False, **ends
                )[:, longest:].tolist()
            for number, tokens in zip(numbers, written, strict=True):
                end = next((i + 1 for i, token in enumerate(tokens) if token in stop), len(tokens))
                said[number] = tuple(tokens[:end])
    meter.step(0.0)
    return {**meter.result(), "answers": said, "peak_memory": fresh.peak_memory()}


def prepared(args: argparse.Namespace, *, own: bool) -> tuple[list[list[int]], Any, Any]:
    """(prompts, model, tokenizer); ``own``: with hydratune's attention."""
    import torch

    from hydratune.models import loading
    from hydratune.models.compute import on_cpu
    from systems import base_model, truncated

    rows = Rows.read(args.rows)
    config = settings(rows.overrides)
    source = loading.locate(config.model)
    base = (
        loading.load_model(config.model, source, on_cpu())
        if own
        else base_model(config, None, torch.float32)
    )
    model = truncated(base, args.layers)
    if args.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, args.adapter)
    prompts = [ids[: mask.index(True)] for ids, mask in zip(rows.ids, rows.loss_mask, strict=True)]
    return prompts, model.eval(), loading.load_tokenizer(config.model, source)


def gaps(
    args: argparse.Namespace, ours: list[list[int]], theirs: list[list[int]]
) -> list[dict[str, Any]]:
    """Where answers differ: the first token that does, and how far apart the two tokens' logits
    are.
    """
    import torch

    different = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if list(a) != list(b)]
    found = []
    prompts, model, _ = prepared(args, own=False) if different else ([], None, None)
    for i in different:
        a, b = ours[i], theirs[i]
        at = next(
            (k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
        )
        pair = [row[at] if at < len(row) else None for row in (a, b)]
        entry: dict[str, Any] = {"row": i, "token": at, "ours": pair[0], "theirs": pair[1]}
        if None not in pair:
            with torch.inference_mode():
                logits = model(
                    input_ids=torch.tensor([[*prompts[i], *a[:at]]]), logits_to_keep=1
                ).logits[0, -1]
            entry["gap"] = (logits[pair[0]] - logits[pair[1]]).item()
            entry["best"] = logits.topk(2).indices.tolist()
        found.append(entry)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=os.environ.get(DATA))
    parser.add_argument("--only", choices=WORKLOADS, default="a")
    parser.add_argument("--count", type=int, default=100, help="prompts")
    parser.add_argument("--batch-size", type=int, default=50, help="hydratune's default is 50")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument(
        "--adapter", type=Path, help="a PEFT folder; without it the base model answers"
    )
    parser.add_argument("--layers", type=int)
    parser.add_argument("--repeats", type=int, default=2)
    # a child's work
    parser.add_argument("--system", choices=["ours", "transformers"], help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("result", type=Path, nargs="?", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.system:
        args.result.write_text(json.dumps(answers(args.system, args)))
        return
    why = missing(args.only, args.data)
    if why:
        raise SystemExit(f"{args.only} ({WORKLOADS[args.only].title}) cannot be had: {why}")
    folder = fresh.named_now("generation")
    args.rows = folder / "rows.json"
    data = ("--data", args.data) if args.data else ()
    fresh.run(
        "workloads.py",
        *data,
        "--count",
        str(args.count),
        "--",
        args.only,
        log=args.rows.with_suffix(".log"),
    )
    given = [
        "--max-new-tokens",
        str(args.max_new_tokens),
        "--batch-size",
        str(args.batch_size),
        "--rows",
        args.rows,
    ]
    given += [
        *(["--layers", str(args.layers)] if args.layers else []),
        *(["--adapter", args.adapter] if args.adapter else []),
    ]
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "transformers": []}
    for repeat in range(args.repeats):
        for system, done in runs.items():
            result = fresh.run(
                "generation.py", "--system", system, *given, log=folder / f"{system}-{repeat}.log"
            )
            if result is None:
                raise SystemExit(1)
            done.append(result)
    report(args, runs, folder)


def report(args: argparse.Namespace, runs: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    best = {system: min(done, key=lambda run: run["wall_seconds"]) for system, done in runs.items()}
    rows, speed = [], {}
    for system, run in best.items():
        count = sum(map(len, run["answers"]))
        speed[system] = count / run["wall_seconds"]
        cost = [
            f"{run['cpu_seconds']:.1f}",
            f"{run['wall_seconds']:.1f}",
            f"{run['peak_memory'] / 2**30:.2f}",
        ]
        rows.append(
            [
                "hydratune" if system == "ours" else "transformers generate",
                f"{count:,}",
                f"{speed[system]:.1f}",
                *cost,
            ]
        )
    differing = gaps(args, best["ours"]["answers"], best["transformers"]["answers"])
    same = 1 - len(differing) / len(best["ours"]["answers"])
    fresh.store("generation", {"runs": runs, "differing": differing}, folder)
    print(fresh.markdown(["", "tokens", "tokens/s", "CPU-s", "wall s", "peak GiB"], rows))
    print(
        f"\n{speed['ours'] / speed['transformers']:.2f}x; {100 * same:.0f} % of"
        f" {len(best['ours']['answers'])} answers are identical"
    )
    for entry in differing:
        gap = f"logits {entry['gap']:+.1e} apart" if "gap" in entry else "one answer ends there"
        print(
            f"row {entry['row']}: token {entry['token']}: {entry['ours']} against"
            f" {entry['theirs']}, {gap}"
        )


if __name__ == "__main__":
    main()
