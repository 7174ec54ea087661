"""Whether the model has memorised training rows.

It is given half of an answer, of training rows and of held-out rows, and continues it. A row whose
answer follows from its request can be continued without having been seen, so only the difference
between the two kinds of rows says something.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from hydratune.data.encoding.encoded import Encoded
from hydratune.data.rows import stable_hash
from hydratune.evaluation.generation import answer
from hydratune.evaluation.statistics import Interval, wilson
from hydratune.records.files import Json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MIN_TOKENS = 4  # of an answer that are worth continuing
PARTS = ("train", "heldout")

Tokens = tuple[int, ...]


def halves(row: Encoded) -> tuple[Tokens, Tokens] | None:
    """Return (what is given, the rest of the last answer); None where the rest is too short."""
    backwards = enumerate(reversed(row.loss_mask))
    answer_tokens = next((n for n, is_target in backwards if not is_target), len(row.ids))
    start = len(row.ids) - answer_tokens
    middle = (start + len(row.ids)) // 2
    enough = len(row.ids) - middle >= _MIN_TOKENS
    return (row.ids[:middle], row.ids[middle:]) if enough else None


def chosen(rows: Sequence[Encoded], count: int) -> list[Encoded]:
    """Return the first ``count`` different rows that are long enough, in the order of their hashes.

    They are the same for every run.
    """
    different = {stable_hash(row.ids): row for row in rows if halves(row) is not None}
    return [different[key] for key in sorted(different)[:count]]


def measure(
    model: "PreTrainedModel",
    train: Sequence[Encoded],
    heldout: Sequence[Encoded],
    count: int,
    *,
    stop: frozenset[int],
    pad: int,
    batch_size: int,
    pool: Executor | None,
) -> list[dict[str, Json]]:
    """Return one record for each row.

    It holds the row's part, how many tokens the rest has, and how many of these, from the first one
    on, the model has given.
    """
    rows = [
        (part, row)
        for part, some in zip(PARTS, (train, heldout), strict=True)
        for row in chosen(some, count)
    ]
    if not rows:
        return []
    parts = [half for _, row in rows if (half := halves(row)) is not None]
    answers = answer(
        model,
        [given for given, _ in parts],
        [[pad]] * len(parts),
        stop=stop,
        pad=pad,
        max_new_tokens=max(len(rest) for _, rest in parts),
        batch_size=batch_size,
        title="memorisation",
        pool=pool,
    )
    return [
        {
            "part": part,
            "row": stable_hash(row.ids),
            "tokens": len(rest),
            "same": _count_equal(continued.tokens, rest),
        }
        for (part, row), (_, rest), continued in zip(rows, parts, answers, strict=True)
    ]


def _count_equal(tokens: Sequence[int], expected: Sequence[int]) -> int:
    """Return how many tokens are equal before the first difference."""
    pairs = enumerate(zip(tokens, expected, strict=False))
    shorter = min(len(tokens), len(expected))
    return next((n for n, (token, other) in pairs if token != other), shorter)


def summary(
    records: Sequence[Mapping[str, Json]], confidence: float
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return (metrics, intervals) for metrics.json; nothing where one of the parts has no rows.

    These are the share of rows continued to their end, for both parts, and the difference.
    """
    values: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    counts = {}
    for part in PARTS:
        rows = [record for record in records if record["part"] == part]
        if not rows:
            return {}, {}
        hits = sum(record["same"] == record["tokens"] for record in rows)
        counts[part] = hits, len(rows)
        values[f"memorisation/{part}"] = hits / len(rows)
        tokens = sum(r["tokens"] for r in rows)
        values[f"memorisation/{part}_tokens"] = sum(r["same"] for r in rows) / tokens
        intervals[f"memorisation/{part}"] = list(wilson(hits, len(rows), confidence))
    difference = values["memorisation/train"] - values["memorisation/heldout"]
    interval = newcombe(counts["train"], counts["heldout"], confidence)
    values["memorisation/difference"] = difference
    intervals["memorisation/difference"] = list(interval)
    return values, intervals


def newcombe(first: tuple[int, int], second: tuple[int, int], confidence: float) -> Interval:
    """Return the interval of the difference of two independent shares (hits, rows).

    It is made of their Wilson intervals (Newcombe 1998).
    """
    (a, n), (b, m) = first, second
    (low_a, high_a), (low_b, high_b) = wilson(a, n, confidence), wilson(b, m, confidence)
    p, q = a / n, b / m
    return p - q - math.hypot(p - low_a, high_b - q), p - q + math.hypot(high_a - p, q - low_b)


def sentence(values: Mapping[str, float], intervals: Mapping[str, Sequence[float]]) -> str:
    """Return what the shares say of the model."""
    train, heldout = (100 * values[f"memorisation/{part}"] for part in PARTS)
    shares = (
        f"memorisation: {train:.0f} % of training rows are continued word for word, {heldout:.0f} %"
        " of held-out rows"
    )
    if intervals["memorisation/difference"][0] > 0:
        return f"{shares}: the model has memorised training rows"
    return f"{shares}: no sign of memorised rows"
