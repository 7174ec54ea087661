"""Answers of several systems beside their reference: by field, or by word.

For the pages of runs, decisions and judges. A kind of difference has a sign and words, so that it
is understood without its colour.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from hydratune.data.answers import NotStrictJson, parse_strict
from hydratune.evaluation.json_scores import JsonObject, field_counts

_WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]\s*|[^\W\u3040-\u30ff\u3400-\u9fff]+\s*|.\s*", re.S
)
_MOST_WORDS = 700  # that are compared; the time grows with their square
_LEAST_ALIKE = 0.25  # share of equal words below which differences say nothing
_SIGNS = {"right": "✓", "partly": "≈", "wrong": "✗"}


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer."""

    text: str
    kind: str = ""  # "added": the reference lacks it; "missing": the answer lacks it; "": in both


@dataclass(frozen=True)
class FieldCell:
    """The value of one field in one answer."""

    kind: str  # classes of the style sheet
    sign: str
    words: str  # what is wrong or right, for people who do not see the colour
    text: str


@dataclass(frozen=True)
class FieldRow:
    """One field of the reference or of an answer."""

    name: str
    reference: str
    cells: list[FieldCell]


@dataclass(frozen=True)
class AnswerFields:
    """Answers as a table of fields."""

    systems: list[str]
    rows: list[FieldRow]


@dataclass(frozen=True)
class ComparedAnswers:
    """The answers to one row: those that are JSON as a table, the others as text.

    ``fields`` is None where the reference is no JSON object or no answer is one.
    """

    fields: AnswerFields | None
    texts: list[tuple[str, list[Piece]]]  # (system, text)


def compare_answers(reference: str, said: Mapping[str, str], longest: int) -> ComparedAnswers:
    """Return what the answers of systems, by title, have and lack against ``reference``.

    Of a text, ``longest`` characters are shown.
    """
    expected = _object(reference)
    stated = {title: _object(text) for title, text in said.items()} if expected else {}
    objects = {title: value for title, value in stated.items() if value is not None}
    table = _table(expected, objects, longest) if expected and objects else None
    texts = [
        (title, [Piece(text[:longest])] if expected else differing(reference, text, longest))
        for title, text in said.items()
        if title not in objects
    ]
    return ComparedAnswers(table, texts)


def differing(reference: str, text: str, longest: int) -> list[Piece]:
    """Return the words of ``text``, and between them those of ``reference`` that it lacks.

    A text that has little in common with the reference, and one that is too long to be compared,
    is one piece.
    """
    ours, theirs = text[:longest], reference[:longest]
    new, old = _WORDS.findall(ours), _WORDS.findall(theirs)
    if not ours.strip() or max(len(new), len(old)) > _MOST_WORDS:
        return [Piece(ours)]
    matcher = SequenceMatcher(None, _plain(old), _plain(new), autojunk=False)
    if matcher.ratio() < _LEAST_ALIKE:
        return [Piece(ours)]
    pieces = []
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            pieces.append(Piece("".join(new[c:d])))
            continue
        pieces += [Piece("".join(old[a:b]), "missing")] if b > a else []
        pieces += [Piece("".join(new[c:d]), "added")] if d > c else []
    return pieces


def _plain(words: Sequence[str]) -> list[str]:
    return [word.strip() for word in words]


def _object(text: str) -> JsonObject | None:
    try:
        return parse_strict(text.strip())
    except NotStrictJson:
        return None


def _table(expected: JsonObject, objects: Mapping[str, JsonObject], longest: int) -> AnswerFields:
    names = dict.fromkeys([*expected, *(key for stated in objects.values() for key in stated)])
    counts = {title: field_counts(stated, expected) for title, stated in objects.items()}
    rows = [
        FieldRow(
            name,
            _written(expected.get(name), longest),
            [
                _cell(counts[title].get(name), expected.get(name), stated.get(name), longest)
                for title, stated in objects.items()
            ],
        )
        for name in names
    ]
    return AnswerFields(list(objects), rows)


def _cell(count: Sequence[int] | None, expected: object, stated: object, longest: int) -> FieldCell:
    """Return how one value agrees with the reference, as its score counts it.

    ``count``: (true positives, predicted, expected, equal); None: neither has the field.
    """
    hits, predicted, wanted, equal = count or (0, 0, 0, 1)
    text = _written(stated, longest)
    if equal:
        kind = "right" if stated is not None or expected is not None else "right absent"
        return FieldCell(kind, _SIGNS["right"], "right", text)
    if hits:
        return FieldCell("partly", _SIGNS["partly"], "partly right", text)
    words = "wrong"
    if not predicted:
        words = "missing"
    elif not wanted:
        words = "not in the reference"
    return FieldCell("wrong", _SIGNS["wrong"], words, text)


def _written(value: object, longest: int) -> str:
    """Return a value: a text as it is, another one as JSON."""
    if value is None:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:longest]
