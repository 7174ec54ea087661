"""Runs that monitor a metric of answers to validation rows: ranked by it, and tested on these."""

import json
from pathlib import Path

import pytest

from compared_runs import hits, write_run
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import Comparison, compare
from hydratune.comparison.criterion import Criterion, default_criterion
from hydratune.comparison.verdict import describe_outcome, describe_score, verdict
from hydratune.metric_table import lower_is_better, title

METRIC = "val/exact_match"


def monitored_run(folder: Path, right: list[bool], loss: float, *, lr: float) -> Path:
    """Write a run whose validation answers at its kept step, 4, are ``right``; those at step 2 are
    all wrong.
    """
    value = sum(right) / len(right)
    settings = {
        "objective": {"metric": METRIC, "mode": "max"},
        "validation": {"rows": len(right), "metrics": ["match"], "step": 4},
    }
    metrics = {METRIC: value, "objective": value, "settings": settings}
    run = write_run(folder, loss=loss, right=hits(20), lr=lr, **metrics)
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    answers = []
    for step, scores in ((2, [False] * len(right)), (4, right)):
        for row, hit in zip(rows, scores, strict=True):
            own = {"exact_match": hit, "normalised_match": hit}
            answers.append({**row, "step": step, "scores": own})
    text = "".join(json.dumps(answer) + "\n" for answer in answers)
    (run / "validation.jsonl").write_text(text)
    return run


def compared(folder: Path) -> Comparison:
    return compare(collect_runs([folder]))


def test_the_metric_ranks_and_its_difference_is_tested_on_the_validation_rows(
    tmp_path: Path,
) -> None:
    """The answers to the test rows are equal, so only validation can distinguish the runs."""
    monitored_run(tmp_path / "a", hits(35), 0.9, lr=1e-3)
    monitored_run(tmp_path / "b", hits(5), 0.1, lr=1e-4)
    result = compared(tmp_path)
    assert result.by == Criterion(METRIC, lower=False)
    assert [entry.runs[0].name for entry in result.ranked] == ["a", "b"]
    test = result.paired_tests[1][METRIC]
    assert test.significant and not test.better and test.value == pytest.approx(-0.75)
    assert not result.paired_tests[1]["nll"].significant
    assert describe_outcome(result, 1) == "worse (validation exact match)"
    text = " ".join(verdict(result))
    assert "significantly different from all others" in text
    assert "by validation exact match of the same validation rows" in text
    assert any("the validation loss would choose another run: b" in note for note in result.notes)


def test_runs_that_the_validation_rows_cannot_distinguish(tmp_path: Path) -> None:
    monitored_run(tmp_path / "a", hits(21), 0.9, lr=1e-3)
    monitored_run(tmp_path / "b", hits(20), 0.1, lr=1e-4)
    result = compared(tmp_path)
    assert [entry.runs[0].name for entry in result.ranked] == ["a", "b"]
    assert describe_outcome(result, 1) == "tied"
    text = " ".join(verdict(result))
    assert "statistically indistinguishable from the best: optimizer.lr=0.0001" in text
    assert "of the same validation and test rows" in text


def test_the_ranking_shows_the_interval_of_what_it_ranks_by(tmp_path: Path) -> None:
    file = monitored_run(tmp_path / "a", hits(20), 0.9, lr=1e-3) / "metrics.json"
    metrics = json.loads(file.read_text())
    value = metrics[METRIC]
    metrics["intervals"] = {METRIC: [value - 0.1, value + 0.1]}
    file.write_text(json.dumps(metrics))
    monitored_run(tmp_path / "b", hits(20), 0.1, lr=1e-4)
    result = compared(tmp_path)
    scores = {entry.runs[0].name: entry.runs[0] for entry in result.ranked}
    edges = f"[{100 * (value - 0.1):.1f}, {100 * (value + 0.1):.1f}]"
    assert describe_score(scores["a"], result.by) == f"{100 * value:.1f} {edges}"
    assert describe_score(scores["b"], result.by) == f"{100 * value:.1f}"


