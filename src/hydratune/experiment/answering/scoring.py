"""Answers to the rows of a file, scored by the references of the rows as the evaluation does."""

from collections.abc import Mapping
from typing import Any, cast

from hydratune.errors import ConfigError, Problem
from hydratune.evaluation import assess, metrics
from hydratune.experiment.answering.answer_file import Line
from hydratune.experiment.answering.asking import Questions
from hydratune.records.files import Json
from hydratune.records.predictions import Prediction

_OF_ANSWER = ("finish_reason", "generated_tokens", "nll")


def require_references(questions: Questions) -> None:
    """Raise ``ConfigError`` if no row has a reference answer, or the run was one on texts."""
    if not any(request.has_reference for request in questions.requests):
        why = "no row has a reference answer by which its answer could be scored"
        raise ConfigError([Problem("metrics", True, why, "leave metrics out")])


def score(
    questions: Questions, done: Mapping[int, Line], system: str, max_new_tokens: int
) -> dict[str, Json]:
    """Return the metrics of all answers that have a reference, as metrics.json holds them.

    The lines get their scores. ``system``: eval or base.
    """
    model = questions.model
    pairs = [
        (row, done[request.number])
        for request, row in zip(questions.requests, questions.rows, strict=True)
        if request.has_reference and done[request.number]["answer"] is not None
    ]
    rows = [row for row, _ in pairs]
    references = [model.encoder.reference_answer(row) for row in rows]
    evaluation = model.settings.evaluation
    evaluation.max_rows = None
    task = metrics.choose_task(evaluation.task, references, evaluation.metrics)
    tests = assess.TestSet(rows, model.encoder, evaluation, task, model.run.schema, model.context)
    predictions: list[dict[str, Any]] = [
        {**perfect, "prediction": line["answer"], **{key: line[key] for key in _OF_ANSWER}}
        for perfect, (_, line) in zip(tests.perfect(), pairs, strict=True)
    ]
    scored = assess.rescore(cast("list[Prediction]", predictions), tests.families, tests.schema)
    for (_, line), prediction in zip(pairs, scored, strict=True):
        line["scores"] = dict(prediction["scores"])
    measured = metrics.metrics(
        scored, evaluation, has_schema=tests.schema is not None, families=tests.families
    )
    values, intervals = metrics.flat(system, measured)
    settings = metrics.settings(evaluation, task, max_new_tokens, scored)
    return {**values, "intervals": intervals, "settings": {system: settings}}
