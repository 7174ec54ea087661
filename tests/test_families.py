"""Families of metrics: each score against a value by hand or by the reference implementation."""

import csv
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import SHARED_DATA, SMALL, write_rows
from hydratune.evaluation import code_scores, families, json_scores, label_scores, text_scores
from hydratune.evaluation.families import Answered
from hydratune.evaluation.measures import difference, rate
from hydratune.evaluation.metrics import metrics, score_row, settings
from hydratune.settings.evaluation import EvaluationConfig, Task

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
        # null and missing both say nothing
        (TRUE.replace(', "signed": null', ""), True, True, 1.0),
        # an empty text says something, and is no date
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


def test_schema_errors_say_where() -> None:
    wrong = '{"name": 1, "kind": "c", "signed": "2023-02-29"}'
    assert json_scores.score(wrong, TRUE, SCHEMA)["schema_errors"] == [
        "$.kind: 'c' is not one of ['a', 'b']",
        "$.name: 1 is not of type 'string'",
        "$.signed: '2023-02-29' is not a 'date'",
    ]


def test_invented_keys_are_those_neither_the_reference_nor_the_schema_knows() -> None:
    answer = {"name": "x", "place": {"city": "y", "zip": 1}, "free": {"anything": "z"}, "boss": "w"}
    assert json_scores.invented(answer, {"name": "x"}, SCHEMA) == ["place.zip", "boss"]
    assert json_scores.invented({"l": [{"a": 1, "b": 2}]}, {"l": [{"a": 3}]}, None) == ["l[].b"]


def test_values_where_the_truth_has_none_are_hallucinated() -> None:
    rows = [
        json_scores.score(text, '{"a": 1, "b": null, "c": null}', None)
        for text in ('{"a": 1, "b": 2}', '{"a": 1}', "no json")
    ]
    assert [row.get("silent") for row in rows] == [[2, 1], [2, 0], None]
    assert json_scores.measures(rows)["hallucinated"].value == 0.25


def test_a_value_is_found_in_its_source_in_another_writing_too() -> None:
    source = "Signed on the 3rd of May 2024 by Acme Corp for $1,500.00, twenty days' notice."
    found = {
        "who": "ACME corp",
        "when": "2024-05-03",
        "sum": 1500,
        "notice": 20,
        "law": "France",
        "open": None,
        "flag": True,
        "part": "cor",
    }
    assert json_scores.in_source(found, source) == (4, 6)


_GOOGLE = """
import json, sys
from rouge_score import rouge_scorer
names, pairs = json.load(sys.stdin)
scorer = rouge_scorer.RougeScorer(names, use_stemmer=False)
scores = [scorer.score(wanted, said) for said, wanted in pairs]
print(json.dumps([{name: f.fmeasure for name, f in score.items()} for score in scores]))
"""


def test_rouge_equals_the_reference_implementation() -> None:
    """On real summaries where there are any, else on made-up sentences; no network either way."""
    pairs = list(_pairs())[:300]
    assert len(pairs) == 300
    # in a process of its own: its logging library keeps hold of standard error
    asked = json.dumps([text_scores.ROUGE, pairs])
    told = subprocess.run(
        [sys.executable, "-c", _GOOGLE], input=asked, capture_output=True, text=True, check=True
    ).stdout
    for (said, wanted), expected in zip(pairs, json.loads(told), strict=True):
        assert text_scores.rouge(said, [wanted]) == pytest.approx(expected, abs=1e-6), (
            said,
            wanted,
        )


def _pairs() -> Iterator[tuple[str, str]]:
    file = SHARED_DATA / "mts-dialog" / "MTS-Dialog-TrainingSet.csv"
    if file.is_file():
        with file.open(newline="", encoding="utf-8-sig") as stream:
            texts = [row["section_text"] for row in csv.DictReader(stream)]
    else:
        words = [
            "the",
            "Cat",
            "sat",
            "on",
            "a",
            "mat;",
            "it's",
            "3.5",
            "metres",
            "long,",
            "naïve",
            "and",
            "re-used",
            "(twice)",
        ]
        texts = [" ".join(words[i % 7 : 5 + i % 11]) + f" {i}" for i in range(301)]
    yield from itertools.pairwise(texts)


def test_of_several_references_the_best_counts() -> None:
    answered = Answered("ls -a", ["ls -l", "LS  -a"])
    scores = score_row(answered, ["match", "rouge", "bleu"])
    assert scores["normalised_match"] and not scores["exact_match"]
    assert scores["rouge1"] == 1.0
    both = Answered('{"a": 2}', ['{"a": 1}', '{"a": 2}'])
    assert score_row(both, ["json"])["exact_match"]


def test_bleu_over_rows_equals_sacrebleu() -> None:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    said = [
        "the cat sat on the mat today",
        "there is a dog in the garden",
        "one two three four five",
    ]
    wanted = ["the cat sat on the mat", "a dog is in the garden now", "one two three four six"]
    measured = text_scores.bleu_measures(
        [text_scores.bleu(a, [b]) for a, b in zip(said, wanted, strict=True)]
    )
    assert measured["bleu"].value == pytest.approx(
        BLEU(smooth_method="none").corpus_score(said, [wanted]).score / 100, abs=1e-9
    )
    assert measured["chrf"].value == pytest.approx(
        CHRF().corpus_score(said, [wanted]).score / 100, abs=1e-9
    )
    low, high = measured["bleu"].interval(["1", "2", "3"], 0.95, 200)
    assert low <= measured["bleu"].value <= high


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (["", "cat"], [["the cat", "a cat"], ["cat", "dog"]]),
        (["x", "ab"], [["x", "y"], ["ba", "abc"]]),
        (["", ""], [["a", "b"], ["c", "d"]]),
        (["Grüße, Welt"], [["Gruesse Welt", "Grüße Welt"]]),
    ],
)
def test_chrf_with_several_references_equals_sacrebleu(
    said: list[str], wanted: list[list[str]]
) -> None:
    from sacrebleu.metrics.chrf import CHRF

    measured = text_scores.bleu_measures(
        [text_scores.bleu(a, some) for a, some in zip(said, wanted, strict=True)]
    )
    streams = [list(one) for one in zip(*wanted, strict=True)]
    assert measured["chrf"].value == pytest.approx(
        CHRF().corpus_score(said, streams).score / 100, abs=1e-9
    )


