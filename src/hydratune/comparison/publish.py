"""A comparison on the W&B server: a report, and a saved view of the project's runs.

The runs must be on the server already; if they are not, the message says how to send them.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydratune import extras
from hydratune.comparison.comparison import Comparison, compare
from hydratune.comparison.entries import score_of
from hydratune.comparison.exports import markdown
from hydratune.comparison.panels import column_name, panels_by_section, summary_name
from hydratune.comparison.runs import Run
from hydratune.comparison.verdict import verdict
from hydratune.errors import InputError, RunError
from hydratune.metric_format import heading, written
from hydratune.records.files import read_json, write_json
from hydratune.settings.secrets import mask
from hydratune.settings.tracking import TEXT_SETTINGS
from hydratune.tracking import wandb_server
from hydratune.tracking.wandb import sync_command
from hydratune.tracking.wandb_server import Project
from hydratune.wording import counted, in_markdown, noun_for

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report, Runset
    from wandb_workspaces.reports.v2.internal import Block
    from wandb_workspaces.workspaces import RunsetSettings, Section, Workspace

_LONGEST_TITLE = 120  # letters
_RECORD = "wandb.json"  # where the report and the view of an earlier comparison are remembered


@dataclass(frozen=True)
class Published:
    """Addresses of the report and the view, and the number of runs that the server lacks."""

    report: str
    view: str
    missing: int


def publish(compared: Comparison, name: str, folder: Path) -> Published:
    """Write a report and a view over those of an earlier comparison, recorded in ``folder``.

    Raises ``InputError`` if there is nothing to publish or a package is missing, ``RunError`` if
    the server refuses.
    """
    extras.require("wandb_workspaces", "to_wandb")
    tracked = [run for run in compared.runs if run.wandb_id]
    if not tracked:
        raise InputError(
            "to_wandb: none of these runs was tracked by W&B (tracking=offline or online)"
        )
    settings = tracked[0].settings
    project = wandb_server.project_of(
        settings.get("tracking.project"), settings.get("tracking.entity")
    )
    ids = _ids_on_server(tracked, project)
    compared = _without_texts(compared)
    earlier = _earlier(folder / _RECORD, project)
    with wandb_server.explain_errors(f"the report could not be written to {project}"):
        report = _save_report(compared, project, name, ids, earlier.get("report", ""))
        view = _open_view(earlier.get("view"), project, name)
        view.sections = _sections(compared)
        view.runset_settings = _view_settings(compared, ids)
        view.save()
    write_json(folder / _RECORD, {"place": str(project), "report": report.id, "view": view.url})
    return Published(report.url, view.url, len(compared.runs) - len(ids))


def _ids_on_server(tracked: Sequence[Run], project: Project) -> list[str]:
    """Return the W&B ids of the runs that the server has. Raises ``InputError`` if it has none."""
    present = wandb_server.ids_on_server(project, [str(run.wandb_id) for run in tracked])
    if not present:
        command = (
            sync_command(tracked[0].path.parent)
            or sync_command(tracked[0].path)
            or "wandb sync --include-online DIR/wandb"
        )
        raise InputError(
            f"to_wandb: {counted(len(tracked), 'run is', 'runs are')} not on the server in"
            f" {project};"
            f" send {noun_for(len(tracked), 'it', 'them')} first: {command}"
        )
    return [str(run.wandb_id) for run in tracked if run.wandb_id in present]


def _earlier(file: Path, project: Project) -> Mapping[str, str]:
    """Return what was published before; empty if nothing was, or in another project."""
    try:
        recorded = read_json(file) if file.is_file() else {}
    except RunError:
        return {}
    is_same = isinstance(recorded, dict) and recorded.get("place") == str(project)
    return recorded if is_same else {}


def _without_texts(compared: Comparison) -> Comparison:
    """Replace texts for a model by names where tracking.log_text=false forbids to send them."""
    if all(run.settings.get("tracking.log_text", True) for run in compared.runs):
        return compared
    names: dict[str, str] = {}

    def hide(key: str, value: object) -> object:
        if not value or key.rsplit(".", 1)[-1] not in TEXT_SETTINGS:
            return value
        return names.setdefault(str(value), f"text {len(names) + 1}")

    runs = [
        replace(run, settings={key: hide(key, value) for key, value in run.settings.items()})
        for run in compared.runs
    ]
    hidden = compare(runs, compared.by, confidence=compared.confidence)
    return replace(hidden, fronts=compared.fronts)


# --------------------------------------------------------------------------------------- the report
def _save_report(
    compared: Comparison, project: Project, name: str, ids: Sequence[str], earlier: str
) -> "Report":
    """Save the report over the one with the id ``earlier``, or as a new one."""
    import wandb_workspaces.reports.v2 as reports

    conclusion = next(iter(verdict(compared)), "")
    report = reports.Report(
        entity=project.entity,
        project=project.project,
        title=f"{name}, {counted(len(compared.runs), 'run')}"[:_LONGEST_TITLE],
        description=mask(conclusion)[:_LONGEST_TITLE],
        blocks=_blocks(compared, project, ids),
        width="fluid",
    )
    report.id = earlier
    try:
        report.save()
    except Exception:  # the client raises its own errors and the server's
        if not earlier:
            raise
        report.id = ""  # the earlier report may have been deleted on the server
        report.save()
    return report


def _blocks(compared: Comparison, project: Project, ids: Sequence[str]) -> "list[Block]":
    """Return the content of the report."""
    import wandb_workspaces.reports.v2 as reports

    lines = [*verdict(compared), *(f"Note: {note}" for note in compared.notes)]
    blocks: list[Block] = [reports.MarkdownBlock(_escape_markdown(line)) for line in lines]
    blocks += [reports.H2("Ranking"), reports.MarkdownBlock(mask(markdown(compared)))]
    if effects := _effects(compared):
        blocks += [reports.H2("What each setting did"), reports.MarkdownBlock(effects)]
    panels = [panel for own in panels_by_section(compared).values() for panel in own]
    runsets = [_runset(compared, project, ids)]
    return [*blocks, reports.H2("Runs"), reports.PanelGrid(runsets=runsets, panels=panels)]


def _runset(compared: Comparison, project: Project, ids: Sequence[str]) -> "Runset":
    import wandb_workspaces.expr as expr
    import wandb_workspaces.reports.v2 as reports

    metric = reports.SummaryMetric(summary_name(compared))
    return reports.Runset(
        entity=project.entity,
        project=project.project,
        name="the runs compared",
        filters=expr.And(expr.Metric("ID").isin(list(ids))),
        order=[reports.OrderBy(name=metric, ascending=compared.by.lower)],
        pinned_columns=_pinned_columns(compared),
    )


def _pinned_columns(compared: Comparison) -> list[str]:
    settings = map(column_name, compared.keys)
    return ["run:displayName", f"summary:{summary_name(compared)}", *settings]


def _effects(compared: Comparison) -> str:
    """Return a Markdown table of what each setting did; empty if nothing varies."""
    lines = []
    for effect in compared.effects:
        if not effect.levels:
            continue
        means = "; ".join(
            f"{in_markdown(compared.format_setting(effect.key, level.value))}:"
            f" {written(compared.by.metric, level.mean)} (n={level.runs})"
            for level in effect.levels
        ).replace("|", "\\|")
        correlation = "-" if effect.correlation is None else f"{effect.correlation:+.2f}"
        importance = "-" if effect.importance is None else f"{100 * effect.importance:.0f} %"
        lines.append(f"| {effect.key} | {means} | {correlation} | {importance} |\n")
    columns = f"setting | value: mean {heading(compared.by.metric)} | rank correlation"
    top = f"| {columns} | importance (fANOVA) |\n| --- | --- | --- | --- |\n"
    return mask(top + "".join(lines)) if lines else ""


def _escape_markdown(text: str) -> str:
    """Return a line of text so that Markdown shows it as it is."""
    special = "\\`*_[]<>#|"
    return "".join(f"\\{letter}" if letter in special else letter for letter in mask(text))


# ----------------------------------------------------------------------------------------- the view
def _open_view(url: str | None, project: Project, name: str) -> "Workspace":
    """Return the view saved before, or a new one if it was deleted."""
    import wandb_workspaces.workspaces as workspaces

    if url:
        with suppress(Exception):  # of the client, of the server, or of parsing its answer
            return workspaces.Workspace.from_url(url)
    title_ = name[:_LONGEST_TITLE]
    return workspaces.Workspace(entity=project.entity, project=project.project, name=title_)


def _sections(compared: Comparison) -> "list[Section]":
    import wandb_workspaces.workspaces as workspaces

    panels = panels_by_section(compared).items()
    return [workspaces.Section(name=name, panels=own, is_open=True) for name, own in panels]


def _view_settings(compared: Comparison, ids: Sequence[str]) -> "RunsetSettings":
    """Show only the compared runs, the best one first and pinned."""
    import wandb_workspaces.workspaces as workspaces

    by = compared.by
    runs = compared.best.runs if compared.best else ()
    best = next((run.wandb_id for run in runs if score_of(run, by) is not None), None)
    return workspaces.RunsetSettings(
        filters=workspaces.And(workspaces.Metric("ID").isin(list(ids))),
        order=[workspaces.Ordering(workspaces.Summary(summary_name(compared)), ascending=by.lower)],
        pinned_columns=_pinned_columns(compared),
        pinned_runs=[best] if best is not None and best in ids else [],
    )
