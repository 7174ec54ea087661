"""Families of metrics: how one answer is scored, and what is measured over all scores.

A family is chosen by name in ``evaluation.metrics``; null takes those of the task. The scores of a
row are stored with it in predictions.jsonl, so a measure is a pure function of that file.

A metric that scores one answer at a time is one function at the end of this file, with
``@per_answer``, and one row in hydratune/metric_table.py: the name of the function is both the name
of the metric and of its family. An installed package brings such a function by an entry point in
the group ``hydratune.metrics``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import cast

from hydratune.errors import ConfigError, Problem, RunError
from hydratune.evaluation import code_scores, json_scores, label_scores, text_scores
from hydratune.evaluation.measures import Measure, Scores, mean, rate, request_turns
from hydratune.metric_table import PACKAGE_METRICS
from hydratune.records.predictions import EMPTY, Prediction
from hydratune.settings import packages
from hydratune.settings.evaluation import FAMILIES_BY_TASK, Task


@dataclass(frozen=True)
class Answered:
    """One answer, and what it is scored against."""

    prediction: str
    references: Sequence[str]  # the row's own first, then others that are right as well
    schema: Mapping[str, object] | None = None
    row: Prediction = field(default_factory=EMPTY.copy)

    @property
    def source(self) -> str:
        """The text of the request."""
        return "\n".join(str(turn.get("content") or "") for turn in request_turns(self.row))


@dataclass(frozen=True)
class Family:
    """Metrics that are computed from the same scores.

    ``score`` scores one answer. ``measures`` are over the scores of all rows; none where the rows
    have no scores of this family. ``describe`` returns how each metric is counted, for the settings
    in metrics.json, given how many references each row has.
    """

    score: Callable[[Answered], Scores]
    measures: Callable[[Sequence[Scores]], dict[str, Measure]]
    describe: Callable[[Sequence[int]], Mapping[str, str]]


def _best_json(answered: Answered) -> Scores:
    """Return the scores against the reference that the answer agrees with best."""
    scores = [
        json_scores.score(answered.prediction, reference, answered.schema, answered.source)
        for reference in answered.references
    ]
    return max(scores, key=lambda s: (s["exact_match"], json_scores.agreement(s)))


FAMILIES = {
    "json": Family(_best_json, json_scores.measures, lambda _: json_scores.HOW),
    "match": Family(
        lambda a: text_scores.match(a.prediction, a.references),
        text_scores.match_measures,
        lambda _: text_scores.MATCH_HOW,
    ),
    "rouge": Family(
        lambda a: text_scores.rouge(a.prediction, a.references),
        text_scores.rouge_measures,
        lambda _: text_scores.ROUGE_HOW,
    ),
    "bleu": Family(
        lambda a: text_scores.bleu(a.prediction, a.references),
        text_scores.bleu_measures,
        text_scores.signatures,
    ),
    "label": Family(
        lambda a: label_scores.score(a.prediction, a.references[0]),
        label_scores.measures,
        lambda _: label_scores.HOW,
    ),
    "code": Family(
        lambda a: code_scores.score(a.prediction, a.row.get("tests")),
        code_scores.measures,
        lambda _: code_scores.how(),
    ),
}

# (prediction, references, row of predictions.jsonl) -> a truth value or a number
AnswerFunction = Callable[[str, list[str], Prediction], float]


def names(metrics: Sequence[str] | None, task: Task) -> tuple[str, ...]:
    """Return the families that ``evaluation.metrics`` means for a task."""
    return tuple(metrics) if metrics is not None else FAMILIES_BY_TASK[task]


@cache
def family(name: str) -> Family:
    """Return a family by name, of this package or of an installed one.

    Raises ``RunError`` for an unknown name, as when a run is evaluated on another machine, which
    lacks the package that brings the metric; ``ConfigError`` if the package cannot be imported.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    if not packages.has("metric", name):
        raise RunError(
            f"the metric {name!r} is not installed: no package has an entry point of this name in"
            f" the group {PACKAGE_METRICS}"
        )
    function = packages.load("metric", name, "evaluation.metrics")
    if not callable(function):
        why = f"{packages.owner('metric', name)} is no function of (answer, references, row)"
        raise ConfigError([Problem("evaluation.metrics", name, why, "correct its entry point")])
    place, package = packages.place("metric", name), packages.distribution("metric", name)
    what = f"mean of {place}" + (f" of {package}" if package else "")
    return _of_function(name, cast(AnswerFunction, function), what, f" ({place})")


def _of_function(name: str, function: AnswerFunction, what: str, where: str = "") -> Family:
    """Return the family of one metric: its mean, or its rate if it returns truth values.

    ``what`` describes it in metrics.json; ``where`` says in messages whose function it is.
    """

    def score(answered: Answered) -> Scores:
        try:
            value = function(answered.prediction, list(answered.references), answered.row.copy())
        except Exception as error:
            row = answered.row.get("id", "?")
            raise RunError(
                f"the metric {name!r}{where} failed at row {row}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(value, bool | int | float):
            raise RunError(
                f"the metric {name!r}{where} returned {type(value).__name__}, not a number or a"
                " truth value"
            )
        return {name: value}

    def measures(scores: Sequence[Scores]) -> dict[str, Measure]:
        if not scores or name not in scores[0]:
            return {}
        values = [s[name] for s in scores]
        return {name: rate(values) if all(isinstance(v, bool) for v in values) else mean(values)}

    return Family(score, measures, lambda _: {name: what})


def per_answer(function: AnswerFunction) -> AnswerFunction:
    """Make a family of one metric from a function that scores one answer."""
    name = function.__name__
    FAMILIES[name] = _of_function(name, function, f"mean over the answers of {name}")
    return function


# ------------------------------------------------------------------ metrics of one answer at a time
# @per_answer
# def starts_alike(prediction: str, references: list[str], row: Prediction) -> bool:
#     return prediction.split()[:1] == references[0].split()[:1]
