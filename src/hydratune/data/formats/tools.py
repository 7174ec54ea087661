"""Convert the tools of a row to OpenAI's form, which servers hand to templates at inference."""

import json
from collections.abc import Mapping

from hydratune.data.formats.contents import refuse_half_characters
from hydratune.data.formats.json_files import parse_json_text
from hydratune.data.formats.notes import Notes
from hydratune.data.formats.padding import Struct, drop_padding
from hydratune.data.rows import Tool
from hydratune.errors import DataError

_ANY_VALUE = {"default", "const", "example"}  # keywords of a JSON schema whose value may be null
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_PLAIN_LISTS = ("enum", "examples", "required")  # keywords with lists that hold no schemas


def read_tools(value: object, notes: Notes, where: str) -> tuple[Tool, ...]:
    """Return the tools of a row; ``notes`` counts the nulls that were dropped.

    Raises ``DataError``.
    """
    if isinstance(value, str) and value.strip():
        value = parse_json_text(value, "tools", where)
    if value is None or value in ("", []) or value != value:
        return ()
    if not isinstance(value, list):
        raise DataError(
            f"{where}: tools must be a list of functions, this is {type(value).__name__}"
        )
    value = [
        parse_json_text(tool, "a tool", where)
        if isinstance(tool, str) and tool.lstrip().startswith("{")
        else tool
        for tool in value
    ]
    refuse_half_characters(json.dumps(value, ensure_ascii=False, default=str), "tools", where)
    return tuple(_read_tool(tool, notes, where) for tool in value)


def _read_tool(tool: object, notes: Notes, where: str) -> Tool:
    if not isinstance(tool, dict):
        raise _incomplete_tool_error(tool, where)
    wrapped = tool.get("function")
    function = tool if wrapped is None else wrapped
    if not isinstance(function, dict):
        raise _incomplete_tool_error(tool, where)
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise _incomplete_tool_error(tool, where)
    # Anthropic's name of the parameters
    if "parameters" not in function and isinstance(function.get("input_schema"), dict):
        others = {key: item for key, item in function.items() if key != "input_schema"}
        function = {**others, "parameters": function["input_schema"]}
    function = _drop_nulls(function, name, notes, where)
    if wrapped is None:
        if function.get("type") == "function":
            del function["type"]
        return {"type": "function", "function": function}
    is_typed = isinstance(tool, Struct)
    return {
        key: function if key == "function" else item
        for key, item in tool.items()
        if key == "function" or item is not None or not is_typed
    }


def _incomplete_tool_error(tool: object, where: str) -> DataError:
    return DataError(
        f"{where}: a tool needs a name, a description and parameters, got {str(tool)[:80]!r}"
    )


def _drop_nulls(
    schema: Mapping[str, object], tool: str, notes: Notes, where: str
) -> dict[str, object]:
    """Return a JSON schema, or what holds one, without keywords and properties that are null."""
    kept: dict[str, object] = {}
    for key, value in schema.items():
        if value is None and (key not in _ANY_VALUE or isinstance(schema, Struct)):
            notes.schema_nulls += 1
        elif key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            kept[key] = _drop_null_schemas(value, schema.get("required"), tool, notes, where)
        elif isinstance(value, dict) and key not in _ANY_VALUE:
            kept[key] = _drop_nulls(value, tool, notes, where)
        elif isinstance(value, list) and key not in _PLAIN_LISTS:
            kept[key] = [
                _drop_nulls(item, tool, notes, where) if isinstance(item, dict) else item
                for item in value
            ]
        else:
            kept[key], nulls = drop_padding(value)
            notes.schema_nulls += nulls
    return kept


def _drop_null_schemas(
    schemas: Mapping[str, object], required: object, tool: str, notes: Notes, where: str
) -> dict[str, object]:
    """Return schemas by name without those that are null.

    A typed column has the properties of all tools in each tool. Raises ``DataError`` if a required
    property is null.
    """
    kept: dict[str, object] = {}
    for name, value in schemas.items():
        schema = _drop_nulls(value, tool, notes, where) if isinstance(value, dict) else value
        is_padding = schema == {} and isinstance(value, Struct) and len(value) > 0
        if schema is not None and not is_padding:
            kept[name] = schema
        elif isinstance(required, list) and name in required:
            raise DataError(
                f"{where}: the parameters of the tool {tool} hold null where a JSON schema belongs,"
                f" for {name}, which is required; correct it, or take it out of required"
            )
        else:
            notes.schema_nulls += schema is None
    return kept
