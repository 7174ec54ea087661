"""Calls of tools and their results that a file writes into texts, between tags, as Hermes and Qwen
do.

``<tool_call>{"name": ..., "arguments": {...}}</tool_call>`` becomes a call, so that the chat
template writes it in its own way, and ``<tool_response>...</tool_response>`` the result. A text in
which anything else follows the calls is left as it is.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hydratune.data.formats.calls import Tools, tool_calls
from hydratune.data.formats.files import load_json
from hydratune.data.formats.notes import Notes
from hydratune.data.rows import Message
from hydratune.errors import DataError

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESULT = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)


def tagged_calls(text: Any, where: str) -> tuple[str, list[Any]] | None:
    """The text before the calls, and the calls; None where a text is not one that ends with calls
    as JSON.
    """
    if not isinstance(text, str) or "<tool_call>" not in text:
        return None
    before, rest = text[: text.index("<tool_call>")], text[text.index("<tool_call>") :]
    if _CALL.sub("", rest).strip():
        return None
    try:
        return before.strip(), [load_json(found, where) for found in _CALL.findall(rest)]
    except (json.JSONDecodeError, DataError):
        return None


def with_calls(messages: list[Message], tools: Tools, notes: Notes, where: str) -> list[Message]:
    """The messages of a conversation in which calls in texts that turns of tools answer are calls."""  # noqa: E501
    made: list[Message] = []
    in_texts = False  # whether the results that follow are those of calls in a text
    for message, after in zip(messages, [*messages[1:], None], strict=True):
        if message.role == "assistant":
            answered = after is not None and after.role == "tool" and not message.tool_calls
            found = tagged_calls(message.content, where) if answered else None
            in_texts = found is not None
            if found is not None:
                notes.tagged += 1
                message = replace(
                    message, content=found[0], tool_calls=tool_calls(found[1], tools, notes, where)
                )
        made += _results(message) if message.role == "tool" and in_texts else [message]
    return made


def _results(message: Message) -> Iterable[Message]:
    if not message.content.strip() or _RESULT.sub("", message.content).strip():
        return [message]
    return [replace(message, content=found.strip()) for found in _RESULT.findall(message.content)]
