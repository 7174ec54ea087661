"""What the pages of runs, decisions and judges share.

One style, no scripts, no links to other sites; all texts are escaped.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from hydratune.evaluation.statistics import Interval
from hydratune.wording import counted

_HERE = Path(__file__).parent
_BAR = 180  # pixels
_LEFT, _TOP, _WIDTH, _HEIGHT = 68, 32, 640, 240  # of the area of a chart
_MOST_STEPS = 7  # between the ticks of an axis
_GAP = ' dx="14"'  # before the second title of a chart

Point = tuple[float, float]
Line = tuple[str, str, Sequence[Point]]  # (title, class in the style sheet, points)
Range = tuple[float, float]
Tick = tuple[float, str]  # (value, label)


def page(template: str, **values: object) -> str:
    """Return ``template``, which inherits from page.html.j2, filled with ``values``."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["counted"] = counted
    return environment


def bar(value: float, interval: Interval | None, largest: float, *, best: bool = False) -> Markup:
    """Return a bar with its interval as a line; a value of ``largest`` fills it."""
    scale = _BAR / max(1e-9, largest)
    width = round(scale * max(0.0, value), 1)
    low, high = (round(scale * max(0.0, edge), 1) for edge in interval or (value, value))
    line = f'<line x1="{low}" x2="{high}" y1="9" y2="9"/>' if interval else ""
    look = "bar best" if best else "bar"
    rect = f'<rect class="{look}" x="0" y="3" width="{width}" height="12"/>'
    return Markup(
        f'<svg width="{_BAR}" height="18" role="img" aria-label="{value:.3g}">{rect}{line}</svg>'
    )


def curves(
    lines: Sequence[Line],
    mark: Point | None,
    across: str,
    *,
    note: str = "",
    width: int = _WIDTH,
) -> Markup:
    """Return lines over common axes, their titles above; empty without points.

    ``mark`` is the point to emphasise, ``note`` what is said of it, ``across`` the title of the
    horizontal axis. ``width``: of the area between the axes, in units of its height of 240.
    """
    points = [point for _, _, some in lines for point in some]
    if not points:
        return Markup("")
    xs = (min(p[0] for p in points), max(p[0] for p in points))
    ys, y_ticks = _heights([p[1] for p in points])

    def at(point: Point) -> Point:
        x = _LEFT + width * (point[0] - xs[0]) / max(1e-9, xs[1] - xs[0])
        y = _TOP + _HEIGHT * (1 - (min(point[1], ys[1]) - ys[0]) / max(1e-9, ys[1] - ys[0]))
        return round(x, 1), round(y, 1)

    middle, bottom = _LEFT + width / 2, _TOP + _HEIGHT + 38
    titles = ", ".join(title for title, _, some in lines if some)
    parts = [
        f'<svg class="chart" viewBox="0 0 {_LEFT + width + 20} {_TOP + _HEIGHT + 44}" role="img"'
        f' aria-label="{escape(titles)} by {escape(across)}">',
        _titles(lines, note, _LEFT + width),
        *_axes(_ticks(*xs, least=1.0), y_ticks, at, _LEFT + width),
        f'<text x="{middle}" y="{bottom}" text-anchor="middle">{across}</text>',
    ]
    for line in lines:
        parts += _curve(line, at)
    if mark is not None:
        x, y = at(mark)
        parts.append(f'<circle class="mark" cx="{x}" cy="{y}" r="6"/>')
    return Markup("".join([*parts, "</svg>"]))


def _heights(ys: Sequence[float]) -> tuple[Range, list[Tick]]:
    """Return the range of the vertical axis and its ticks.

    It begins at 0 unless all values are in the upper half. Of many points the highest 2 % are cut
    off.
    """
    place = max(0, int(0.98 * len(ys)) - 1)
    high = sorted(ys)[place] if len(ys) > 20 else max(ys)
    low = min(0.0, *ys) if not high / 2 < min(ys) < high else min(ys)
    step = _round_step(high - low, 0.0)
    low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
    return (low, max(high, low + step)), _ticks(low, max(high, low + step))


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


def _ticks(low: float, high: float, least: float = 0.0) -> list[Tick]:
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


def _titles(lines: Sequence[Line], note: str, right: float) -> str:
    """Return the titles of the lines in their colours, and the note, in one row that ends at
    ``right``.
    """
    names = [(title, look) for title, look, points in lines if points]
    names += [(f"\u25cb {note}", "note")] if note else []
    spans = [
        f'<tspan class="{look}"{_GAP if number else ""}>{escape(text)}</tspan>'
        for number, (text, look) in enumerate(names)
    ]
    return f'<text class="title" x="{right}" y="18" text-anchor="end">{"".join(spans)}</text>'


def _axes(
    x_ticks: Sequence[Tick], y_ticks: Sequence[Tick], at: Callable[[Point], Point], right: float
) -> list[str]:
    """Return grid lines and the numbers beside both axes."""
    parts = []
    for value, label in y_ticks:
        y = at((x_ticks[0][0], value))[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{label}</text>')
    for value, label in x_ticks:
        x, y = at((value, y_ticks[0][0]))[0], _TOP + _HEIGHT + 18
        parts.append(f'<text x="{x}" y="{y}" text-anchor="middle">{label}</text>')
    return parts


def _curve(line: Line, at: Callable[[Point], Point]) -> list[str]:
    """Return a line; few points are marked by circles."""
    _, look, points = line
    places = [at(point) for point in points]
    path = " ".join(f"{x},{y}" for x, y in places)
    parts = [f'<polyline class="{look}" points="{path}"/>']
    if len(points) < 30:
        parts += [f'<circle class="{look}" cx="{x}" cy="{y}" r="3"/>' for x, y in places]
    return parts
