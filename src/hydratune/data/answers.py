"""Answers that must be JSON objects: strict parsing, and the JSON schema that they must obey."""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from hydratune.bounds import TooSlowError, depth, time_limit
from hydratune.errors import DataError
from hydratune.settings.data import DataConfig

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

SCHEMA_FILE = "schema.json"  # beside prepared rows
REPORT_FILE = "report.json"  # likewise: what was found and changed
MAX_DEPTH = 64  # levels of an answer, and of its schema: a validator calls itself for each
MAX_SECONDS = 5.0  # for one answer, because a regular expression can take exponential time
# keywords whose schemas hold for the same value
_IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")
_MUST_POINT_INTO_SCHEMA = "references must point into the schema itself"


class Schema(dict[str, Any]):
    """A JSON schema, and the setting it comes from."""

    source = "data.schema"


# ------------------------------------------------------------------------------------------- schema
def json_schema(data: DataConfig) -> dict[str, object] | None:
    """Return the JSON schema of the answers, from the settings or from a file.

    Raises ``DataError`` if it is not a valid schema.
    """
    schema, file = data.schema, data.schema_file
    if schema is None and file is None:
        file = data.own_schema_file()
    if file is not None:
        schema = _read_schema(file)
    if schema is None:
        return None
    source = f"data.schema_file = {file}" if file is not None else Schema.source
    check_schema(schema, source)
    if isinstance(schema, dict):
        schema = Schema(schema)
        schema.source = source
    return schema


def _read_schema(file: str) -> Any:
    try:
        return json.loads(Path(file).read_text("utf-8"))
    except RecursionError:
        raise _too_deep_error(f"data.schema_file = {file}") from None
    except (ValueError, OSError) as error:
        raise DataError(f"data.schema_file = {file}: not readable JSON ({error})") from None


def check_schema(schema: Mapping[str, object], where: str) -> None:
    """Raise ``DataError`` for a schema that is invalid, endless, too deep or too slow."""
    import jsonschema

    if depth(schema, MAX_DEPTH) > MAX_DEPTH:
        raise _too_deep_error(where)
    if cycle := next(_reference_cycles(schema), None):
        raise DataError(
            f"{where}: the reference {cycle!r} leads back to itself, so no value can be checked;"
            " let it point elsewhere"
        )
    try:
        with time_limit(MAX_SECONDS):
            jsonschema.Draft202012Validator.check_schema(schema)
            # a pattern or reference that cannot be resolved shows only when a value is checked
            _validator(json.dumps(schema)).is_valid({})
    except jsonschema.SchemaError as error:
        raise DataError(f"{where}: not a valid JSON schema ({error.message[:300]})") from None
    except TooSlowError:
        raise DataError(
            f"{where}: checking an empty object takes longer than {MAX_SECONDS:g} s; simplify the"
            " schema"
        ) from None
    except Exception as error:
        raise DataError(f"{where}: cannot be used ({error}); {_MUST_POINT_INTO_SCHEMA}") from None


def _too_deep_error(where: str) -> DataError:
    return DataError(
        f"{where}: nested deeper than {MAX_DEPTH} levels; write inner parts under $defs, and refer"
        " to them with $ref"
    )


def _reference_cycles(schema: object) -> Iterator[str]:
    """Yield references that lead back to themselves for the same value.

    A validator would follow them without end. This is a depth-first search without recursion.
    """
    edges = {id(node): list(_schemas_of_same_value(node, schema)) for node in _objects(schema)}
    done: set[int] = set()
    for start in edges:
        path, on_path = [(start, "", iter(edges[start]))], {start}
        while path:
            node, _, remaining = path[-1]
            for reference, target in remaining:
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