def test_labels_by_hand() -> None:
    pairs = [("a", "a"), ("A.", "a"), ("b", "a"), ("b", "b"), ("nonsense", "b")]
    measured = label_scores.measures([label_scores.score(said, wanted) for said, wanted in pairs])
    assert measured["label_accuracy"].value == 0.6
    assert measured["label_unknown"].value == 0.2
    assert measured["label_f1/a"].value == pytest.approx(4 / 5)  # said 2, expected 3, right 2
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


def test_code_does_not_see_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
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
    """What an installed package would bring."""

    name, value, dist = "vowels", "package:vowels", None

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def load(self) -> Callable[..., Any]:
        return self.function


def test_a_package_brings_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    point = Point(
        lambda prediction, references, row: sum(map(prediction.count, "aeiou")) / len(references)
    )
    monkeypatch.setattr(families, "entry_points", lambda group: [point])
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
    ("function", "what"),
    [(lambda p, r, row: 1 / 0, "failed at row 7"), (lambda p, r, row: "x", "returned str")],
)
def test_a_metric_that_fails_says_whose_it_is(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], what: str
) -> None:
    monkeypatch.setattr(families, "entry_points", lambda group: [Point(function)])
    families.family.cache_clear()
    with pytest.raises(families.RunError, match=what):
        score_row(Answered("x", ["x"], row={"id": 7}), ["vowels"])


def test_paired_rates_are_tested_exactly() -> None:
    ours, theirs = rate([True] * 39 + [False]), rate([True] * 37 + [False] * 3)
    found = difference(ours, theirs, [str(i) for i in range(40)], 0.95, 500)
    assert found.value == pytest.approx(0.05)
    assert found.p == 0.5 and not found.significant  # two rows against none: McNemar's exact p
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
    chosen = [
        "data=files",
        f"data.train={write_rows(tmp_path / 'rows.jsonl', rows)}",
        "evaluation.metrics=[match,bleu,label,code]",
    ]
    code, said = hydratune("train", *SMALL, *chosen, "hydra.run.dir=run")
    assert code == 2 and "set evaluation.run_code=true" in said
    code, said = hydratune(
        "train", *SMALL, *chosen, "evaluation.run_code=true", "hydra.run.dir=run"
    )
    assert code == 0, said
    found = json.loads(Path("run/metrics.json").read_text())
    assert found["settings"]["eval"]["metrics"] == ["match", "bleu", "label", "code"]
    assert {
        "eval/bleu",
        "eval/chrf",
        "eval/label_f1",
        "eval/tests_passed",
        "eval/exact_match",
        "eval/nll",
    } <= found.keys()
    assert "eval/rouge1" not in found
    assert math.isfinite(found["eval/bits_per_byte"])
    first = json.loads(Path("run/predictions.jsonl").read_text().splitlines()[0])
    assert len(first["references"]) == 1 and first["tests"] == "assert True"
    code, said = hydratune("evaluate", "run=run", "source=predictions")
    assert code == 0, said


def test_a_family_nobody_knows_is_refused(hydratune: Callable[..., tuple[int, str]]) -> None:
    code, said = hydratune("train", "evaluation.metrics=[rogue]")
    assert code == 2 and "did you mean rouge?" in said


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (["a b c d x"], ["a b c e y"]),  # no 4-gram
        (["a x c y e"], ["a b c d e"]),  # nothing but words
        (["the cat"], ["the cat"]),  # too short for an order
        (["x y z u v"], ["a b c d e"]),
        ([""], ["a b c d e"]),
        (["a b c d", "q"], ["a b c f", "q r s t u v"]),
    ],
)
def test_bleu_is_smoothed_as_sacrebleu_does_by_itself_and_signs_itself_so(
    said: list[str], wanted: list[str]
) -> None:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    measured = text_scores.bleu_measures(
        [text_scores.bleu(a, [b]) for a, b in zip(said, wanted, strict=True)]
    )
    theirs = BLEU(), CHRF()
    assert measured["bleu"].value == pytest.approx(
        theirs[0].corpus_score(said, [wanted]).score / 100, abs=1e-9
    )
    assert theirs[1].corpus_score(said, [wanted]).score >= 0
    for name, metric in zip(("bleu", "chrf"), theirs, strict=True):
        assert (
            f"sacrebleu {metric.get_signature()};" in text_scores.signatures([1] * len(said))[name]
        )
    assert (
        "nrefs:2|" in text_scores.signatures([2, 2])["bleu"]
        and "nrefs:var|" in text_scores.signatures([1, 2])["chrf"]
    )


def test_settings_say_how_every_text_score_was_taken() -> None:
    rows = [{"references": ["b"]}, {}]
    found = settings(EvaluationConfig(metrics=["match", "rouge", "bleu"]), Task.text, 9, rows)
    assert (
        found["rows"] == 2
        and "smooth:exp" in found["bleu"]
        and "nrefs:var" in found["bleu"]
        and "nc:6|nw:0" in found["chrf"]
    )
    assert (
        "without case and stemming" in found["rouge"]
        and "white space" in found["exact_match"]
        and "case" in found["normalised_match"]
    )
