"""Pictures that several pages have: bars with intervals, and curves over common axes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]
Line = tuple[str, str, Sequence[Point]]  # (title, class in the style sheet, points)
Interval = tuple[float, float]
Tick = tuple[float, str]  # (value, label)

_BAR = 220  # units
_LEFT, _TOP, _WIDTH, _HEIGHT = 56, 10, 640, 240  # of the area of a chart
_MOST_STEPS = 7  # between the ticks of an axis
_FAR = 50.0  # times the median: a highest value for which a linear axis would hide the others
_FEW = 30  # points that are marked by circles


def bar(value: float, interval: Interval | None, largest: float, *, best: bool = False) -> Markup:
    """Return a bar with its interval as a line; a value of ``largest`` fills it."""
    scale = _BAR / max(1e-9, largest)
    width = round(scale * max(0.0, value), 1)
    low, high = (round(scale * max(0.0, edge), 1) for edge in interval or (value, value))
    line = ""
    if interval:
        line = f'<line x1="{low}" x2="{high}" y1="9" y2="9"/>' + "".join(
            f'<line x1="{edge}" x2="{edge}" y1="6" y2="12"/>' for edge in (low, high)
        )
    look = "bar best" if best else "bar"
    rect = f'<rect class="{look}" x="0" y="3" width="{width}" height="12"/>'
    track = f'<rect class="track" x="0" y="3" width="{_BAR}" height="12"/>'
    return Markup(
        f'<svg viewBox="0 0 {_BAR + 2} 18" width="{_BAR + 2}" height="18" role="img"'
        f' aria-label="{value:.3g}">'
        f"{track}{rect}{line}</svg>"
    )


def curves(
    lines: Sequence[Line],
    mark: Point | None,
    across: str,
    *,
    note: str = "",
    width: int = _WIDTH,
) -> Markup:
    """Return lines over common axes below their legend; empty without points.

    ``mark`` is the point to emphasise, ``note`` what is said of it, ``across`` the title of the
    horizontal axis. ``width``: of the area between the axes, in units of its height of 240. Every
    point lies between the axes; the vertical one is logarithmic where few values are far above the
    others.
    """
    lines = [line for line in lines if line[2]]
    points = [point for _, _, some in lines for point in some]
    if not points:
        return Markup("")
    right, bottom = _LEFT + width, _TOP + _HEIGHT
    x_axis = _steps([x for x, _ in points], (_LEFT, right))
    y_axis = _heights([y for _, y in points], (bottom, _TOP))

    def at(point: Point) -> Point:
        return x_axis.at(point[0]), y_axis.at(point[1])

    scale = ", logarithmic scale" if y_axis.logarithmic else ""
    titles = ", ".join(title for title, _, _ in lines)
    parts = [
        f'<svg class="chart" viewBox="0 0 {right + 20} {bottom + 48}" role="img"'
        f' aria-label="{escape(titles)} by {escape(across)}{scale}">',
        *_grid(x_axis, y_axis, right),
        f'<text x="{_LEFT + width / 2}" y="{bottom + 42}" text-anchor="middle">{escape(across)}'
        "</text>",
    ]
    for line in lines:
        parts += _curve(line, at)
    if mark is not None:
        x, y = at(mark)
        parts.append(f'<circle class="mark" cx="{x}" cy="{y}" r="6"/>')
    legend = _legend(lines, note, scale)
    return Markup(f'<figure class="curves">{legend}{"".join(parts)}</svg></figure>')


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high`` at positions from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[Tick]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the position of a value."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        part = (value - low) / (high - low) if high > low else 0.0
        return round(self.start + (self.end - self.start) * part, 1)


def _steps(xs: Sequence[float], place: tuple[float, float]) -> Axis:
    """Return the horizontal axis: whole numbers, from the first to the last value."""
    low, high = min(xs), max(xs)
    return Axis(low, high, *place, round_ticks(low, high, least=1.0))


def _heights(ys: Sequence[float], place: tuple[float, float]) -> Axis:
    """Return the vertical axis, which shows every value.

    It begins at 0 unless all values are in the upper half.
    """
    low, high = min(ys), max(ys)
    if low > 0 and high > _FAR * sorted(ys)[len(ys) // 2]:
        return _logarithmic(low, high, place)
    low = min(0.0, low) if not high / 2 < low < high else low
    step = _round_step(high - low, 0.0)
    low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
    high = max(high, low + step)
    return Axis(low, high, *place, round_ticks(low, high))


def _logarithmic(low: float, high: float, place: tuple[float, float]) -> Axis:
    """Return an axis from one power of ten to another."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = math.ceil((last - first) / _MOST_STEPS)
    ticks = [(10.0**power, f"{10.0**power:,g}") for power in range(first, last + 1, stride)]
    return Axis(10.0**first, 10.0**last, *place, ticks, logarithmic=True)


def _round_step(length: float, least: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least a seventh of ``length`` and ``least``.

    1 for a length of 0.
    """
    shortest = max(length / _MOST_STEPS, least)
    if shortest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(shortest))
    steps = (factor * power for factor in (1, 2, 5, 10))
    return next(step for step in steps if step >= shortest * (1 - 1e-9))


def round_ticks(low: float, high: float, least: float = 0.0) -> list[Tick]:
    """Return (value, label) of the round numbers from ``low`` to ``high``.

    They are a multiple of ``least`` apart, so that no two labels are equal; where no round number
    lies between, ``low`` is the only one.
    """
    step = _round_step(high - low, least)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if first > last:
        return [(low, f"{low:.4g}")]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(n * step, f"{n * step:,.{decimals}f}") for n in range(first, last + 1)]


def _legend(lines: Sequence[Line], note: str, scale: str) -> str:
    """Return the titles of the lines with their looks, and the note with the mark."""
    keys = [
        f'<span class="{look}"><i></i><b>{escape(title)}</b></span>' for title, look, _ in lines
    ]
    keys += [f'<span><i class="mark"></i>{escape(note)}</span>'] if note else []
    keys += [f"<span>{scale.removeprefix(', ')}</span>"] if scale else []
    return f'<figcaption class="legend">{"".join(keys)}</figcaption>'


def _grid(x_axis: Axis, y_axis: Axis, right: float) -> list[str]:
    """Return grid lines and the numbers beside both axes."""
    parts = []
    for value, label in y_axis.ticks:
        y = y_axis.at(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{label}</text>')
    for value, label in x_axis.ticks:
        x, y = x_axis.at(value), _TOP + _HEIGHT + 20
        parts.append(f'<text x="{x}" y="{y}" text-anchor="middle">{label}</text>')
    return parts


def _curve(line: Line, at: Callable[[Point], Point]) -> list[str]:
    """Return a line; few points are marked by circles."""
    _, look, points = line
    places = [at(point) for point in points]
    path = " ".join(f"{x},{y}" for x, y in places)
    parts = [f'<polyline class="{look}" points="{path}"/>']
    if len(points) < _FEW:
        parts += [f'<circle class="{look}" cx="{x}" cy="{y}" r="3"/>' for x, y in places]
    return parts
