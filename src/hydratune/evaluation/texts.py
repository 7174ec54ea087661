"""Running texts: perplexity with its window, bits per byte, and what fine-tuning changed."""

from collections.abc import Mapping, Sequence

from hydratune.evaluation.corpus import TextScore
from hydratune.evaluation.measures import Measure, difference, share
from hydratune.records.files import Json

Scores = Mapping[str, Sequence[TextScore]]  # of every text, by system


def bits_per_byte(scores: Sequence[TextScore]) -> Measure:
    """Return bits per byte over all texts."""
    return share([s.bits_per_byte * s.bytes for s in scores], [s.bytes for s in scores])


def summary(
    scores: Scores,
    names: Sequence[str],
    window: int,
    stride: int | None,
    confidence: float,
    samples: int,
) -> dict[str, Json]:
    """Return what is stored of the texts ``names`` that every system of ``scores`` has read.

    ``tuned`` is compared with ``base``. An interval is that of a bootstrap over texts, so that a
    single text has none.
    """
    groups = [f"text {number}" for number in range(len(names))]
    content: dict[str, Json] = {
        "settings": {"window": window, "stride": stride or window, "texts": len(names)},
        "systems": {},
    }
    for system, some in scores.items():
        total = sum(some, TextScore(0.0, 0, 0))
        interval = bits_per_byte(some).interval(groups, confidence, samples)
        content["systems"][system] = {
            "log_likelihood": total.log_likelihood,
            "tokens": total.tokens,
            "bytes": total.bytes,
            f"perplexity_w{window}": total.perplexity,
            "bits_per_byte": total.bits_per_byte,
            "interval": list(interval) if interval else None,
        }
    if {"base", "tuned"} <= scores.keys():
        content["bits_per_byte_delta"] = _delta(scores, groups, confidence, samples)
    content["by_text"] = [
        {
            "name": name,
            "bytes": scores["base"][n].bytes,
            **{s: {"bits_per_byte": some[n].bits_per_byte} for s, some in scores.items()},
        }
        for n, name in enumerate(names)
    ]
    return content


def _delta(
    scores: Scores, groups: Sequence[str], confidence: float, samples: int
) -> dict[str, Json]:
    """Return the change of bits per byte by fine-tuning; a single text has no p."""
    tuned, base = bits_per_byte(scores["tuned"]), bits_per_byte(scores["base"])
    change = difference(tuned, base, groups, confidence, samples)
    return {
        "value": change.value,
        "interval": list(change.interval) if change.interval is not None else None,
        "p": change.p if len(groups) > 1 else None,
    }
