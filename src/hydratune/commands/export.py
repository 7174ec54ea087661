"""hydratune export: write a fine-tuned model for other programs, and compare it with the run's."""

import signal
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from hydratune.console import console, relative_path
from hydratune.export.exporting import Compared, export_run
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.commands import ExportConfig
from hydratune.settings.overrides import as_typed
from hydratune.settings.paths import PARITY_FILE


def run(config: ExportConfig, _: RunDirectory) -> None:
    """Export a run, print the comparison, and upload the folder if that is asked for.

    Raises ``RunError`` if the export is not the run's model.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: nothing is left behind
        signal.signal(number, signal.default_int_handler)
    folder, compared = export_run(config)
    shown = relative_path(folder)
    console.print(comparison_table(compared))
    for form in compared:
        if isinstance(obstacle := form.facts.get("vllm"), str):
            console.print(f"[yellow]vLLM cannot load {escape(obstacle)}; PEFT can", soft_wrap=True)
    console.print(f"export      {escape(str(shown))}  [dim](and {PARITY_FILE})", soft_wrap=True)
    if len(compared) == 1:
        command = f"hydratune serve {as_typed('export', shown)}"
        console.print(f"serve       {escape(command)}", soft_wrap=True)
    if config.push is not None:
        _push(config.push, folder, config.push_private)


def _push(repository: str, folder: Path, private: bool) -> None:
    from hydratune.export.push import upload

    address = upload(folder, repository, private=private)
    console.print(f"uploaded    {escape(address)}", soft_wrap=True)


def comparison_table(compared: Sequence[Compared]) -> Table:
    """Return a row for each form: how far it is from the run's model."""
    first = compared[0].parity
    table = Table(header_style="bold", title=f"{first.rows} test rows, {first.positions} positions")
    columns = ("mean KL", "largest KL", "same token", "same answers", "metric", "of the run")
    table.add_column("form")
    for column in columns:
        table.add_column(column, justify="right")
    for one in compared:
        parity = one.parity
        metric, of_run = "", ""
        if parity.metric_export is not None and parity.metric_run is not None:
            metric = f"{parity.metric} {parity.metric_export:.3f}"
            of_run = f"{parity.metric_run:.3f}"
        same = "" if parity.same_answers is None else f"{parity.same_answers}/{parity.rows}"
        table.add_row(
            one.form.value,
            f"{parity.mean_kl:.1e}",
            f"{parity.max_kl:.1e}",
            f"{100 * parity.agreement:.1f} %",
            same,
            metric,
            of_run,
        )
    return table