def test_equal_values_are_ranked_by_the_validation_loss(tmp_path: Path) -> None:
    monitored_run(tmp_path / "a", hits(20), 0.9, lr=1e-3)
    monitored_run(tmp_path / "b", hits(20), 0.1, lr=1e-4)
    assert [entry.runs[0].name for entry in compared(tmp_path).ranked] == ["b", "a"]


def test_runs_that_monitor_different_metrics_are_ranked_by_the_loss(tmp_path: Path) -> None:
    monitored_run(tmp_path / "a", hits(35), 0.9, lr=1e-3)
    write_run(tmp_path / "b", loss=0.1, lr=1e-4)
    result = compared(tmp_path)
    assert result.by.metric == "val/loss" and result.by.lower
    assert [entry.runs[0].name for entry in result.ranked] == ["b", "a"]
    assert any("by different metrics" in note for note in result.notes)


def test_a_metric_that_was_only_measured_may_choose_otherwise(tmp_path: Path) -> None:
    for name, right, loss in (("a", 35, 0.9), ("b", 5, 0.1)):
        run = monitored_run(tmp_path / name, hits(right), loss, lr=loss / 1000)
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["objective"] = loss
        metrics["settings"]["objective"] = {"metric": "val/loss", "mode": "min"}
        (run / "metrics.json").write_text(json.dumps(metrics))
    result = compared(tmp_path)
    assert result.by == Criterion() == default_criterion(result.runs)
    assert [entry.runs[0].name for entry in result.ranked] == ["b", "a"]
    notes = [note for note in result.notes if "would choose another run" in note]
    assert notes == [
        "the validation exact match would choose another run: a (87.5 %, and 12.5 % for the best"
        " above)"
    ]


def test_a_halved_run_shows_the_metric_that_it_was_judged_by(tmp_path: Path) -> None:
    monitored_run(tmp_path / "a", hits(35), 0.9, lr=1e-3)
    run = write_run(tmp_path / "b", lr=1e-4, state="stopped")
    halved = {"step": 4, "value": 1.5, "rung": 0, "monitored": 0.25}
    status = {"state": "stopped", "error": "halved", "halved": halved}
    (run / "status.json").write_text(json.dumps(status))
    result = compared(tmp_path)
    assert describe_score(result.ranked[1].runs[0], result.by) == "(25.0)"
    assert describe_score(result.ranked[1].runs[0], Criterion()) == "(1.5000)"


def test_a_validation_metric_has_the_title_and_direction_of_its_row() -> None:
    assert title("val/field_f1/date") == "validation field F1: date"
    assert title("val/loss") == "validation loss"
    assert lower_is_better("val/field_f1") is False and lower_is_better("val/perplexity") is True
    assert lower_is_better("val/my_metric") is None


def test_without_a_ranking_nothing_is_said_of_a_best_run(tmp_path: Path) -> None:
    write_run(tmp_path / "a", loss=0.9, rows="these tokens")
    write_run(tmp_path / "b", loss=0.1, rows="those tokens", lr=1e-4)
    result = compared(tmp_path)
    assert result.best is None and verdict(result)[0].startswith("no best run")
    assert not any("best" in note or "choose" in note for note in result.notes), result.notes


def test_losses_of_other_tokens_do_not_choose_another_run(tmp_path: Path) -> None:
    """Two base models: their answers to the same rows are ranked, their losses are not compared."""
    for name, right, loss in (("a", 35, 0.9), ("b", 5, 0.1)):
        run = monitored_run(tmp_path / name, hits(right), loss, lr=loss / 1000)
        hashes = {"hash": "the same rows", "tokens_hash": f"tokens of {name}"}
        (run / "data.json").write_text(json.dumps({"splits": {"validation": hashes}}))
    result = compared(tmp_path)
    assert result.best is not None and result.best.runs[0].name == "a"
    assert not any("would choose" in note for note in result.notes), result.notes
