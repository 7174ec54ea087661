"""``trainer.monitor``: which metric of the validation rows chooses checkpoints and runs."""

import html
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from conftest import SMALL, write_rows
from hydratune.settings import monitor
from hydratune.settings.commands import load
from hydratune.settings.monitor import Monitor
from hydratune.training.history import best_row
from run_files import assert_same_run, history, states
from test_resume import RUN, interrupt_after

Command = Callable[..., tuple[int, str]]
pytestmark = pytest.mark.usefixtures("packs_here")
ROWS = "evaluation.validation_rows=3"
# the likelihood falls while the model learns, so this keeps the weights of the first validation
WORST = ("trainer.monitor=val/nll:max", ROWS, "optimizer.lr=0.01")
TIED = ("trainer.monitor=val/field_f1", ROWS)  # the model cannot answer: 0 at every validation


def metrics_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "metrics.json").read_text()))


def validated(run: Path) -> list[dict[str, str]]:
    return [row for row in history(run) if row["val/loss"]]


# -------------------------------------------------------------------------------------- the setting
@pytest.mark.parametrize(
    ("text", "metric", "mode"),
    [
        ("val/loss", "val/loss", "min"),
        ("val/field_f1", "val/field_f1", "max"),
        ("val/label_unknown", "val/label_unknown", "min"),
        ("val/field_f1/date", "val/field_f1/date", "max"),
        ("val/nll:max", "val/nll", "max"),
    ],
)
def test_the_direction_is_that_of_the_metric_table(text: str, metric: str, mode: str) -> None:
    assert list(monitor.problems(text)) == []
    read = Monitor.read(text)
    assert (read.metric, read.mode) == (metric, mode)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("eval/field_f1", ["test rows", "trainer.monitor=val/field_f1"]),
        ("base/field_f1", ["test rows", "val/loss"]),
        ("val/feild_f1", ["did you mean trainer.monitor=val/field_f1?"]),
        ("field_f1", ["did you mean trainer.monitor=val/field_f1?"]),
        ("loss", ["did you mean trainer.monitor=val/loss?"]),
        ("val/field_f1:up", ["min or max", "trainer.monitor=val/field_f1:max"]),
        ("train/loss", ["no such metric of the validation rows"]),
        ("val/length_ratio", ["val/length_ratio:max"]),
        ("", ["val/loss, or one of"]),
    ],
)
def test_wrong_metrics_are_refused(text: str, words: list[str]) -> None:
    problems = list(monitor.problems(text))
    assert len(problems) == 1
    for word in words:
        assert word in str(problems[0])


@pytest.mark.parametrize("text", ["eval/field_f1", "val/feild_f1", "val/field_f1:up"])
def test_the_advice_is_accepted_when_it_is_typed(hydratune: Command, text: str) -> None:
    code, printed = hydratune("train", *SMALL, f"trainer.monitor={text}")
    assert code == 2 and "trainer.monitor" in printed and "loss " not in printed, printed
    advice = re.findall(r"trainer\.monitor=val/[\w/]+(?::max)?", printed)[-1]
    assert list(monitor.problems(advice.partition("=")[2])) == []


def test_a_metric_that_the_answers_do_not_have_is_refused_before_training(
    hydratune: Command, tmp_path: Path
) -> None:
    words = ("train", *SMALL, f"hydra.run.dir={tmp_path}/run")
    code, text = hydratune(*words, "trainer.monitor=val/rougeL")
    assert code == 2 and "scored by json" in text and "step " not in text, text
    assert "val/field_f1" in text
    # the whole advice is typed
    match = re.search(r"evaluation\.metrics=\[[\w,]+\]", text)
    assert match is not None, text
    advice = match.group()
    code, text = hydratune(*words, "trainer.monitor=val/rougeL", ROWS, advice)
    assert code == 0 and "validation ROUGE-L" in text, text
    other = f"hydra.run.dir={tmp_path}/other"
    code, text = hydratune("train", *SMALL, other, "trainer.monitor=val/field_f1/dat")
    assert code == 2 and "val/field_f1/law" in text and "step " not in text, text


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ((), "add evaluation.metrics=[label]"),
        (("evaluation.metrics=[json]",), "set evaluation.metrics=[json,label]"),
    ],
)
def test_a_metric_of_no_family_is_refused_with_the_other_settings(
    hydratune: Command, tmp_path: Path, given: tuple[str, ...], advice: str
) -> None:
    words = ("train", "-m", *SMALL, "trainer.monitor=val/label_accuracy", "adapter.r=4,8", *given)
    code, text = hydratune(*words, f"hydra.sweep.dir={tmp_path}/sweep")
    assert code == 2 and advice in text, text
    assert not (tmp_path / "sweep").exists()
    typed = shlex.split(advice.partition(" ")[2])
    assert hydratune(*words[:1], *words[2:5], *typed, "--cfg", "job")[0] == 0


