"""Metrics of one system on the test rows: pure functions of its predictions.

A prediction is one row of predictions.jsonl. Every metric comes with its interval; what was counted and how is in
``settings`` beside it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydratune.config import EvaluationConfig, Task
from hydratune.data.answers import NotStrictJson, parse_strict
from hydratune.errors import ConfigError, Problem
from hydratune.evaluation.json_scores import score
from hydratune.evaluation.statistics import Interval, bootstrap_ratio, wilson

Prediction = Mapping[str, Any]
ROUGE = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Measured:
    """A value and its confidence interval."""

    value: float
    interval: Interval | None = None


def choose_task(task: Task, references: Sequence[str]) -> Task:
    """What ``evaluation.task`` means for these references. Raises ``ConfigError`` if json is asked for and cannot be had."""
    if task is Task.text:
        return task
    for reference in references:
        try:
            parse_strict(reference)
        except NotStrictJson as error:
            if task is Task.auto:
                return Task.text
            why = f"a reference answer is not one JSON object ({error}): {reference[:60]!r}"
            raise ConfigError([Problem("evaluation.task", task.value, why, "set evaluation.task=text, or mend the data")]) from None
    return Task.json


def score_row(prediction: str, reference: str, task: Task, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Scores of one answer, stored with it."""
    if task is Task.json:
        return score(prediction, reference, schema)
    same = " ".join(prediction.casefold().split()) == " ".join(reference.casefold().split())
    return {"exact_match": prediction.strip() == reference.strip(), "normalised_match": same, **rouge(prediction, reference)}


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """F1 of ROUGE-1, -2 and -L (Lin 2004) of one answer, in [0, 1]."""
    from torchmetrics.functional.text.rouge import rouge_score  # seconds to import, and only texts need it

    found = rouge_score(prediction, reference, rouge_keys=ROUGE)  # rougeLsum, the default, would download a sentence splitter
    return {key: float(found[f"{key}_fmeasure"]) for key in ROUGE}


def metrics(predictions: Sequence[Prediction], config: EvaluationConfig, *, has_schema: bool) -> dict[str, Measured]:
    """Every metric of one system, from stored scores and likelihoods. Documents have no scores: nobody was asked anything."""
    scores = [p["scores"] for p in predictions]
    groups = [f"group {p['group']}" if p.get("group") else f"row {i}" for i, p in enumerate(predictions)]

    def rate(values: Sequence[bool]) -> Measured:
        hits = sum(map(bool, values))
        if len(set(groups)) == len(groups):
            return Measured(hits / len(values), wilson(hits, len(values), config.confidence))
        return ratio([float(v) for v in values], [1.0] * len(values))

    def ratio(above: Sequence[float], below: Sequence[float]) -> Measured:
        total = sum(below)
        interval = bootstrap_ratio(above, below, groups, config.confidence, config.bootstrap_samples)
        return Measured(sum(above) / total if total else 0.0, interval)

    result: dict[str, Measured] = {}
    if "fields" in scores[0]:
        result["json_valid"] = rate([s["json_valid"] for s in scores])
        if has_schema:
            result["schema_valid"] = rate([s["schema_valid"] for s in scores])
        counts = [[sum(f[i] for f in s["fields"].values()) for i in range(3)] for s in scores]
        result["field_precision"] = ratio([c[0] for c in counts], [c[1] for c in counts])
        result["field_recall"] = ratio([c[0] for c in counts], [c[2] for c in counts])
        result["field_f1"] = ratio([2 * c[0] for c in counts], [c[1] + c[2] for c in counts])
        for key in dict.fromkeys(key for s in scores for key in s["fields"] if any(p["fields"].get(key, [0, 0, 0])[2] for p in scores)):
            parts = [s["fields"].get(key, [0, 0, 0, 1]) for s in scores]
            result[f"field_f1/{key}"] = ratio([2 * p[0] for p in parts], [p[1] + p[2] for p in parts])
            result[f"field_accuracy/{key}"] = rate([s["json_valid"] and bool(p[3]) for s, p in zip(scores, parts, strict=True)])
    if ROUGE[0] in scores[0]:
        for key in ROUGE:
            result[key] = ratio([s[key] for s in scores], [1.0] * len(scores))
    if "normalised_match" in scores[0]:
        result["normalised_match"] = rate([s["normalised_match"] for s in scores])
    if "exact_match" in scores[0]:
        result["exact_match"] = rate([s["exact_match"] for s in scores])
    nll = ratio([p["nll"] for p in predictions], [p["answer_tokens"] for p in predictions])
    result["nll"] = nll
    assert nll.interval is not None
    result["perplexity"] = Measured(_exp(nll.value), (_exp(nll.interval[0]), _exp(nll.interval[1])))
    if scores[0]:
        result["finished"] = rate([p["finish_reason"] == "stop" for p in predictions])
        result["generated_tokens"] = Measured(float(sum(p["generated_tokens"] for p in predictions)))
    return result


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def settings(config: EvaluationConfig, task: Task, max_new_tokens: int, rows: int) -> dict[str, Any]:
    """How the metrics were taken: without it a number cannot be compared."""
    percent = round(100 * config.confidence)
    return {
        "rows": rows,
        "task": task.value,
        "decoding": "greedy",
        "max_new_tokens": max_new_tokens,
        "json": "strict: the whole answer is one object; null counts as not stated; texts compared without case; lists as sets",
        "rouge": "F1 by row, mean over rows; words are runs of a-z and digits, without case and stemming",
        "field_f1": "micro over all leaves of all rows",
        "nll": "mean per token of the reference answer and its turn-end, given the prompt, or of a whole document; perplexity = exp(nll)",
        "intervals": f"{percent} %: Wilson for rates, else bootstrap over groups ({config.bootstrap_samples} samples, seed 0)",
    }


def flat(system: str, measured: Mapping[str, Measured]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """(values, intervals) under their names in metrics.json: ``eval/field_f1`` ..."""
    values = {f"{system}/{name}": m.value for name, m in measured.items()}
    intervals = {f"{system}/{name}": list(m.interval) for name, m in measured.items() if m.interval}
    return values, intervals


def as_json_text(schema: Mapping[str, Any]) -> str:
    """A schema as it is shown to a model."""
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)
