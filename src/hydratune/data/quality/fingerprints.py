"""Hashes by which rows are compared with each other, so that no text has to be kept in memory.

``equality`` and ``variants`` say which texts are equal; here their forms are hashed for whole rows.
"""

import json
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from hydratune.data.quality.equality import exact_form, normalised, words
from hydratune.data.quality.row_checks import parse_json_object
from hydratune.data.quality.variants import answer_form
from hydratune.data.rows import Message, Row

_DERIVED_ID = re.compile("(?:.*/)?[0-9a-f]{16}")  # a row without an id has the hash of its text


@dataclass(frozen=True)
class RequestForms:
    """The request of a row as it is compared."""

    turns: list[str]  # strict form of each turn before the last answer
    strict: str  # of all these turns
    loose: str  # the words of ``strict``


class Fingerprints:
    """One hash or number per row and property, in the order in which the rows were seen."""

    def __init__(self) -> None:
        self.text_numbers: dict[bytes, int] = {}  # digest of a strict request -> its number
        self.texts = array("q")  # number of the row's strict request
        self.words = array("Q")  # request, loosely
        self.exact_requests = array("Q")  # request and tools, exactly: for claims of conflict
        self.answers = array("Q")
        self.answer_forms = array("Q")  # answers as leaks compare them
        self.whole = array("Q")  # request, tools, answer and reasoning: for removal
        self.ids = array("Q")
        self.is_json = array("b")  # whether the answer is a JSON object

    def __len__(self) -> int:
        return len(self.texts)

    def see(self, row: Row) -> RequestForms:
        """Add one row, and return the forms of its request."""
        number, last = len(self), row.messages[-1]
        before = row.prompt or row.messages
        turns = [strict_turn(message) for message in before]
        strict = join_turns(turns)
        loose = words(strict)
        answer, said = parse_json_object(row.answer), turn_text(last)
        tools = json.dumps(row.tools, sort_keys=True, default=str) if row.tools else ""
        self.texts.append(self._text_number(strict))
        self.words.append(hash_text(loose))
        self.exact_requests.append(hash_text("\0".join((*map(_exact_turn, before), tools))))
        self.answers.append(_answer_hash(answer, said))
        self.answer_forms.append(_hash_answer_form(answer, said))
        spaced = " ".join(said.split())
        self.whole.append(hash_text(f"{strict}\0{tools}\0{spaced}\0{last.reasoning or ''}"))
        self.ids.append(number if _DERIVED_ID.fullmatch(row.id) else hash_text(row.id))
        self.is_json.append(answer is not None)
        return RequestForms(turns, strict, loose)

    def _text_number(self, text: str) -> int:
        digest = blake2b(text.encode(), digest_size=12).digest()
        return self.text_numbers.setdefault(digest, len(self.text_numbers))


def hash_text(text: str) -> int:
    """Return the first 64 bits of the BLAKE2b hash of ``text``."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def turn_text(message: Message) -> str:
    """Return what a turn says, with its tool calls."""
    if not message.tool_calls:
        return message.content
    return f"{message.content}{[dict(call) for call in message.tool_calls]}"


def strict_turn(message: Message) -> str:
    """Return a turn before an answer by the strict rule."""
    if message.role == "system":
        return _strict_system_turn(message.content)
    return normalised(turn_text(message))


@lru_cache(maxsize=64)
def _strict_system_turn(text: str) -> str:
    return normalised(text)


def _exact_turn(message: Message) -> str:
    """Return a turn before an answer as it is compared where conflicts are claimed."""
    if message.role == "system":
        return _exact_system_turn(message.content)
    return exact_form(turn_text(message))


@lru_cache(maxsize=64)
def _exact_system_turn(text: str) -> str:
    return exact_form(text)


def join_turns(turns: Sequence[str]) -> str:
    """Join the forms of turns; empty ones are dropped."""
    return " ".join(filter(None, turns))


def _answer_hash(answer: Mapping[str, object] | None, said: str) -> int:
    """Hash an answer: JSON objects without regard to order and spacing, others to white space."""
    try:
        if answer is None:
            return hash_text(" ".join(said.split()))
        return hash_text(json.dumps(answer, sort_keys=True))
    except RecursionError:
        return hash_text(said)


def answer_form_hash(said: str) -> int:
    """Hash an answer so that answers that differ in case or final marks are equal, as in leaks."""
    return _hash_answer_form(parse_json_object(said), said)


def _hash_answer_form(answer: Mapping[str, object] | None, said: str) -> int:
    try:
        if answer is None:
            return hash_text(answer_form(said))
        return hash_text(json.dumps(answer, sort_keys=True).casefold())
    except RecursionError:
        return hash_text(said)
