"""What is kept of every row to judge all of them together (numbers, no texts), and which side of
the split each is on.
"""

import json
import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydratune.data.answers import NotStrictJson, parse_strict
from hydratune.data.quality import leaks, texts
from hydratune.data.quality.duplicates import near_pairs, spelled_alike
from hydratune.data.quality.equality import (
    answer_form,
    core,
    exact,
    folded,
    form,
    normalised,
    words,
)
from hydratune.data.rows import Message, Row
from hydratune.data.splits import SPLITS, Candidates, Side, place, split, stratum
from hydratune.data.store import RowStore
from hydratune.errors import DataError
from hydratune.settings.data import DataConfig, Level, TrainOn

MOST_LABELS = 200
_MOST_WORDS = 300_000  # different ones
_MOST_SEEN = 2_000  # notes kept of one check
_TELLING_WORDS = 4  # of a user turn after others
_DERIVED_ID = re.compile("(?:.*/)?[0-9a-f]{16}")  # a row without an id has the hash of its text


class Inspection:
    """``see`` every row in file order, then ``divide`` them; ``verdict.findings`` says what was
    found.
    """

    def __init__(
        self,
        data: DataConfig,
        schema: Mapping[str, Any] | None,
        extra: Mapping[str, texts.RowCheck] | None = None,
    ) -> None:
        """``extra`` are further checks of one row, under a name of ``CHECKS``: where a judge model
        joins in.
        """
        self.data, self.config = data, data.quality
        self.checks = {**texts.row_checks(data.quality, schema), **(extra or {})}
        # check -> numbers of the rows
        self.hits: dict[str, array[int]] = defaultdict(lambda: array("q"))
        # check -> what it saw in the first of them
        self.saw: dict[str, dict[int, str]] = defaultdict(dict)
        self._label_fields = _label_fields(schema)
        self._labels: dict[str, dict[str, int]] = defaultdict(dict)  # field -> label -> its number
        # field -> number of each row's label, -1 without
        self._label_of: dict[str, array[int]] = defaultdict(lambda: array("h"))
        self.source, self.places = array("b"), array("d")
        self.group_numbers: dict[str, int] = {}
        self.text_numbers: dict[bytes, int] = {}
        self.groups, self.texts = array("q"), array("q")
        self.words, self.answers, self.ids = array("Q"), array("Q"), array("Q")
        self.alike = array("Q")  # answers as leaks are sought by them
        self.strict, self.whole = (
            array("Q"),
            array("Q"),
        )  # for claims of conflict: request and tools; for removal: those, answer, thoughts
        self.own, self.inner, self.turns, self.inner_turns = (
            leaks.Keys(),
            leaks.Keys(),
            leaks.Keys(),
            leaks.Keys(),
        )
        self.answer_length, self.json_answer = array("q"), array("b")
        self.ending, self.lacks_end = array("b"), array("b")
        self.words_said: set[str] = set()  # in answers, but for the last of each
        self.last_words: dict[int, str] = {}  # of answers without a mark at their end
        self.language_numbers: dict[str | None, int] = {None: 0}
        self.language = array("h")
        self.strata: list[str] = []
        self.sides: NDArray[np.int8] = np.zeros(0, np.int8)
        # of each row: the first text that is its own but for symbols
        self.requests: NDArray[np.int64] = np.zeros(0, np.int64)
        self.near: dict[int, list[int]] = {}  # request -> those nearly like it
        self.leaked: dict[
            str, list[int]
        ] = {}  # before clean.drop_leaks: the rows that each kind of leak concerned
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
        parts = [_part(m) for m in row.prompt or row.messages]
        key = _joined(parts)
        self.source.append(source)
        self.places.append(place(row))
        self.groups.append(
            self.group_numbers.setdefault(row.group, len(self.group_numbers)) if row.group else -1
        )
        self.texts.append(self._text_number(key))
        request, answer, said = _hash(key), texts.json_object(row.answer), _said(row.messages[-1])
        self.own.add(number, request)
        loose = words(key)
        self.words.append(_hash(loose))
        self.answers.append(_answer_hash(answer, said))
        self.alike.append(_alike(answer, said))
        tools = json.dumps(row.tools, sort_keys=True, default=str) if row.tools else ""
        self.strict.append(_hash("\0".join((*map(_exact_part, row.prompt or row.messages), tools))))
        self.whole.append(
            _hash(f"{key}\0{tools}\0{' '.join(said.split())}\0{row.messages[-1].reasoning or ''}")
        )
        self._see_turns(row, parts, number, key, loose)
        self.ids.append(number if _DERIVED_ID.fullmatch(row.id) else _hash(row.id))
        self.answer_length.append(len(row.answer))
        is_json = answer is not None
        self.json_answer.append(is_json)
        self._see_end("" if is_json else row.answer, number)
        if self.config.language_mix is not Level.off:
            self.language.append(
                self.language_numbers.setdefault(
                    texts.language(texts.request(row)), len(self.language_numbers)
                )
            )
        self._see_labels(row, is_json)
        if self.data.stratify is not None:
            self.strata.append(stratum(row, self.data.stratify) or "")
        return key

    def _see_end(self, answer: str, number: int) -> None:
        kind, lacks_end = texts.ending(answer)
        self.ending.append(kind)
        self.lacks_end.append(lacks_end)
        if kind is texts.Ending.none:
            return
        said = texts.plain_words(answer)
        is_word = said and (said[-1].islower() or (len(said[-1]) > 3 and said[-1][1:].islower()))
        if lacks_end and is_word and answer.rstrip().endswith(said[-1]):
            self.last_words[number] = said.pop()
        if len(self.words_said) < _MOST_WORDS:
            self.words_said.update(said)

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
        return self.text_numbers.setdefault(
            blake2b(key.encode(), digest_size=12).digest(), len(self.text_numbers)
        )

    def _see_turns(self, row: Row, parts: Sequence[str], number: int, key: str, loose: str) -> None:
        """The row's last turn and its answer; where every turn is trained, also what is asked in
        the middle of its conversation.

        Each as it is compared loosely, and in the form in which near variants are the same too.
        """
        answer = self.alike[number]
        self._own_forms(self.own, number, key, loose, answer)
        if row.prompt:
            talk = [i for i, m in enumerate(row.prompt) if m.role != "system"]
            start = next((i for i in reversed(talk) if row.prompt[i].role == "user"), 0)
            if start:
                self._turn(self.turns, number, _joined(parts[start:]), answer, start in talk[:1])
            else:
                self._turn(self.turns, number, key, answer, start in talk[:1], loose)
            if talk and talk[0] < start:  # all that was said, under whatever system turn
                self._turn(self.turns, number, _joined([parts[i] for i in talk]), answer, True)
        if self.data.train_on is TrainOn.last:
            return
        start = 0
        for turn, message in enumerate(row.messages[:-1]):
            if message.role == "user":
                start = turn
            if message.role == "assistant" and message.train:
                before, said = _joined(parts[:turn]), _said(message)
                alike = _alike(texts.json_object(said), said)
                self.inner.add(number, _hash(before))
                self._own_forms(self.inner, number, before, words(before), alike)
                self._turn(self.inner_turns, number, _joined(parts[start:turn]), alike, False)

    def _own_forms(self, keys: leaks.Keys, number: int, key: str, loose: str, answer: int) -> None:
        """What makes a request near another: the form with the answer, and the words of a short one
        whatever the answer.
        """
        if self.config.similarity >= 1:
            return
        keys.add(number, _hash(f"{_form(key, loose)}\0{answer}"))
        if telling := core(folded(key)):
            keys.add(number, _hash(f"{telling.replace(' ', '')}\0"))

    def _turn(
        self, keys: leaks.Keys, number: int, asked: str, answer: int, always: bool, loose: str = ""
    ) -> None:
        """One turn with its answer; unless ``always``, if it says enough."""
        loose = loose or words(asked)
        if not (always or _is_telling(loose)):
            return
        keys.add(number, _hash(f"{loose}\0{answer}"))
        if self.config.similarity < 1:
            keys.add(number, _hash(f"{_form(asked, loose)}\0\0{answer}"))

    def divide(self, store: RowStore, given: set[Side], advance: Callable[[int], None]) -> None:
        """Decides the side of every row. ``given``: the splits that the source has itself."""
        self.given = given
        if self.strata and not any(self.strata):
            raise DataError(
                f"data.stratify = {self.data.stratify}: no row has such a field in its meta data or"
                " its JSON answer"
            )
        texts_ = np.frombuffer(self.texts, np.int64)
        request_of = self._requests()
        self.requests = request_of[texts_]
        if self.config.near_duplicates is not Level.off or self.config.near_leaks is not Level.off:
            self._find_near(store, request_of, advance)
        self.sides = np.frombuffer(self.source, np.int8).copy()
        if self.data.clean.drop_duplicates:
            self.sides[self.repeated()] = Side.duplicate
        training = np.flatnonzero(self.sides == Side.train)
        if len(given) < len(SPLITS):
            rows, near = self._candidates(training)
            shares = [
                0.0 if side in given else share
                for side, share in (
                    (Side.validation, self.data.validation_fraction),
                    (Side.test, self.data.test_fraction),
                )
            ]
            self.sides[training] = split(
                rows, {} if self.config.near_leaks is Level.off else near, *shares
            )
        if self.data.clean.drop_leaks:
            self.leaked = {kind.value: self.leaking(kind)[0].tolist() for kind in leaks.Leak}
            self.sides[leaks.removed(self.held, self.sides)] = Side.leak

    def _candidates(self, training: NDArray[np.int64]) -> tuple[Candidates, dict[int, list[int]]]:
        """The rows to be split, whose requests differ in more than symbols, and which of these
        requests are nearly alike.

        What two rows have in common depends on nothing but the two, so that rows added at the end
        move no other.
        """
        number = np.unique(np.frombuffer(self.words, np.uint64), return_inverse=True)[1].astype(
            np.int64
        )
        of_text = np.zeros(len(self.text_numbers), np.int64)
        of_text[np.frombuffer(self.texts, np.int64)] = number
        near: dict[int, list[int]] = defaultdict(list)
        for request, others in self.near.items():
            near[int(of_text[request])] += of_text[others].tolist()
        turns: dict[int, list[int]] = defaultdict(list)
        if self.config.near_leaks is not Level.off:
            place_of = {row: i for i, row in enumerate(training.tolist())}
            of_each = [
                self.own.arrays(),
                *([self.turns.arrays()] if self.config.turn_leaks is not Level.off else []),
            ]
            rows, hashes = (np.concatenate(both) for both in zip(*of_each, strict=True))
            _, at, times = np.unique(hashes, return_inverse=True, return_counts=True)
            for row, key in zip(
                rows[times[at] > 1].tolist(), at[times[at] > 1].tolist(), strict=True
            ):
                if row in place_of:
                    turns[place_of[row]].append(key)
        strata = [self.strata[i] for i in training.tolist()] if self.strata else None
        own = (
            np.frombuffer(self.places)[training],
            np.frombuffer(self.groups, np.int64)[training],
            number[training],
        )
        return Candidates(*own, strata, turns), near

    def _requests(self) -> NDArray[np.int64]:
        """For each text the number of the first that differs from it only in symbols and has the
        same answer somewhere.
        """
        request_of = list(range(len(self.text_numbers)))

        def root(text: int) -> int:
            while request_of[text] != text:
                request_of[text] = request_of[request_of[text]]
                text = request_of[text]
            return text

        first: dict[tuple[int, int], int] = {}
        for text, *same in zip(self.texts, self.words, self.alike, strict=True):
            other = first.setdefault((same[0], same[1]), text)
            if other != text:
                a, b = root(other), root(text)
                request_of[max(a, b)] = min(a, b)
        return np.asarray([root(text) for text in range(len(request_of))], np.int64)

    def _find_near(
        self, store: RowStore, request_of: NDArray[np.int64], advance: Callable[[int], None]
    ) -> None:
        first = np.zeros(len(self.text_numbers), np.int64)
        first[np.frombuffer(self.texts, np.int64)[::-1]] = np.arange(len(self.source))[
            ::-1
        ]  # the first row with each text

        cores: dict[int, str] = {}

        def text(i: int) -> str:
            read = folded(str(store.value("key", int(first[i]))))
            if i not in cores:
                cores[i] = core(read)
            return read

        found = [near_pairs(len(first), text, self.config.similarity, advance)]
        if self.config.similarity < 1:
            found.append(
                spelled_alike({i: telling for i, telling in sorted(cores.items()) if telling})
            )
        self.near_capped = any(pairs.capped for pairs in found)
        pairs = {(int(request_of[a]), int(request_of[b])) for some in found for a, b in some}
        for a, b in sorted(pairs):
            if a != b and b not in self.near.get(a, ()):
                self.near.setdefault(a, []).append(b)
                self.near.setdefault(b, []).append(a)

    def repeated(self) -> list[int]:
        """Training rows of the source that repeat an earlier one strictly: request, tools,
        thoughts, answer. Safe to remove.
        """
        seen: set[int] = set()
        rows = []
        for i, (side, whole) in enumerate(zip(self.source, self.whole, strict=True)):
            if side == Side.train:
                if whole in seen:
                    rows.append(i)
                seen.add(whole)
        return rows

    @cached_property
    def held(self) -> leaks.Held:
        """What the rows hold, for leaks to be sought in it."""
        own = (self.own, self.inner, self.turns, self.inner_turns)
        return leaks.Held(self.requests, len(self.text_numbers), self.near, *own)

    def leaking(self, kind: leaks.Leak) -> tuple[NDArray[np.int64], leaks.Bits]:
        """(the rows of validation and test that are in an earlier split, the splits they are in)."""  # noqa: E501
        bits = leaks.found_in(self.held, self.sides, kind)
        rows = np.flatnonzero(bits)
        return rows, bits[rows]

    def numbers(self, *sides: Side) -> list[int]:
        """The rows on these sides, in file order."""
        return np.flatnonzero(np.isin(self.sides, sides)).tolist()

    def by_split(self, rows: Sequence[int]) -> dict[str, int]:
        """split -> how many of these rows it has."""
        counts = np.bincount(self.sides[np.asarray(rows, np.int64)], minlength=len(Side))
        return {side.name: int(counts[side]) for side in SPLITS if counts[side]}

    def label_counts(self) -> dict[str, dict[str, int]]:
        """field -> label -> rows that take part.

        Whole short answers are labels (``answer``) where each is given 20 times on average.
        """
        alive = np.isin(self.sides, SPLITS)
        result = {}
        for name, numbers in self._labels.items():
            most = min(MOST_LABELS, len(self.source) // 20) if name == "answer" else MOST_LABELS
            own = np.frombuffer(self._label_of[name], np.int16)[alive]
            counts = np.bincount(own[own >= 0], minlength=len(numbers))
            if 0 < len(numbers) <= most and counts.sum() > alive.sum() / 2:
                every = {
                    label: int(counts[number])
                    for label, number in numbers.items()
                    if counts[number]
                }
                result[name] = dict(sorted(every.items(), key=lambda item: -item[1]))
        return result


def _part(message: Message) -> str:
    """A turn before an answer, as it is compared: by the strict rule, the calls of tools too."""
    return _system(message.content) if message.role == "system" else normalised(_said(message))


@lru_cache(maxsize=64)
def _system(text: str) -> str:
    return normalised(text)


def _exact_part(message: Message) -> str:
    """A turn before an answer, as it is compared where conflicts are claimed."""
    return _exact_system(message.content) if message.role == "system" else exact(_said(message))


@lru_cache(maxsize=64)
def _exact_system(text: str) -> str:
    return exact(text)


def _joined(parts: Sequence[str]) -> str:
    return " ".join(filter(None, parts))


@lru_cache(maxsize=4)  # a request is its own last turn
def _form(key: str, loose: str) -> str:
    fold = folded(key)
    return form(loose if fold is key else words(fold))


def _said(message: Message) -> str:
    return (
        f"{message.content}{[dict(call) for call in message.tool_calls]}"
        if message.tool_calls
        else message.content
    )


def _answer_hash(answer: Mapping[str, Any] | None, said: str) -> int:
    """JSON objects are the same in whatever order and spacing they are written, other answers but
    for white space.
    """
    try:
        return _hash(
            " ".join(said.split()) if answer is None else json.dumps(answer, sort_keys=True)
        )
    except RecursionError:
        return _hash(said)


def _alike(answer: Mapping[str, Any] | None, said: str) -> int:
    """Answers that differ in case or in the mark at their end are the same where leaks are sought."""  # noqa: E501
    try:
        return _hash(
            answer_form(said) if answer is None else json.dumps(answer, sort_keys=True).casefold()
        )
    except RecursionError:
        return _hash(said)


def _is_telling(asked: str) -> bool:
    """Whether a turn says more than "yes" or "go on", which are answered alike in many
    conversations.
    """
    return len(asked.split()) >= _TELLING_WORDS or (
        not asked.isascii() and len(asked) >= 3 * _TELLING_WORDS
    )


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def _label_fields(schema: Mapping[str, Any] | None) -> list[str]:
    """Top-level fields of the answers that the schema limits to a list of values."""
    properties = (schema or {}).get("properties", {})
    return [
        name
        for name, field in properties.items()
        if isinstance(field, Mapping) and ("enum" in field or field.get("type") == "boolean")
    ]
