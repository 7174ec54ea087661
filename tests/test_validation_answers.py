"""Answers to validation rows during training: they change nothing in training, and may choose."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL, write_rows
from run_files import assert_same_run
from test_resume import RUN, interrupt_after

pytestmark = pytest.mark.usefixtures("packs_here")

Command = Callable[..., tuple[int, str]]
ANSWERED = ("evaluation.validate_every=1", "evaluation.validation_rows=3")
ODD = (
    "adapter.lora_dropout=0.2",
    "trainer.accumulate_grad_batches=2",
    "trainer.checkpoint_minutes=1e-9",
    "optimizer.lr=0.01",
)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def without_answers(run: Path) -> list[dict[str, str]]:
    return [
        {
            key: v
            for key, v in row.items()
            if key == "val/loss" or not key.startswith(("tokens_per_second", "val/"))
        }
        for row in rows(run)
    ]


@pytest.mark.parametrize("adapter", ["lora", pytest.param("prefix_tuning", marks=pytest.mark.slow)])
def test_training_is_the_same_with_and_without_it(
    hydratune: Command, tmp_path: Path, adapter: str
) -> None:
    odd = ODD if adapter == "lora" else ODD[1:]
    words = ("train", *RUN, *odd, f"adapter={adapter}")
    assert hydratune(*words, f"hydra.run.dir={tmp_path}/without")[0] == 0
    code, text = hydratune(*words, *ANSWERED, f"hydra.run.dir={tmp_path}/with")
    assert code == 0 and "validation field F1 0.0 %" in text and "on 3 rows" in text, text
    assert without_answers(tmp_path / "with") == without_answers(tmp_path / "without")
    ours, theirs = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("with", "without")
    )
    names = [key for key in ours if key.startswith("eval/") or key == "val/loss"]
    assert all(ours[key] == theirs[key] for key in names)
    history_rows = rows(tmp_path / "with")
    validated = [row for row in history_rows if row["val/loss"]]
    assert [row for row in history_rows if row["val/nll"]] == validated
    answers = stored_answers(tmp_path / "with")
    assert [row["step"] for row in answers] == [
        int(row["step"]) for row in validated for _ in range(3)
    ]
    assert len({row["id"] for row in answers}) == 3
    assert ours["val/nll"] == float(best_of(validated, "val/loss", min)["val/nll"])
    assert ours["intervals"]["val/nll"][0] < ours["val/nll"] < ours["intervals"]["val/nll"][1]


def stored_answers(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


def best_of(
    validated: list[dict[str, str]], key: str, choose: Callable[..., Any]
) -> dict[str, str]:
    row: dict[str, str] = choose(validated, key=lambda row: float(row[key]))
    return row


def test_the_last_answers_equal_the_answers_of_the_trained_model(
    hydratune: Command, tmp_path: Path
) -> None:
    """Their likelihood at the last step is that of the validation rows after training,
    measured by evaluating them as a test set.
    """
    small = [s for s in SMALL if not s.startswith("data.max_validation")]
    words = (
        "train",
        *small,
        "data.max_validation_rows=3",
        "optimizer.lr=0.01",
        "trainer.validations_per_epoch=1",
        *ANSWERED,
    )
    assert hydratune(*words, f"hydra.run.dir={tmp_path}/run")[0] == 0
    last: dict[str, Any] = rows(tmp_path / "run")[-1]
    assert float(last["val/nll"]) == pytest.approx(float(last["val/loss"]), abs=1e-5)


@pytest.mark.slow
def test_answers_are_continued_when_a_run_is_resumed(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", *RUN, *ODD, *ANSWERED)
    assert hydratune(*words, f"hydra.run.dir={tmp_path}/whole")[0] == 0
    interrupt_after(5, monkeypatch)
    assert hydratune(*words, f"hydra.run.dir={tmp_path}/broken")[0] == 130
    assert hydratune(*words, f"hydra.run.dir={tmp_path}/broken")[0] == 0
    assert_same_run(tmp_path / "broken", tmp_path / "whole")
    assert (tmp_path / "broken" / "validation.jsonl").read_bytes() == (
        tmp_path / "whole" / "validation.jsonl"
    ).read_bytes()


@pytest.mark.slow
def test_answers_in_a_pack_equal_those_of_the_job_alone(hydratune: Command, tmp_path: Path) -> None:
    words = (*RUN, *ODD, *ANSWERED)
    code, text = hydratune(
        "train",
        "-m",
        *words,
        "adapter.r=4,8",
        "hydra/launcher=pack",
        f"hydra.sweep.dir={tmp_path}/sweep",
    )
    assert code == 0, text
    assert hydratune("train", *words, "adapter.r=8", f"hydra.run.dir={tmp_path}/alone")[0] == 0
    assert_same_run(tmp_path / "sweep" / "1", tmp_path / "alone")
    assert (tmp_path / "sweep" / "1" / "validation.jsonl").read_bytes() == (
        tmp_path / "alone" / "validation.jsonl"
    ).read_bytes()


@pytest.mark.parametrize("setting", ["evaluation.validate_every=0", "evaluation.validation_rows=0"])
def test_wrong_settings_are_refused(hydratune: Command, setting: str) -> None:
    code, text = hydratune("train", *SMALL, setting)
    assert code == 2 and setting.split("=")[0] in text


def test_validation_answers_that_cannot_be_scored_as_the_test_rows_are(
    hydratune: Command, tmp_path: Path
) -> None:
    """Test answers are JSON, validation answers are not: they are scored as texts, or refused
    before training where JSON is required.
    """
    answers = {"train": '{"a": 1}', "validation": "nothing", "test": '{"a": 1}'}
    files = []
    for name, answer in answers.items():
        records = [{"prompt": f"{name}: how many are {n}?", "completion": answer} for n in range(8)]
        files.append(f"data.{name}={write_rows(tmp_path / f'{name}.jsonl', records)}")
    quality = ("data.quality.mixed_answers=off", "data.quality.near_leaks=off")
    words = (
        "train",
        *(s for s in SMALL if not s.startswith("data.max")),
        "data=files",
        *files,
        *quality,
        *ANSWERED,
    )
    code, text = hydratune(*words)
    assert code == 0 and "on 3 rows" in text and "validation field F1" not in text, text
    code, text = hydratune(*words, "evaluation.task=json")
    assert code == 2 and "evaluation.task" in text and "loss" not in text, text
