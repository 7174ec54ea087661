"""Families of metrics: JSON, labels, code, metrics of packages, and runs with several families."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL, write_rows
from hydratune.evaluation import code_scores, families, json_scores, label_scores
from hydratune.evaluation.families import Answered
from hydratune.evaluation.measures import difference, rate
from hydratune.evaluation.metrics import metrics, score_row
from hydratune.settings import packages
from hydratune.settings.evaluation import EvaluationConfig

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["a", "b"]},
        "signed": {"type": ["string", "null"], "format": "date"},
        "place": {"type": "object", "properties": {"city": {"type": "string"}}},
        "free": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["name"],
    "additionalProperties": False,
}
TRUE = '{"name": "Zoë Ltd", "kind": "a", "signed": null, "place": {"city": "Łódź"}}'


@pytest.mark.parametrize(
    ("answer", "strict", "valid", "f1"),
    [
        (TRUE, True, True, 1.0),
        (f"```json\n{TRUE}\n```", False, False, 0.0),  # fences are not JSON
        (f"{TRUE}\nI hope this helps!", False, False, 0.0),  # prose after it
        (f"{TRUE}{TRUE}", False, False, 0.0),  # two objects
        (TRUE.replace('"a"', "NaN"), False, False, 0.0),
        (TRUE.replace('"kind"', '"name"'), False, False, 0.0),  # a key twice
        # null equals a missing value
        (TRUE.replace(', "signed": null', ""), True, True, 1.0),
        # an empty text is a value, and is no date
        (TRUE.replace("null", '""'), True, False, 6 / 7),
        (TRUE.replace('"a"', '"c"'), True, False, 4 / 6),  # not in the enum
        # escapes are the same letters
        (TRUE.replace("ł", "\\u0142").replace("ë", "\\u00eb"), True, True, 1.0),
        (TRUE.replace('{"city": "Łódź"}', '"Łódź"'), True, False, 4 / 6),  # flat instead of nested
        ("[" * 3000 + "]" * 3000, False, False, 0.0),
    ],
)
def test_json_edge_cases(answer: str, strict: bool, valid: bool, f1: float) -> None:
    scores = json_scores.score(answer, TRUE, SCHEMA)
    assert (scores["json_valid"], scores["schema_valid"]) == (strict, valid)
    assert json_scores.agreement(scores) == pytest.approx(f1)
    assert strict or scores["json_error"]


def test_schema_errors_name_their_place() -> None:
    wrong = '{"name": 1, "kind": "c", "signed": "2023-02-29"}'
    assert json_scores.score(wrong, TRUE, SCHEMA)["schema_errors"] == [
        "$.kind: 'c' is not one of ['a', 'b']",
        "$.name: 1 is not of type 'string'",
        "$.signed: '2023-02-29' is not a 'date'",
    ]


def test_invented_keys_are_those_in_neither_the_reference_nor_the_schema() -> None:
    answer = {"name": "x", "place": {"city": "y", "zip": 1}, "free": {"anything": "z"}, "boss": "w"}
    assert json_scores.invented(answer, {"name": "x"}, SCHEMA) == ["place.zip", "boss"]
    assert json_scores.invented({"l": [{"a": 1, "b": 2}]}, {"l": [{"a": 3}]}, None) == ["l[].b"]


def test_values_where_the_reference_has_none_are_hallucinated() -> None:
    rows = [
        json_scores.score(text, '{"a": 1, "b": null, "c": null}', None)
        for text in ('{"a": 1, "b": 2}', '{"a": 1}', "no json")
    ]
    assert [row.get("silent") for row in rows] == [[2, 1], [2, 0], None]
    assert json_scores.measures(rows)["hallucinated"].value == 0.25


def test_a_value_is_found_in_its_source_under_another_spelling() -> None:
    source = "Signed on the 3rd of May 2024 by Acme Corp for $1,500.00, twenty days' notice."
    answer = {
        "who": "ACME corp",
        "when": "2024-05-03",
        "sum": 1500,
        "notice": 20,
        "law": "France",
        "open": None,
        "flag": True,
        "part": "cor",
    }
    assert json_scores.in_source(answer, source) == (4, 6)


def test_label_metrics_equal_values_computed_by_hand() -> None:
    pairs = [("a", "a"), ("A.", "a"), ("b", "a"), ("b", "b"), ("nonsense", "b")]
    measured = label_scores.measures(
        [label_scores.score(answer, reference) for answer, reference in pairs]
    )
    assert measured["label_accuracy"].value == 0.6
    assert measured["label_unknown"].value == 0.2
    assert measured["label_f1/a"].value == pytest.approx(
        4 / 5
    )  # predicted 2, expected 3, correct 2
    assert measured["label_f1/b"].value == pytest.approx(2 / 4)
    assert measured["label_f1"].value == pytest.approx((4 / 5 + 2 / 4) / 2)


DOCTEST = ">>> double(2)\n4\n>>> double('a')\n'aa'\n"


@pytest.mark.parametrize(
    ("code", "tests", "outcome"),
    [
        ("def double(x):\n    return 2 * x", DOCTEST, "passed"),
        ("Sure:\n```python\ndef double(x):\n    return x + x\n```\nDone.", DOCTEST, "passed"),
        ("def double(x):\n    return x", DOCTEST, "failed"),
        ("def double(x):\n    return 2 * x", "assert double(3) == 6", "passed"),
        ("def double(x):\n    return 2 * x", "assert double(3) == 7", "failed"),
        ("def double(x)\n    return 2 * x", DOCTEST, "syntax"),
        ("import os\nos._exit(0)", DOCTEST, "error"),
        ("print('token passed')\nraise SystemExit", DOCTEST, "error"),
        (
            (
                "with open('left.txt', 'w') as f:\n    f.write('x' * 10)\ndef double(x):\n   "
                " return 2 * x"
            ),
            DOCTEST,
            "error",
        ),
        ("x = [0] * 10**9", DOCTEST, "memory"),
        ("def double(x):\n    return 2 * x", None, "none"),
    ],
)
def test_code_is_run_under_limits(code: str, tests: str | None, outcome: str) -> None:
    assert code_scores.score(code, tests)["outcome"] == outcome


def test_endless_code_is_stopped() -> None:
    assert code_scores.run("while True:\n    pass", "", seconds=1)["outcome"] == "time"


def test_code_does_not_see_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert (
        code_scores.run("import os", "assert 'WANDB_API_KEY' not in os.environ")["outcome"]
        == "passed"
    )
    assert (
        code_scores.run("import os", "assert 'WANDB_API_KEY' in os.environ")["outcome"] == "failed"
    )


def test_rows_without_tests_do_not_count_as_failed() -> None:
    measured = code_scores.measures(
        [{"outcome": "passed"}, {"outcome": "none"}, {"outcome": "failed"}]
    )
    assert measured["tests_passed"].value == 0.5
    assert measured["code_runs"].value == 1.0


class Point:
    """The entry point of a metric, as an installed package has it."""

    name, value, group, dist = "vowels", "package:vowels", "hydratune.metrics", None

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def load(self) -> Callable[..., Any]:
        return self.function


def _install(monkeypatch: pytest.MonkeyPatch, point: Point) -> None:
    monkeypatch.setattr(packages, "entry_points", lambda group: [point])
    for cached in ("_POINTS", "_LOADED"):
        monkeypatch.setattr(packages, cached, {})


def test_an_installed_package_can_add_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    point = Point(
        lambda prediction, references, row: sum(map(prediction.count, "aeiou")) / len(references)
    )
    _install(monkeypatch, point)
    families.family.cache_clear()
    row = {
        "id": "1",
        "nll": 1.0,
        "answer_tokens": 1,
        "finish_reason": "stop",
        "generated_tokens": 1,
    }
    rows = [
        {**row, "scores": score_row(Answered(text, ["x"]), ["vowels"])} for text in ("aei", "b")
    ]
    assert (
        metrics(rows, EvaluationConfig(metrics=["vowels"]), has_schema=False)["vowels"].value == 1.5
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [(lambda p, r, row: 1 / 0, "failed at row 7"), (lambda p, r, row: "x", "returned str")],
)
def test_a_failing_metric_is_reported(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], message: str
) -> None:
    _install(monkeypatch, Point(function))
    families.family.cache_clear()
    with pytest.raises(families.RunError, match=message):
        score_row(Answered("x", ["x"], row={"id": 7}), ["vowels"])


def test_paired_rates_are_tested_exactly() -> None:
    ours, theirs = rate([True] * 39 + [False]), rate([True] * 37 + [False] * 3)
    comparison = difference(ours, theirs, [str(i) for i in range(40)], 0.95, 500)
    assert comparison.value == pytest.approx(0.05)
    assert (
        comparison.p == 0.5 and not comparison.significant
    )  # two rows against none: McNemar's exact p
    assert difference(ours, ours, [str(i) for i in range(40)], 0.95, 500).value == 0.0


def test_a_run_with_several_families(
    hydratune: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    rows = [
        {
            "prompt": f"Say {word}{i}",
            "completion": f"{word} {i}",
            "references": [f"{word}  {i}!"],
            "tests": "assert True",
        }
        for i in range(12)
        for word in ("yes", "no")
    ]
    run_settings = [
        "data=files",
        f"data.train={write_rows(tmp_path / 'rows.jsonl', rows)}",
        "evaluation.metrics=[match,bleu,label,code]",
    ]
    code, output = hydratune("train", *SMALL, *run_settings, "hydra.run.dir=run")
    assert code == 2 and "set evaluation.run_code=true" in output
    code, output = hydratune(
        "train", *SMALL, *run_settings, "evaluation.run_code=true", "hydra.run.dir=run"
    )
    assert code == 0, output
    run_metrics = json.loads(Path("run/metrics.json").read_text())
    assert run_metrics["settings"]["eval"]["metrics"] == ["match", "bleu", "label", "code"]
    assert {
        "eval/bleu",
        "eval/chrf",
        "eval/label_f1",
        "eval/tests_passed",
        "eval/exact_match",
        "eval/nll",
    } <= run_metrics.keys()
    assert "eval/rouge1" not in run_metrics
    assert math.isfinite(run_metrics["eval/bits_per_byte"])
    first = json.loads(Path("run/predictions.jsonl").read_text().splitlines()[0])
    assert len(first["references"]) == 1 and first["tests"] == "assert True"
    code, output = hydratune("evaluate", "run=run", "source=predictions")
    assert code == 0, output


def test_an_unknown_family_is_refused_with_the_nearest_name(
    hydratune: Callable[..., tuple[int, str]],
) -> None:
    code, output = hydratune("train", "evaluation.metrics=[rogue]")
    assert code == 2 and "did you mean rouge?" in output
