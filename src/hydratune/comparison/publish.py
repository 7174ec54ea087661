"""The comparison on the W&B server: a report and a saved view of the project's runs.

The runs themselves are there, or are sent first.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydratune.comparison.compared import Comparison, compare, verdict
from hydratune.comparison.entries import score
from hydratune.comparison.exports import markdown
from hydratune.comparison.names import title
from hydratune.comparison.runs import Run
from hydratune.errors import InputError, RunError
from hydratune.records.files import read_json, write_json
from hydratune.settings.secrets import mask
from hydratune.tracking import wandb

_STEP = "trainer/global_step"
_PLOTS = 4  # settings that are drawn against the metric
_TITLE = 120  # letters


@dataclass(frozen=True)
class Published:
    """Where it is, and how many of the runs the server does not have."""

    report: str
    view: str
    missing: int


def publish(compared: Comparison, name: str, folder: Path) -> Published:
    """Written over what was published of these runs before, which ``folder`` remembers.

    Raises ``InputError`` where there is nothing to publish or nothing to do it with, ``RunError``
    where the server does not take it.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError:
        raise InputError(
            "to_wandb: needs wandb-workspaces: pip install 'hydratune[workspaces]'"
        ) from None
    tracked = [run for run in compared.runs if run.wandb_id]
    if not tracked:
        raise InputError(
            "to_wandb: none of these runs was tracked by W&B (tracking=offline or online)"
        )
    compared = _told(compared)
    settings = tracked[0].settings
    place = wandb.place(settings.get("tracking.project"), settings.get("tracking.entity"))
    there = wandb.on_server(place, [str(run.wandb_id) for run in tracked])
    if not there:
        hint = (
            wandb.to_send(tracked[0].path.parent)
            or wandb.to_send(tracked[0].path)
            or "wandb sync --include-online DIR/wandb"
        )
        raise InputError(
            f"to_wandb: the server has none of these {len(tracked)} runs in {place}; send them"
            f" first: {hint}"
        )
    ids = [str(run.wandb_id) for run in tracked if run.wandb_id in there]
    known = _known(folder / "wandb.json", place)
    with wandb.answering(f"the report could not be written to {place}"):
        report = reports.Report(
            entity=place.entity,
            project=place.project,
            title=f"{name}, {len(compared.runs)} runs"[:_TITLE],
            description=mask(verdict(compared)[0] if verdict(compared) else "")[:_TITLE],
            blocks=_blocks(compared, place, ids),
            width="fluid",
        )
        report.id = known.get("report", "")
        try:
            report.save()
        except Exception:  # what was published before may have been deleted there; the client raises its own and the server's errors  # noqa: E501
            if not known:
                raise
            report.id, known = "", {}
            report.save()
        view = _view(known.get("view"), place, name)
        view.sections = _sections(compared)
        view.runset_settings = _runs_of_view(compared, ids)
        view.save()
    write_json(folder / "wandb.json", {"place": str(place), "report": report.id, "view": view.url})
    return Published(report.url, view.url, len(compared.runs) - len(ids))


def _view(url: str | None, place: wandb.Place, name: str) -> Any:
    """What was saved before, or a new one where that is gone."""
    import wandb_workspaces.workspaces as workspaces

    if url:
        with suppress(Exception):  # of the client, the server, or the check of what came
            return workspaces.Workspace.from_url(url)
    return workspaces.Workspace(entity=place.entity, project=place.project, name=name[:_TITLE])


def _told(compared: Comparison) -> Comparison:
    """With names in the place of texts for a model, where these may not leave the machine:
    tracking.log_text=false.
    """
    if all(run.settings.get("tracking.log_text", True) for run in compared.runs):
        return compared
    texts: dict[str, str] = {}

    def named(key: str, value: Any) -> Any:
        if not value or key.rsplit(".", 1)[-1] not in wandb.TEXTS:
            return value
        return texts.setdefault(str(value), f"text {len(texts) + 1}")

    runs = [
        replace(run, settings={key: named(key, value) for key, value in run.settings.items()})
        for run in compared.runs
    ]
    return replace(
        compare(runs, compared.by, confidence=compared.confidence), fronts=compared.fronts
    )


def _known(file: Path, place: wandb.Place) -> dict[str, str]:
    """What was published before; empty if that was elsewhere."""
    try:
        found = read_json(file) if file.is_file() else {}
    except RunError:
        return {}
    return found if isinstance(found, dict) and found.get("place") == str(place) else {}


# ------------------------------------------------------------------------------------------- report
def _blocks(compared: Comparison, place: wandb.Place, ids: Sequence[str]) -> list[Any]:
    import wandb_workspaces.expr as expr
    import wandb_workspaces.reports.v2 as reports

    told = [*verdict(compared), *(f"Note: {note}" for note in compared.notes)]
    lower = compared.by.lower
    runs = reports.Runset(
        entity=place.entity,
        project=place.project,
        name="the runs compared",
        filters=expr.And(expr.Metric("ID").isin(list(ids))),
        order=[reports.OrderBy(name=reports.SummaryMetric(compared.by.metric), ascending=lower)],
        pinned_columns=[
            "run:displayName",
            f"summary:{compared.by.metric}",
            *map(_column, compared.keys),
        ],
    )
    blocks: list[Any] = [reports.MarkdownBlock(_without_links(line)) for line in told]
    blocks += [reports.H2("Ranking"), reports.MarkdownBlock(mask(markdown(compared)))]
    if effects := _effects(compared):
        blocks += [reports.H2("What each setting did"), reports.MarkdownBlock(effects)]
    blocks += [
        reports.H2("Runs"),
        reports.PanelGrid(
            runsets=[runs], panels=[panel for _, some in _panels(compared) for panel in some]
        ),
    ]
    return blocks


