"""How well a JSON object agrees with the reference, field by field."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from hydratune.data.answers import NotStrictJson, is_schema_valid, parse_strict


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
