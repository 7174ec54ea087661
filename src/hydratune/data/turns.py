"""One turn of a conversation as a file has it -> Message: roles, contents, tool calls, thinking, and whether it is trained."""

import itertools
import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from hydratune.data.files import load_json
from hydratune.data.rows import ROLES, Message
from hydratune.errors import DataError

_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
_OPENAI_ROLES = {"developer": "system"}  # its name since the o1 models
_REASONING = ("reasoning_content", "thinking", "reasoning")  # one thing under three names
_TEXT_PARTS = {"text", "input_text", "output_text"}
_MEDIA = {"image": "images", "audio": "sounds", "video": "videos", "file": "files", "document": "files"}


def turn_list(value: Any, where: str) -> list[Any]:
    if isinstance(value, str):  # CSV cells hold lists as JSON text
        value = _parsed(value, "the conversation", where)
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: the conversation must be a list with at least one turn")
    return value


def _parsed(text: str, name: str, where: str) -> Any:
    try:
        return load_json(text, where)
    except json.JSONDecodeError:
        raise DataError(f"{where}: {name} is a text that is not JSON: {text[:60]!r}") from None


def turn_message(turn: Any, role_key: str, content_key: str, where: str) -> Message:
    if not isinstance(turn, dict) or role_key not in turn:
        raise DataError(f"{where}: a turn needs {role_key!r} and {content_key!r}, got {str(turn)[:80]!r}")
    said = str(turn[role_key])
    role = (_SHAREGPT_ROLES if role_key == "from" else _OPENAI_ROLES).get(said, said)
    content = turn.get(content_key)
    if role_key == "from" and said == "function_call":  # sharegpt writes the call where others write the text
        calls, content = _calls(content, where), ""
        if not calls:
            raise DataError(f"{where}: a function_call turn holds no call")
    else:
        calls = _calls(turn.get("tool_calls") or turn.get("function_call"), where)
        content = "" if calls and content is None else content
    if content is None and content_key not in turn:
        raise DataError(f"{where}: a turn needs {role_key!r} and {content_key!r}, got {str(turn)[:80]!r}")
    reasoning = next((text for key in _REASONING if (text := _optional_text(turn, key, role, where))), None)
    identity, name = _optional_text(turn, "tool_call_id", role, where), _optional_text(turn, "name", role, where)
    for key, value, owner in (
        ("tool_calls", calls, "assistant"),
        ("thinking", reasoning, "assistant"),
        ("tool_call_id", identity, "tool"),
    ):
        if value and role != owner:
            raise DataError(f"{where}: {key} on the {role} turn; only {owner} turns have it")
    return Message(
        role,
        content_text(content, f"content of the {role} turn", where, answer=role in ("assistant", "tool")),
        reasoning=reasoning,
        tool_calls=calls,
        tool_call_id=identity,
        name=name,
        train=_is_trained(turn, role, where),
    )


def _optional_text(turn: Mapping[str, Any], key: str, role: str, where: str) -> str | None:
    """A key that may be missing, null (Parquet fills what is missing) or a text."""
    value = turn.get(key)
    if value is None or isinstance(value, str):
        return value or None
    raise DataError(f"{where}: {key} of the {role} turn must be a text, this is {type(value).__name__}")


def _is_trained(turn: Mapping[str, Any], role: str, where: str) -> bool:
    """From ``train: true/false`` or OpenAI's ``weight: 0/1``."""
    train, weight = turn.get("train"), turn.get("weight")
    if train is not None and not isinstance(train, bool):
        raise DataError(f"{where}: train of the {role} turn must be true or false, this is {train!r}")
    if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float) or weight not in (0, 1)):
        raise DataError(f"{where}: weight of the {role} turn must be 0 (context) or 1 (trained), this is {weight!r}")
    stated = {bool(value) for value in (train, weight) if value is not None}
    if len(stated) == 2:
        raise DataError(f"{where}: train and weight of the {role} turn say opposite things; keep one of them")
    if role != "assistant":
        if True in stated:
            raise DataError(f"{where}: the {role} turn is marked as trained; only assistant turns can be")
        return True
    return stated != {False}


