"""Answers that should be JSON objects: strict parsing and the JSON schema they must obey."""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hydratune.bounds import TooSlowError, depth, time_limit
from hydratune.errors import DataError
from hydratune.settings.data import DataConfig

SCHEMA_FILE = "schema.json"  # beside prepared rows
DEEPEST = 64  # levels of an answer, and of its schema: a validator calls itself for each
SECONDS = 5.0  # for one answer: a regular expression can take longer than anybody waits
# keywords that look at the same value
_IN_PLACE = (
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
)


class Schema(dict[str, Any]):
    """A JSON schema, and the setting it comes from."""

    source = "data.schema"


def json_schema(data: DataConfig) -> dict[str, Any] | None:
    """The JSON schema of the answers, from the configuration or its file.

    Raises ``DataError`` if it is not a schema.
    """
    schema, file = data.schema, data.schema_file
    if schema is None and file is None:
        file = data.own_schema_file()
    if file is not None:
        try:
            schema = json.loads(Path(file).read_text("utf-8"))
        except RecursionError:
            raise _too_deep(f"data.schema_file = {file}") from None
        except (ValueError, OSError) as error:
            raise DataError(f"data.schema_file = {file}: not readable JSON ({error})") from None
    if schema is not None:
        source = f"data.schema_file = {file}" if file is not None else Schema.source
        _check_schema(schema, source)
        if isinstance(schema, dict):
            schema = Schema(schema)
            schema.source = source
    return schema


def _check_schema(schema: Any, where: str) -> None:
    import jsonschema

    if depth(schema, DEEPEST) > DEEPEST:
        raise _too_deep(where)
    if circle := next(_circles(schema), None):
        raise DataError(
            f"{where}: the reference {circle!r} leads back to itself, so no value can be checked;"
            " let it point elsewhere"
        )
    try:
        with time_limit(SECONDS):
            jsonschema.Draft202012Validator.check_schema(schema)
            _validator(json.dumps(schema)).is_valid(
                {}
            )  # a pattern or reference that cannot be resolved shows only in use
    except jsonschema.SchemaError as error:
        raise DataError(f"{where}: not a valid JSON schema ({error.message[:300]})") from None
    except TooSlowError:
        raise DataError(
            f"{where}: checking an empty object takes longer than {SECONDS:g} s; simplify the"
            " schema"
        ) from None
    except Exception as error:
        raise DataError(
            f"{where}: cannot be used ({error}); references must point into the schema itself"
        ) from None


def _too_deep(where: str) -> DataError:
    return DataError(
        f"{where}: nested deeper than {DEEPEST} levels; write inner parts under $defs, and refer to"
        " them with $ref"
    )


def _circles(schema: Any) -> Iterator[str]:
    """References that lead back to themselves without looking into the value: a validator would
    follow them for ever.
    """
    edges = {id(node): list(_same_value(node, schema)) for node in _nodes(schema)}
    done: set[int] = set()
    for start in edges:
        path, on_path = [(start, "", iter(edges[start]))], {start}
        while path:
            node, _, rest = path[-1]
            for reference, target in rest:
                if target in on_path:
                    yield reference or next(name for _, name, _ in reversed(path) if name)
                if target not in done and target not in on_path:
                    path.append((target, reference, iter(edges.get(target, ()))))
                    on_path.add(target)
                    break
            else:
                path.pop()
                on_path.discard(node)
                done.add(node)


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
        stack.extend(
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        )


def _same_value(node: Mapping[str, Any], schema: Any) -> Iterator[tuple[str, int]]:
    """(reference or nothing, id) of every schema that ``node`` holds the same value against."""
    reference = node.get("$ref")
    if (
        isinstance(reference, str)
        and reference.startswith("#")
        and (target := _pointed(reference, schema)) is not None
    ):
        yield reference, id(target)
    for keyword in _IN_PLACE:
        inner = node.get(keyword)
        for one in inner if isinstance(inner, list) else [inner]:
            if isinstance(one, dict):
                yield "", id(one)


def _pointed(reference: str, schema: Any) -> Any:
    """What a JSON pointer (RFC 6901) points to, or None."""
    value = schema
    for part in unquote(reference[1:]).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            return None
    return value


def is_valid_answer(text: str, schema: Mapping[str, Any], where: str = "") -> bool:
    """Raises ``DataError`` if the schema itself cannot be used, which may show only where it meets
    a value.

    ``where`` is file:line of the answer's row, for the message.
    """
    source, row = getattr(schema, "source", Schema.source), f"{where}: " if where else ""
    try:
        with time_limit(SECONDS):
            return bool(_validator(json.dumps(schema)).is_valid(parse_strict(text)))
    except NotStrictJson:
        return False
    except TooSlowError as error:
        why = f"checking this answer takes longer than {SECONDS:g} s: {text[:60]!r}"
        raise DataError(f"{row}{source}: {why}; {_how_to_speed_up(error)}") from None
    except Exception as error:
        raise DataError(
            f"{row}{source}: cannot be used ({error}); references must point into the schema itself"
        ) from None


def _how_to_speed_up(error: TooSlowError) -> str:
    """Names the pattern that was being matched when the time was over, if it was one."""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "jsonschema" in code.co_filename and code.co_name in ("pattern", "patternProperties"):
            found = trace.tb_frame.f_locals.get("patrn", trace.tb_frame.f_locals.get("pattern"))
            return (
                f"rewrite the pattern {found!r}, which is slow on it: nested repetitions such as"
                " (a+)+ take exponential time"
            )
        trace = trace.tb_next
    return (
        "simplify the schema: each branch of nested allOf, anyOf, oneOf and $ref is checked again"
        " for the same value"
    )


class NotStrictJson(ValueError):
    """The text is not exactly one JSON object."""


def parse_strict(text: str) -> dict[str, Any]:
    """``text`` must be one JSON object and nothing else: no fences, no prose, no NaN, no key twice."""  # noqa: E501
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError:
        raise NotStrictJson("nested too deeply") from None
    except ValueError as error:
        raise NotStrictJson(str(error)) from None
    if not isinstance(value, dict):
        raise NotStrictJson(f"{type(value).__name__}, not an object")
    if depth(value, DEEPEST) > DEEPEST:
        raise NotStrictJson(f"nested deeper than {DEEPEST} levels")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise NotStrictJson("a key occurs twice")
    return result


def _no_constant(name: str) -> None:
    raise NotStrictJson(f"{name} is not JSON")


def is_schema_valid(value: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Under draft 2020-12, formats such as dates included.

    What cannot be checked in time is not valid.
    """
    try:
        with time_limit(SECONDS):
            return bool(_validator(json.dumps(schema)).is_valid(value))
    except (TooSlowError, RecursionError):
        return False


def schema_errors(
    value: Mapping[str, Any], schema: Mapping[str, Any], at_most: int = 3
) -> list[str]:
    """What is wrong and where: ``$.signed: '31 April' is not a 'date'``."""
    try:
        with time_limit(SECONDS):
            found = sorted(
                _validator(json.dumps(schema)).iter_errors(value), key=lambda error: error.json_path
            )
    except (TooSlowError, RecursionError):
        return [f"$: could not be checked within {SECONDS:g} s"]
    return [f"{error.json_path}: {error.message}"[:200] for error in found[:at_most]]


@lru_cache(maxsize=8)
def _validator(schema: str) -> Any:
    import jsonschema
    from referencing import Registry

    kind = jsonschema.Draft202012Validator
    # a registry of its own fetches nothing
    return kind(json.loads(schema), format_checker=kind.FORMAT_CHECKER, registry=Registry())
