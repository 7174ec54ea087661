"""ROUGE, BLEU and chrF against their reference implementations."""

import csv
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from conftest import SHARED_DATA
from hydratune.evaluation import text_scores
from hydratune.evaluation.families import Answered
from hydratune.evaluation.metrics import score_row, settings
from hydratune.settings.evaluation import EvaluationConfig, Task

ROUGE_PROGRAM = """
import json, sys
from rouge_score import rouge_scorer
names, pairs = json.load(sys.stdin)
scorer = rouge_scorer.RougeScorer(names, use_stemmer=False)
scores = [scorer.score(reference, answer) for answer, reference in pairs]
print(json.dumps([{name: f.fmeasure for name, f in score.items()} for score in scores]))
"""


def test_rouge_equals_the_reference_implementation() -> None:
    """Real summaries are compared if present, otherwise made-up sentences."""
    pairs = list(text_pairs())[:300]
    assert len(pairs) == 300
    # in a process of its own, because its logging library keeps standard error open
    request = json.dumps([text_scores.ROUGE, pairs])
    reply = subprocess.run(
        [sys.executable, "-c", ROUGE_PROGRAM],
        input=request,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for (answer, reference), expected in zip(pairs, json.loads(reply), strict=True):
        assert text_scores.rouge(answer, [reference]) == pytest.approx(expected, abs=1e-6), (
            answer,
            reference,
        )


def text_pairs() -> Iterator[tuple[str, str]]:
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

    answers = [
        "the cat sat on the mat today",
        "there is a dog in the garden",
        "one two three four five",
    ]
    references = ["the cat sat on the mat", "a dog is in the garden now", "one two three four six"]
    measured = text_scores.bleu_measures(
        [text_scores.bleu(a, [b]) for a, b in zip(answers, references, strict=True)]
    )
    assert measured["bleu"].value == pytest.approx(
        BLEU(smooth_method="none").corpus_score(answers, [references]).score / 100, abs=1e-9
    )
    assert measured["chrf"].value == pytest.approx(
        CHRF().corpus_score(answers, [references]).score / 100, abs=1e-9
    )
    low, high = measured["bleu"].interval(["1", "2", "3"], 0.95, 200)
    assert low <= measured["bleu"].value <= high


@pytest.mark.parametrize(
    ("answers", "references"),
    [
        (["", "cat"], [["the cat", "a cat"], ["cat", "dog"]]),
        (["x", "ab"], [["x", "y"], ["ba", "abc"]]),
        (["", ""], [["a", "b"], ["c", "d"]]),
        (["Grüße, Welt"], [["Gruesse Welt", "Grüße Welt"]]),
    ],
)
def test_chrf_with_several_references_equals_sacrebleu(
    answers: list[str], references: list[list[str]]
) -> None:
    from sacrebleu.metrics.chrf import CHRF

    measured = text_scores.bleu_measures(
        [
            text_scores.bleu(a, row_references)
            for a, row_references in zip(answers, references, strict=True)
        ]
    )
    streams = [list(stream) for stream in zip(*references, strict=True)]
    assert measured["chrf"].value == pytest.approx(
        CHRF().corpus_score(answers, streams).score / 100, abs=1e-9
    )


@pytest.mark.parametrize(
    ("answers", "references"),
    [
        (["a b c d x"], ["a b c e y"]),  # no 4-gram
        (["a x c y e"], ["a b c d e"]),  # nothing but words
        (["the cat"], ["the cat"]),  # too short for an order
        (["x y z u v"], ["a b c d e"]),
        ([""], ["a b c d e"]),
        (["a b c d", "q"], ["a b c f", "q r s t u v"]),
    ],
)
def test_bleu_uses_sacrebleus_default_smoothing_and_its_signature_says_so(
    answers: list[str], references: list[str]
) -> None:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    measured = text_scores.bleu_measures(
        [text_scores.bleu(a, [b]) for a, b in zip(answers, references, strict=True)]
    )
    sacrebleu_metrics = BLEU(), CHRF()
    assert measured["bleu"].value == pytest.approx(
        sacrebleu_metrics[0].corpus_score(answers, [references]).score / 100, abs=1e-9
    )
    assert sacrebleu_metrics[1].corpus_score(answers, [references]).score >= 0
    for name, metric in zip(("bleu", "chrf"), sacrebleu_metrics, strict=True):
        assert (
            f"sacrebleu {metric.get_signature()};"
            in text_scores.signatures([1] * len(answers))[name]
        )
    assert (
        "nrefs:2|" in text_scores.signatures([2, 2])["bleu"]
        and "nrefs:var|" in text_scores.signatures([1, 2])["chrf"]
    )


def test_settings_state_how_every_text_score_was_computed() -> None:
    rows = [{"references": ["b"]}, {}]
    score_settings = settings(
        EvaluationConfig(metrics=["match", "rouge", "bleu"]), Task.text, 9, rows
    )
    assert (
        score_settings["rows"] == 2
        and "smooth:exp" in score_settings["bleu"]
        and "nrefs:var" in score_settings["bleu"]
        and "nc:6|nw:0" in score_settings["chrf"]
    )
    assert (
        "without case and stemming" in score_settings["rouge"]
        and "white space" in score_settings["exact_match"]
        and "case" in score_settings["normalised_match"]
    )
