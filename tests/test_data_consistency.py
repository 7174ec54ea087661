"""The jobs of one sweep were trained on the same rows, or compare refuses them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from conftest import SMALL, write_rows
from hydratune.errors import ConfigError
from hydratune.experiment import data_consistency
from hydratune.records.files import write_json, write_text
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import State
from hydratune.records.sweep import SweepJob, write_sweep
from run_files import states
from test_config import compose

pytestmark = pytest.mark.usefixtures("packs_here")

Command = Callable[..., tuple[int, str]]
ROWS = {"train": {"hash": "aa"}, "validation": {"hash": "bb"}}


def finished(sweep: Path, name: str, *overrides: str, rows: Any = ROWS) -> None:
    record = RunDirectory(sweep / name)
    record.path.mkdir(parents=True)
    record.start()
    write_text(
        record.config_file,
        OmegaConf.to_yaml(OmegaConf.structured(compose(*overrides)), resolve=True),
    )
    write_json(record.path / "data.json", {"splits": rows})
    write_json(record.metrics_file, {"val/loss": 1.0})
    record.end(State.finished)
    names = [path.parent.name for path in sorted(sweep.glob("*/status.json"))]
    write_sweep(sweep, [SweepJob(n, (), {}) for n in [*names, "new"]])


def check(sweep: Path, *overrides: str, rows: Any = ROWS) -> None:
    data_consistency.refuse_other_rows(
        compose(*overrides), sweep / "new", rows, lambda name, make: make()
    )


def test_other_rows_under_the_same_settings_are_refused(tmp_path: Path) -> None:
    check(tmp_path)  # no sweep at all
    finished(tmp_path, "0", "optimizer.lr=1e-3")
    check(tmp_path, "data.batch_size=2", "adapter.r=4")
    changed = {**ROWS, "validation": {"hash": "cc"}}
    refusal = r"job 0 of this sweep is finished, and its validation rows were different"
    with pytest.raises(ConfigError, match=refusal):
        check(tmp_path, "data.batch_size=2", rows=changed)
    check(tmp_path, "resume=force", rows=changed)
    for other in ("data.max_train_rows=5", "model=tiny", "seed=7", "evaluation.canaries=2"):
        check(tmp_path, other, rows=changed)  # the refused rows are those of this job


def test_runs_that_cannot_be_read_are_ignored(tmp_path: Path) -> None:
    finished(tmp_path, "0", rows={"train": {"hash": "zz"}})
    finished(tmp_path, "1")
    (tmp_path / "1" / "config.yaml").write_text("data: [")
    with pytest.raises(ConfigError, match="job 0"):
        check(tmp_path)
    (tmp_path / "0" / "data.json").write_text("{}")
    check(tmp_path)


@pytest.mark.slow
def test_a_job_that_is_tried_again_on_changed_data_fails_and_says_so(
    hydratune: Command, tmp_path: Path
) -> None:
    """The data set is mixed: settings at any depth name its files."""
    rows = [
        {"prompt": f"{a} and {b}?", "completion": f"It is {a + b}."}
        for a in range(2, 9)
        for b in range(2, 9)
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    mixed = (
        "data=mixed",
        "data.parts.a.source=files",
        f"data.parts.a.train={tmp_path}/rows.jsonl",
    )
    small = [word for word in SMALL if not word.startswith("data=")]
    sweep = tmp_path / "sweep"
    words = ("train", "-m", *small, *mixed, "optimizer.lr=1e-3,1e30", f"hydra.sweep.dir={sweep}")
    code, text = hydratune(*words)
    assert code == 1 and states(sweep) == {"0": "finished", "1": "failed"}, text
    write_rows(
        tmp_path / "rows.jsonl",
        [{**row, "completion": row["completion"].replace("It", "That")} for row in rows],
    )
    code, text = hydratune(*words)
    error = json.loads((sweep / "1" / "status.json").read_text())["error"]
    assert (
        code == 1
        and "job 0 of this sweep is finished" in error
        and "the data changed since" in error
    ), text
    code, text = hydratune(*words, "resume=force")
    assert "the data changed since" not in (sweep / "1" / "status.json").read_text(), text
