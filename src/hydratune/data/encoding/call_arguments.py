"""Give the arguments of tool calls to a chat template as it takes them: as objects, or as text."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2.exceptions import TemplateError

from hydratune.data.rows import ToolCall

log = logging.getLogger(__name__)

Turns = list[dict[str, Any]]
TEXT_ARGUMENTS = (
    "the chat template takes the arguments of tool calls as text, so they are given to it as JSON"
    " text"
)
_REFUSALS = (TemplateError, TypeError, ValueError)


def with_text_arguments(turns: Iterable[Mapping[str, Any]]) -> Turns:
    """Return turns with the arguments of tool calls as JSON text, as OpenAI's servers send them."""
    return [
        {**turn, "tool_calls": list(map(_with_text_arguments, turn["tool_calls"]))}
        if turn.get("tool_calls")
        else dict(turn)
        for turn in turns
    ]


def _with_text_arguments(call: ToolCall) -> dict[str, Any]:
    text = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": text}}


def takes_text_arguments(template: Callable[[Turns], str], turns: Turns) -> bool | None:
    """Return whether a template fails with arguments as objects, or prints them as Python does.

    None: these turns do not show it, because they have no arguments or are refused either way.
    """
    calls = [call for turn in turns for call in turn.get("tool_calls", ())]
    given = [call["function"]["arguments"] for call in calls if call["function"]["arguments"]]
    if not given:
        return None
    try:
        with_objects = template(turns)
    except _REFUSALS:
        with_objects = None
    if with_objects is not None and not any(str(arguments) in with_objects for arguments in given):
        return False
    undecided = None if with_objects is None else False
    try:
        with_texts = template(with_text_arguments(turns))
    except _REFUSALS:
        return undecided
    if not all(json.dumps(arguments, ensure_ascii=False) in with_texts for arguments in given):
        return undecided
    log.info(TEXT_ARGUMENTS)
    return True