# --------------------------------------------------------------------------------------------- runs
def test_the_weights_of_the_best_validation_are_kept(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune("train", *RUN, *WORST, f"hydra.run.dir={tmp_path}/run")
    assert code == 0, text
    rows, metrics = validated(tmp_path / "run"), metrics_of(tmp_path / "run")
    losses = [float(row["val/nll"]) for row in rows]
    assert losses == sorted(losses, reverse=True) and len(rows) > 1  # it learns
    assert metrics["objective"] == metrics["val/nll"] == losses[0]
    assert metrics["val/loss"] == float(rows[0]["val/loss"])
    objective = metrics["settings"]["objective"]
    assert (objective["metric"], objective["mode"]) == ("val/nll", "max")
    assert metrics["intervals"]["objective"] == metrics["intervals"]["val/nll"]
    assert metrics["settings"]["validation"]["rows"] == 3
    sentence = (
        f"the weights of step {rows[0]['step']} are kept by the validation NLL per token"
        f" (validation NLL per token {losses[0]:.3f}, validation loss {metrics['val/loss']:.4f});"
        f" the validation loss would have kept those of step {rows[-1]['step']}"
    )
    assert sentence in text and "answering them took" in text, text
    assert "of that point are kept" not in text
    # it is a choice of the worst weights, and the page says the same of them
    assert "trainer.monitor=val/nll:max keeps the worst weights" in text, text
    page = html.unescape((tmp_path / "run" / "report.html").read_text())
    low, high = metrics["intervals"]["val/nll"]
    value = f"validation NLL per token {losses[0]:.3f} [{low:.3f}, {high:.3f}]"
    assert value in page and value in text and sentence in page

    code, text = hydratune("train", *RUN, WORST[2], f"hydra.run.dir={tmp_path}/by_loss")
    assert code == 0 and "would have kept" not in text, text
    # the same training, other weights of it
    assert [row["train/loss"] for row in history(tmp_path / "by_loss")] == [
        row["train/loss"] for row in history(tmp_path / "run")
    ]
    ours, theirs = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("run", "by_loss")
    )
    assert not all(ours[name].equal(theirs[name]) for name in ours)


@pytest.mark.slow
def test_of_equal_values_the_lowest_validation_loss_decides(
    hydratune: Command, tmp_path: Path
) -> None:
    code, text = hydratune("train", *RUN, *TIED, "optimizer.lr=0.01", f"hydra.run.dir={tmp_path}/a")
    assert code == 0 and "would have kept" not in text, text
    rows = validated(tmp_path / "a")
    assert len(rows) > 1 and {float(row["val/field_f1"]) for row in rows} == {0.0}
    metrics = metrics_of(tmp_path / "a")
    assert metrics["val/loss"] == min(float(row["val/loss"]) for row in rows) != rows[0]["val/loss"]
    assert hydratune("train", *RUN, "optimizer.lr=0.01", f"hydra.run.dir={tmp_path}/b")[0] == 0
    ours, theirs = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in "ab"
    )
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_early_stopping_follows_the_metric(hydratune: Command, tmp_path: Path) -> None:
    words = ("train", *RUN, *WORST, "trainer.early_stopping_patience=1")
    code, text = hydratune(*words, f"hydra.run.dir={tmp_path}/run")
    assert code == 0, text
    assert "1 validation without a validation NLL per token above" in text, text
    assert len(validated(tmp_path / "run")) == 2


def test_a_metric_that_no_answer_has_leaves_the_choice_to_the_loss(
    hydratune: Command, tmp_path: Path
) -> None:
    """The model writes no JSON, so there are no values that could be found in the request."""
    monitored = ("trainer.monitor=val/in_source", ROWS, "trainer.early_stopping_patience=9")
    code, text = hydratune("train", *RUN, *monitored, f"hydra.run.dir={tmp_path}/run")
    assert code == 0, text
    rows, metrics = validated(tmp_path / "run"), metrics_of(tmp_path / "run")
    assert not any(row.get("val/in_source") for row in rows)
    assert metrics["objective"] is None
    assert metrics["val/loss"] == min(float(row["val/loss"]) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [WORST, pytest.param(TIED, marks=pytest.mark.slow)])
