"""How well a JSON object agrees with the reference, field by field."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from hydratune.data.answers import NotStrictJson, is_schema_valid, parse_strict, schema_errors
from hydratune.data.quality.grounding import ungrounded
from hydratune.evaluation.measures import Measure, Scores, rate, share
from hydratune.records.files import Json

JsonObject = dict[str, object]  # an object
JsonSchema = Mapping[str, Json]

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


def fields(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, value) of every leaf that is not null.

    Items of a list share a path, so their order does not count. Texts are compared without case and
    repeated spaces; 12 and 12.0 are the same number, "12" is not.
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


def _canonical(value: object) -> object:
    """Return ``value`` in a form in which values that score the same are equal.

    These are null and missing, 1 and 1.0, texts that differ in case, lists in another order.
    """
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return sorted((_canonical(inner) for inner in value), key=repr)
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    return ("bool", value) if isinstance(value, bool) else value


def paths(value: object, path: str = "") -> Iterator[str]:
    """Yield the path of every key, also of nested objects."""
    if isinstance(value, dict):
        for key, inner in value.items():
            here = f"{path}.{key}" if path else key
            yield here
            yield from paths(inner, here)
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, f"{path}[]")


def allowed(schema: JsonSchema | bool | None, path: str = "") -> Iterator[str]:
    """Yield the paths a schema names; one that ends in ``.*`` stands for any key there."""
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


def invented(stated: JsonObject, expected: JsonObject, schema: JsonSchema | None) -> list[str]:
    """Return the keys that neither the reference has nor the schema names."""
    named = {*paths(expected), *allowed(schema)}
    open_paths = tuple(path[:-1] for path in named if path.endswith("*"))
    return [
        path
        for path in dict.fromkeys(paths(stated))
        if path not in named and not path.startswith(open_paths)
    ]


def in_source(value: object, source: str) -> tuple[int, int]:
    """Return (texts and numbers of ``value`` that are in ``source``, all of them) as counts.

    A date or number counts as well that ``source`` writes in another way.
    """
    leaves = [leaf for leaf in _leaves(value) if not isinstance(leaf, bool)]
    plain = " ".join(source.casefold().split())
    return sum(_stands_in(str(leaf), plain, source) for leaf in leaves), len(leaves)


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    elif value is not None:
        yield value


def _stands_in(text: str, plain: str, source: str) -> bool:
    words = " ".join(text.casefold().split())
    whole_word = re.search(rf"(?<!\w){re.escape(words)}(?!\w)", plain) is not None
    return whole_word or (any(letter.isdigit() for letter in text) and not ungrounded(source, text))


def score(prediction: str, reference: str, schema: JsonSchema | None, source: str = "") -> Scores:
    """Return the scores of one answer to the request ``source``.

    ``fields`` maps each top-level key of either side to (true positives, predicted, expected,
    equal); null counts as not stated. An answer that is not strict JSON states nothing, and
    ``json_error`` says why. ``silent`` is how many keys have no true value, and how many of those
    the answer gives one. ``in_source`` is what the function of this name returns for the answer and
    for the reference, because a right answer may be worded otherwise than its source.
    """
    expected = parse_strict(reference)
    stated: JsonObject | None = None
    error = ""
    try:
        stated = parse_strict(prediction.strip())
    except NotStrictJson as why:
        error = str(why)
    by_key = field_counts(stated, expected)
    result: dict[str, object] = {
        "json_valid": stated is not None,
        "schema_valid": (
            stated is not None and schema is not None and is_schema_valid(stated, schema)
        ),
        "exact_match": stated is not None and all(equal for *_, equal in by_key.values()),
        "fields": by_key,
    }
    if stated is None:
        return {**result, "json_error": error}
    if schema is not None and not result["schema_valid"]:
        result["schema_errors"] = schema_errors(stated, schema)
    keys = [*((schema or {}).get("properties") or {}), *expected]
    silent = {key for key in keys if expected.get(key) is None}
    result["silent"] = [len(silent), sum(by_key.get(key, [0, 0])[1] > 0 for key in silent)]
    result["invented"] = invented(stated, expected, schema)
    if source:
        result["in_source"] = [*in_source(stated, source), *in_source(expected, source)]
    return result


def field_counts(stated: JsonObject | None, expected: JsonObject) -> dict[str, list[int]]:
    """Return (true positives, predicted, expected, equal) of every top-level key."""
    by_key = {}
    for key in dict.fromkeys([*expected, *(stated or {})]):
        expected_fields = Counter(fields(expected.get(key), key))
        stated_fields = Counter(fields((stated or {}).get(key), key))
        hits = (expected_fields & stated_fields).total()
        equal = stated is not None and _canonical(expected.get(key)) == _canonical(stated.get(key))
        by_key[key] = [hits, stated_fields.total(), expected_fields.total(), int(equal)]
    return by_key


def agreement(scores: Scores) -> float:
    """Return the field F1 of one answer."""
    hits, stated, expected = _totals(scores)
    count = stated + expected
    return 2 * hits / count if count else float(scores["json_valid"])


def _totals(scores: Scores) -> list[int]:
    """Return (true positives, predicted, expected) over all fields of one answer."""
    return [sum(counts[i] for counts in scores["fields"].values()) for i in range(3)]


def measures(scores: Sequence[Scores]) -> dict[str, Measure]:
    """Return the metrics over all rows.

    ``schema_valid`` means something only where there is a schema, which the caller knows.
    """
    if "fields" not in scores[0]:
        return {}
    totals = [_totals(s) for s in scores]
    hits, stated, expected = ([row[i] for row in totals] for i in range(3))
    result = {
        "json_valid": rate([s["json_valid"] for s in scores]),
        "schema_valid": rate([s["schema_valid"] for s in scores]),
        "field_precision": share(hits, stated),
        "field_recall": share(hits, expected),
        "field_f1": share(*_f1_columns(totals)),
    }
    result |= _field_measures(scores)
    result["exact_match"] = rate([s["exact_match"] for s in scores])
    with_invented = [bool(s.get("invented")) for s in scores]
    result["invented_keys"] = share(with_invented, [s["json_valid"] for s in scores])
    silent = [s.get("silent", [0, 0]) for s in scores]
    if any(keys for keys, _ in silent):
        result["hallucinated"] = share([s[1] for s in silent], [s[0] for s in silent])
    sources = [s.get("in_source", [0] * 4) for s in scores]
    if any(s[1] for s in sources):
        result["in_source"] = share([s[0] for s in sources], [s[1] for s in sources])
        result["in_source_reference"] = share([s[2] for s in sources], [s[3] for s in sources])
    return result


def _f1_columns(counts: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Return the columns whose sums divide to F1, from (true positives, predicted, expected)."""
    return [2 * c[0] for c in counts], [c[1] + c[2] for c in counts]


def _field_measures(scores: Sequence[Scores]) -> dict[str, Measure]:
    """Return F1 and accuracy of each top-level key that some reference states."""
    result = {}
    for key in dict.fromkeys(key for s in scores for key in s["fields"]):
        counts = [s["fields"].get(key, [0, 0, 0, 1]) for s in scores]
        if any(c[2] for c in counts):
            equal = [s["json_valid"] and bool(c[3]) for s, c in zip(scores, counts, strict=True)]
            result[f"field_f1/{key}"] = share(*_f1_columns(counts))
            result[f"field_accuracy/{key}"] = rate(equal)
    return result
