"""A short run of the real command in another process, whose seconds and memory are measured."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydratune.data.preparation import prepare
from hydratune.errors import RunError
from hydratune.records.files import read_json
from hydratune.records.run_directory import RunFile
from hydratune.settings.commands import PlanConfig

STEPS = 3
_TIME_LIMIT = 3600  # seconds
_FEW = 2  # validation and test rows


@dataclass(frozen=True)
class Probe:
    """What a short run took."""

    steps: int
    tokens_per_second: float  # of rows, while training
    peak_memory: int  # bytes: of the process, or on the GPU


def run_probe(config: PlanConfig, overrides: Sequence[str]) -> Probe:
    """Train ``STEPS`` steps with the ``overrides`` of train. Raises ``RunError`` if that fails."""
    prepare(config.data)  # only the first run prepares its rows, and needs more memory then
    rows = STEPS * config.data.batch_size * config.trainer.accumulate_grad_batches
    limits = [rows, config.data.max_train_rows]
    short = [
        f"trainer.max_steps={STEPS}",
        f"data.max_train_rows={min(n for n in limits if n is not None)}",
        f"data.max_validation_rows={_FEW}",
        f"data.max_test_rows={_FEW}",
        "evaluation.baselines=[]",
        "evaluation.max_new_tokens=1",
        "tracking=disabled",
    ]
    with tempfile.TemporaryDirectory(prefix="hydratune-plan-") as place:
        folder = Path(place) / "run"
        command = [sys.executable, "-m", "hydratune", "train", *overrides, *short]
        done = subprocess.run(
            [*command, f"hydra.run.dir={folder}"],
            capture_output=True,
            text=True,
            timeout=_TIME_LIMIT,
            check=False,
        )
        if done.returncode:
            lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
            reason = "\n  ".join(lines[-6:]) or "it printed nothing"
            raise RunError(f"the probe failed; leave out probe=true to plan without it\n  {reason}")
        measured = read_json(folder / RunFile.metrics)
    return Probe(
        STEPS,
        float(measured["cost/tokens_per_second"]),
        int(measured["cost/peak_memory_bytes"]),
    )