def test_an_interrupted_run_keeps_the_same_weights(
    hydratune: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: tuple[str, ...],
) -> None:
    words = ("train", *RUN, *settings, "trainer.checkpoint_minutes=1e-9")
    assert hydratune(*words, f"hydra.run.dir={tmp_path}/whole")[0] == 0
    interrupt_after(7, monkeypatch)
    assert hydratune(*words, f"hydra.run.dir={tmp_path}/broken")[0] == 130
    monkeypatch.undo()
    code, text = hydratune(*words, f"hydra.run.dir={tmp_path}/broken", "trainer.monitor=val/loss")
    assert code == 2 and "trainer.monitor was" in text, text
    code, text = hydratune(
        *words, f"hydra.run.dir={tmp_path}/broken", "evaluation.validation_rows=2"
    )
    assert code == 2 and "evaluation.validation_rows was 3 and is 2" in text, text
    assert hydratune(*words, f"hydra.run.dir={tmp_path}/broken")[0] == 0
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


def test_the_best_row_has_a_finite_value_and_of_equal_ones_the_lowest_loss() -> None:
    rows: list[dict[str, float]] = [
        {"step": 1.0},
        {"step": 2.0, "val/loss": 2.0, "val/field_f1": 0.5},
        {"step": 3.0, "val/loss": 1.0, "val/field_f1": float("nan")},
        {"step": 4.0, "val/loss": 1.5, "val/field_f1": 0.5},
        {"step": 5.0, "val/loss": 1.9, "val/field_f1": 0.4},
    ]
    assert best_row(rows, Monitor.read("val/field_f1")) is rows[3]
    assert best_row(rows, Monitor.read("val/field_f1:min")) is rows[4]
    assert best_row(rows, Monitor()) is rows[2]
    assert best_row(rows[:1], Monitor()) is None
    # without a value of the metric, the loss decides
    assert best_row(rows[:3], Monitor.read("val/rougeL")) is rows[2]


def test_settings_of_older_runs_are_read(
    hydratune: Command, finished_run: Callable[..., Path]
) -> None:
    file = finished_run() / "config.yaml"
    text = file.read_text()
    older = text.replace("  validate_every: null\n", "  every_steps: 20\n  sample: 8\n")
    assert older != text
    file.write_text(older)
    assert load(file).evaluation.validate_every is None
    code, printed = hydratune("train", *SMALL, "evaluation.every_steps=20")
    assert code == 2 and "evaluation.validate_every" in printed, printed


# ------------------------------------------------------------------------------ sweeps and searches
@pytest.mark.slow
def test_a_sweep_with_halving_is_decided_by_the_metric(hydratune: Command, tmp_path: Path) -> None:
    """By the highest NLL the job that learns least wins; by the loss another one does."""
    sweep = (
        "train",
        "-m",
        *RUN,
        "trainer.monitor=val/nll:max",
        ROWS,
        "optimizer.lr=1e-5,1e-2",
        "hydra/launcher=pack",
        "hydra.launcher.halving.min_steps=3",
    )
    code, text = hydratune(*sweep, f"hydra.sweep.dir={tmp_path}/sweep")
    assert code == 0, text
    assert states(tmp_path / "sweep") == {"0": "finished", "1": "stopped"}
    status = json.loads((tmp_path / "sweep" / "1" / "status.json").read_text())
    step, loss, value, interval = status["rungs"][0]
    assert step == 3 and loss != value and interval[0] < value < interval[1]
    assert "validation NLL per token" in status["error"], status["error"]
    assert "best: sweep/0 " in text, text
    # the other decision, by the loss
    words = (*sweep, "hydra.launcher.halving.metric=val/loss")
    code, text = hydratune(*words, f"hydra.sweep.dir={tmp_path}/by_loss")
    assert code == 0, text
    assert states(tmp_path / "by_loss") == {"0": "stopped", "1": "finished"}


def test_halving_needs_one_metric_for_all_jobs(hydratune: Command, tmp_path: Path) -> None:
    words = (
        *("train", "-m", *SMALL, "trainer.monitor=val/loss,val/field_f1", "hydra/launcher=pack"),
        f"hydra.sweep.dir={tmp_path}/sweep",
    )
    code, text = hydratune(*words, "hydra.launcher.halving.min_steps=1")
    assert code == 2 and "hydra.launcher.halving.metric=val/loss" in text, text
    assert not (tmp_path / "sweep").exists()


