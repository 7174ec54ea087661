"""The tables of a data report for the terminal."""

import itertools
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hydratune.data.quality.findings import CheckReport, describe_check, format_splits
from hydratune.data.quality.skipped import describe_skipped
from hydratune.data.report_content import Report
from hydratune.settings.data import Level

_PLACES_SHOWN = 2  # rows of one finding


def print_report(console: Console, report: Report) -> None:
    """Print the splits, the repairs and the findings."""
    console.print(_splits_table(report))
    repairs = {name: entry for name, entry in report["cleaning"].items() if entry["rows"]}
    if repairs:
        console.print(_repairs_table(repairs))
    checks = report["checks"]
    console.print(_checks_table({name: c for name, c in checks.items() if c["count"]}))
    without_findings = [name for name, check in checks.items() if not check["count"]]
    console.print(f"[dim]nothing found by {', '.join(without_findings)}", soft_wrap=True)
    if skipped := describe_skipped(report.get("skipped", {})):
        console.print(f"[yellow]{escape(skipped)}", soft_wrap=True)


def _splits_table(report: Report) -> Table:
    tokens = report["tokens"]
    title = f"tokens of {tokens['model']}; data.max_length={tokens['max_length']}"
    table = Table("split", header_style="bold", title=title, title_justify="left")
    for column in ("rows", "groups", "tokens", "trained", "median", "99 %", "longest", "too long"):
        table.add_column(column, justify="right")
    for name, split in report["splits"].items():
        counts = tokens["splits"][name]
        quantiles = counts["quantiles"]
        numbers = (
            *(split["rows"], split["groups"], counts["tokens"], counts["trained_tokens"]),
            *(quantiles["50"], quantiles["99"], quantiles["100"], counts["too_long"]),
        )
        table.add_row(name, *(f"{n:,}" for n in numbers))
    return table


def _repairs_table(repairs: Mapping[str, Report]) -> Table:
    table = Table("cleaning", "rows", "", header_style="bold")
    for name, entry in repairs.items():
        state = "[green]done" if entry["on"] else f"[dim]not done: data.clean.{name}=true does it"
        splits = format_splits(entry.get("splits", {}))
        title = f"{entry['title']} [dim]({splits})" if splits else entry["title"]
        table.add_row(title, f"{entry['rows']:,}", state)
    return table


def _checks_table(checks: Mapping[str, CheckReport]) -> Table:
    table = Table("check", "rows", "what", "the first", header_style="bold")
    for name, check in checks.items():
        style = "bold red" if check["level"] == Level.error.value else "yellow"
        description = describe_check(check)
        what = f"{check['title']} ({description})" if description else check["title"]
        places = Text("\n".join(_first_places(check)), "dim")
        table.add_row(Text(name, style), f"{check['count']:,}", Text(what), places)
    return table


def _first_places(check: CheckReport) -> list[str]:
    """Return file:line of the first rows, or their ids."""
    names = [Path(place).name if place else "" for place in check.get("where", [])]
    rows = check["rows"][:_PLACES_SHOWN]
    return [
        name or row
        for row, name in itertools.zip_longest(rows, names[:_PLACES_SHOWN], fillvalue="")
    ]
