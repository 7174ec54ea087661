"""The tables that end a run on the terminal: metrics of every system, forgetting, and time."""

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from hydratune.evaluation.result_rows import Change, MeasuredValues, answer_metrics, changes
from hydratune.metric_format import difference, heading, with_interval, written
from hydratune.metric_table import SYSTEM_TITLES
from hydratune.wording import counted

_MAX_FIELDS = 12  # of a JSON answer, shown one by one


def results(measured: MeasuredValues, systems: Sequence[str], shots: int) -> Table:
    """Return the metrics of ``systems`` on the same test rows, with their intervals."""
    settings = measured["settings"]["eval"]
    confidence = settings["intervals"].split(":")[0]
    table = _titled(
        f"{counted(settings['rows'], 'test row')}; rates in %, with {confidence} intervals"
    )
    table.add_column("metric", no_wrap=True)
    for system in systems:
        heading = f"base, {shots}-shot" if system == "fewshot" else SYSTEM_TITLES[system]
        style = "bold green" if system == "eval" else ""
        table.add_column(heading, justify="right", style=style)
    for metric in answer_metrics(measured, systems):
        cells = (_cell(measured, f"{system}/{metric.name}") for system in systems)
        table.add_row(escape(metric.title), *cells)
        if metric.name == "field_f1":
            _add_fields(table, measured, systems)
    return table


def _titled(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", header_style="bold")


def _add_fields(table: Table, measured: MeasuredValues, systems: Sequence[str]) -> None:
    """Add the F1 of each field of the JSON answers, unless there are too many to be read."""
    prefix = f"{systems[-1]}/field_f1/"
    fields = [key.removeprefix(prefix) for key in measured if key.startswith(prefix)]
    for field in fields if len(fields) <= _MAX_FIELDS else []:
        cells = (_cell(measured, f"{system}/field_f1/{field}") for system in systems)
        table.add_row(f"[dim]  {escape(field)}", *cells, style="dim")


def _cell(measured: MeasuredValues, key: str) -> str:
    """Return a value with its interval; a dash where the system's answers have nothing to count."""
    text = with_interval(key, measured.get(key), measured["intervals"].get(key))
    value, bracket, interval = text.partition(" [")
    return f"{value} [dim]\\[{interval}[/]" if bracket else value


def forgetting(measured: MeasuredValues) -> Table:
    """Return what the fine-tuned model lost on the panel."""
    table = _titled("forgetting")
    for column in ("", "before", "after", "difference"):
        table.add_column(column, justify="right" if column else "left")
    for change in changes(measured):
        before = "" if change.before is None else written(change.key, change.before)
        after = written(change.key, change.after)
        table.add_row(heading(change.key), before, after, _difference(change))
    return table


def _difference(change: Change) -> str:
    if change.difference is None:
        return ""
    text = difference(change.key, change.difference)
    if not change.interval:
        return f"{text} [dim](too few)[/]"
    low, high = (difference(change.key, edge) for edge in change.interval)
    return f"{text} [dim]\\[{low}, {high}][/]"


def times(seconds: Mapping[str, float]) -> Table:
    """Return where the time of a run went."""
    total = sum(seconds.values())
    table = _titled("where the time went")
    for column in ("stage", "seconds", "share"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, spent in seconds.items():
        table.add_row(stage, f"{spent:.1f}", f"{100 * spent / total:.0f} %")
    table.add_row("[bold]all", f"[bold]{total:.1f}", "")
    return table
