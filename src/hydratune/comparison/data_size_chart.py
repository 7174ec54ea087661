"""The picture of a metric by the number of training rows, as SVG without any script.

The horizontal axis is log2 of the rows. Each size has a dot for each seed, and its mean with its
interval; the size to which the trend is extrapolated is drawn dashed. Colours are those of the page
around it, where that defines them.
"""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from hydratune.comparison.data_size import MetricBySize, SizeCurve
from hydratune.evaluation.statistics import Interval
from hydratune.metric_format import heading, scale, written

_WIDTH, _HEIGHT = 360, 220  # of the area between the axes
_LEFT, _TOP, _RIGHT, _BOTTOM = 62, 34, 26, 52
_MOST_TICKS = 5
_STYLE = (
    ".by-size{font:12px system-ui,sans-serif;max-width:30rem;width:100%}"
    ".by-size text{fill:var(--ink,currentColor)}"
    ".by-size .line,.by-size .bar{stroke:var(--accent,#2f6db5);fill:none;stroke-width:2}"
    ".by-size .bar{stroke-width:1.5}.by-size .next{stroke-dasharray:5 4}"
    ".by-size .mean{fill:var(--accent,#2f6db5)}"
    ".by-size .hollow{fill:var(--ground,none);stroke:var(--accent,#2f6db5);stroke-width:1.5}"
    ".by-size .seed{fill:var(--soft,#888);opacity:.7}"
    ".by-size .grid{stroke:var(--line,#ddd)}"
)


def charts(curve: SizeCurve) -> list[Markup]:
    """Return a picture for each metric of a curve."""
    return [chart(metric, curve.rows) for metric in curve.metrics]


def chart(metric: MetricBySize, rows: Sequence[int]) -> Markup:
    """Return the picture of one metric."""
    factor = scale(metric.key)
    means = [factor * mean for mean in metric.means]
    edges = [_scaled(interval, factor) for interval in metric.intervals]
    seeds = [[factor * value for value in own] for own in metric.values]
    sizes, extrapolated = [float(size) for size in rows], _extrapolated(metric, factor)
    if extrapolated is not None:
        sizes.append(2 * sizes[-1])
    shown = [*means, *(v for own in seeds for v in own), *(e for own in edges for e in own or ())]
    if extrapolated is not None:
        shown += [extrapolated[0], *(extrapolated[1] or ())]
    ticks = _ticks(min(shown), max(shown))
    place = _Place(math.log2(sizes[0]), math.log2(sizes[-1]), ticks[0], ticks[-1])
    label = escape(f"{heading(metric.key)} by training rows")
    parts = [
        f'<svg class="by-size" viewBox="0 0 {_LEFT + _WIDTH + _RIGHT}'
        f' {_TOP + _HEIGHT + _BOTTOM}" role="img" aria-label="{label}"><style>{_STYLE}</style>',
        f'<text x="{_LEFT}" y="18" font-weight="600">{escape(heading(metric.key))}</text>',
        *_axes(place, ticks, sizes),
    ]
    points = " ".join(f"{place.x(s)},{place.y(m)}" for s, m in zip(sizes, means, strict=False))
    parts.append(f'<polyline class="line" points="{points}"/>')
    for size, mean, interval, own in zip(sizes, means, edges, seeds, strict=False):
        parts += [
            f'<circle class="seed" cx="{place.x(size)}" cy="{place.y(v)}" r="2.5"/>' for v in own
        ]
        parts += _bar(place, size, interval, "bar")
        title = escape(f"{size:,.0f} rows: {written(metric.key, mean / factor)}")
        parts.append(
            f'<circle class="mean" cx="{place.x(size)}" cy="{place.y(mean)}" r="4">'
            f"<title>{title}</title></circle>"
        )
    if extrapolated is not None:
        parts += _next(place, sizes[-2:], means[-1], extrapolated)
    return Markup("".join([*parts, "</svg>"]))


class _Place:
    """Where a value is in the picture."""

    def __init__(self, first: float, last: float, low: float, high: float) -> None:
        self._first, self._span = first, max(1e-9, last - first)
        self._low, self._height = low, max(1e-12, high - low)

    def x(self, rows: float) -> float:
        return round(_LEFT + _WIDTH * (math.log2(rows) - self._first) / self._span, 1)

    def y(self, value: float) -> float:
        return round(_TOP + _HEIGHT * (1 - (value - self._low) / self._height), 1)


def _scaled(interval: Interval | None, factor: float) -> Interval | None:
    return None if interval is None else (factor * interval[0], factor * interval[1])


def _extrapolated(metric: MetricBySize, factor: float) -> tuple[float, Interval | None] | None:
    """Return (value of the metric after another doubling, its interval); None: no trend."""
    found = metric.trend.next_value if metric.trend is not None else None
    return None if found is None else (factor * found.value, _scaled(found.interval, factor))


def _axes(place: _Place, ticks: Sequence[float], sizes: Sequence[float]) -> list[str]:
    parts, bottom = [], _TOP + _HEIGHT
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    for value in ticks:
        y = place.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{value:,.{decimals}f}</text>'
        )
    parts += [
        f'<text x="{place.x(size)}" y="{bottom + 18}" text-anchor="middle">{size:,.0f}</text>'
        for size in sizes
    ]
    middle = _LEFT + _WIDTH / 2
    title = "training rows, logarithmic"
    parts.append(f'<text x="{middle}" y="{bottom + 40}" text-anchor="middle">{title}</text>')
    return parts


def _bar(place: _Place, size: float, interval: Interval | None, look: str) -> list[str]:
    if interval is None:
        return []
    x, low, high = place.x(size), place.y(interval[0]), place.y(interval[1])
    return [
        f'<path class="{look}" d="M{x} {low}V{high}M{x - 4} {low}H{x + 4}M{x - 4} {high}H{x + 4}"/>'
    ]


def _next(
    place: _Place, sizes: Sequence[float], mean: float, to: tuple[float, Interval | None]
) -> list[str]:
    """Return the dashed line to the extrapolated size."""
    (last, after), (value, interval) = sizes, to
    ends = f"{place.x(last)},{place.y(mean)} {place.x(after)},{place.y(value)}"
    return [
        f'<polyline class="line next" points="{ends}"/>',
        *_bar(place, after, interval, "bar next"),
        f'<circle class="hollow" cx="{place.x(after)}" cy="{place.y(value)}" r="4">'
        f"<title>{after:,.0f} rows: extrapolated</title></circle>",
    ]


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers that enclose ``low`` and ``high``."""
    length = max(high - low, 1e-6 * max(1.0, abs(high)))
    power = 10.0 ** math.floor(math.log10(length / _MOST_TICKS))
    step = next(f * power for f in (1, 2, 5, 10, 20) if f * power >= length / _MOST_TICKS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, max(last, first + 1) + 1)]
