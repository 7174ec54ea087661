"""Nulls that a typed column adds.

Parquet, Arrow and the datasets library give every object of a column the keys of all objects of
that column: a call of one function gets the arguments of every other function, as null. Such
objects are read as ``Struct``, and nulls in them mean nothing where calls and schemas of tools are
concerned. What was written as JSON text has the keys its author gave it, and keeps its nulls. JSON
lines that were written from a typed column look like it: ``unpadded_records`` tells them by their
keys.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from hydratune.errors import DataError

# one thing under several names
ARGUMENTS = (
    "arguments",
    "parameters",
    "input",
    "args",
    "kwargs",
    "params",
)


class Struct(dict[str, Any]):
    """An object whose keys are those of its column: null may mean that it has no such key."""


def typed(value: Any, kind: Any, where: str) -> Any:
    """``value`` of the Arrow type ``kind`` with its objects as ``Struct``, and its maps as plain
    objects.
    """
    import pyarrow

    if value is None or not pyarrow.types.is_nested(kind):
        return value
    if pyarrow.types.is_struct(kind) and isinstance(value, dict):
        kinds = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        return Struct(
            {
                key: typed(item, kinds[key], where) if key in kinds else item
                for key, item in value.items()
            }
        )
    if pyarrow.types.is_map(kind) and isinstance(value, list):
        pairs = {key: typed(item, kind.item_type, where) for key, item in value}
        if len(pairs) < len(value):
            raise DataError(f"{where}: a key occurs twice in one object; keep one of them")
        return {str(key): item for key, item in pairs.items()}
    if isinstance(value, list) and hasattr(kind, "value_type"):
        return [typed(item, kind.value_type, where) for item in value]
    return value


def unpadded(value: Any, keep: Iterable[str] = ()) -> tuple[Any, int]:
    """``value`` without the nulls of its ``Struct``s, and how many those were; top keys in ``keep``
    stay.
    """
    if isinstance(value, list):
        items = [unpadded(item) for item in value]
        return [item for item, _ in items], sum(count for _, count in items)
    if not isinstance(value, Struct):
        return value, 0
    kept, count = {}, 0
    for key, item in value.items():
        if item is None and key not in keep:
            count += 1
            continue
        kept[key], inner = unpadded(item)
        count += inner
    return kept, count


Records = Iterator[tuple[str, dict[str, Any]]]


def unpadded_records(read: Callable[[], Records]) -> Records:
    """The records of a JSON file; if it was written from a typed column, objects of the rows are
    ``Struct``.

    The file is read a second time at the first null argument, and only then.
    """
    padded: bool | None = None
    for where, record in read():
        try:
            if padded is None and any(
                None in arguments.values() for _, arguments in _calls(record)
            ):
                padded = _is_padded(other for _, other in read())
            marked = {key: _structs(item) for key, item in record.items()} if padded else record
        except RecursionError:
            raise DataError(f"{where}: the JSON is nested too deeply to be a row") from None
        yield where, marked


def _is_padded(records: Iterable[Mapping[str, Any]]) -> bool:
    """All calls have the same keys, though one function leaves null what only another has."""
    keys: set[str] | None = None
    filled: dict[str, set[str]] = defaultdict(set)  # function -> arguments that are not always null
    declared: dict[str, set[str]] = {}
    for record in records:
        for name, arguments in _calls(record):
            if keys is not None and keys != arguments.keys():
                return False
            keys = set(arguments)
            filled[name] |= {key for key, value in arguments.items() if value is not None}
        declared |= _declared(record)
    own = {
        name: filled.get(name, set()) | declared.get(name, set()) for name in {*filled, *declared}
    }  # what a function is known to have
    foreign = {name: (keys or set()) - own[name] for name in filled}
    return any(foreign[name] & own[other] for name in foreign for other in own if other != name)


def _declared(record: Mapping[str, Any]) -> dict[str, set[str]]:
    """Function -> the names of its parameters, from the row's tools."""
    tools = record.get("tools") or record.get("functions")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError:
            return {}
    found = {}
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        parameters = function.get("parameters") if isinstance(function, dict) else None
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        if isinstance(function, dict) and isinstance(properties, dict):
            found[str(function.get("name"))] = {
                key for key, value in properties.items() if value is not None
            }
    return found


def _calls(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object in ``value`` that is the call of a function: its name and its arguments."""
    if isinstance(value, list):
        for item in value:
            yield from _calls(item)
    elif isinstance(value, dict):
        name = value.get("name")
        arguments = next(
            (value[key] for key in ARGUMENTS if isinstance(value.get(key), dict)), None
        )
        # not the schema of a tool
        if isinstance(name, str) and arguments is not None and "properties" not in arguments:
            yield name, arguments
            return
        for item in value.values():
            if isinstance(item, dict | list):
                yield from _calls(item)


def _structs(value: Any) -> Any:
    if isinstance(value, list):
        return [_structs(item) for item in value]
    return (
        Struct({key: _structs(item) for key, item in value.items()})
        if isinstance(value, dict)
        else value
    )
