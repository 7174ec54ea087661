"""Recognise and drop the nulls that a typed column adds.

Parquet, Arrow and the datasets library give every object of a column the keys of all objects of
that column: a call of one function gets the arguments of every other function, as null. Such
objects are read as ``Struct``, and their nulls are dropped from tool calls and from schemas of
tools. What was written as JSON text has the keys its author gave it, and keeps its nulls. JSON
lines that were written from a typed column look like it: ``mark_padded_records`` recognises them
by their keys.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from hydratune.data.rows import Record, Records
from hydratune.errors import DataError

if TYPE_CHECKING:
    import pyarrow

# the names under which data sets store the arguments of a tool call
ARGUMENT_KEYS = ("arguments", "parameters", "input", "args", "kwargs", "params")


class Struct(dict[str, object]):
    """An object whose keys are those of its column: null may mean that it has no such key."""


def from_arrow(value: object, kind: "pyarrow.DataType", where: str) -> object:
    """Return ``value`` of the Arrow type ``kind`` with structs as ``Struct`` and maps as objects.

    Raises ``DataError`` for a map with a key that occurs twice.
    """
    import pyarrow

    if value is None or not pyarrow.types.is_nested(kind):
        return value
    if pyarrow.types.is_struct(kind) and isinstance(value, dict):
        kinds = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        return Struct(
            {
                key: from_arrow(item, kinds[key], where) if key in kinds else item
                for key, item in value.items()
            }
        )
    if pyarrow.types.is_map(kind) and isinstance(value, list):
        pairs = {key: from_arrow(item, kind.item_type, where) for key, item in value}
        if len(pairs) < len(value):
            raise DataError(f"{where}: a key occurs twice in one object; keep one of them")
        return {str(key): item for key, item in pairs.items()}
    if isinstance(value, list) and hasattr(kind, "value_type"):
        return [from_arrow(item, kind.value_type, where) for item in value]
    return value


def drop_padding(value: Any, keep: Iterable[str] = ()) -> tuple[Any, int]:
    """Return ``value`` without the nulls of its ``Struct``s, and how many were dropped.

    Keys in ``keep`` stay at the top level, also if they are null.
    """
    if isinstance(value, list):
        items = [drop_padding(item) for item in value]
        return [item for item, _ in items], sum(count for _, count in items)
    if not isinstance(value, Struct):
        return value, 0
    kept, count = {}, 0
    for key, item in value.items():
        if item is None and key not in keep:
            count += 1
            continue
        kept[key], inner_count = drop_padding(item)
        count += inner_count
    return kept, count


def mark_padded_records(read: Callable[[], Records]) -> Records:
    """Yield the records of a JSON file, with objects as ``Struct`` if a typed column wrote them.

    ``read`` reads the file. It is called a second time at the first null argument, and only then.
    Raises ``DataError`` for JSON that is nested too deeply.
    """
    is_padded: bool | None = None
    for where, record in read():
        try:
            if is_padded is None and any(None in args.values() for _, args in _find_calls(record)):
                is_padded = _are_padded(other for _, other in read())
            if is_padded:
                record = {key: _as_structs(item) for key, item in record.items()}
        except RecursionError:
            raise DataError(f"{where}: the JSON is nested too deeply to be a row") from None
        yield where, record


def _are_padded(records: Iterable[Record]) -> bool:
    """Return whether all calls have the same keys although their functions differ.

    Then there are two functions, and an argument of one is always null in calls of the other.
    """
    keys: set[str] | None = None
    filled: dict[str, set[str]] = defaultdict(set)  # function -> arguments that are not always null
    declared: dict[str, set[str]] = {}
    for record in records:
        for name, arguments in _find_calls(record):
            if keys is not None and keys != arguments.keys():
                return False
            keys = set(arguments)
            filled[name] |= {key for key, value in arguments.items() if value is not None}
        declared |= _declared_parameters(record)
    own = {
        name: filled.get(name, set()) | declared.get(name, set()) for name in {*filled, *declared}
    }
    foreign = {name: (keys or set()) - own[name] for name in filled}
    return any(foreign[name] & own[other] for name in foreign for other in own if other != name)


def _declared_parameters(record: Record) -> dict[str, set[str]]:
    """Return the names of each function's parameters, from the tools of a row."""
    tools = record.get("tools") or record.get("functions")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError:
            return {}
    declared = {}
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        parameters = function.get("parameters") if isinstance(function, dict) else None
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        if isinstance(function, dict) and isinstance(properties, dict):
            declared[str(function.get("name"))] = {
                key for key, value in properties.items() if value is not None
            }
    return declared


def _find_calls(value: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (function, arguments) of every object in ``value`` that is a call of a function."""
    if isinstance(value, list):
        for item in value:
            yield from _find_calls(item)
    elif isinstance(value, dict):
        name = value.get("name")
        candidates = (value[key] for key in ARGUMENT_KEYS if isinstance(value.get(key), dict))
        arguments = next(candidates, None)
        # an object with "properties" is the schema of a tool, not a call
        if isinstance(name, str) and arguments is not None and "properties" not in arguments:
            yield name, arguments
            return
        for item in value.values():
            if isinstance(item, dict | list):
                yield from _find_calls(item)


def _as_structs(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_structs(item) for item in value]
    if isinstance(value, dict):
        return Struct({key: _as_structs(item) for key, item in value.items()})
    return value
