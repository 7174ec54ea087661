"""Labels in answers: fields that the JSON schema limits to a list of values, and whole short
answers.
"""

import json
from array import array
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hydratune.data.answers import NotStrictJson, parse_strict
from hydratune.data.rows import Row

WHOLE_ANSWER = "answer"  # the field of whole short answers
_MOST_LABELS = 200  # of one field
_LONGEST_LABEL = 40  # characters of a whole answer
_ROWS_PER_LABEL = 20  # on average, so that whole answers are labels


class LabelCounter:
    """Counts the labels of the rows, by field."""

    def __init__(self, schema: Mapping[str, object] | None) -> None:
        self._fields = _label_fields(schema)
        self._labels: dict[str, dict[str, int]] = defaultdict(dict)  # field -> label -> its number
        # field -> number of each row's label, -1 without
        self._label_of: dict[str, array[int]] = defaultdict(lambda: array("h"))
        self._rows = 0

    def see(self, row: Row, is_json: bool) -> None:
        """Add one row; ``is_json``: its answer is a JSON object."""
        self._rows += 1
        labels = self._labels_in(row, is_json)
        for name in (*self._fields, WHOLE_ANSWER):
            numbers, label = self._labels[name], labels.get(name)
            if label is not None and label not in numbers and len(numbers) <= _MOST_LABELS:
                numbers[label] = len(numbers)
            self._label_of[name].append(-1 if label is None else numbers.get(label, _MOST_LABELS))

    def _labels_in(self, row: Row, is_json: bool) -> dict[str, str]:
        """Return field -> label of one row."""
        if self._fields and is_json:
            try:
                answer = parse_strict(row.answer)
            except NotStrictJson:
                return {}
            return {name: _text(answer[name]) for name in self._fields if name in answer}
        if not is_json and len(row.answer) <= _LONGEST_LABEL and row.prompt:
            return {WHOLE_ANSWER: row.answer.strip()}
        return {}

    def counts(self, is_used: NDArray[np.bool_]) -> dict[str, dict[str, int]]:
        """Return field -> label -> number of rows, the most frequent first.

        Only rows of ``is_used`` count, and only fields that most of them have. Whole short answers
        are labels where each is given 20 times on average.
        """
        result = {}
        for name, numbers in self._labels.items():
            most = _MOST_LABELS
            if name == WHOLE_ANSWER:
                most = min(most, self._rows // _ROWS_PER_LABEL)
            own = np.frombuffer(self._label_of[name], np.int16)[is_used]
            counts = np.bincount(own[own >= 0], minlength=len(numbers))
            if 0 < len(numbers) <= most and counts.sum() > is_used.sum() / 2:
                rows_of = {label: int(counts[n]) for label, n in numbers.items() if counts[n]}
                result[name] = dict(sorted(rows_of.items(), key=lambda item: -item[1]))
        return result


def _label_fields(schema: Mapping[str, object] | None) -> list[str]:
    """Return the top-level fields of the answers that the schema limits to a list of values."""
    properties = (schema or {}).get("properties", {})
    assert isinstance(properties, Mapping)
    return [
        name
        for name, field in properties.items()
        if isinstance(field, Mapping) and ("enum" in field or field.get("type") == "boolean")
    ]


def _text(value: object) -> str:
    """Return a value as it stands in the answer: null and not None; texts without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
