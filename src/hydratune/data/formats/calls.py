"""Calls of tools and the tools themselves, as files have them -> OpenAI's form, which is what
templates are given.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2.exceptions import TemplateError

from hydratune.data.formats.files import load_json
from hydratune.data.formats.notes import Notes
from hydratune.data.formats.padding import ARGUMENTS, Struct, unpadded
from hydratune.errors import DataError

log = logging.getLogger(__name__)

Tools = tuple[Mapping[str, Any], ...]
TEXT_ARGUMENTS = (
    "the chat template takes the arguments of tool calls as text, so they are given to it as JSON"
    " text"
)
_IDS = ("id", "call_id", "tool_call_id", "toolCallId")
_CALL_KEYS = {*ARGUMENTS, *_IDS, "name", "type", "function", "index"}
_ANY_VALUE = {"default", "const", "example"}  # keywords of a JSON schema whose value may be null


def parsed(text: str, name: str, where: str) -> Any:
    try:
        return load_json(text, where)
    except json.JSONDecodeError:
        # as pandas writes lists into CSV files
        python = re.match(r"\s*[\[{]+\s*'", text) is not None
        fix = (
            "; it is written as Python prints it: write it with json.dumps(...), or the file as"
            " JSON lines or Parquet"
            if python
            else ""
        )
        raise DataError(f"{where}: {name} is a text that is not JSON: {text[:60]!r}{fix}") from None


def refuse_half_characters(text: str, name: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise DataError(
            f"{where}: {name} holds half a character ({half}), as cut text does; repair or"
            " remove it"
        ) from None


def tool_calls(value: Any, tools: Tools, notes: Notes, where: str) -> tuple[dict[str, Any], ...]:
    """Tool calls with their ``arguments`` as objects: templates print them as JSON, and would print
    a text as a JSON string.
    """
    if isinstance(value, str) and value.strip():
        value = parsed(value, "a tool call", where)
    if not value:
        return ()
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise DataError(f"{where}: tool_calls must be a list, this is {type(value).__name__}")
    return tuple(_call(call, tools, notes, where) for call in value)


def _call(call: Any, tools: Tools, notes: Notes, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    function = call if function is None else function  # null: a typed column has both forms
    if (
        not isinstance(function, dict)
        or not isinstance(function.get("name"), str)
        or not function["name"]
    ):
        raise DataError(
            f'{where}: a tool call needs {{"function": {{"name": ..., "arguments": ...}}}}, got'
            f" {str(call)[:80]!r}"
        )
    name = function["name"]
    arguments = _arguments(call, function, notes, where)
    identity = next((call[key] for key in _IDS if call.get(key) is not None), None)
    if identity is not None and not isinstance(identity, str):
        raise DataError(
            f"{where}: id of the call to {name} must be a text, this is {type(identity).__name__}"
        )
    arguments, nulls = unpadded(arguments or {}, _required(name, tools))
    notes.argument_nulls += nulls
    return {
        **({"id": identity} if identity else {}),
        "type": "function",
        "function": {"name": name, "arguments": dict(arguments)},
    }


def _arguments(
    call: Mapping[str, Any], function: Mapping[str, Any], notes: Notes, where: str
) -> Mapping[str, Any] | None:
    """The arguments of a call under any of their names.

    Raises ``DataError`` where they may stand under a name that is not known.
    """
    name, found = function["name"], {}
    both = [function] if function is call else [function, call]
    for key, value in (
        (key, holder[key]) for holder in both for key in ARGUMENTS if holder.get(key) is not None
    ):
        if isinstance(value, str):
            value = parsed(value, f"{key} of the call to {name}", where) if value.strip() else {}
        if not isinstance(value, dict):
            raise DataError(
                f"{where}: {key} of the call to {name} must be an object, this is"
                f" {type(value).__name__}"
            )
        found[key] = value
    filled = {key: value for key, value in found.items() if value}
    if any(value != next(iter(filled.values())) for value in filled.values()):
        raise DataError(
            f"{where}: {' and '.join(filled)} of the call to {name} differ; keep one of them, as"
            " arguments"
        )
    for key, value in ((key, value) for holder in both for key, value in holder.items()):
        if key in _CALL_KEYS or value is None or value != value or value in ("", [], {}):
            continue
        nested = isinstance(value, dict | list) or (
            isinstance(value, str) and value.lstrip().startswith("{")
        )
        if not filled and (nested or not found):
            raise DataError(
                f"{where}: the call to {name} has no arguments, but the key {key}, which nothing"
                f' reads; write {{"name": "{name}", "arguments": {{...}}}}, and take {key} out if'
                " it is no argument"
            )
        notes.keys[f"tool_calls.{key}"] += 1
    return next(iter(filled.values()), None)


def _required(name: str, tools: Tools) -> tuple[str, ...]:
    """Arguments that a call must have: where one of them is null, null is its value."""
    parameters = next(
        (tool["function"].get("parameters") for tool in tools if tool["function"]["name"] == name),
        None,
    )
    required = parameters.get("required") if isinstance(parameters, dict) else None
    return tuple(required) if isinstance(required, list) else ()


def tool_list(value: Any, notes: Notes, where: str) -> Tools:
    """The tools of a row in OpenAI's form, which is what servers hand to templates at inference."""
    if isinstance(value, str) and value.strip():
        value = parsed(value, "tools", where)
    if value is None or value in ("", []) or value != value:
        return ()
    if not isinstance(value, list):
        raise DataError(
            f"{where}: tools must be a list of functions, this is {type(value).__name__}"
        )
    value = [
        (
            parsed(tool, "a tool", where)
            if isinstance(tool, str) and tool.lstrip().startswith("{")
            else tool
        )
        for tool in value
    ]
    refuse_half_characters(json.dumps(value, ensure_ascii=False, default=str), "tools", where)
    return tuple(_tool(tool, notes, where) for tool in value)


