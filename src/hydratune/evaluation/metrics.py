"""Metrics of one system on the test rows, as pure functions of its predictions.

A prediction is one row of predictions.jsonl. Every metric comes with its interval; ``settings``
says beside the metrics what was counted and how.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hydratune.data.answers import NotStrictJson, parse_strict
from hydratune.errors import ConfigError, Problem
from hydratune.evaluation.families import Answered, family, names
from hydratune.evaluation.measures import Measure, Scores, count_cut, groups_of, rate, share
from hydratune.evaluation.statistics import Interval, ratio
from hydratune.records.files import Json
from hydratune.records.predictions import Prediction
from hydratune.settings.evaluation import EvaluationConfig, Task

Flat = tuple[dict[str, float], dict[str, list[float]]]  # (values, intervals) by name


@dataclass(frozen=True)
class MetricValue:
    """A value and its confidence interval."""

    value: float
    interval: Interval | None = None


def choose_task(
    task: Task, references: Sequence[str], families: Sequence[str] | None = None
) -> Task:
    """Return what ``evaluation.task`` means for these references.

    Raises ``ConfigError`` if json is asked for and a reference is not a JSON object.
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
            fix = "set evaluation.task=text, or correct the data"
            raise ConfigError([Problem("evaluation.task", task.value, why, fix)]) from None
    return Task.json


def score_row(answered: Answered, families: Sequence[str]) -> dict[str, object]:
    """Return the scores of one answer, which are stored with it."""
    scores: dict[str, Json] = {}
    for name in families:
        scores |= family(name).score(answered)
    return scores


def measures(
    predictions: Sequence[Prediction], families: Sequence[str], *, has_schema: bool
) -> dict[str, Measure]:
    """Return every metric of one system, from stored scores and likelihoods.

    Documents are not answers and have no scores; only their likelihood is measured.
    """
    scores: list[Scores] = [p["scores"] for p in predictions]
    result: dict[str, Measure] = {}
    if scores[0]:
        for name in families:
            result |= family(name).measures(scores)
    if not has_schema:
        result.pop("schema_valid", None)
    return result | _likelihood(predictions) | (_generation(predictions) if scores[0] else {})


def _likelihood(predictions: Sequence[Prediction]) -> dict[str, Measure]:
    """Return the metrics of the family ``likelihood``, from summed NLLs in nats."""
    nll = share([p["nll"] for p in predictions], [p["answer_tokens"] for p in predictions])
    result = {"nll": nll, "perplexity": Measure(nll.columns, _perplexity)}
    if all("answer_bytes" in p for p in predictions):
        bits = [p["nll"] / math.log(2) for p in predictions]
        result["bits_per_byte"] = share(bits, [p["answer_bytes"] for p in predictions])
    return result


def _perplexity(sums: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(ratio(sums), 700.0))  # exp(710) overflows


def _generation(predictions: Sequence[Prediction]) -> dict[str, Measure]:
    """Return the metrics of the family ``generation`` that have intervals."""
    generated = [p["generated_tokens"] for p in predictions]
    return {
        "finished": rate([p["finish_reason"] == "stop" for p in predictions]),
        "length_ratio": share(generated, [p["answer_tokens"] for p in predictions]),
    }


def metrics(
    predictions: Sequence[Prediction],
    config: EvaluationConfig,
    *,
    has_schema: bool,
    families: Sequence[str] | None = None,
) -> dict[str, MetricValue]:
    """Return every metric with its interval.

    ``families`` defaults to those that ``config`` and the scores of the rows mean.
    """
    groups = groups_of(predictions)
    families = families or families_of(predictions, config)
    result: dict[str, MetricValue] = {}
    for name, measure in measures(predictions, families, has_schema=has_schema).items():
        interval = measure.interval(groups, config.confidence, config.bootstrap_samples)
        result[name] = MetricValue(measure.value, interval)
    if predictions[0]["scores"]:
        generated = sum(p["generated_tokens"] for p in predictions)
        result["generated_tokens"] = MetricValue(float(generated))
        result["cut"] = MetricValue(float(count_cut(predictions)))
    return result


def families_of(predictions: Sequence[Prediction], config: EvaluationConfig) -> tuple[str, ...]:
    """Return the families of stored predictions, whose task their scores show."""
    task = Task.json if "fields" in predictions[0]["scores"] else Task.text
    return names(config.metrics, task)


def settings(
    config: EvaluationConfig, task: Task, max_new_tokens: int, predictions: Sequence[Prediction]
) -> dict[str, object]:
    """Return how the metrics were taken: without it, a number cannot be compared with another."""
    percent = round(100 * config.confidence)
    families = names(config.metrics, task)
    references = [1 + len(p.get("references", [])) for p in predictions]
    descriptions = [family(name).describe(references) for name in families]
    return {
        "rows": len(predictions),
        "task": task.value,
        "metrics": list(families),
        "decoding": "greedy",
        "max_new_tokens": max_new_tokens,
        **{key: text for some in descriptions for key, text in some.items()},
        "nll": (
            "mean per token of the reference answer and its turn-end, given the prompt, or of a"
            " whole document; perplexity = exp(nll)"
        ),
        "intervals": (
            f"{percent} %: Wilson for rates, else bootstrap over groups ({config.bootstrap_samples}"
            " samples, seed 0)"
        ),
    }


def flat(system: str, measured: Mapping[str, MetricValue]) -> Flat:
    """Return values and intervals under their names in metrics.json: ``eval/field_f1`` ..."""
    values = {f"{system}/{name}": m.value for name, m in measured.items()}
    intervals = {f"{system}/{name}": list(m.interval) for name, m in measured.items() if m.interval}
    return values, intervals


def flat_with_clean(
    system: str, predictions: Sequence[Prediction], config: EvaluationConfig, *, has_schema: bool
) -> Flat:
    """Return the metrics as ``flat`` does, of all rows and of those that do not leak.

    Where some rows are in the training set too, ``<system>_clean/...`` are those of the others.
    """
    families = families_of(predictions, config) if predictions[0]["scores"] else None

    def measured(rows: Sequence[Prediction]) -> dict[str, MetricValue]:
        return metrics(rows, config, has_schema=has_schema, families=families)

    values, intervals = flat(system, measured(predictions))
    clean = [p for p in predictions if not p.get("leaky")]
    if clean and len(clean) < len(predictions):
        clean_values, clean_intervals = flat(f"{system}_clean", measured(clean))
        values, intervals = values | clean_values, intervals | clean_intervals
        values[f"{system}_clean/rows"] = float(len(clean))
    return values, intervals


def as_json_text(schema: Mapping[str, Json]) -> str:
    """Return a schema as it is shown to a model."""
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)
