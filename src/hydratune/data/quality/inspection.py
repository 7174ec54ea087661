"""What is kept of every row to judge all of them together (numbers, no texts), and which side of the split each is on."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydratune.config import DataConfig, Level
from hydratune.data.answers import NotStrictJson, parse_strict
from hydratune.data.quality import texts
from hydratune.data.quality.duplicates import near_pairs, normalised
from hydratune.data.quality.findings import MOST_ROWS
from hydratune.data.rows import Row
from hydratune.data.splits import SPLITS, Candidates, Side, place, split, stratum
from hydratune.data.store import RowStore

MOST_LABELS = 200


class Inspection:
    """``see`` every row in file order, then ``divide`` them; ``verdict.findings`` says what was found."""

    def __init__(self, data: DataConfig, schema: Mapping[str, Any] | None, extra: Mapping[str, texts.RowCheck] | None = None) -> None:
        """``extra`` are further checks of one row, under a name of ``CHECKS``: where a judge model joins in."""
        self.data, self.config = data, data.quality
        self.checks = {**texts.row_checks(data.quality, schema), **(extra or {})}
        self.hits: dict[str, list[tuple[int, str]]] = defaultdict(list)  # check -> (row number, what it saw)
        self.counts: Counter[str] = Counter()
        self._label_fields = _label_fields(schema)
        self.labels: dict[str, Counter[str]] = defaultdict(Counter)
        self.source, self.places = array("b"), array("d")
        self.group_numbers: dict[str, int] = {}
        self.text_numbers: dict[bytes, int] = {}
        self.groups, self.texts = array("q"), array("q")
        self.answers, self.loose_answers, self.ids = array("Q"), array("Q"), array("Q")
        self.answer_length, self.json_answer, self.lacks_end = array("q"), array("b"), array("b")
        self.language_numbers: dict[str | None, int] = {None: 0}
        self.language = array("h")
        self.strata: list[str] = []
        self.sides: NDArray[np.int8] = np.zeros(0, np.int8)
        self.near: dict[int, list[int]] = {}
        self.near_capped = False

    def see(self, row: Row, source: Side) -> str:
        """Takes in one row, which its source has in ``source``. Returns its normalised request."""
        number = len(self.source)
        for name, check in self.checks.items():
            saw = check(row)
            if saw is not None:
                self.counts[name] += 1
                if len(self.hits[name]) < MOST_ROWS:
                    self.hits[name].append((number, saw))
        key = normalised(texts.request(row))
        self.source.append(source)
        self.places.append(place(row))
        self.groups.append(self.group_numbers.setdefault(row.group, len(self.group_numbers)) if row.group else -1)
        self.texts.append(self.text_numbers.setdefault(blake2b(key.encode(), digest_size=12).digest(), len(self.text_numbers)))
        self.answers.append(_hash(" ".join(_whole_answer(row).split())))
        self.loose_answers.append(_hash(normalised(_whole_answer(row))))
        self.ids.append(_hash(row.id))
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
        for name, label in found.items():
            if len(self.labels[name]) <= MOST_LABELS:
                self.labels[name][label] += 1

    def divide(self, store: RowStore, given: set[Side], advance: Callable[[int], None]) -> None:
        """Decides the side of every row. ``given``: the splits that the source has itself."""
        count, texts_ = len(self.source), np.frombuffer(self.texts, np.int64)
        first = np.zeros(len(self.text_numbers), np.int64)
        first[texts_[::-1]] = np.arange(count)[::-1]  # the first row with each text
        if self.config.near_duplicates is not Level.off or self.config.near_leaks is not Level.off or len(given) < len(SPLITS):
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
            self.sides[training] = split(rows, self.near, *shares)
        if self.data.clean.drop_leaks:
            there = self.sides_of_texts(near=True)[texts_]
            self.sides[(self.sides == Side.validation) & (there & 4 > 0)] = Side.leak
            there = self.sides_of_texts(near=True)[texts_]
            self.sides[(self.sides == Side.train) & (there & 6 > 0)] = Side.leak

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
        """field -> label -> rows, for what has few enough values to be a label; ``answer`` where whole answers are labels."""
        most = min(MOST_LABELS, max(2, len(self.source) // 20))
        return {
            name: dict(c.most_common()) for name, c in self.labels.items() if len(c) <= most and sum(c.values()) > len(self.source) // 2
        }


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
