"""report.html of a run shows what is in its directory, also if files are missing or broken."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from conftest import SMALL, edited
from hydratune.evaluation import json_scores, run_answers, run_report
from hydratune.records.predictions import Prediction
from hydratune.records.run_directory import RunDirectory

Command = Callable[..., tuple[int, str]]
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def run(finished_run: Callable[..., Path]) -> Path:
    return finished_run(
        "evaluation.baselines=[base]",
        "evaluation.memorisation=4",
        "evaluation.canaries=3",
        "trainer.max_steps=4",
        words=[s for s in SMALL if not s.startswith("evaluation.baselines")],
    )


def test_the_page_of_a_run_shows_the_values_of_metrics_json(hydratune: Command, run: Path) -> None:
    page = (run / "report.html").read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    for words in (
        "smoke: finished",
        f'<td class="n">{metrics["eval/nll"]:.3f} <small>[',
        "<h1>tiny-random-llama on contracts, lr=",
        "1 epoch, at most 4 steps</h1>",
        "base, zero-shot",
        "fine-tuned against base, zero-shot",
        "canaries: exposure",
    ):
        assert words in page, words
    assert (
        metrics["course"]["advice"] in page
        and "3 canaries, made-up rows" in page
        and "memorisation:" in page
    )
    assert (
        '<figure class="curves">' in page
        and "trainer.max_steps=4" in page
        and "<script" not in page
        and "http" not in page.replace("http-equiv", "")
    )
    assert len(page) < 1_000_000
    (run / "report.html").unlink()
    assert hydratune("evaluate", f"run={run}", "source=predictions")[0] == 0
    again = (run / "report.html").read_text()
    place = re.compile(r"[^<>]+/run</code>")  # the run is a copy
    assert place.sub("", again) == place.sub("", page) and str(run) in again


def test_checks_and_settings_are_in_the_words_of_a_reader(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "training rows (warn)" in page and "size " not in page.partition("Checks of")[2][:300]
    assert "<td>None</td>" not in page and "<td>False</td>" not in page
    assert "<tr><td>model.chat_template</td><td>null</td></tr>" in page


def test_the_data_page_names_the_rows_of_the_run_and_shows_their_masks(run: Path) -> None:
    page = (run / "data.html").read_text()
    splits = json.loads((run / "data.json").read_text())["splits"]
    assert (
        f"the run took {splits['train']['kept']} train rows, {splits['validation']['kept']}"
        " validation rows" in page
    )
    assert (
        "tokens trained" in page
        and 'class="trained"' in page
        and "report.json" not in page
        and "data.html" in (run / "report.html").read_text()
    )


def test_texts_are_escaped_and_the_worst_answers_come_first(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    lines[1] |= {
        "prediction": EVIL,
        "reference": EVIL,
        "nll": 1e6,
        "finish_reason": "length",
        "leaky": True,
    }
    edited(run / "predictions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    page = run_report.render(RunDirectory(run))
    assert EVIL not in page and page.count("&lt;script&gt;alert(1)") == 2
    assert page.index(
        f"row {lines[1]['id']} · 0 % · leaks from training · cut before its end"
    ) < page.index(f"row {lines[0]['id']}")


@pytest.mark.parametrize(
    "file",
    [
        "metrics.json",
        "config.yaml",
        "data.json",
        "environment.json",
        "history.csv",
        "predictions.jsonl",
        "status.json",
    ],
)
@pytest.mark.parametrize("content", [None, "", "{", "[1]", '{"a": 1}\n', "step,val/loss\n1,x\n"])
def test_parts_of_the_page_whose_files_are_broken_or_missing_are_omitted(
    finished_run: Callable[..., Path], file: str, content: str | None
) -> None:
    copy = finished_run()
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_text(content)
    page = run_report.render(RunDirectory(copy))
    assert page.startswith("<!doctype html>") and "</html>" in page


def test_a_failed_run_says_why(hydratune: Command, tmp_path: Path) -> None:
    code, _ = hydratune(
        "train", *SMALL, "optimizer.lr=1e9", "trainer.max_steps=6", f"hydra.run.dir={tmp_path}/run"
    )
    assert code == 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "smoke: failed" in page and "training was stopped" in page


def test_answers_that_are_not_valid_say_why(finished_run: Callable[..., Path]) -> None:
    run = finished_run()
    page = (run / "report.html").read_text()
    assert (
        page.count('<th scope="row">not valid</th><td><pre>not strict JSON: ') == 2
    )  # of two test rows
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    schema = json.loads((run / "schema.json").read_text())
    lines[0]["prediction"] = lines[0]["reference"]
    lines[1]["prediction"] = '{"parties": "<b>nobody</b>"}'
    for line in lines:
        line["scores"] = json_scores.score(line["prediction"], line["reference"], schema)
    edited(run / "predictions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    page = run_report.render(RunDirectory(run))
    (listed,) = re.findall(r'<th scope="row">not valid</th><td><pre>(.*?)</pre>', page, re.S)
    errors = lines[1]["scores"]["schema_errors"]
    assert errors and html.unescape(listed).split("\n") == errors and "<b>" not in listed


def test_a_valid_answer_and_a_text_have_no_validity_errors() -> None:
    for scores in ({"json_valid": True, "fields": {}}, {"exact_match": 0.0}, {}):
        row = cast(Prediction, {"prediction": "text", "scores": scores})
        assert run_answers.validity_errors(row) == []
