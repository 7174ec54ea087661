"""Answers that should be JSON objects: strict parsing and the JSON schema they must obey."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydratune.config import DataConfig, PreparedData
from hydratune.errors import DataError

SCHEMA_FILE = "schema.json"  # beside prepared rows


def json_schema(data: DataConfig) -> dict[str, Any] | None:
    """The JSON schema of the answers, from the configuration or its file. Raises ``DataError`` if it is not a schema."""
    schema, file = data.schema, data.schema_file
    if isinstance(data, PreparedData) and schema is None and file is None and (Path(data.path) / SCHEMA_FILE).is_file():
        file = str(Path(data.path) / SCHEMA_FILE)
    if file is not None:
        try:
            schema = json.loads(Path(file).read_text("utf-8"))
        except (ValueError, OSError) as error:
            raise DataError(f"data.schema_file = {file}: not readable JSON ({error})") from None
    if schema is None:
        return None
    import jsonschema

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


def schema_errors(value: Mapping[str, Any], schema: Mapping[str, Any], at_most: int = 3) -> list[str]:
    """What is wrong and where: ``$.signed: '31 April' is not a 'date'``."""
    found = sorted(_validator(json.dumps(schema)).iter_errors(value), key=lambda error: error.json_path)
    return [f"{error.json_path}: {error.message}"[:200] for error in found[:at_most]]


@lru_cache(maxsize=8)
def _validator(schema: str) -> Any:
    import jsonschema
    from referencing import Registry

    kind = jsonschema.Draft202012Validator
    return kind(json.loads(schema), format_checker=kind.FORMAT_CHECKER, registry=Registry())  # a registry of its own fetches nothing
