"""Convert tool calls, as files have them, to OpenAI's form, which chat templates are given."""

from collections.abc import Mapping, Sequence

from hydratune.data.formats.json_files import parse_json_text
from hydratune.data.formats.notes import Notes
from hydratune.data.formats.padding import ARGUMENT_KEYS, drop_padding
from hydratune.data.rows import Tool, ToolCall
from hydratune.errors import DataError

_IDS = ("id", "call_id", "tool_call_id", "toolCallId")
_CALL_KEYS = {*ARGUMENT_KEYS, *_IDS, "name", "type", "function", "index"}


def read_tool_calls(
    value: object, tools: Sequence[Tool], notes: Notes, where: str
) -> tuple[ToolCall, ...]:
    """Return tool calls with their ``arguments`` as objects.

    Templates print arguments as JSON, and would print a text as a JSON string. Raises
    ``DataError``.
    """
    if isinstance(value, str) and value.strip():
        value = parse_json_text(value, "a tool call", where)
    if not value:
        return ()
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise DataError(f"{where}: tool_calls must be a list, this is {type(value).__name__}")
    return tuple(_read_call(call, tools, notes, where) for call in value)


def _read_call(call: object, tools: Sequence[Tool], notes: Notes, where: str) -> ToolCall:
    if not isinstance(call, dict):
        raise _incomplete_call_error(call, where)
    function = call if call.get("function") is None else call["function"]
    if not isinstance(function, dict):
        raise _incomplete_call_error(call, where)
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise _incomplete_call_error(call, where)
    arguments = _read_arguments(call, function, notes, where)
    identity = next((call[key] for key in _IDS if call.get(key) is not None), None)
    if identity is not None and not isinstance(identity, str):
        raise DataError(
            f"{where}: id of the call to {name} must be a text, this is {type(identity).__name__}"
        )
    arguments, nulls = drop_padding(arguments or {}, _required_arguments(name, tools))
    notes.argument_nulls += nulls
    return {
        **({"id": identity} if identity else {}),
        "type": "function",
        "function": {"name": name, "arguments": dict(arguments)},
    }


def _incomplete_call_error(call: object, where: str) -> DataError:
    return DataError(
        f'{where}: a tool call needs {{"function": {{"name": ..., "arguments": ...}}}}, got'
        f" {str(call)[:80]!r}"
    )


def _read_arguments(
    call: Mapping[str, object], function: Mapping[str, object], notes: Notes, where: str
) -> Mapping[str, object] | None:
    """Return the arguments of a call under any of their names, or None if it has none.

    Raises ``DataError`` if they differ, or may stand under a name that is not known.
    """
    name = function["name"]
    objects = [function] if function is call else [function, call]
    present = {
        key: _as_object(holder[key], f"{key} of the call to {name}", where)
        for holder in objects
        for key in ARGUMENT_KEYS
        if holder.get(key) is not None
    }
    filled = {key: value for key, value in present.items() if value}
    if any(value != next(iter(filled.values())) for value in filled.values()):
        raise DataError(
            f"{where}: {' and '.join(filled)} of the call to {name} differ; keep one of them, as"
            " arguments"
        )
    for key, value in ((key, value) for holder in objects for key, value in holder.items()):
        if key in _CALL_KEYS or value is None or value != value or value in ("", [], {}):
            continue
        if not filled and (_may_be_arguments(value) or not present):
            raise DataError(
                f"{where}: the call to {name} has no arguments, but the key {key}, which nothing"
                f' reads; write {{"name": "{name}", "arguments": {{...}}}}, and take {key} out if'
                " it is no argument"
            )
        notes.keys[f"tool_calls.{key}"] += 1
    return next(iter(filled.values()), None)


def _as_object(value: object, name: str, where: str) -> dict[str, object]:
    """Return the arguments of a call, which may be JSON text; an empty text is no arguments."""
    if isinstance(value, str):
        value = parse_json_text(value, name, where) if value.strip() else {}
    if not isinstance(value, dict):
        raise DataError(f"{where}: {name} must be an object, this is {type(value).__name__}")
    return value


def _may_be_arguments(value: object) -> bool:
    if isinstance(value, str):
        return value.lstrip().startswith("{")
    return isinstance(value, dict | list)


def _required_arguments(function: str, tools: Sequence[Tool]) -> tuple[str, ...]:
    """Return the arguments that a call must have: where one of them is null, null is its value."""
    declared = (tool["function"] for tool in tools if tool["function"]["name"] == function)
    declaration: Mapping[str, object] = next(declared, {})
    parameters = declaration.get("parameters")
    required = parameters.get("required") if isinstance(parameters, dict) else None
    return tuple(required) if isinstance(required, list) else ()
