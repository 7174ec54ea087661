"""The canonical row: what every reader produces and everything after it uses."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

ROLES = ("system", "user", "assistant", "tool", "text")
SPLIT_NAMES = ("train", "validation", "test")

Record = Mapping[str, Any]  # one row as its source has it: column -> value
Records = Iterator[tuple[str, Record]]  # (file:line, record)
# {"id": ..., "type": "function", "function": {"name": ..., "arguments": {...}}}, as OpenAI has it
ToolCall = Mapping[str, Any]
# {"type": "function", "function": {"name": ..., "description": ..., "parameters": JSON schema}}
Tool = Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation, with OpenAI's names.

    A message of the role ``text`` is a document, and the only message of its row. ``reasoning`` is
    an assistant's thinking, which templates print apart from its content. ``train`` false: this
    assistant turn is context, whatever ``data.train_on`` says. ``continues``: the document
    continues in another row, so no end-of-text token follows; such a row may begin with a message
    of text that is context.
    """

    role: str
    content: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    train: bool = True
    continues: bool = False

    def turn(self) -> dict[str, Any]:
        """Return what a chat template is given.

        Keys without a value are missing, because templates ask whether a key ``is defined``.
        """
        optional = {
            "reasoning_content": self.reasoning,
            "tool_call_id": self.tool_call_id,
            "name": self.name,
        }
        calls = {"tool_calls": [dict(call) for call in self.tool_calls]} if self.tool_calls else {}
        return {
            "role": self.role,
            "content": self.content,
            **{key: value for key, value in optional.items() if value is not None},
            **calls,
        }


@dataclass(frozen=True)
class Row:
    """One example.

    ``group`` names what the row was cut from (contract, dialogue, customer); rows of one group stay
    on one side of a split and count as one unit in confidence intervals. ``tools`` are the
    functions the assistant may call, as JSON schemas. ``where`` is file:line of its source, for
    messages to people.
    """

    id: str
    messages: tuple[Message, ...]
    group: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    where: str = ""
    tools: tuple[Tool, ...] = ()

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last assistant turn."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """The last assistant turn, which is what evaluation compares with."""
        return self.messages[-1].content

    @property
    def text(self) -> str:
        """All the text of a document: the trained text, and the context before it if it has one."""
        return "".join(m.content for m in self.messages)

    @property
    def is_text(self) -> bool:
        """Whether this is a document for continued training: no prompt, no answer, no template."""
        return self.messages[0].role == "text"

    @property
    def position(self) -> str:
        """Where messages say the row is: file:line, or its id if it is from no file."""
        return self.where or self.id

    @property
    def trained_turns(self) -> list[int]:
        """Positions of the assistant turns that are not marked as context."""
        return [i for i, m in enumerate(self.messages) if m.role == "assistant" and m.train]

    @property
    def content_hash(self) -> str:
        """Hash of the conversation alone; equal texts have equal hashes whatever their id."""
        plain = [(m.role, m.content) for m in self.messages]
        rest = [(m.reasoning, m.tool_calls, m.tool_call_id, m.name, m.train) for m in self.messages]
        if self.tools or any(r != (None, (), None, None, True) for r in rest):
            return stable_hash([plain, rest, self.tools])
        return stable_hash(plain)


def stable_hash(value: object) -> str:
    """Return 16 hex digits of the SHA-256 of ``value`` as canonical JSON.

    They are the same on every machine and in every run.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_system(row: Row, system: str | None) -> Row:
    """Return ``row`` with a system turn in front, if it has none of its own."""
    if system is None or row.messages[0].role in ("system", "text"):
        return row
    return replace(row, messages=(Message("system", system), *row.messages))