def _tool(tool: Any, notes: Notes, where: str) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    wrapped = function is not None
    function = function if wrapped else tool
    if (
        not isinstance(function, dict)
        or not isinstance(function.get("name"), str)
        or not function["name"]
    ):
        raise DataError(
            f"{where}: a tool needs a name, a description and parameters, got {str(tool)[:80]!r}"
        )
    # Anthropic's name
    if "parameters" not in function and isinstance(function.get("input_schema"), dict):
        function = {
            **{key: item for key, item in function.items() if key != "input_schema"},
            "parameters": function["input_schema"],
        }
    function = _without_null(function, function["name"], notes, where)
    if not wrapped:
        return {
            "type": "function",
            "function": {
                key: item for key, item in function.items() if key != "type" or item != "function"
            },
        }
    rest = {
        key: item
        for key, item in tool.items()
        if key != "function" and (item is not None or not isinstance(tool, Struct))
    }
    return {
        key: function if key == "function" else rest[key]
        for key in tool
        if key == "function" or key in rest
    }


def _without_null(schema: Mapping[str, Any], tool: str, notes: Notes, where: str) -> dict[str, Any]:
    """A JSON schema (or what holds one) without keywords that are null, and without properties that
    are.
    """
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if value is None and (key not in _ANY_VALUE or isinstance(schema, Struct)):
            notes.schema_nulls += 1
        elif key in ("properties", "patternProperties", "$defs", "definitions") and isinstance(
            value, dict
        ):
            kept[key] = _schemas(value, schema, tool, notes, where)
        elif isinstance(value, dict) and key not in _ANY_VALUE:
            kept[key] = _without_null(value, tool, notes, where)
        elif isinstance(value, list) and key not in ("enum", "examples", "required"):
            kept[key] = [
                _without_null(item, tool, notes, where) if isinstance(item, dict) else item
                for item in value
            ]
        else:
            kept[key], nulls = unpadded(value)
            notes.schema_nulls += nulls
    return kept


def _schemas(
    named: Mapping[str, Any], schema: Mapping[str, Any], tool: str, notes: Notes, where: str
) -> dict[str, Any]:
    """Schemas by name, without those that are null: a typed column has the properties of all tools."""  # noqa: E501
    kept: dict[str, Any] = {}
    required = schema.get("required")
    for name, value in named.items():
        whole = _without_null(value, tool, notes, where) if isinstance(value, dict) else value
        gone = whole is None or (whole == {} and isinstance(value, Struct) and len(value) > 0)
        if not gone:
            kept[name] = whole
        elif isinstance(required, list) and name in required:
            raise DataError(
                f"{where}: the parameters of the tool {tool} hold null where a JSON schema belongs,"
                f" for {name}, which is required; correct it, or take it out of required"
            )
        else:
            notes.schema_nulls += whole is None
    return kept


def with_text_arguments(turns: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turns whose tool calls have their arguments as JSON text, as OpenAI's servers send them."""

    def texts(call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        return {
            **call,
            "function": {
                **function,
                "arguments": json.dumps(function["arguments"], ensure_ascii=False),
            },
        }

    return [
        (
            {**turn, "tool_calls": list(map(texts, turn["tool_calls"]))}
            if turn.get("tool_calls")
            else dict(turn)
        )
        for turn in turns
    ]


def takes_text_arguments(
    template: Callable[[list[Any]], Any], turns: list[dict[str, Any]]
) -> bool | None:
    """Whether a chat template takes the arguments of tool calls as text: it fails with objects, or
    prints them as Python does.

    None: these turns do not tell, since they have no arguments, or are refused either way.
    """
    given = [
        call["function"]["arguments"]
        for turn in turns
        for call in turn.get("tool_calls", ())
        if call["function"]["arguments"]
    ]
    if not given:
        return None
    try:
        with_objects = str(template(turns))
    except (TemplateError, TypeError, ValueError):
        with_objects = None
    if with_objects is not None and not any(str(arguments) in with_objects for arguments in given):
        return False
    try:
        with_texts = str(template(with_text_arguments(turns)))
    except (TemplateError, TypeError, ValueError):
        return None if with_objects is None else False
    if not all(json.dumps(arguments, ensure_ascii=False) in with_texts for arguments in given):
        return None if with_objects is None else False
    log.info(TEXT_ARGUMENTS)
    return True
