"""What the files of a run hold, for tests that compare runs, and settings of a short run."""

import csv
import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from conftest import SMALL

QUICK = (
    *SMALL[:1],
    *(s for s in SMALL[1:] if not s.startswith(("data.batch_size", "trainer.max_steps"))),
    "data.max_train_rows=9",
)
# for tests that use one file as all three splits
SAME_ROWS = (
    "data.quality.exact_leaks=warn",
    "data.quality.group_leaks=warn",
)


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open() as stream:
        return [
            {k: v for k, v in row.items() if k != "tokens_per_second"}
            for row in csv.DictReader(stream)
        ]


def assert_same_run(a: Path, b: Path) -> None:
    assert history(a) == history(b)
    ours, theirs = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (a, b))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (a, b)]
    scores = [
        {k: v for k, v in m.items() if not k.startswith("cost/") and k != "seconds"}
        for m in metrics
    ]
    assert scores[0] == scores[1]
    assert (a / "predictions.jsonl").read_bytes() == (b / "predictions.jsonl").read_bytes()
    assert (a / "config.yaml").read_bytes() == (b / "config.yaml").read_bytes()


def status(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "status.json").read_text()))


def states(sweep: Path) -> dict[str, str]:
    return {
        p.parent.name: json.loads(p.read_text())["state"]
        for p in sorted(sweep.glob("*/status.json"))
    }


def only_run(root: Path, name: str = "smoke") -> Path:
    (run,) = (root / "outputs" / name).iterdir()
    return run


def read_metrics(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def offline_environment(**more: str) -> dict[str, str]:
    return {**os.environ, "WANDB_MODE": "offline", **more}
