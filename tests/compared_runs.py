"""Run directories for tests of comparisons, written without training."""

import json
from pathlib import Path
from typing import Any


def write_run(
    folder: Path,
    *,
    loss: float | None = 0.5,
    right: list[bool] | None = None,
    nll: list[float] | None = None,
    lr: float = 1e-3,
    rank: int = 8,
    seed: int = 0,
    state: str = "finished",
    rows: str = "validation rows",
    **metrics: Any,
) -> Path:
    """Write a run directory as hydratune train leaves it, scored by exact matches."""
    folder.mkdir(parents=True)
    right = right or [True] * 40
    nll = nll or [1.0] * len(right)
    (folder / "status.json").write_text(
        json.dumps({"state": state, "error": None if state == "finished" else "it broke"})
    )
    settings = (
        f"name: x\nseed: {seed}\noptimizer: {{lr: {lr}}}\nadapter: {{r: {rank}}}\nevaluation:"
        " {metrics: [match]}\n"
    )
    (folder / "config.yaml").write_text(settings)
    (folder / "data.json").write_text(json.dumps({"splits": {"validation": {"tokens_hash": rows}}}))
    if state == "finished":
        values = {
            "eval/exact_match": sum(right) / len(right),
            "eval/nll": sum(nll) / len(nll),
            "val/loss": loss,
            "objective": loss,
        }
        (folder / "metrics.json").write_text(json.dumps({**values, "intervals": {}, **metrics}))
        lines = [
            {
                "id": str(i),
                "group": None,
                "item_hash": f"item {i}",
                "prompt": [{"role": "user", "content": "q"}],
                "prediction": "a" if hit else "b",
                "reference": "a",
                "finish_reason": "stop",
                "generated_tokens": 1,
                "answer_tokens": 1,
                "nll": value,
                "scores": {"exact_match": hit, "normalised_match": hit},
            }
            for i, (hit, value) in enumerate(zip(right, nll, strict=True))
        ]
        (folder / "predictions.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        )
    return folder


def hits(count: int, of: int = 40) -> list[bool]:
    return [i < count for i in range(of)]