def _effects(compared: Comparison) -> str:
    lines = []
    for effect in compared.effects:
        if not effect.levels:
            continue
        means = "; ".join(
            f"{compared.cell(effect.key, level.value)}: {level.mean:.4g} (n={level.runs})"
            for level in effect.levels
        ).replace("|", "\\|")
        correlation = "-" if effect.correlation is None else f"{effect.correlation:+.2f}"
        share = "-" if effect.importance is None else f"{100 * effect.importance:.0f} %"
        lines.append(f"| {effect.key} | {means} | {correlation} | {share} |\n")
    head = (
        f"| setting | value: mean {title(compared.by.metric)} | rank correlation | importance"
        " (fANOVA) |\n| --- | --- | --- | --- |\n"
    )
    return mask(head + "".join(lines)) if lines else ""


def _without_links(text: str) -> str:
    """A line of text that Markdown leaves as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#|" else letter for letter in mask(text))


# ------------------------------------------------------------------------------------------- panels
def _panels(compared: Comparison) -> list[tuple[str, list[Any]]]:
    """By section. Metrics are named as in metrics.json, which is how a run's summary has them."""
    import wandb_workspaces.reports.v2 as reports

    by = compared.by.metric
    keys = [
        key
        for key in compared.keys
        if any(isinstance(run.settings.get(key), (int, float)) for run in compared.runs)
    ]
    columns = [
        reports.ParallelCoordinatesPlotColumn(
            reports.Config(key), display_name=compared.short[key], log=_wide(compared.runs, key)
        )
        for key in compared.keys
    ]
    measured = [
        name
        for name in (*compared.metrics, by)
        if any(run.value(name) is not None for run in compared.runs)
    ]
    columns += [
        reports.ParallelCoordinatesPlotColumn(reports.SummaryMetric(name), display_name=title(name))
        for name in measured
    ]
    overview = (
        [
            reports.ParallelCoordinatesPlot(
                columns=columns, title="all settings at once", layout=_layout(0, 0, 24, 9)
            )
        ]
        if columns
        else []
    )
    overview.append(
        reports.ParameterImportancePlot(with_respect_to=by, layout=_layout(0, 9, 12, 8))
    )
    overview.append(reports.RunComparer(diff_only=True, layout=_layout(12, 9, 12, 8)))
    curves = [
        reports.LinePlot(
            title=title(name), x=_STEP, y=[name], layout=_layout(12 * number, 17, 12, 8)
        )
        for number, name in enumerate(("val/loss", "train/loss"))
    ]
    drawn = [
        (reports.Config(key), reports.SummaryMetric(by), key, _wide(compared.runs, key))
        for key in keys[:_PLOTS]
    ]
    drawn += [
        (
            reports.SummaryMetric(f.x),
            reports.SummaryMetric(f.y),
            f"{title(f.y)} against {title(f.x)}",
            False,
        )
        for f in compared.fronts
    ]
    scatters = [
        reports.ScatterPlot(
            title=told,
            x=x,
            y=y,
            log_x=log,
            layout=_layout(12 * (number % 2), 25 + 8 * (number // 2), 12, 8),
        )
        for number, (x, y, told, log) in enumerate(drawn)
    ]
    found = [
        ("All at once", overview),
        ("Learning curves", curves),
        ("Settings and trade-offs", scatters),
    ]
    if any(run.settings.get("tracking.log_predictions") for run in compared.runs):
        row = 25 + 8 * ((len(drawn) + 1) // 2)
        found.append(
            (
                "Answers",
                [
                    reports.WeavePanelSummaryTable(
                        table_name="predictions", layout=_layout(0, row, 24, 14)
                    )
                ],
            )
        )
    return [(name, panels) for name, panels in found if panels]


def _wide(runs: Sequence[Run], key: str) -> bool:
    """Whether the values of a setting ask for a logarithmic axis."""
    values = [
        value
        for run in runs
        if isinstance(value := run.settings.get(key), (int, float)) and not isinstance(value, bool)
    ]
    return bool(values) and min(values) > 0 and max(values) / min(values) >= 10


def _column(key: str) -> str:
    """How W&B's tables call a setting, nested as it is sent."""
    group, dot, name = key.partition(".")
    return f"config:{group}.value{dot}{name}"


def _layout(x: int, y: int, width: int, height: int) -> Any:
    import wandb_workspaces.reports.v2 as reports

    return reports.Layout(x=x, y=y, w=width, h=height)


# --------------------------------------------------------------------------------------------- view
def _sections(compared: Comparison) -> list[Any]:
    import wandb_workspaces.workspaces as workspaces

    return [
        workspaces.Section(name=name, panels=panels, is_open=True)
        for name, panels in _panels(compared)
    ]


def _runs_of_view(compared: Comparison, ids: Sequence[str]) -> Any:
    """The runs compared and no others, the best first and marked."""
    import wandb_workspaces.workspaces as workspaces

    by = compared.by
    columns = ["run:displayName", f"summary:{by.metric}", *map(_column, compared.keys)]
    best = next(
        (
            run.wandb_id
            for run in (compared.best.runs if compared.best else ())
            if score(run, by) is not None
        ),
        None,
    )
    return workspaces.RunsetSettings(
        filters=workspaces.And(workspaces.Metric("ID").isin(list(ids))),
        order=[workspaces.Ordering(workspaces.Summary(by.metric), ascending=by.lower)],
        pinned_columns=columns,
        pinned_runs=[best] if best is not None and best in ids else [],
    )
