"""Families of metrics: how one answer is scored, what is measured over all scores, and how it was
counted.

A family is chosen by name in ``evaluation.metrics``; null takes those of the task. Scores of a row
are stored with it in predictions.jsonl, so a measure is a pure function of that file.

A package can bring metrics of its own: an entry point in the group ``hydratune.metrics`` names a
function ``(prediction: str, references: list[str], row: Mapping) -> float | bool``, and its mean
over the rows becomes a metric.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from hydratune.errors import RunError
from hydratune.evaluation import code_scores, json_scores, label_scores, text_scores
from hydratune.evaluation.measures import Measure, mean, rate, request_of
from hydratune.settings.evaluation import METRICS_GROUP, Task


@dataclass(frozen=True)
class Answered:
    """One answer, and what it is scored against."""

    prediction: str
    references: Sequence[str]  # the row's own first; others that are right as well
    schema: Mapping[str, Any] | None = None
    row: Mapping[str, Any] = field(default_factory=dict)  # of predictions.jsonl

    @property
    def source(self) -> str:
        """What the model was told."""
        return "\n".join(str(turn.get("content") or "") for turn in request_of(self.row))


@dataclass(frozen=True)
class Family:
    """``score`` one answer; ``measures`` over all scores, none where the rows were not scored so."""  # noqa: E501

    score: Callable[[Answered], dict[str, Any]]
    measures: Callable[[Sequence[Mapping[str, Any]]], dict[str, Measure]]
    how: Callable[[], Mapping[str, str]]  # for settings beside the metrics
    signed: Callable[[Sequence[int]], Mapping[str, str]] | None = (
        None  # likewise, by how many references each row has
    )


def _json(answered: Answered) -> dict[str, Any]:
    scored = [
        json_scores.score(answered.prediction, one, answered.schema, answered.source)
        for one in answered.references
    ]
    return max(scored, key=lambda s: (s["exact_match"], json_scores.agreement(s)))


def _match(answered: Answered) -> dict[str, Any]:
    return text_scores.match(answered.prediction, answered.references)


def _code(answered: Answered) -> dict[str, Any]:
    return code_scores.score(answered.prediction, answered.row.get("tests"))


FAMILIES = {
    "json": Family(_json, json_scores.measures, lambda: json_scores.HOW),
    "match": Family(_match, text_scores.match_measures, lambda: text_scores.MATCH_HOW),
    "rouge": Family(
        lambda a: text_scores.rouge(a.prediction, a.references),
        text_scores.rouge_measures,
        lambda: text_scores.ROUGE_HOW,
    ),
    "bleu": Family(
        lambda a: text_scores.bleu(a.prediction, a.references),
        text_scores.bleu_measures,
        dict,
        text_scores.signatures,
    ),
    "label": Family(
        lambda a: label_scores.score(a.prediction, a.references[0]),
        label_scores.measures,
        lambda: label_scores.HOW,
    ),
    "code": Family(_code, code_scores.measures, code_scores.how),
}
_BY_TASK = {Task.json: ("json",), Task.text: ("rouge", "match")}


def names(metrics: Sequence[str] | None, task: Task) -> tuple[str, ...]:
    """The families that ``evaluation.metrics`` means for a task."""
    return tuple(metrics) if metrics is not None else _BY_TASK[task]


@cache
def family(name: str) -> Family:
    """Raises ``RunError`` for a name nobody brings, which happens where a run is measured on
    another machine.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    found = [point for point in entry_points(group=METRICS_GROUP) if point.name == name]
    if not found:
        raise RunError(
            f"no metric {name!r} here: no installed package brings it (entry points"
            f" {METRICS_GROUP})"
        )
    return _own(found[0])


def _own(point: EntryPoint) -> Family:
    function = point.load()

    def score(answered: Answered) -> dict[str, Any]:
        try:
            value = function(answered.prediction, list(answered.references), dict(answered.row))
        except Exception as error:
            where = answered.row.get("id", "?")
            raise RunError(
                f"the metric {point.name!r} ({point.value}) failed at row {where}:"
                f" {type(error).__name__}: {error}"
            ) from error
        if not isinstance(value, bool | int | float):
            raise RunError(
                f"the metric {point.name!r} ({point.value}) returned {type(value).__name__}, not a"
                " number or a truth value"
            )
        return {point.name: value}

    def measures(scores: Sequence[Mapping[str, Any]]) -> dict[str, Measure]:
        if not scores or point.name not in scores[0]:
            return {}
        values = [s[point.name] for s in scores]
        return {
            point.name: rate(values) if all(isinstance(v, bool) for v in values) else mean(values)
        }

    package = f" of {point.dist.name} {point.dist.version}" if point.dist is not None else ""
    return Family(score, measures, lambda: {point.name: f"mean of {point.value}{package}"})
