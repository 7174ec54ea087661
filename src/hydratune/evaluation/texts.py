"""Running texts as a measurement: perplexity with its window, bits per byte, and the difference
that fine-tuning made.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hydratune.evaluation.corpus import TextScore
from hydratune.evaluation.measures import Measure, difference, share


def bits_per_byte(scores: Sequence[TextScore]) -> Measure:
    return share([s.bits_per_byte * s.bytes for s in scores], [s.bytes for s in scores])


def summary(
    scores: Mapping[str, Sequence[TextScore]],
    names: Sequence[str],
    window: int,
    stride: int | None,
    confidence: float,
    samples: int,
) -> dict[str, Any]:
    """What is stored of texts that every system of ``scores`` has read; compared are ``tuned`` and
    ``base``.

    An interval is of a bootstrap over texts, so that one text has none.
    """
    groups = [f"text {number}" for number in range(len(names))]
    several = len(names) > 1
    content: dict[str, Any] = {
        "settings": {"window": window, "stride": stride or window, "texts": len(names)},
        "systems": {},
    }
    for system, some in scores.items():
        total = sum(some, TextScore(0.0, 0, 0))
        measure = bits_per_byte(some)
        content["systems"][system] = {
            "log_likelihood": total.log_likelihood,
            "tokens": total.tokens,
            "bytes": total.bytes,
            f"perplexity_w{window}": total.perplexity,
            "bits_per_byte": total.bits_per_byte,
            "interval": list(edges)
            if (edges := measure.interval(groups, confidence, samples))
            else None,
        }
    if {"base", "tuned"} <= scores.keys():
        found = difference(
            bits_per_byte(scores["tuned"]),
            bits_per_byte(scores["base"]),
            groups,
            confidence,
            samples,
        )
        content["bits_per_byte_delta"] = {
            "value": found.value,
            "interval": list(found.interval) if found.interval is not None else None,
            "p": found.p if several else None,
        }
    content["by_text"] = [
        {
            "name": name,
            "bytes": scores["base"][n].bytes,
            **{s: {"bits_per_byte": some[n].bits_per_byte} for s, some in scores.items()},
        }
        for n, name in enumerate(names)
    ]
    return content
