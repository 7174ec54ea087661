"""Pictures of a comparison for papers, drawn by matplotlib."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydratune import extras
from hydratune.comparison.comparison import Comparison
from hydratune.comparison.data_size import MetricBySize
from hydratune.comparison.effects import Effect
from hydratune.comparison.entries import Entry
from hydratune.comparison.runs import Run
from hydratune.metric_format import heading, scale
from hydratune.records.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
_MOST_CURVES = 12
_MOST_SETTINGS = 4
_MOST_SIZE_METRICS = 3


def draw_pictures(compared: Comparison, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Draw learning curves, effects of settings, a trade-off, and what more data brought; return
    the files.

    A picture without data is not written. Raises ``InputError`` if matplotlib is not installed.
    """
    extras.require("matplotlib", "export: a picture")
    from matplotlib.figure import Figure  # without pyplot: it needs no display and no state

    drawings: dict[str, Callable[[Figure, Comparison], bool]] = {
        "curves": _draw_curves,
        "settings": _draw_settings,
        "tradeoff": _draw_front,
        "data_size": _draw_sizes,
    }
    files = []
    for name, draw in drawings.items():
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        if not draw(figure, compared):
            continue
        for kind in formats:
            file = folder / f"{name}.{kind}"
            # without its date, the same picture is the same file
            metadata = {"Date": None} if kind == "svg" else None
            with atomic(file) as stream:
                figure.savefig(stream, format=kind, dpi=200, metadata=metadata)
            files.append(file)
    return files


def _draw_curves(figure: "Figure", compared: Comparison) -> bool:
    """Draw the validation loss of the best runs by step."""
    curves = [
        (_label(run, entry, compared), points)
        for entry in compared.ranked
        for run in entry.runs
        if (points := _validation_curve(run))
    ][:_MOST_CURVES]
    if not curves:
        return False
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    for position, (label, points) in enumerate(curves):
        width = 2.2 if position == 0 else 1.0
        steps, losses = zip(*points, strict=True)
        axes.plot(steps, losses, label=label, linewidth=width, marker="o", markersize=3)
    axes.set(xlabel="optimizer step", ylabel="validation loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=7, frameon=False)
    _style(axes)
    return True


def _validation_curve(run: Run) -> list[tuple[float, float]]:
    return [(row["step"], row["val/loss"]) for row in run.history() if "val/loss" in row]


def _label(run: Run, entry: Entry, compared: Comparison) -> str:
    """Return the settings of the entry, and the seed of one of several."""
    if not compared.keys and len(entry.runs) == 1:
        return run.name
    seed = f", seed={run.settings.get('seed')}" if len(entry.runs) > 1 else ""
    return f"{compared.describe(entry, short=True)}{seed}"


def _draw_settings(figure: "Figure", compared: Comparison) -> bool:
    """Draw every run's score by the values of each setting, with the means."""
    effects = [effect for effect in compared.effects if effect.levels and not effect.is_noise]
    effects = effects[:_MOST_SETTINGS]
    if not effects:
        return False
    figure.set_size_inches(3.2 * len(effects), 3.2)
    grid = figure.subplots(1, len(effects), sharey=True, squeeze=False)
    for axes, effect in zip(grid[0], effects, strict=True):
        _draw_effect(axes, effect, compared)
    figure.axes[0].set_ylabel(heading(compared.by.metric))
    return True


def _draw_effect(axes: "Axes", effect: Effect, compared: Comparison) -> None:
    names = [compared.format_setting(effect.key, level.value) for level in effect.levels]
    factor = scale(compared.by.metric)
    for at, level in enumerate(effect.levels):
        scores = [factor * score for score in level.scores]
        axes.plot([at] * level.runs, scores, "o", color="0.6", markersize=4)
    means = [factor * level.mean for level in effect.levels]
    halves = [
        factor * (level.mean - (level.interval or (level.mean,))[0]) for level in effect.levels
    ]
    axes.errorbar(range(len(names)), means, yerr=[halves, halves], fmt="s-", color="C0", capsize=3)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)  # so that labels of neighbouring pictures do not touch
    axes.set_xlabel(effect.key)
    _style(axes)


def _draw_front(figure: "Figure", compared: Comparison) -> bool:
    """Draw the first Pareto front: quality against forgetting, if that was measured."""
    if not compared.fronts or not compared.fronts[0].runs:
        return False
    front, axes = compared.fronts[0], figure.subplots()
    finished = [run for run in compared.runs if run.objective is not None]
    measured = [r for r in finished if None not in (r.value(front.x), r.value(front.y))]
    for run in measured:
        _draw_point(axes, run, front.x, front.y)
    xs, ys = (
        [scale(key) * (run.value(key) or 0.0) for run in front.runs] for key in (front.x, front.y)
    )
    axes.plot(xs, ys, ":", color="0.4", zorder=0)
    axes.set(xlabel=heading(front.x), ylabel=heading(front.y))
    _style(axes)
    return len(measured) > 1


def _draw_point(axes: "Axes", run: Run, x: str, y: str) -> None:
    """Draw a run with its name and the intervals of both metrics."""
    at = scale(x) * (run.value(x) or 0.0), scale(y) * (run.value(y) or 0.0)
    errors = []
    for value, metric in zip(at, (x, y), strict=True):
        edges = run.interval(metric)
        interval = [scale(metric) * edge for edge in edges] if edges else [value, value]
        errors.append([[abs(value - edge)] for edge in interval])
    x_error, y_error = errors
    axes.errorbar(*at, xerr=x_error, yerr=y_error, fmt="o", color="C0", capsize=2, markersize=5)
    axes.annotate(run.name, at, textcoords="offset points", xytext=(5, 4), fontsize=7)


def _draw_sizes(figure: "Figure", compared: Comparison) -> bool:
    """Draw the metrics of the first curve by the number of training rows."""
    if not compared.data_size:
        return False
    curve = compared.data_size[0]
    metrics = curve.metrics[:_MOST_SIZE_METRICS]
    figure.set_size_inches(3.4 * len(metrics), 3.0)
    grid = figure.subplots(1, len(metrics), squeeze=False)
    for axes, metric in zip(grid[0], metrics, strict=True):
        _draw_size_metric(axes, metric, curve.rows)
    return True


def _draw_size_metric(axes: "Axes", metric: MetricBySize, rows: Sequence[int]) -> None:
    factor, sizes = scale(metric.key), list(rows)
    for size, own in zip(rows, metric.values, strict=True):
        axes.plot([size] * len(own), [factor * v for v in own], "o", color="0.6", markersize=3)
    means = [factor * mean for mean in metric.means]
    edges = [
        interval or (mean,) * 2
        for interval, mean in zip(metric.intervals, metric.means, strict=True)
    ]
    halves = [
        [abs(mean - factor * own[side]) for mean, own in zip(means, edges, strict=True)]
        for side in (0, 1)
    ]
    axes.errorbar(rows, means, yerr=halves, fmt="o-", color="C0", capsize=3, markersize=5)
    after = metric.trend.next_value if metric.trend is not None else None
    if after is not None:
        sizes.append(2 * rows[-1])
        at = factor * after.value
        low, high = after.interval or (after.value,) * 2
        own_halves = [[at - factor * low], [factor * high - at]]
        axes.plot(sizes[-2:], [means[-1], at], "--", color="C0")
        axes.errorbar(
            [sizes[-1]], [at], yerr=own_halves, fmt="o", mfc="white", color="C0", capsize=3
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set(xlabel="training rows", title=heading(metric.key))
    _style(axes)


def _style(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
