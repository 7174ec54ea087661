"""Write what a comparison produces: the page, the exported tables, and the report on W&B."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.markup import escape

from hydratune import extras
from hydratune.comparison import data_size_verdict
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import Comparison, compare
from hydratune.comparison.pictures import FORMATS
from hydratune.comparison.terminal import tables
from hydratune.comparison.verdict import verdict
from hydratune.console import console, relative_path
from hydratune.records.measured_sizes import write_measured
from hydratune.wording import counted, noun_for

log = logging.getLogger(__name__)


def end_of_sweep(folder: Path, names: Collection[str], *, best: bool = True) -> None:
    """Print the ranking of the jobs ``names`` of a sweep and write the page.

    ``best``: also print which run is the best; a search does that itself.
    """
    compared = compare([run for run in collect_runs([folder]) if run.path.name in names])
    for line in verdict(compared) if best else ():
        console.print(escape(line), soft_wrap=True)
    for note in compared.notes:
        console.print(f"[yellow]note: {escape(note)}", soft_wrap=True)
    for table in tables(compared):
        console.print(table)
    _keep_measured_sizes(compared, folder)
    try:
        write_page(compared, folder / "comparison", folder.name)
    except Exception:  # the page must not make a sweep fail
        log.exception("the page of the comparison could not be written")


def _keep_measured_sizes(compared: Comparison, folder: Path) -> None:
    """Keep what more rows brought for the data reports of the same data set."""
    if len(compared.data_size) != 1:
        return
    curve = compared.data_size[0]
    data = {str(run.data.get("prepared")) for entry in curve.entries for run in entry.finished}
    if len(data) == 1:
        sentence = data_size_verdict.heading(compared, curve).rstrip(".")
        write_measured(data.pop(), f"{sentence}, by {curve.model}", relative_path(folder))


def write_page(compared: Comparison, folder: Path, name: str) -> None:
    """Write report.html into ``folder``, or say that the package for its plots is missing.

    Raises ``RunError`` if the disk refuses it.
    """
    if not extras.is_installed("plotly"):
        how = extras.how_to_install("plotly")
        console.print(
            f"[yellow]compare     no page was written: its plots need the package plotly, which is"
            f" not installed: {escape(how)}",
            soft_wrap=True,
        )
        return
    from hydratune.comparison import page

    size = page.write(compared, folder / "report.html", name)
    file = escape(str(relative_path(folder / "report.html")))
    console.print(f"compare     {file}  [dim]({size / 1e6:.1f} MB, in one file)", soft_wrap=True)


def require_packages(kinds: Sequence[str], *, html: bool, to_wandb: bool) -> None:
    """Raise ``InputError`` if what was explicitly asked for needs a package that is missing."""
    if html:
        extras.require("plotly", "html=true")
    if any(kind in FORMATS for kind in kinds):
        extras.require("matplotlib", "export: a picture")
    if to_wandb:
        extras.require("wandb_workspaces", "to_wandb")


def write_exports(compared: Comparison, folder: Path, kinds: Sequence[str]) -> None:
    """Write tables and pictures of these kinds into ``folder``. Raises ``InputError``."""
    from hydratune.comparison import exports

    for file in exports.write(compared, folder, kinds):
        console.print(f"export      {escape(str(relative_path(file)))}", soft_wrap=True)


def publish_to_wandb(compared: Comparison, folder: Path, name: str) -> None:
    """Write a report and a saved view to the W&B server. Raises ``InputError``, ``RunError``."""
    from hydratune.comparison.publish import publish

    published = publish(compared, name, folder)
    console.print(f"W&B report  {escape(published.report)}", soft_wrap=True)
    console.print(f"W&B view    {escape(published.view)}", soft_wrap=True)
    if published.missing:
        console.print(
            f"[yellow]{published.missing} of {counted(len(compared.runs), 'run')}"
            f" {noun_for(published.missing, 'is', 'are')} not on the server, and so in the tables,"
            " but in no panel"
        )
