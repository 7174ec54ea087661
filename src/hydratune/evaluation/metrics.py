"""Metrics of one system on the test rows: pure functions of its predictions.

A prediction is one row of predictions.jsonl. Every metric comes with its interval; what was counted
and how is in ``settings`` beside it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydratune.data.answers import NotStrictJson, parse_strict
from hydratune.errors import ConfigError, Problem
from hydratune.evaluation.families import Answered, family, names
from hydratune.evaluation.measures import Measure, cut_of, groups_of, rate, share
from hydratune.evaluation.statistics import Interval, ratio
from hydratune.settings.evaluation import EvaluationConfig, Task

Prediction = Mapping[str, Any]
# what says best how good answers are
MAIN = (
    "label_accuracy",
    "field_f1",
    "tests_passed",
    "rougeL",
    "normalised_match",
    "exact_match",
)


@dataclass(frozen=True)
class Measured:
    """A value and its confidence interval."""

    value: float
    interval: Interval | None = None


def choose_task(
    task: Task, references: Sequence[str], families: Sequence[str] | None = None
) -> Task:
    """What ``evaluation.task`` means for these references.

    Raises ``ConfigError`` if json is asked for and cannot be had.
    """
    if families is not None and "json" in families:
        task = Task.json
    if task is Task.text:
        return task
    for reference in references:
        try:
            parse_strict(reference)
        except NotStrictJson as error:
            if task is Task.auto:
                return Task.text
            why = f"a reference answer is not one JSON object ({error}): {reference[:60]!r}"
            raise ConfigError(
                [
                    Problem(
                        "evaluation.task",
                        task.value,
                        why,
                        "set evaluation.task=text, or mend the data",
                    )
                ]
            ) from None
    return Task.json


def score_row(answered: Answered, families: Sequence[str]) -> dict[str, Any]:
    """Scores of one answer, stored with it."""
    scores: dict[str, Any] = {}
    for name in families:
        scores |= family(name).score(answered)
    return scores


def measures(
    predictions: Sequence[Prediction], families: Sequence[str], *, has_schema: bool
) -> dict[str, Measure]:
    """Every metric of one system, from stored scores and likelihoods.

    Documents have no scores: nobody was asked anything.
    """
    scores = [p["scores"] for p in predictions]
    result: dict[str, Measure] = {}
    if scores[0]:
        for name in families:
            result |= family(name).measures(scores)
    if not has_schema:
        result.pop("schema_valid", None)
    nll = share([p["nll"] for p in predictions], [p["answer_tokens"] for p in predictions])
    result["nll"] = nll
    result["perplexity"] = Measure(nll.columns, _perplexity)
    if all("answer_bytes" in p for p in predictions):
        result["bits_per_byte"] = share(
            [p["nll"] / math.log(2) for p in predictions], [p["answer_bytes"] for p in predictions]
        )
    if scores[0]:
        result["finished"] = rate([p["finish_reason"] == "stop" for p in predictions])
        result["length_ratio"] = share(
            [p["generated_tokens"] for p in predictions], [p["answer_tokens"] for p in predictions]
        )
    return result


def metrics(
    predictions: Sequence[Prediction],
    config: EvaluationConfig,
    *,
    has_schema: bool,
    families: Sequence[str] | None = None,
) -> dict[str, Measured]:
    """Every metric with its interval.

    ``families``: those of the rows' scores where nothing else is said.
    """
    groups = groups_of(predictions)
    result: dict[str, Measured] = {}
    for name, measure in measures(
        predictions, families or families_of(predictions, config), has_schema=has_schema
    ).items():
        result[name] = Measured(
            measure.value, measure.interval(groups, config.confidence, config.bootstrap_samples)
        )
    if predictions[0]["scores"]:
        result["generated_tokens"] = Measured(
            float(sum(p["generated_tokens"] for p in predictions))
        )
        result["cut"] = Measured(float(cut_of(predictions)))
    return result


def families_of(predictions: Sequence[Prediction], config: EvaluationConfig) -> tuple[str, ...]:
    task = Task.json if "fields" in predictions[0]["scores"] else Task.text
    return names(config.metrics, task)


def _perplexity(sums: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(ratio(sums), 700.0))


def settings(
    config: EvaluationConfig, task: Task, max_new_tokens: int, predictions: Sequence[Prediction]
) -> dict[str, Any]:
    """How the metrics of ``predictions`` were taken: without it a number cannot be compared."""
    percent = round(100 * config.confidence)
    families = names(config.metrics, task)
    return {
        "rows": len(predictions),
        "task": task.value,
        "metrics": list(families),
        "decoding": "greedy",
        "max_new_tokens": max_new_tokens,
        **{key: text for name in families for key, text in _how(name, predictions).items()},
        "nll": (
            "mean per token of the reference answer and its turn-end, given the prompt, or of a"
            " whole document; perplexity = exp(nll)"
        ),
        "intervals": (
            f"{percent} %: Wilson for rates, else bootstrap over groups ({config.bootstrap_samples}"
            " samples, seed 0)"
        ),
    }


def _how(name: str, predictions: Sequence[Prediction]) -> dict[str, str]:
    chosen = family(name)
    return {
        **chosen.how(),
        **(
            chosen.signed([1 + len(p.get("references", [])) for p in predictions])
            if chosen.signed
            else {}
        ),
    }


def flat(
    system: str, measured: Mapping[str, Measured]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """(values, intervals) under their names in metrics.json: ``eval/field_f1`` ..."""
    values = {f"{system}/{name}": m.value for name, m in measured.items()}
    intervals = {f"{system}/{name}": list(m.interval) for name, m in measured.items() if m.interval}
    return values, intervals


def flat_with_clean(
    system: str, predictions: Sequence[Prediction], config: EvaluationConfig, *, has_schema: bool
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """As ``flat``; where some rows are leaky, beside it ``<system>_clean/...`` of the others."""
    families = families_of(predictions, config) if predictions[0]["scores"] else None
    values, intervals = flat(
        system, metrics(predictions, config, has_schema=has_schema, families=families)
    )
    clean = [p for p in predictions if not p.get("leaky")]
    if clean and len(clean) < len(predictions):
        own = flat(
            f"{system}_clean", metrics(clean, config, has_schema=has_schema, families=families)
        )
        values, intervals = values | own[0], intervals | own[1]
        values[f"{system}_clean/rows"] = float(len(clean))
    return values, intervals


def as_json_text(schema: Mapping[str, Any]) -> str:
    """A schema as it is shown to a model."""
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)
