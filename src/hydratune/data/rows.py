"""The canonical row: what every reader produces and everything after it consumes."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """One example.

    ``group`` names what the row was cut from (contract, dialogue, customer); rows of one group stay on one side of a
    split and count as one unit in confidence intervals. ``where`` is file:line of its source, for messages to people.
    """

    id: str
    messages: tuple[Message, ...]
    group: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    where: str = ""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last assistant turn."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """The last assistant turn, which is what evaluation compares with."""
        return self.messages[-1].content

    @property
    def content_hash(self) -> str:
        """Hash of the conversation alone; equal texts have equal hashes whatever their id."""
        return stable_hash([(m.role, m.content) for m in self.messages])


def stable_hash(value: Any) -> str:
    """16 hex digits of the SHA-256 of ``value`` as canonical JSON; the same on every machine and run."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
