"""Does the model know training rows by heart? It is given half of an answer, of trained and of
held-out rows, and goes on.

A row whose answer follows from its request can be continued without having been seen: only the
difference between the two kinds of rows says something.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from hydratune.data.encoding.encoded import Encoded
from hydratune.data.rows import stable_hash
from hydratune.evaluation.generation import answer
from hydratune.evaluation.statistics import Interval, wilson

_LEAST = 4  # tokens of an answer that are worth continuing
PARTS = ("train", "heldout")


def halves(row: Encoded) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(what is given, what would be known by heart) of the last answer; None: too short."""
    backwards = enumerate(reversed(row.loss_mask))
    length = next((n for n, is_target in backwards if not is_target), len(row.ids))
    start = len(row.ids) - length
    middle = (start + len(row.ids)) // 2
    return (row.ids[:middle], row.ids[middle:]) if len(row.ids) - middle >= _LEAST else None


def chosen(rows: Sequence[Encoded], count: int) -> list[Encoded]:
    """The first ``count`` different ones that are long enough, in the order of their hashes: the
    same for every run.
    """
    different = {stable_hash(row.ids): row for row in rows if halves(row) is not None}
    return [different[key] for key in sorted(different)[:count]]


def probe(
    model: Any,
    train: Sequence[Encoded],
    heldout: Sequence[Encoded],
    count: int,
    *,
    stop: frozenset[int],
    pad: int,
    batch_size: int,
    pool: Executor | None,
) -> list[dict[str, Any]]:
    """One record for each row asked: its part, the tokens to come and how many of them came, from
    the first on.
    """
    rows = [
        (part, row)
        for part, some in zip(PARTS, (train, heldout), strict=True)
        for row in chosen(some, count)
    ]
    if not rows:
        return []
    parts = [half for _, row in rows if (half := halves(row)) is not None]
    most = max(len(rest) for _, rest in parts)
    found = answer(
        model,
        [given for given, _ in parts],
        [[pad]] * len(parts),
        stop=stop,
        pad=pad,
        max_new_tokens=most,
        batch_size=batch_size,
        title="memorisation",
        pool=pool,
    )
    records = []
    for (part, row), (_, rest), one in zip(rows, parts, found, strict=True):
        same = next(
            (n for n, (a, b) in enumerate(zip(one.tokens, rest, strict=False)) if a != b),
            min(len(one.tokens), len(rest)),
        )
        records.append(
            {"part": part, "row": stable_hash(row.ids), "tokens": len(rest), "same": same}
        )
    return records


def summary(
    records: Sequence[Mapping[str, Any]], confidence: float
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """(metrics, intervals): the share of rows continued to their end, of both kinds, and the
    difference.
    """
    values: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    counts = {}
    for part in PARTS:
        some = [record for record in records if record["part"] == part]
        if not some:
            return {}, {}
        hits = sum(record["same"] == record["tokens"] for record in some)
        counts[part] = hits, len(some)
        values[f"memorisation/{part}"] = hits / len(some)
        values[f"memorisation/{part}_tokens"] = sum(r["same"] for r in some) / sum(
            r["tokens"] for r in some
        )
        intervals[f"memorisation/{part}"] = list(wilson(hits, len(some), confidence))
    values["memorisation/difference"] = (
        values["memorisation/train"] - values["memorisation/heldout"]
    )
    intervals["memorisation/difference"] = list(
        newcombe(counts["train"], counts["heldout"], confidence)
    )
    return values, intervals


def newcombe(first: tuple[int, int], second: tuple[int, int], confidence: float) -> Interval:
    """Interval of the difference of two independent shares (hits, rows), from their Wilson
    intervals (Newcombe 1998).
    """
    (a, n), (b, m) = first, second
    (low_a, high_a), (low_b, high_b) = wilson(a, n, confidence), wilson(b, m, confidence)
    p, q = a / n, b / m
    return p - q - math.hypot(p - low_a, high_b - q), p - q + math.hypot(high_a - p, q - low_b)


def told(values: Mapping[str, float], intervals: Mapping[str, Sequence[float]]) -> str:
    """One sentence."""
    train, heldout = (100 * values[f"memorisation/{part}"] for part in PARTS)
    shown = (
        f"memorisation: {train:.0f} % of training rows are continued word for word, {heldout:.0f} %"
        " of held-out rows"
    )
    if intervals["memorisation/difference"][0] > 0:
        return f"{shown}: the model knows training rows by heart"
    return f"{shown}: no sign of rows known by heart"
