"""Read tool calls and results that a file writes into texts between tags, as Hermes and Qwen do.

``<tool_call>{"name": ..., "arguments": {...}}</tool_call>`` becomes a call, so that the chat
template writes it in its own way, and ``<tool_response>...</tool_response>`` the result. A text in
which anything else follows the calls stays as it is.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydratune.data.formats.calls import read_tool_calls
from hydratune.data.formats.json_files import load_json
from hydratune.data.formats.notes import Notes
from hydratune.data.rows import Message, Tool
from hydratune.errors import DataError

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESULT = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)


def split_tagged_calls(text: object, where: str) -> tuple[str, list[Any]] | None:
    """Return the text before the calls, and the calls; None if no calls as JSON end the text."""
    if not isinstance(text, str) or "<tool_call>" not in text:
        return None
    start = text.index("<tool_call>")
    before, calls = text[:start], text[start:]
    if _CALL.sub("", calls).strip():
        return None
    try:
        return before.strip(), [load_json(call, where) for call in _CALL.findall(calls)]
    except (json.JSONDecodeError, DataError):
        return None


def read_tagged_calls(
    messages: Sequence[Message], tools: Sequence[Tool], notes: Notes, where: str
) -> list[Message]:
    """Return a conversation with the calls in its texts as calls, if tool turns answer them."""
    result: list[Message] = []
    called_in_text = False  # the results that follow belong to calls in a text
    for message, following in zip(messages, [*messages[1:], None], strict=True):
        if message.role == "assistant":
            answered = following is not None and following.role == "tool" and not message.tool_calls
            tagged = split_tagged_calls(message.content, where) if answered else None
            called_in_text = tagged is not None
            if tagged is not None:
                notes.tagged += 1
                text, calls = tagged
                tool_calls = read_tool_calls(calls, tools, notes, where)
                message = replace(message, content=text, tool_calls=tool_calls)
        in_tags = message.role == "tool" and called_in_text
        result += _split_results(message) if in_tags else [message]
    return result


def _split_results(message: Message) -> list[Message]:
    """Return one tool turn for each tagged result; the turn unchanged if it has other text."""
    if not message.content.strip() or _RESULT.sub("", message.content).strip():
        return [message]
    return [replace(message, content=text.strip()) for text in _RESULT.findall(message.content)]
