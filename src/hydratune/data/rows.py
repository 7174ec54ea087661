"""The canonical row: what every reader produces and everything after it consumes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

ROLES = ("system", "user", "assistant", "tool", "text")
SPLIT_NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation, with OpenAI's names. The role ``text`` is a document: the only
    message of its row.

    ``reasoning`` is an assistant's thinking, which templates print apart from its content.
    ``train`` false: this assistant turn is context, whatever ``data.train_on`` says. ``continues``:
    the document goes on in another row, so no end-of-text token follows; such a row may have a
    first message of text that is context.
    """

    role: str
    content: str
    reasoning: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    train: bool = True
    continues: bool = False

    def turn(self) -> dict[str, Any]:
        """What a chat template is given: only what is there, so that templates asking ``is
        defined`` are not misled.
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
            **{k: v for k, v in optional.items() if v is not None},
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
    tools: tuple[Mapping[str, Any], ...] = ()

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
        """All the text of a document: its context, if it is a part with one, and what is trained."""  # noqa: E501
        return "".join(m.content for m in self.messages)

    @property
    def is_text(self) -> bool:
        """Whether this is a document for continued training: no prompt, no answer, no chat
        template.
        """
        return self.messages[0].role == "text"

    @property
    def content_hash(self) -> str:
        """Hash of the conversation alone; equal texts have equal hashes whatever their id."""
        plain = [(m.role, m.content) for m in self.messages]
        rest = [(m.reasoning, m.tool_calls, m.tool_call_id, m.name, m.train) for m in self.messages]
        if self.tools or any(r != (None, (), None, None, True) for r in rest):
            return stable_hash([plain, rest, self.tools])
        return stable_hash(plain)


def stable_hash(value: Any) -> str:
    """16 hex digits of the SHA-256 of ``value`` as canonical JSON; the same on every machine and
    run.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_system(row: Row, system: str | None) -> Row:
    """Return ``row`` with a system turn in front, if it has none of its own."""
    if system is None or row.messages[0].role in ("system", "text"):
        return row
    return replace(row, messages=(Message("system", system), *row.messages))
