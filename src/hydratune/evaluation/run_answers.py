"""Answers to test rows for the page of a run: the worst of the fine-tuned model first."""

from collections.abc import Mapping, Sequence

from hydratune.evaluation.answer_differences import ComparedAnswers, compare_answers
from hydratune.evaluation.json_scores import agreement
from hydratune.evaluation.measures import user_text
from hydratune.metric_table import SYSTEM_TITLES
from hydratune.records.predictions import Prediction

_SHOWN = 40  # rows whose answers are on the page
_LONGEST = 3000  # characters of a text

Predictions = Mapping[str, Sequence[Prediction]]  # by system


def shown_answers(predictions: Predictions, main: str | None) -> dict[str, object]:
    """Return the fine-tuned model's worst answers first, with those of the other systems."""
    ours = predictions.get("eval", [])

    def badness(row: Prediction) -> tuple[float, float]:
        return _quality(row, main), -float(row.get("nll") or 0.0)

    others: dict[str, dict[object, Prediction]] = {
        SYSTEM_TITLES[system]: {row.get("item_hash"): row for row in rows}
        for system, rows in predictions.items()
        if system != "eval"
    }
    compared = [(row, _compared(row, others)) for row in sorted(ours, key=badness)[:_SHOWN]]
    return {
        "answers": [_answer(row, main, own) for row, own in compared],
        "asked": len(ours),
        "has_fields": any(own.fields for _, own in compared),
        "has_words": any(p.kind for _, own in compared for _, text in own.texts for p in text),
    }


def _compared(
    row: Prediction, others: Mapping[str, Mapping[object, Prediction]]
) -> ComparedAnswers:
    """Return the answers to a test row; ``others`` are rows of other systems by title and hash."""
    item = row.get("item_hash")
    answers = {SYSTEM_TITLES["eval"]: row}
    answers |= {name: rows[item] for name, rows in others.items() if item in rows}
    said = {name: str(answer["prediction"]) for name, answer in answers.items()}
    return compare_answers(str(row.get("reference")), said, _LONGEST)


def _answer(row: Prediction, main: str | None, compared: ComparedAnswers) -> dict[str, object]:
    return {
        "id": str(row.get("id")),
        "score": f"{100 * _quality(row, main):.0f} %",
        "leaky": bool(row.get("leaky")),
        "cut": row.get("finish_reason") == "length",
        "request": user_text(row)[:_LONGEST],
        "reference": str(row.get("reference"))[:_LONGEST],
        "compared": compared,
        "errors": validity_errors(row),
    }


def validity_errors(row: Prediction) -> list[str]:
    """Return why an answer is not strict JSON, or where it violates the schema.

    The list is empty for a valid answer, and for answers that need not be JSON.
    """
    scores = row.get("scores") or {}
    if scores.get("json_error"):
        return [f"not strict JSON: {scores['json_error']}"]
    errors = scores.get("schema_errors")
    return [str(error) for error in errors] if isinstance(errors, list) else []


def _quality(row: Prediction, main: str | None) -> float:
    """Return how good one answer is, in [0, 1]."""
    scores = row.get("scores") or {}
    if "fields" in scores:
        return agreement(scores)
    value = scores.get(main or "", scores.get("exact_match", 0.0))
    if main == "label_accuracy":
        value = scores.get("label") == scores.get("expected_label")
    return float(value) if isinstance(value, (int, float)) else 0.0