def _objects(value: object) -> Iterator[dict[str, object]]:
    """Yield every object in a value."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _schemas_of_same_value(node: Mapping[str, object], schema: object) -> Iterator[tuple[str, int]]:
    """Yield (reference or nothing, id) of every schema that ``node`` applies to the same value."""
    reference = node.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        target = _follow_pointer(reference, schema)
        if target is not None:
            yield reference, id(target)
    for keyword in _IN_PLACE:
        inner = node.get(keyword)
        for subschema in inner if isinstance(inner, list) else [inner]:
            if isinstance(subschema, dict):
                yield "", id(subschema)


def _follow_pointer(reference: str, schema: object) -> object:
    """Return what a JSON pointer (RFC 6901) points to, or None."""
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


@lru_cache(maxsize=8)
def _validator(schema: str) -> "Draft202012Validator":
    """Return a validator of draft 2020-12 that checks formats, such as dates, too."""
    import jsonschema
    from referencing import Registry

    kind = jsonschema.Draft202012Validator
    # a registry of its own fetches nothing
    return kind(json.loads(schema), format_checker=kind.FORMAT_CHECKER, registry=Registry())


# ------------------------------------------------------------------------------------------ answers
class NotStrictJson(ValueError):
    """The text is not exactly one JSON object."""


def parse_strict(text: str) -> dict[str, object]:
    """Return the JSON object that ``text`` is.

    Raises ``NotStrictJson`` for anything beside it (fences, prose), NaN, a key that occurs twice,
    and an object that is nested deeper than ``MAX_DEPTH``.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except RecursionError:
        raise NotStrictJson("nested too deeply") from None
    except ValueError as error:
        raise NotStrictJson(str(error)) from None
    if not isinstance(value, dict):
        raise NotStrictJson(f"{type(value).__name__}, not an object")
    if depth(value, MAX_DEPTH) > MAX_DEPTH:
        raise NotStrictJson(f"nested deeper than {MAX_DEPTH} levels")
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise NotStrictJson("a key occurs twice")
    return result


def _refuse_constant(name: str) -> None:
    raise NotStrictJson(f"{name} is not JSON")


def is_valid_answer(text: str, schema: Mapping[str, object], where: str = "") -> bool:
    """Return whether a reference answer is a JSON object that obeys the schema.

    ``where`` is file:line of its row, for the message. Raises ``DataError`` if the schema itself
    cannot be used, which may show only when it meets a value.
    """
    source = f"{where}: " if where else ""
    source += getattr(schema, "source", Schema.source)
    try:
        with time_limit(MAX_SECONDS):
            return bool(_validator(json.dumps(schema)).is_valid(parse_strict(text)))
    except NotStrictJson:
        return False
    except TooSlowError as error:
        raise DataError(
            f"{source}: checking this answer takes longer than {MAX_SECONDS:g} s: {text[:60]!r};"
            f" {_how_to_speed_up(error)}"
        ) from None
    except Exception as error:
        raise DataError(f"{source}: cannot be used ({error}); {_MUST_POINT_INTO_SCHEMA}") from None


def _how_to_speed_up(error: TooSlowError) -> str:
    """Return advice, which names the pattern that was being matched when the time was over."""
    trace = error.__traceback__
    while trace is not None:
        code, variables = trace.tb_frame.f_code, trace.tb_frame.f_locals
        if "jsonschema" in code.co_filename and code.co_name in ("pattern", "patternProperties"):
            pattern = variables.get("patrn", variables.get("pattern"))
            return (
                f"rewrite the pattern {pattern!r}, which is slow on it: nested repetitions such as"
                " (a+)+ take exponential time"
            )
        trace = trace.tb_next
    return (
        "simplify the schema: each branch of nested allOf, anyOf, oneOf and $ref is checked again"
        " for the same value"
    )


def is_schema_valid(value: Mapping[str, object], schema: Mapping[str, object]) -> bool:
    """Return whether a value obeys a schema; one that cannot be checked in time does not."""
    try:
        with time_limit(MAX_SECONDS):
            return bool(_validator(json.dumps(schema)).is_valid(value))
    except (TooSlowError, RecursionError):
        return False


def schema_errors(
    value: Mapping[str, object], schema: Mapping[str, object], at_most: int = 3
) -> list[str]:
    """Return what is wrong with a value and where: ``$.signed: '31 April' is not a 'date'``."""
    try:
        with time_limit(MAX_SECONDS):
            errors = _validator(json.dumps(schema)).iter_errors(value)
            first = sorted(errors, key=lambda error: error.json_path)[:at_most]
    except (TooSlowError, RecursionError):
        return [f"$: could not be checked within {MAX_SECONDS:g} s"]
    return [f"{error.json_path}: {error.message}"[:200] for error in first]
