"""How good is an answer that should be a JSON object: strict parsing, schema, and agreement field by field."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry

from hydratune.config import DataConfig
from hydratune.errors import DataError


def json_schema(data: DataConfig) -> dict[str, Any] | None:
    """The JSON schema of the answers, from the configuration or its file. Raises ``DataError`` if it is not a schema."""
    import jsonschema

    schema = data.schema
    if data.schema_file is not None:
        try:
            schema = json.loads(Path(data.schema_file).read_text("utf-8"))
        except (ValueError, OSError) as error:
            raise DataError(f"data.schema_file = {data.schema_file}: not readable JSON ({error})") from None
    if schema is None:
        return None
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        is_schema_valid({}, schema)  # a pattern or reference that cannot be resolved shows only in use
    except jsonschema.SchemaError as error:
        raise DataError(f"data.schema: not a valid JSON schema ({error.message})") from None
    except Exception as error:
        raise DataError(f"data.schema: cannot be used ({error}); references must point into the schema itself") from None
    return schema


def is_valid_answer(text: str, schema: Mapping[str, Any]) -> bool:
    """Raises ``DataError`` if the schema itself cannot be used, which may show only where it meets a value."""
    try:
        return is_schema_valid(parse_strict(text), schema)
    except NotStrictJson:
        return False
    except Exception as error:
        raise DataError(f"data.schema: cannot be used ({error}); references must point into the schema itself") from None


class NotStrictJson(ValueError):
    """The text is not exactly one JSON object."""


def parse_strict(text: str) -> dict[str, Any]:
    """``text`` must be one JSON object and nothing else: no fences, no prose, no NaN, no key twice."""
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError:
        raise NotStrictJson("nested too deeply") from None
    except ValueError as error:
        raise NotStrictJson(str(error)) from None
    if not isinstance(value, dict):
        raise NotStrictJson(f"{type(value).__name__}, not an object")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise NotStrictJson("a key occurs twice")
    return result


def _no_constant(name: str) -> None:
    raise NotStrictJson(f"{name} is not JSON")


def is_schema_valid(value: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Under draft 2020-12, formats such as dates included."""
    return bool(_validator(json.dumps(schema)).is_valid(value))


@lru_cache(maxsize=8)
def _validator(schema: str) -> Any:
    kind = jsonschema.Draft202012Validator
    return kind(json.loads(schema), format_checker=kind.FORMAT_CHECKER, registry=Registry())  # a registry of its own fetches nothing


def fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, value) of every leaf that is not null. Items of a list share a path, so their order does not count.

    Texts are compared without case and repeated spaces; 12 and 12.0 are the same number, "12" is not.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from fields(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner, f"{path}[]")
    elif isinstance(value, bool):
        yield path, str(value)
    elif isinstance(value, (int, float)):
        yield path, f"number {float(value)!r}" if abs(value) < 1e300 else f"number {value}"
    elif value is not None:
        yield path, " ".join(str(value).casefold().split())


def _canonical(value: Any) -> Any:
    """``value`` so that what scoring calls the same is equal: null and missing, 1 and 1.0, texts without case, lists in any order."""
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return sorted((_canonical(inner) for inner in value), key=repr)
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    return ("bool", value) if isinstance(value, bool) else value


def score(prediction: str, reference: str, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Scores of one answer.

    ``fields`` maps each top-level key of either side to (true positives, predicted, expected, equal): null counts as
    not stated. An answer that is not strict JSON states nothing.
    """
    expected = parse_strict(reference)
    try:
        found: dict[str, Any] | None = parse_strict(prediction.strip())
    except NotStrictJson:
        found = None
    by_key: dict[str, list[int]] = {}
    for key in dict.fromkeys([*expected, *(found or {})]):
        wanted = Counter(fields(expected.get(key), key))
        stated = Counter(fields((found or {}).get(key), key))
        hits = sum((wanted & stated).values())
        equal = found is not None and _canonical(expected.get(key)) == _canonical(found.get(key))
        by_key[key] = [hits, sum(stated.values()), sum(wanted.values()), int(equal)]
    return {
        "json_valid": found is not None,
        "schema_valid": found is not None and schema is not None and is_schema_valid(found, schema),
        "exact_match": found is not None and all(equal for *_, equal in by_key.values()),
        "fields": by_key,
    }
