"""What the pages of runs, decisions and judges share: one style, no scripts, no links to elsewhere;
autoescape makes text of texts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hydratune.evaluation.statistics import Interval

_HERE = Path(__file__).parent
_BAR = 180  # pixels


def page(template: str, **values: Any) -> str:
    """``template`` filled; it inherits from page.html.j2."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def bar(value: float, interval: Interval | None, largest: float, *, best: bool = False) -> Markup:
    """A bar with its interval as a line; ``largest`` fills it."""
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
    lines: Sequence[tuple[str, str, Sequence[tuple[float, float]]]],
    mark: tuple[float, float] | None,
    across: str,
) -> Markup:
    """``lines``:

    (title, look, points), drawn over common axes; ``mark``: the point that counts. Empty without
    points.
    """
    points = [point for _, _, some in lines for point in some]
    if not points:
        return Markup("")
    left, top, width, height = 52, 12, 640, 240
    x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)
    y_high = (
        sorted(p[1] for p in points)[max(0, int(0.98 * len(points)) - 1)]
        if len(points) > 20
        else max(p[1] for p in points)
    )
    y_low = min(0.0, *(p[1] for p in points))

    def at(point: tuple[float, float]) -> tuple[float, float]:
        x = left + width * (point[0] - x_low) / max(1e-9, x_high - x_low)
        y = top + height * (1 - (min(point[1], y_high) - y_low) / max(1e-9, y_high - y_low))
        return round(x, 1), round(y, 1)

    parts = [
        f'<svg class="chart" viewBox="0 0 {left + width + 20} {top + height + 44}" role="img"'
        ' aria-label="learning curve">'
    ]
    for step in range(5):
        value = y_low + (y_high - y_low) * step / 4
        y = at((x_low, value))[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{value:.3g}</text>')
    for step in range(5):
        value = x_low + (x_high - x_low) * step / 4
        parts.append(
            f'<text x="{at((value, y_low))[0]}" y="{top + height + 18}"'
            f' text-anchor="middle">{value:.0f}</text>'
        )
    parts.append(
        f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">{across}</text>'
    )
    for number, (title, look, some) in enumerate(lines):
        path = " ".join(f"{x},{y}" for x, y in map(at, some))
        parts.append(f'<polyline class="{look}" points="{path}"/>')
        if len(some) < 30:
            parts += [f'<circle class="{look}" cx="{x}" cy="{y}" r="3"/>' for x, y in map(at, some)]
        parts.append(
            f'<text class="{look}" x="{left + width - 4}" y="{top + 16 + 18 * number}"'
            f' text-anchor="end">{title}</text>'
        )
    if mark is not None:
        x, y = at(mark)
        parts.append(f'<circle class="mark" cx="{x}" cy="{y}" r="6"/>')
    return Markup("".join([*parts, "</svg>"]))
