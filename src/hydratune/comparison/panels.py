"""The panels of a comparison in a W&B report and in a saved view.

Metrics are named as in metrics.json, which is how the summary of a W&B run has them.
"""

from typing import TYPE_CHECKING

from hydratune.comparison.comparison import Comparison
from hydratune.comparison.entries import is_logarithmic
from hydratune.metric_table import OBJECTIVE, title
from hydratune.settings.monitor import LOSS

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Layout
    from wandb_workspaces.reports.v2.internal import Panel

_STEP = "trainer/global_step"
_MOST_SETTINGS = 4  # drawn against the metric
# The grid of a report is 24 columns wide. Rows of panels, from the top:
_WIDTH, _HALF = 24, 12
_ROW = 8  # height of most panels
_OVERVIEW_HEIGHT = 9
_CURVES_AT = _OVERVIEW_HEIGHT + _ROW
_SCATTERS_AT = _CURVES_AT + _ROW
_ANSWERS_HEIGHT = 14


def panels_by_section(compared: Comparison) -> "dict[str, list[Panel]]":
    """Return the panels under the names of their sections."""
    import wandb_workspaces.reports.v2 as reports

    scatters = _scatters(compared)
    panels = {
        "Parallel coordinates": _overview(compared),
        "Learning curves": _curves(),
        "Settings and trade-offs": scatters,
    }
    if any(run.settings.get("tracking.log_predictions") for run in compared.runs):
        top = _SCATTERS_AT + _ROW * ((len(scatters) + 1) // 2)
        layout = _layout(0, top, _WIDTH, _ANSWERS_HEIGHT)
        table = reports.WeavePanelSummaryTable(table_name="predictions", layout=layout)
        panels["Answers"] = [table]
    return {name: own for name, own in panels.items() if own}


def column_name(key: str) -> str:
    """Return the name of a setting in W&B's tables, where it is nested as it was sent."""
    group, dot, name = key.partition(".")
    return f"config:{group}.value{dot}{name}"


def summary_name(compared: Comparison) -> str:
    """Return the name in the summaries of W&B's runs of the metric that ranks ``compared``.

    A tracker stores the validation loss under its own name only.
    """
    metric = compared.by.metric
    is_loss = all(run.value(metric) == run.value(LOSS) for run in compared.runs)
    return LOSS if metric == OBJECTIVE and is_loss else metric


def _overview(compared: Comparison) -> "list[Panel]":
    """Return parallel coordinates, parameter importances and the differences between runs."""
    import wandb_workspaces.reports.v2 as reports

    columns = [
        reports.ParallelCoordinatesPlotColumn(
            reports.Config(key),
            display_name=compared.short_names[key],
            log=is_logarithmic(compared.runs, key),
        )
        for key in compared.keys
    ]
    for name in (*compared.metrics, summary_name(compared)):
        if any(run.value(name) is not None for run in compared.runs):
            metric = reports.SummaryMetric(name)
            columns.append(reports.ParallelCoordinatesPlotColumn(metric, display_name=title(name)))
    panels: list[Panel] = []
    if columns:
        layout = _layout(0, 0, _WIDTH, _OVERVIEW_HEIGHT)
        panels.append(
            reports.ParallelCoordinatesPlot(
                columns=columns, title="parallel coordinates", layout=layout
            )
        )
    left_half, right_half = (_layout(x, _OVERVIEW_HEIGHT, _HALF, _ROW) for x in (0, _HALF))
    importance = reports.ParameterImportancePlot(
        with_respect_to=summary_name(compared), layout=left_half
    )
    return [*panels, importance, reports.RunComparer(diff_only=True, layout=right_half)]


def _curves() -> "list[Panel]":
    import wandb_workspaces.reports.v2 as reports

    return [
        reports.LinePlot(
            title=title(name),
            x=_STEP,
            y=[name],
            layout=_layout(_HALF * number, _CURVES_AT, _HALF, _ROW),
        )
        for number, name in enumerate((LOSS, "train/loss"))
    ]


def _scatters(compared: Comparison) -> "list[Panel]":
    """Return plots of the metric against numeric settings, and of the Pareto fronts."""
    import wandb_workspaces.reports.v2 as reports

    metric = reports.SummaryMetric(summary_name(compared))
    numeric = [
        key
        for key in compared.keys
        if any(isinstance(run.settings.get(key), int | float) for run in compared.runs)
    ]
    plots = [
        {"x": reports.Config(key), "y": metric, "title": key}
        | {"log_x": is_logarithmic(compared.runs, key)}
        for key in numeric[:_MOST_SETTINGS]
    ]
    plots += [
        {"x": reports.SummaryMetric(front.x), "y": reports.SummaryMetric(front.y)}
        | {"title": f"{title(front.y)} against {title(front.x)}", "log_x": False}
        for front in compared.fronts
    ]
    panels = []
    for number, plot in enumerate(plots):
        row, column = divmod(number, 2)
        layout = _layout(_HALF * column, _SCATTERS_AT + _ROW * row, _HALF, _ROW)
        panels.append(reports.ScatterPlot(**plot, layout=layout))
    return panels


def _layout(x: int, y: int, width: int, height: int) -> "Layout":
    import wandb_workspaces.reports.v2 as reports

    return reports.Layout(x=x, y=y, w=width, h=height)
