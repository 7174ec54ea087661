"""The table of metrics: every number of a run has a row, and a new metric is one function and one
row.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from conftest import SMALL
from hydratune import metric_table
from hydratune.comparison.criterion import Criterion, parse_criterion
from hydratune.errors import InputError
from hydratune.evaluation import families, result_rows, run_report
from hydratune.evaluation.families import Answered
from hydratune.metric_table import (
    ANSWER_METRICS,
    RUN_METRICS,
    Direction,
    Metric,
    Unit,
    find,
    lower_is_better,
)
from hydratune.records.run_directory import RunDirectory

Command = Callable[..., tuple[int, str]]


SAMPLES = {
    "json": Answered('{"a": 1, "b": "x"}', ['{"a": 1, "b": null}'], {"type": "object"}),
    "code": Answered("def f(): return 1", ["def f(): return 1"], row={"tests": "assert f() == 1"}),
}


def test_names_are_unique() -> None:
    for rows in (ANSWER_METRICS, RUN_METRICS):
        assert len({row.name for row in rows}) == len(rows)


def test_every_family_of_the_table_has_its_functions() -> None:
    assert set(metric_table.families()) == set(families.FAMILIES)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_metric_of_a_family_has_a_row_that_names_the_family(name: str) -> None:
    answered = SAMPLES.get(name, Answered("an answer", ["the answer", "an answer"]))
    family = families.family(name)
    measured = family.measures([family.score(answered), family.score(answered)])
    assert measured
    for metric in measured:
        row = metric_table.answer_metric(metric)
        assert row is not None and name in row.families, metric


def test_a_metric_without_a_row_has_the_documented_defaults() -> None:
    assert metric_table.find("eval/my_own") is None
    assert metric_table.title("base/my_own") == "base: my own"
    assert metric_table.unit("eval/my_own") is Unit.number
    assert metric_table.title("val/my_own") == "validation my own"
    assert metric_table.title("other/my_own") == "other: my own"
    assert metric_table.lower_is_better("eval/my_own") is None
    assert metric_table.lower_is_better("other/nll") is True
    assert metric_table.lower_is_better("cost/euros") is True
    assert metric_table.lower_is_better("lr") is None


def test_a_field_may_have_the_name_of_a_loss() -> None:
    assert metric_table.lower_is_better("eval/field_f1/loss") is False
    assert metric_table.title("eval/field_f1/loss") == "field F1: loss"


def test_scores_without_leaks_are_in_the_table_for_every_system() -> None:
    assert metric_table.title("base_clean/nll") == "base: clean rows: NLL per token"
    assert metric_table.find("fewshot_clean/rows") is not None
    assert metric_table.split_system("clean/nll") == (None, "")


def test_metrics_of_packages_come_after_those_of_the_table() -> None:
    measured = {"eval/my_own": 1.0, "eval/nll": 1.0, "eval/field_f1/a": 1.0, "val/loss": 1.0}
    shown = result_rows.answer_metrics(measured, ["base", "eval"])
    assert [row.name for row in shown] == ["nll", "my_own"]


@pytest.fixture
def new_metric(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Add a metric as a contributor does: a function and a row."""

    def short_answers(prediction: str, references: list[str], row: Mapping[str, object]) -> bool:
        return len(prediction) <= len(references[0])

    row = Metric("short_answers", "short answers", Unit.rate, Direction.higher, ("short_answers",))
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    families.per_answer(short_answers)
    monkeypatch.setattr(metric_table, "ANSWER_METRICS", (*ANSWER_METRICS, row))
    families.family.cache_clear()
    yield row.name
    families.family.cache_clear()


def test_a_function_and_a_row_make_a_metric_everywhere(
    new_metric: str, hydratune: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, text = hydratune(
        "train", *SMALL, f"evaluation.metrics=[match,{new_metric}]", f"hydra.run.dir={run}"
    )
    assert code == 0, text
    assert "short answers" in text
    measured = json.loads((run / "metrics.json").read_text())
    assert 0 <= measured["eval/short_answers"] <= 1
    assert measured["intervals"]["eval/short_answers"]
    assert measured["settings"]["eval"]["short_answers"] == "mean over the answers of short_answers"
    assert '<th scope="row">short answers (%)</th>' in run_report.render(RunDirectory(run))
    code, text = hydratune("compare", str(run), "metric=eval/short_answers")
    assert code == 0 and "short answers" in text, text


def test_metrics_have_a_direction() -> None:
    lower = (
        "val/loss",
        "objective",
        "eval/nll",
        "base/perplexity",
        "cost/peak_memory_bytes",
        "forgetting/kl",
        "eval/invented_keys",
    )
    assert all(lower_is_better(name) is True for name in (*lower, "forgetting/bits_per_byte_delta"))
    assert all(
        lower_is_better(name) is False
        for name in (
            "eval/field_f1",
            "base/rougeL",
            "cost/tokens_per_second",
            "eval/field_f1/party",
        )
    )
    assert lower_is_better("eval/my_own") is None
    assert parse_criterion("eval/my_own", "max") == Criterion("eval/my_own", lower=False)
    with pytest.raises(InputError, match="mode=min or mode=max"):
        parse_criterion("eval/my_own", None)


def test_every_number_of_a_run_is_in_the_table(hydratune: Command, tmp_path: Path) -> None:
    settings = (
        "evaluation.forgetting.measure=true",
        "evaluation.forgetting.items=2",
        "evaluation.forgetting.answer_tokens=2",
        "evaluation.canaries=2",
        "evaluation.memorisation=4",
        "evaluation.baselines=[base,fewshot]",
    )
    code, text = hydratune("train", *SMALL, *settings, f"hydra.run.dir={tmp_path}/run")
    assert code == 0, text
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    numbers = [name for name, value in metrics.items() if isinstance(value, (int, float))]
    assert {name.split("/")[0] for name in numbers} >= {
        "eval",
        "base",
        "fewshot",
        "forgetting",
        "memorisation",
        "fit",
        "cost",
        "val",
    }
    assert [name for name in numbers if find(name) is None] == []