def test_runs_are_ranked_by_what_they_monitor(hydratune: Command, tmp_path: Path) -> None:
    words = ("train", "-m", *RUN, "optimizer.lr=1e-5,1e-2", ROWS, "hydra/launcher=pack")
    early = ("trainer.monitor=val/nll:max", "trainer.early_stopping_patience=1")
    code, text = hydratune(*words, *early, f"hydra.sweep.dir={tmp_path}/sweep")
    assert code == 0, text
    for job in "01":
        step = history(tmp_path / "sweep" / job)[-1]["step"]
        why = f"stopped early at step {step} (no better validation NLL per token for 1 validation)"
        (line,) = [line for line in text.splitlines() if line.startswith(f"job {job} (")]
        assert line.endswith(why), text
    assert "ranking by validation NLL per token" in text and "best: sweep/0 " in text, text
    assert "the validation loss would choose another run: 1" in text, text
    assert ">validation NLL per token</b>" in (tmp_path / "sweep/0/report.html").read_text()
    code, text = hydratune("compare", f"{tmp_path}/sweep", "metric=val/loss", "html=false")
    assert code == 0 and "sweep/1 " in text and "would choose" not in text, text


@pytest.mark.slow
def test_runs_that_monitor_different_metrics_are_ranked_by_the_loss(
    hydratune: Command, tmp_path: Path
) -> None:
    words = ("train", "-m", *SMALL, ROWS, "trainer.monitor=val/loss,val/nll", "hydra/launcher=pack")
    code, text = hydratune(*words, f"hydra.sweep.dir={tmp_path}/sweep")
    assert code == 0, text
    assert "chosen by different metrics (val/loss, val/nll)" in text, text
    assert "ranking by validation loss" in text, text


SEARCH = ("hydra/sweeper=random", "hydra.sweeper.n_trials=2", "hydra/launcher=pack")


@pytest.mark.slow
def test_a_search_never_chooses_by_the_test_rows(hydratune: Command, tmp_path: Path) -> None:
    words = ("train", "-m", *SMALL, ROWS, *SEARCH, "optimizer.lr=interval(1e-4,1e-2)")
    place = f"hydra.sweep.dir={tmp_path}/search"
    code, text = hydratune(*words, place, "hydra.sweeper.objectives=eval/field_f1:max")
    assert code == 2 and "test rows" in text, text
    assert "leave out hydra.sweeper.objectives, and choose" in text, text
    advice = re.findall(r"trainer\.monitor=\S+", text)[-1]
    assert advice == "trainer.monitor=val/field_f1"
    code, text = hydratune(*words, place, "hydra.sweeper.objectives=val/field_f1:max")
    assert code == 2 and f"set {advice}" in text, text
    assert not (tmp_path / "search").exists()
    code, text = hydratune(*words, place, *shlex.split(advice))
    assert code == 0 and "by random for val/field_f1:max" in text, text
    assert "ranking by validation field F1" in text, text


def test_trials_monitor_one_metric(hydratune: Command, tmp_path: Path) -> None:
    words = ("train", "-m", *SMALL, *SEARCH, "trainer.monitor=val/loss,val/field_f1")
    code, text = hydratune(*words, f"hydra.sweep.dir={tmp_path}/search")
    assert code == 2 and "trainer.monitor=val/loss" in text, text


def test_texts_without_answers_can_be_monitored_by_their_likelihood(
    hydratune: Command, tmp_path: Path
) -> None:
    records = [{"text": f"row {n}: " + "some words of a text " * (n % 5 + 1)} for n in range(40)]
    file = write_rows(tmp_path / "texts.jsonl", records)
    words = (
        *(s for s in SMALL if not s.startswith("data")),
        "data=files",
        f"data.train={file}",
        "data.quality.near_leaks=off",
        ROWS,
    )
    place = f"hydra.run.dir={tmp_path}/run"
    code, text = hydratune("train", *words, place, "trainer.monitor=val/exact_match")
    assert code == 2 and "val/nll" in text and "without answers" in text, text
    code, text = hydratune("train", *words, place, "trainer.monitor=val/bits_per_byte")
    assert code == 0 and "validation bits per byte" in text, text
