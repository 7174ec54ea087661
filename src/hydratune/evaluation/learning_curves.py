"""The learning curves on a run's page: the loss, and the metric of its answers to validation rows.

The step of the kept weights is marked in both.
"""

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from hydratune.errors import RunError
from hydratune.evaluation.pages import Line, Point, curves
from hydratune.evaluation.result_rows import MeasuredValues
from hydratune.metric_format import heading, scale, with_unit
from hydratune.metric_table import VALIDATION, main_metric
from hydratune.records.files import read_text
from hydratune.settings.monitor import LOSS, split_direction

_LARGEST = 1e9  # of a value that is drawn
_PAIR_WIDTH = 400  # of the area of one of two charts that stand side by side
_Rows = Sequence[Mapping[str, str]]


def charts(file: Path, measured: MeasuredValues, settings: Mapping[str, object]) -> list[Markup]:
    """Return the curves of the losses, and of the answers to validation rows if there are any.

    ``file``: history.csv; without a readable one there is no chart. ``measured``: the content of
    metrics.json; ``settings``: those of the run.
    """
    try:
        text = read_text(file) if file.is_file() else ""
        rows = list(csv.DictReader(io.StringIO(text)))
        train, validation = _points(rows, "train/loss"), _points(rows, LOSS)
        name = _metric(rows[-1].keys() if rows else (), measured, settings)
        answers = _points(rows, name) if name else []
    except (RunError, OSError, ValueError, KeyError, csv.Error):
        return []
    lines: list[Line] = [
        ("training loss", "train", train),
        ("validation loss", "val", validation),
    ]
    kept = measured.get("fit/best_step")
    width = {"width": _PAIR_WIDTH} if answers else {}
    result = [_chart(lines, LOSS, validation, kept, **width)] if train or validation else []
    if answers:
        own: list[Line] = [(heading(name), "val", answers)]
        result.append(_chart(own, name, answers, kept, **width))
    return result


def _metric(
    columns: Collection[str], measured: MeasuredValues, settings: Mapping[str, object]
) -> str:
    """Return the metric of answers to validation rows: what is monitored, or else the main one.

    "" where none was measured. A run that did not finish has no metrics.json, but settings.
    """
    stored = measured.get("settings", {}).get("objective", {}).get("metric")
    name = str(stored or split_direction(str(settings.get("trainer.monitor") or LOSS))[0])
    if name != LOSS:
        return name if name in columns else ""
    main = main_metric(columns, f"{VALIDATION}/")
    return f"{VALIDATION}/{main}" if main else ""


def _points(rows: _Rows, key: str) -> list[Point]:
    """Return (step, value) in the unit that is written, of the rows that have a number."""
    points = [(float(row["step"]), scale(key) * float(row[key])) for row in rows if row.get(key)]
    return [point for point in points if math.isfinite(point[1]) and abs(point[1]) < _LARGEST]


def _chart(
    lines: Sequence[Line], key: str, points: Sequence[Point], kept: object, **width: int
) -> Markup:
    """Return a chart in which the point of ``points`` at the step ``kept`` is marked."""
    best = next((point for point in points if point[0] == kept), None)
    note = ""
    if best is not None:
        note = f"kept: step {best[0]:.0f}, {with_unit(key, best[1] / scale(key))}"
    return curves(lines, best, "optimizer step", note=note, **width)
