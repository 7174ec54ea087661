"""The pictures of a data report as coordinates: histograms of lengths, bars of labels, the strip of
checks.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydratune.data.report_content import Report
from hydratune.settings.data import Level

_LABELS_SHOWN = 15  # of one field


@dataclass(frozen=True)
class Bar:
    """The coordinates of a bar, in the units of its picture."""

    x: float
    y: float
    width: float
    height: float
    kind: str = ""
    name: str = ""


@dataclass(frozen=True)
class ChartLimit:
    """A length that matters; ``x`` is None if it lies beyond the picture."""

    name: str
    value: int
    x: float | None


@dataclass(frozen=True)
class Histogram:
    """The lengths of the rows of one split, in tokens."""

    split: str
    numbers: Report
    bars: list[Bar]
    ticks: list[tuple[float, int]]  # x, tokens
    level: tuple[float, int] | None  # y, rows: one line by which the heights are read
    limits: list[ChartLimit]
    beyond: int  # rows that are longer than what is drawn
    end: float  # tokens at the right edge


# Of a histogram: the names of the limits stand above TOP, the ticks below BOTTOM.
_WIDTH, _TOP, _BOTTOM = 340.0, 46.0, 150.0
_SHARE_DRAWN = 0.99  # of the rows, if a few long ones would squeeze the others


def histograms(tokens: Report) -> list[Histogram]:
    """Return one histogram per split, all with the same x axis and each with its own y axis."""
    edges = tokens["edges"]
    limits = {"data.max_length": tokens["max_length"], "context window": tokens["context_window"]}
    counts = [split["histogram"] for split in tokens["splits"].values()]
    end = _drawn_until(edges, counts, list(limits.values()))
    return [_histogram(name, split, edges, limits, end) for name, split in tokens["splits"].items()]


def _drawn_until(
    edges: Sequence[float], counts: Sequence[Sequence[int]], limits: Sequence[int]
) -> float:
    """Return the length at the right edge: of all rows, or of 99 % if a few long ones would squeeze
    the others; a limit close by is included.
    """
    summed = list(itertools.accumulate(map(sum, zip(*counts, strict=True))))
    bars = next(
        (i for i, n in enumerate(summed, 1) if n and n >= _SHARE_DRAWN * summed[-1]),
        len(edges) - 1,
    )
    end = edges[bars] if edges[bars] < 0.6 * edges[-1] else edges[-1]
    near = [limit for limit in limits if end <= limit <= 1.3 * end]
    return max([end, *(1.04 * limit for limit in near)]) or 1.0


def _histogram(
    name: str, split: Report, edges: Sequence[float], limits: Mapping[str, int], end: float
) -> Histogram:
    scale, counts = _WIDTH / end, split["histogram"]
    peak = max(counts, default=0)
    drawn = [
        (start, stop, n)
        for start, stop, n in zip(edges, edges[1:], counts, strict=False)
        if n and stop <= end * 1.001
    ]
    step = _round_number(end / 4)
    ticks = [(round(i * step * scale, 1), i * step) for i in range(int(end / step) + 1)]
    level = _round_number(0.75 * peak)
    height = _BOTTOM - _TOP
    return Histogram(
        split=name,
        numbers=split,
        bars=[_bar(bin_, scale, peak, limits["data.max_length"]) for bin_ in drawn],
        ticks=[(x, value) for x, value in ticks if x < _WIDTH - 12],
        level=(round(_BOTTOM - height * level / peak, 1), level) if peak > 1 else None,
        limits=[
            ChartLimit(limit, value, round(value * scale, 1) if value <= end else None)
            for limit, value in limits.items()
        ],
        beyond=sum(counts) - sum(n for _, _, n in drawn),
        end=end,
    )


def _bar(bin_: tuple[float, float, int], scale: float, peak: int, max_length: int) -> Bar:
    """Return the bar of one bin (start, stop, rows); ``scale`` is in units per token."""
    start, stop, rows = bin_
    height = max(1.0, (_BOTTOM - _TOP) * rows / peak)
    return Bar(
        x=round(start * scale, 1),
        y=round(_BOTTOM - height, 1),
        width=round((stop - start) * scale - 1, 1),
        height=round(height, 1),
        kind="over" if start >= max_length else "",
    )


def _round_number(least: float) -> int:
    """Return 1, 2 or 5 times a power of ten, at most ``least`` but at least 1."""
    if least < 1:
        return 1
    power = 10 ** math.floor(math.log10(least))
    return int(max(factor for factor in (1, 2, 5) if factor * power <= least) * power)


@dataclass(frozen=True)
class LabelBar:
    """One line of the picture of a field."""

    label: str
    rows: int
    width: float  # per cent of the longest bar
    others: int = 0  # how many labels this line stands for, if it is not one label


def label_bars(counts: Mapping[str, int]) -> list[LabelBar]:
    """Return a bar for each of the most frequent labels, and one for the others together."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown = ordered if len(ordered) <= _LABELS_SHOWN + 1 else ordered[:_LABELS_SHOWN]
    rest = sum(n for _, n in ordered[len(shown) :])
    longest = max([rest, *(n for _, n in shown)], default=0) or 1
    bars = [LabelBar(label, n, round(100 * n / longest, 1)) for label, n in shown]
    if rest:
        others = len(ordered) - len(shown)
        bars.append(LabelBar("", rest, round(100 * rest / longest, 1), others))
    return bars


_STRIP_HEIGHT = 26.0
_STRIP_HEIGHTS = {
    Level.error.value: _STRIP_HEIGHT,
    Level.warn.value: 0.6 * _STRIP_HEIGHT,
    "": 0.16 * _STRIP_HEIGHT,
}


def strip(checks: Mapping[str, Report]) -> list[Bar]:
    """Return a bar for every check, the higher the graver its finding."""
    bars = []
    for i, (name, check) in enumerate(checks.items()):
        kind = check["level"] if check["count"] else ""
        height = _STRIP_HEIGHTS[kind]
        y = round(_STRIP_HEIGHT - height, 1)
        bars.append(Bar(12.0 * i, y, 9, round(height, 1), kind, name))
    return bars
