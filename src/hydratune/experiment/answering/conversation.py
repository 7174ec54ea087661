"""A conversation: its turns, what fits into the model's context, and its file.

Its file has the chat layout of training rows, so a saved conversation can be trained on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hydratune.data.formats.columns import Naming
from hydratune.data.formats.files import read_records
from hydratune.data.formats.requests import to_requests
from hydratune.data.rows import Message, Record, Row
from hydratune.errors import DataError, InputError
from hydratune.records.files import write_text

_SUFFIXES = (".json", ".jsonl")
_BLANK = "\u241fblank\u241f"  # before an answer without words, which no training row may have


@dataclass
class Conversation:
    """The turns of user and assistant, and the system prompt before them."""

    system: str | None
    turns: list[Message] = field(default_factory=list)
    file: Path | None = None  # in which it was saved, or from which it was loaded

    @property
    def messages(self) -> tuple[Message, ...]:
        """All turns, the system prompt first."""
        opening = (Message("system", self.system),) if self.system else ()
        return (*opening, *self.turns)

    def ask(self, text: str) -> None:
        self.turns.append(Message("user", text))

    def answer(self, text: str, *, whole: bool) -> None:
        """Add an answer; one that is not ``whole`` is context, should the chat be trained on."""
        self.turns.append(Message("assistant", text, train=whole))

    def undo(self) -> bool:
        """Take the last question and its answer back. Returns whether there was one."""
        last = next((i for i in range(len(self.turns))[::-1] if self.turns[i].role == "user"), None)
        if last is not None:
            del self.turns[last:]
        return last is not None

    def reset(self) -> None:
        self.turns.clear()
        self.file = None

    def fitting(
        self, tokens_of: Callable[[Sequence[Message]], list[int]], most: int
    ) -> tuple[list[int], int]:
        """Return the tokens of the newest turns that fit, and how many turns were left out.

        ``most``: tokens of a prompt. The tokens are empty if the last question alone is too long.
        """
        opening = self.messages[: len(self.messages) - len(self.turns)]
        starts = [i for i, turn in enumerate(self.turns) if turn.role == "user"]
        for start in starts:
            tokens = tokens_of((*opening, *self.turns[start:]))
            if len(tokens) <= most:
                return tokens, start
        return [], 0

    def as_row(self) -> Row:
        """Return the conversation as a row whose answer is not there yet."""
        return Row("chat", (*self.messages, Message("assistant", "")))

    def save(self, path: Path) -> str:
        """Write the conversation into a file, and return what was done.

        A .json file holds this one conversation; to a .jsonl file it is added as a row. Raises
        ``InputError`` rather than overwrite another file.
        """
        if not any(turn.role == "assistant" for turn in self.turns):
            raise InputError("there is no answer yet to be saved")
        if path.suffix not in _SUFFIXES:
            raise InputError(f"{path}: give a name that ends with .json or .jsonl")
        row = {"messages": [_stored(message) for message in self._saved_messages()]}
        try:
            if path.suffix == ".jsonl":
                return self._append(path, row)
            if path.exists() and path != self.file:
                raise InputError(f"{path} exists already; give another name")
            write_text(path, json.dumps(row, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise InputError(f"cannot write {path} ({error.strerror or error})") from error
        self.file = path
        return f"saved in {path}"

    def _saved_messages(self) -> Sequence[Message]:
        """Return the messages up to the last answer."""
        messages = list(self.messages)
        while messages[-1].role != "assistant":
            messages.pop()
        return messages

    def _append(self, path: Path, row: Mapping[str, object]) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_bytes() if path.exists() else b""
        separator = b"" if not before or before.endswith(b"\n") else b"\n"
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", errors="backslashreplace")
        with path.open("ab") as stream:
            stream.write(separator + line + b"\n")
        number = (before + separator).count(b"\n") + 1
        return f"added to {path} as row {number}"

    def load(self, path: Path) -> None:
        """Continue the conversation in a file, of several the last one. Raises ``InputError``."""
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        where, record = _last_record(path)
        record, marks = _without_marks(record)
        (request,) = to_requests(iter([(where, record)]), str(path), Naming(), Naming())
        if request.is_text:
            raise InputError(f"{path}: this is a text, not a conversation")
        row = request.row
        messages = row.messages if request.has_reference else row.prompt
        self.system = messages[0].content if messages[0].role == "system" else None
        turns = [message for message in messages if message.role != "system"]
        if turns and turns[-1].role == "user":  # its answer is missing
            messages, turns = messages[:-1], turns[:-1]
        if not turns:
            raise InputError(f"{path}: no question with an answer in it, as /save writes them")
        marks = marks[: len(messages)]
        known = len(marks) == len(messages)
        own = marks[len(messages) - len(turns) :] if known else [True] * len(turns)
        self.turns = [
            replace(turn, content=turn.content.removeprefix(_BLANK), train=mark)
            for turn, mark in zip(turns, own, strict=True)
        ]
        self.file = path if path.suffix == ".json" else None


def _last_record(path: Path) -> tuple[str, Record]:
    """Return the last record of a file. Raises ``InputError``."""
    try:
        *_, last = read_records(path, "utf-8")  # a file without rows is refused
    except DataError as error:
        if "data.encoding" in str(error):  # of rows, which a chat does not have
            raise InputError(f"{path}: this is not UTF-8 text; save it as UTF-8") from error
        raise
    return last


def _without_marks(record: Record) -> tuple[Record, list[bool]]:
    """Return a record without the marks of turns that are context, and these marks.

    A reader of training rows refuses a conversation in which every answer has one.
    """
    turns = record.get("messages")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return record, []
    plain = [{key: _not_blank(turn, key) for key in turn if key != "train"} for turn in turns]
    return {**record, "messages": plain}, [turn.get("train") is not False for turn in turns]


def _not_blank(turn: Mapping[str, object], key: str) -> object:
    value = turn[key]
    is_blank = isinstance(value, str) and not value.strip()
    return f"{_BLANK}{value}" if is_blank and turn.get("role") == "assistant" else value


def _stored(message: Message) -> dict[str, object]:
    """Return a message as a turn of a training row."""
    return message.turn() | ({} if message.train else {"train": False})
