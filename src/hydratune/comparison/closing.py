"""The comparison at the end of a sweep, and whatever a comparison writes."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.markup import escape

from hydratune.comparison.compared import Comparison, compare, verdict
from hydratune.comparison.ranking import tables
from hydratune.comparison.runs import collect
from hydratune.console import console

log = logging.getLogger(__name__)


def end_of_sweep(folder: Path, names: Collection[str], *, best: bool = True) -> None:
    """Ranking and verdict of the jobs ``names``, and the page.

    ``best`` false: somebody else says which is.
    """
    compared = compare([run for run in collect([folder]) if run.path.name in names])
    for part in tables(compared):
        console.print(part)
    for line in verdict(compared) if best else ():
        console.print(escape(line.replace(f"{Path.cwd()}/", "")), soft_wrap=True)
    try:
        page(compared, folder / "comparison", folder.name)
    except Exception:  # the sweep is what counts
        log.exception("the page of the comparison could not be written")


def page(compared: Comparison, folder: Path, name: str) -> None:
    from hydratune.comparison import page as pages

    size = pages.write(compared, folder / "report.html", name)
    console.print(
        f"compare     {escape(_short(folder / 'report.html'))}  [dim]({size / 1e6:.1f} MB, needs"
        " nothing else)",
        soft_wrap=True,
    )


def exports(compared: Comparison, folder: Path, kinds: Sequence[str]) -> None:
    from hydratune.comparison import exports as written

    for file in written.write(compared, folder, kinds):
        console.print(f"export      {escape(_short(file))}", soft_wrap=True)


def to_wandb(compared: Comparison, folder: Path, name: str) -> None:
    from hydratune.comparison.publish import publish

    published = publish(compared, name, folder)
    console.print(f"W&B report  {escape(published.report)}", soft_wrap=True)
    console.print(f"W&B view    {escape(published.view)}", soft_wrap=True)
    if published.missing:
        console.print(
            f"[yellow]{published.missing} of {len(compared.runs)} runs are not on the server: in"
            " the tables, but in no panel"
        )


def _short(file: Path) -> str:
    whole = file.absolute()
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else str(file)
