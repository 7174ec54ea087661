"""How well a JSON object agrees with the reference, field by field."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydratune.data.answers import NotStrictJson, is_schema_valid, parse_strict, schema_errors
from hydratune.data.quality.grounding import ungrounded
from hydratune.evaluation.measures import Measure, rate, share

HOW = {
    "json": (
        "strict: the whole answer is one object; null counts as not stated; texts compared without"
        " case; lists as sets"
    ),
    "field_f1": "micro over all leaves of all rows",
    "invented_keys": (
        "share of the JSON answers with a key that neither the reference has nor the schema names"
    ),
    "hallucinated": (
        "of the keys without a value in truth, the share that a JSON answer gives a value"
    ),
    "in_source": (
        "share of stated texts and numbers that the request contains; in_source_reference: of the"
        " true ones, on the same rows"
    ),
}


def fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, value) of every leaf that is not null. Items of a list share a path, so their order
    does not count.

    Texts are compared without case and repeated spaces; 12 and 12.0 are the same number, "12" is
    not.
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
    """``value`` so that what scoring calls the same is equal: null and missing, 1 and 1.0, texts
    without case, lists in any order.
    """
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return sorted((_canonical(inner) for inner in value), key=repr)
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    return ("bool", value) if isinstance(value, bool) else value


def paths(value: Any, path: str = "") -> Iterator[str]:
    """The path of every key, those of nested objects included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            here = f"{path}.{key}" if path else key
            yield here
            yield from paths(inner, here)
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, f"{path}[]")


def allowed(schema: Mapping[str, Any] | bool | None, path: str = "") -> Iterator[str]:
    """The paths a schema names; one that ends in ``.*`` stands for any key there."""
    if not isinstance(schema, Mapping):
        return
    for key, inner in (schema.get("properties") or {}).items():
        here = f"{path}.{key}" if path else key
        yield here
        yield from allowed(inner, here)
    if schema.get("patternProperties") or schema.get("additionalProperties"):
        yield f"{path}.*" if path else "*"
    yield from allowed(schema.get("items"), f"{path}[]")
    for kind in ("anyOf", "oneOf", "allOf"):
        for inner in schema.get(kind) or ():
            yield from allowed(inner, path)


def invented(
    found: Mapping[str, Any], expected: Mapping[str, Any], schema: Mapping[str, Any] | None
) -> list[str]:
    """Keys that neither the reference has nor the schema names."""
    known = {*paths(expected), *allowed(schema)}
    anything = tuple(path[:-1] for path in known if path.endswith("*"))
    return [
        path
        for path in dict.fromkeys(paths(found))
        if path not in known and not any(path.startswith(start) for start in anything)
    ]


def in_source(value: Any, source: str) -> tuple[int, int]:
    """(found, stated) over the texts and numbers of ``value``: written in ``source``, or a date or
    number that it writes otherwise.
    """
    leaves = [leaf for leaf in _leaves(value) if not isinstance(leaf, bool)]
    plain = " ".join(source.casefold().split())
    return sum(_stands_in(str(leaf), plain, source) for leaf in leaves), len(leaves)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    elif value is not None:
        yield value


def _stands_in(text: str, plain: str, source: str) -> bool:
    wanted = " ".join(text.casefold().split())
    whole_word = re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", plain) is not None
    return whole_word or (any(letter.isdigit() for letter in text) and not ungrounded(source, text))


def score(
    prediction: str, reference: str, schema: Mapping[str, Any] | None, source: str = ""
) -> dict[str, Any]:
    """Scores of one answer to the request ``source``.

    ``fields`` maps each top-level key of either side to (true positives, predicted, expected,
    equal): null counts as not stated. An answer that is not strict JSON states nothing, and
    ``json_error`` says why. ``silent``: how many keys have no value in truth, and how many of those
    the answer states. ``in_source``: see there; with the reference's own beside it, because a right
    answer may be worded otherwise than its source.
    """
    expected = parse_strict(reference)
    why = ""
    try:
        found: dict[str, Any] | None = parse_strict(prediction.strip())
    except NotStrictJson as error:
        found, why = None, str(error)
    by_key: dict[str, list[int]] = {}
    for key in dict.fromkeys([*expected, *(found or {})]):
        wanted = Counter(fields(expected.get(key), key))
        stated = Counter(fields((found or {}).get(key), key))
        hits = sum((wanted & stated).values())
        equal = found is not None and _canonical(expected.get(key)) == _canonical(found.get(key))
        by_key[key] = [hits, sum(stated.values()), sum(wanted.values()), int(equal)]
    result: dict[str, Any] = {
        "json_valid": found is not None,
        "schema_valid": found is not None and schema is not None and is_schema_valid(found, schema),
        "exact_match": found is not None and all(equal for *_, equal in by_key.values()),
        "fields": by_key,
    }
    if found is None:
        return {**result, "json_error": why}
    if schema is not None and not result["schema_valid"]:
        result["schema_errors"] = schema_errors(found, schema)
    silent = {
        key
        for key in [*((schema or {}).get("properties") or {}), *expected]
        if expected.get(key) is None
    }
    result["silent"] = [len(silent), sum(by_key.get(key, [0, 0])[1] > 0 for key in silent)]
    result["invented"] = invented(found, expected, schema)
    if source:
        result["in_source"] = [*in_source(found, source), *in_source(expected, source)]
    return result


def agreement(scores: Mapping[str, Any]) -> float:
    """Field F1 of one answer."""
    hits, stated, wanted = (sum(f[i] for f in scores["fields"].values()) for i in range(3))
    return 2 * hits / (stated + wanted) if stated + wanted else float(scores["json_valid"])


def measures(scores: Sequence[Mapping[str, Any]]) -> dict[str, Measure]:
    """``schema_valid`` means something only where there is a schema: the caller knows."""
    if "fields" not in scores[0]:
        return {}
    result = {
        "json_valid": rate([s["json_valid"] for s in scores]),
        "schema_valid": rate([s["schema_valid"] for s in scores]),
    }
    counts = [[sum(f[i] for f in s["fields"].values()) for i in range(3)] for s in scores]
    result["field_precision"] = share([c[0] for c in counts], [c[1] for c in counts])
    result["field_recall"] = share([c[0] for c in counts], [c[2] for c in counts])
    result["field_f1"] = share([2 * c[0] for c in counts], [c[1] + c[2] for c in counts])
    for key in dict.fromkeys(
        key
        for s in scores
        for key in s["fields"]
        if any(p["fields"].get(key, [0, 0, 0])[2] for p in scores)
    ):
        parts = [s["fields"].get(key, [0, 0, 0, 1]) for s in scores]
        result[f"field_f1/{key}"] = share([2 * p[0] for p in parts], [p[1] + p[2] for p in parts])
        result[f"field_accuracy/{key}"] = rate(
            [s["json_valid"] and bool(p[3]) for s, p in zip(scores, parts, strict=True)]
        )
    result["exact_match"] = rate([s["exact_match"] for s in scores])
    result["invented_keys"] = share(
        [bool(s.get("invented")) for s in scores], [s["json_valid"] for s in scores]
    )
    silent = [s.get("silent", [0, 0]) for s in scores]
    if any(s[0] for s in silent):
        result["hallucinated"] = share([s[1] for s in silent], [s[0] for s in silent])
    sources = [s.get("in_source", [0] * 4) for s in scores]
    if any(s[1] for s in sources):
        result["in_source"] = share([s[0] for s in sources], [s[1] for s in sources])
        result["in_source_reference"] = share([s[2] for s in sources], [s[3] for s in sources])
    return result
