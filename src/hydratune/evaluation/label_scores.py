"""Classification: the answer is one of the labels that occur as references."""

from collections.abc import Sequence

import numpy as np

from hydratune.evaluation.measures import Measure, Scores, rate

HOW = {
    "label_f1": (
        "macro over the labels of the references; case, spaces and a full stop do not count;"
        " another word is no label"
    )
}
_SHOWN = 20  # labels with an F1 of their own


def score(prediction: str, reference: str) -> dict[str, str]:
    """Return the labels that the answer and the reference name."""
    return {"label": _label(prediction), "expected_label": _label(reference)}


def _label(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def measures(scores: Sequence[Scores]) -> dict[str, Measure]:
    """Return accuracy, macro F1, F1 of each label, and the share of answers that are no label."""
    if "expected_label" not in scores[0]:
        return {}
    labels = sorted({s["expected_label"] for s in scores})
    result = {
        "label_accuracy": rate([s["label"] == s["expected_label"] for s in scores]),
        "label_f1": Measure(
            [column for label in labels for column in _counts(scores, label)], _macro_f1
        ),
        "label_unknown": rate([s["label"] not in labels for s in scores]),
    }
    if len(labels) <= _SHOWN:
        result |= {
            f"label_f1/{label}": Measure(_counts(scores, label), _macro_f1) for label in labels
        }
    return result


def _counts(scores: Sequence[Scores], label: str) -> list[list[float]]:
    """Return two columns: hits, and how often the label is in the answer and in the reference."""
    predicted = [float(s["label"] == label) for s in scores]
    expected = [float(s["expected_label"] == label) for s in scores]
    return [
        [a * b for a, b in zip(predicted, expected, strict=True)],
        [a + b for a, b in zip(predicted, expected, strict=True)],
    ]


def _macro_f1(sums: np.ndarray) -> np.ndarray:
    """Return the mean over labels of 2 hits / (predicted + expected).

    A label that was not drawn in the bootstrap takes no part.
    """
    hits, both = sums[..., 0::2], sums[..., 1::2]
    present = both > 0
    each = np.divide(2 * hits, both, out=np.zeros(np.shape(both)), where=present)
    return each.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)