def _calls(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Tool calls in OpenAI's form, ``arguments`` as an object: templates print it as JSON, and would print a text as a JSON string."""
    if isinstance(value, str) and value.strip():
        value = _parsed(value, "a tool call", where)
    if not value:
        return ()
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise DataError(f"{where}: tool_calls must be a list, this is {type(value).__name__}")
    return tuple(_call(call, where) for call in value)


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise DataError(f'{where}: a tool call needs {{"function": {{"name": ..., "arguments": ...}}}}, got {str(call)[:80]!r}')
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str) and arguments.strip():
        arguments = _parsed(arguments, f"arguments of the call to {function['name']}", where)
    if arguments is not None and arguments != "" and not isinstance(arguments, dict):
        raise DataError(f"{where}: arguments of the call to {function['name']} must be an object, this is {type(arguments).__name__}")
    identity = call.get("id")
    if identity is not None and not isinstance(identity, str):
        raise DataError(f"{where}: id of the call to {function['name']} must be a text, this is {type(identity).__name__}")
    named = {"id": identity} if identity else {}
    return {**named, "type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}


def tool_list(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """The tools of a row in OpenAI's form, which is what servers hand to templates at inference."""
    if isinstance(value, str) and value.strip():
        value = _parsed(value, "tools", where)
    if value is None or value in ("", []) or value != value:
        return ()
    if not isinstance(value, list):
        raise DataError(f"{where}: tools must be a list of functions, this is {type(value).__name__}")
    refuse_half_characters(json.dumps(value, ensure_ascii=False, default=str), "tools", where)
    return tuple(_tool(tool, where) for tool in value)


def _tool(tool: Any, where: str) -> dict[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise DataError(f"{where}: a tool needs a name, a description and parameters, got {str(tool)[:80]!r}")
    if _has_null_property(function.get("parameters")):
        raise DataError(
            f"{where}: the parameters of the tool {function['name']} hold null where a JSON schema belongs, as Parquet does when it "
            "gives all rows the same keys; store the tools as JSON text"
        )
    return dict(tool) if "function" in tool else {"type": "function", "function": dict(function)}


def _has_null_property(schema: Any) -> bool:
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict) and None in properties.values():
            return True
        return any(map(_has_null_property, schema.values()))
    return isinstance(schema, list) and any(map(_has_null_property, schema))


def content_text(value: Any, name: str, where: str, *, answer: bool = False) -> str:
    """A text, a number as text, or the text parts of OpenAI's content. An ``answer`` may also be an object, which becomes JSON."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"{where}: {name} is empty ({'null' if value is None else 'not a number'})")
    if isinstance(value, bytes):
        raise DataError(f"{where}: {name} is binary; a text is needed")
    if _are_text_parts(value):
        return "".join(part["text"] for part in value)
    _refuse_media(value, name, where, strict=not answer)
    if isinstance(value, bool | dict | list):
        if not answer:
            raise DataError(f"{where}: {name} must be a text, this is {type(value).__name__}: {str(value)[:60]}")
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: {name} cannot be written as JSON ({error})") from None
    if isinstance(value, float) and math.isinf(value):
        raise DataError(f"{where}: {name} is not a finite number")
    if not isinstance(value, str | int | float | Decimal | date | datetime | time):
        raise DataError(f"{where}: {name} must be a text, this is {type(value).__name__}")
    return str(value)


def becomes_json(value: Any) -> bool:
    return isinstance(value, bool | dict | list) and not _are_text_parts(value)


def _are_text_parts(value: Any) -> bool:
    """OpenAI's content parts; each is a text."""
    known = isinstance(value, list) and all(isinstance(p, dict) and p.get("type") in _TEXT_PARTS for p in value)
    return known and bool(value) and all(isinstance(p.get("text"), str) for p in value)


def _refuse_media(value: Any, name: str, where: str, *, strict: bool) -> None:
    """Content parts that are no text. An answer that is a list of objects may have a key ``type``, so it is ``strict`` for others only."""
    if not isinstance(value, list) or not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in value):
        return
    for part in value:
        kind = part["type"]
        medium = next((medium for medium in _MEDIA if medium in kind and (strict or kind in part)), None)
        if medium is not None:
            raise DataError(f"{where}: {name} holds a part of type {kind!r}; {_MEDIA[medium]} cannot be trained on, only text")
        if strict and (kind not in _TEXT_PARTS or not isinstance(part.get("text"), str)):
            raise DataError(f"{where}: {name} holds a part of type {kind!r} that is not text; only text can be trained on")


def check_turns(messages: list[Message], where: str) -> tuple[Message, ...]:
    """The turns up to the last one that is trained. Raises ``DataError`` unless roles are known and in order and it says something.

    What follows the last trained turn is neither trained nor read by anything that is.
    """
    roles = [m.role for m in messages]
    unknown = next((r for r in roles if r not in ROLES), None)
    if unknown is not None:
        raise DataError(f"{where}: unknown role {unknown!r}; known: {', '.join(ROLES)}")
    for message in messages:
        apart = message.tool_calls or message.reasoning
        text = json.dumps(message.turn(), ensure_ascii=False) if apart else message.content
        refuse_half_characters(text, f"the {message.role} turn", where)
    if "text" in roles:
        if len(roles) > 1:
            raise DataError(f"{where}: a text is a whole document and stands alone in its row (roles: {', '.join(roles)})")
        if not messages[0].content.strip():
            raise DataError(f"{where}: the text is empty")
        return tuple(messages)
    if "assistant" not in roles:
        raise DataError(f"{where}: no assistant turn, so there is nothing to learn (roles: {', '.join(roles)})")
    if roles[-1] != "assistant":
        raise DataError(f"{where}: the last turn must be the assistant's (roles: {', '.join(roles)})")
    if "system" in roles[1:]:
        raise DataError(f"{where}: a system turn can only come first (roles: {', '.join(roles)})")
    talk = roles[1:] if roles[0] == "system" else roles
    if talk[0] != "user" or any(a == b for a, b in itertools.pairwise(talk) if a in ("user", "assistant")):
        raise DataError(f"{where}: roles out of order, user and assistant must alternate after the system turn (roles: {', '.join(roles)})")
    if any(b.role == "tool" and a.role != "tool" and not a.tool_calls for a, b in itertools.pairwise(messages)):
        raise DataError(f"{where}: a tool turn must follow an assistant turn with tool_calls, or another tool turn")
    trained = [i for i, m in enumerate(messages) if m.role == "assistant" and m.train]
    if not trained:
        raise DataError(f"{where}: every assistant turn is marked as context (train: false or weight: 0), so there is nothing to learn")
    last = messages[trained[-1]]
    if not last.content.strip() and not last.tool_calls:
        raise DataError(f"{where}: the assistant's answer is empty")
    return tuple(messages[: trained[-1] + 1])


def refuse_half_characters(text: str, name: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise DataError(f"{where}: {name} holds half a character ({half}), as cut text does; repair or remove it") from None
