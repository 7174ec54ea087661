"""What is kept of every row to judge all of them together (numbers, no texts), and which side of the split each is on."""

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydratune.config import DataConfig, Level, TrainOn
from hydratune.data.answers import NotStrictJson, parse_strict
from hydratune.data.quality import texts
from hydratune.data.quality.duplicates import near_pairs, normalised, words
from hydratune.data.rows import Message, Row
from hydratune.data.splits import SPLITS, Candidates, Side, place, split, stratum
from hydratune.data.store import RowStore
from hydratune.errors import DataError

MOST_LABELS = 200
_MOST_SEEN = 2_000  # notes kept of one check
_DERIVED_ID = re.compile("(?:.*/)?[0-9a-f]{16}")  # a row without an id has the hash of its text


class Inspection:
    """``see`` every row in file order, then ``divide`` them; ``verdict.findings`` says what was found."""

    def __init__(self, data: DataConfig, schema: Mapping[str, Any] | None, extra: Mapping[str, texts.RowCheck] | None = None) -> None:
        """``extra`` are further checks of one row, under a name of ``CHECKS``: where a judge model joins in."""
        self.data, self.config = data, data.quality
        self.checks = {**texts.row_checks(data.quality, schema), **(extra or {})}
        self.hits: dict[str, array[int]] = defaultdict(lambda: array("q"))  # check -> numbers of the rows
        self.saw: dict[str, dict[int, str]] = defaultdict(dict)  # check -> what it saw in the first of them
        self._label_fields = _label_fields(schema)
        self._labels: dict[str, dict[str, int]] = defaultdict(dict)  # field -> label -> its number
        self._label_of: dict[str, array[int]] = defaultdict(lambda: array("h"))  # field -> number of each row's label, -1 without
        self.source, self.places = array("b"), array("d")
        self.group_numbers: dict[str, int] = {}
        self.text_numbers: dict[bytes, int] = {}
        self.groups, self.texts = array("q"), array("q")
        self.words, self.answers, self.ids = array("Q"), array("Q"), array("Q")
        self.keys = array("q")
        self._inner_rows, self._inner_texts = array("q"), array("q")  # requests inside a conversation whose answer is trained
        self.answer_length, self.json_answer, self.lacks_end = array("q"), array("b"), array("b")
        self.language_numbers: dict[str | None, int] = {None: 0}
        self.language = array("h")
        self.strata: list[str] = []
        self.sides: NDArray[np.int8] = np.zeros(0, np.int8)
        self.near: dict[int, list[int]] = {}
        self.leaked: dict[str, list[int]] = {}  # before clean.drop_leaks: the rows that each kind of leak concerned
        self.near_capped = False
        self.given: set[Side] = set()

    def see(self, row: Row, source: Side) -> str:
        """Takes in one row, which its source has in ``source``. Returns its normalised request."""
        number = len(self.source)
        for name, check in self.checks.items():
            saw = check(row)
            if saw is not None:
                self.hits[name].append(number)
                if len(self.saw[name]) < _MOST_SEEN:
                    self.saw[name][number] = saw
        key = normalised(_asked(row.prompt or row.messages))
        self.source.append(source)
        self.places.append(place(row))
        self.groups.append(self.group_numbers.setdefault(row.group, len(self.group_numbers)) if row.group else -1)
        self.texts.append(self._text_number(key))
        self._see_inner_requests(row, number)
        self.keys.append(_hash(key) >> 1)
        self.words.append(_hash(words(key)))
        self.answers.append(_hash(" ".join(_whole_answer(row).split())))
        self.ids.append(number if _DERIVED_ID.fullmatch(row.id) else _hash(row.id))
        self.answer_length.append(len(row.answer))
        is_json = texts.is_json_object(row.answer)
        self.json_answer.append(is_json)
        self.lacks_end.append(texts.lacks_end(row.answer))
        if self.config.language_mix is not Level.off:
            self.language.append(self.language_numbers.setdefault(texts.language(texts.request(row)), len(self.language_numbers)))
        self._see_labels(row, is_json)
        if self.data.stratify is not None:
            self.strata.append(stratum(row, self.data.stratify) or "")
        return key

    def _see_labels(self, row: Row, is_json: bool) -> None:
        found: dict[str, str] = {}
        if self._label_fields and is_json:
            try:
                answer = parse_strict(row.answer)
            except NotStrictJson:
                answer = {}
            found = {name: str(answer[name]) for name in self._label_fields if name in answer}
        elif not is_json and len(row.answer) <= 40 and row.prompt:
            found = {"answer": row.answer.strip()}
        for name in (*self._label_fields, "answer"):
            numbers, label = self._labels[name], found.get(name)
            if label is not None and label not in numbers and len(numbers) <= MOST_LABELS:
                numbers[label] = len(numbers)
            self._label_of[name].append(-1 if label is None else numbers.get(label, MOST_LABELS))

    def _text_number(self, key: str) -> int:
        """Texts are numbered as they come."""
        return self.text_numbers.setdefault(blake2b(key.encode(), digest_size=12).digest(), len(self.text_numbers))

    def _see_inner_requests(self, row: Row, number: int) -> None:
        """Where every turn is trained, a test request may be asked in the middle of a training conversation."""
        if self.data.train_on is TrainOn.last:
            return
        for turn, message in enumerate(row.messages[:-1]):
            if message.role == "assistant" and message.train:
                self._inner_rows.append(number)
                self._inner_texts.append(_hash(normalised(_asked(row.messages[:turn]))) >> 1)

    def divide(self, store: RowStore, given: set[Side], advance: Callable[[int], None]) -> None:
        """Decides the side of every row. ``given``: the splits that the source has itself."""
        self.given = given
        if self.strata and not any(self.strata):
            raise DataError(f"data.stratify = {self.data.stratify}: no row has such a field in its meta data or its JSON answer")
        count, texts_ = len(self.source), np.frombuffer(self.texts, np.int64)
        first = np.zeros(len(self.text_numbers), np.int64)
        first[texts_[::-1]] = np.arange(count)[::-1]  # the first row with each text
        if self.config.near_duplicates is not Level.off or self.config.near_leaks is not Level.off:
            pairs = near_pairs(len(first), lambda i: store.value("key", int(first[i])), self.config.similarity, advance)
            self.near_capped = pairs.capped
            for a, b in pairs:
                self.near.setdefault(a, []).append(b)
                self.near.setdefault(b, []).append(a)
        self.sides = np.frombuffer(self.source, np.int8).copy()
        training = np.flatnonzero(self.sides == Side.train)
        if self.data.clean.drop_duplicates:
            pairs_seen = set()
            for i in training.tolist():
                pair = (self.texts[i], self.answers[i])
                if pair in pairs_seen:
                    self.sides[i] = Side.duplicate
                pairs_seen.add(pair)
            training = np.flatnonzero(self.sides == Side.train)
        if len(given) < len(SPLITS):
            rows = Candidates(
                np.frombuffer(self.places)[training],
                np.frombuffer(self.groups, np.int64)[training],
                texts_[training],
                [self.strata[i] for i in training.tolist()] if self.strata else None,
            )
            shares = [
                0.0 if side in given else share
                for side, share in ((Side.validation, self.data.validation_fraction), (Side.test, self.data.test_fraction))
            ]
            self.sides[training] = split(rows, {} if self.config.near_leaks is Level.off else self.near, *shares)
        if self.data.clean.drop_leaks:
            self.leaked = {name: self.leaks(near=name == "near_leaks") for name in ("exact_leaks", "near_leaks")}
            self.sides[(self.sides == Side.validation) & (self._there(near=True) & 4 > 0)] = Side.leak
            there = self._there(near=True) | self._asked_inside()
            self.sides[(self.sides == Side.train) & (there & 6 > 0)] = Side.leak

    def leaks(self, *, near: bool) -> list[int]:
        """Test rows whose request is in training or validation, validation rows whose request is in training.

        With ``near`` also those nearly asked there, and test requests asked in the middle of a trained conversation.
        """
        there = self._there(near=near)
        if near and len(self._inner_texts):
            inner = np.frombuffer(self._inner_texts, np.int64)[self.sides[np.frombuffer(self._inner_rows, np.int64)] == Side.train]
            there = there | np.isin(self._text_hashes(), inner).astype(np.int8)
        return np.flatnonzero(((self.sides == Side.test) & (there & 3 > 0)) | ((self.sides == Side.validation) & (there & 1 > 0))).tolist()

    def _there(self, *, near: bool) -> NDArray[np.int8]:
        """For each row the splits that hold its request (1 train, 2 validation, 4 test), or with ``near`` one like it."""
        return self.sides_of_texts(near=near)[np.frombuffer(self.texts, np.int64)]

    def _asked_inside(self) -> NDArray[np.int8]:
        """For each row the splits (2 validation, 4 test) that hold a request asked in the middle of its conversation."""
        result = np.zeros(len(self.source), np.int8)
        if len(self._inner_texts):
            rows, inner = np.frombuffer(self._inner_rows, np.int64), np.frombuffer(self._inner_texts, np.int64)
            for side in (Side.validation, Side.test):
                result[rows[np.isin(inner, self._text_hashes()[self.sides == side])]] |= np.int8(1 << side)
        return result

    def _text_hashes(self) -> NDArray[np.int64]:
        """Of each row's request, comparable with those inside conversations."""
        return np.frombuffer(self.keys, np.int64)

    def sides_of_texts(self, *, near: bool) -> NDArray[np.int8]:
        """For each text the splits that hold it (1 train, 2 validation, 4 test), or with ``near`` one like it."""
        own = np.zeros(len(self.text_numbers), np.int8)
        texts_ = np.frombuffer(self.texts, np.int64)
        for side in SPLITS:
            own[texts_[self.sides == side]] |= np.int8(1 << side)
        if not near:
            return own
        result = own.copy()
        for text, others in self.near.items():
            for other in others:
                result[text] |= own[other]
        return result

    def numbers(self, *sides: Side) -> list[int]:
        """The rows on these sides, in file order."""
        return np.flatnonzero(np.isin(self.sides, sides)).tolist()

    def label_counts(self) -> dict[str, dict[str, int]]:
        """field -> label -> rows that take part. Whole short answers are labels (``answer``) where each is given 20 times on average."""
        alive = np.isin(self.sides, SPLITS)
        result = {}
        for name, numbers in self._labels.items():
            most = min(MOST_LABELS, len(self.source) // 20) if name == "answer" else MOST_LABELS
            own = np.frombuffer(self._label_of[name], np.int16)[alive]
            counts = np.bincount(own[own >= 0], minlength=len(numbers))
            if 0 < len(numbers) <= most and counts.sum() > alive.sum() / 2:
                every = {label: int(counts[number]) for label, number in numbers.items() if counts[number]}
                result[name] = dict(sorted(every.items(), key=lambda item: -item[1]))
        return result


def _asked(messages: Sequence[Message]) -> str:
    """Everything that comes before an answer, as it is compared: the system turn and the calls of tools too."""
    said = [f"{m.content}{[dict(call) for call in m.tool_calls]}" if m.tool_calls else m.content for m in messages]
    return "\n".join(said)


def _whole_answer(row: Row) -> str:
    last = row.messages[-1]
    return f"{last.content}{[dict(call) for call in last.tool_calls]}" if last.tool_calls else last.content


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def _label_fields(schema: Mapping[str, Any] | None) -> list[str]:
    """Top-level fields of the answers that the schema limits to a list of values."""
    properties = (schema or {}).get("properties", {})
    return [
        name for name, field in properties.items() if isinstance(field, Mapping) and ("enum" in field or field.get("type") == "boolean")
    ]
