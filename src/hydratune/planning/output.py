"""Where a plan goes: the terminal, plan.json and report.html."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from hydratune import digests
from hydratune.console import console, section
from hydratune.data.rows import stable_hash
from hydratune.errors import ConfigError, Problem
from hydratune.planning import page, terminal
from hydratune.planning.plan import Plan
from hydratune.planning.sweep_plan import SweepPlan
from hydratune.planning.sweep_trials import MODEL_COLUMNS
from hydratune.records.files import write_json, write_text
from hydratune.settings.commands import PlanConfig, TrainConfig
from hydratune.settings.overrides import typed_overrides
from hydratune.settings.paths import as_file_name
from hydratune.settings.registry import override_key

_FILES = {"plan.json", "report.html", digests.INDEX}
_PLACE = Path("outputs/plan")
_SHOWN = ("output", "html", "json")  # settings that say where and how a plan is shown
# settings that train does not have
_OWN = {f.name for f in fields(PlanConfig)} - {f.name for f in fields(TrainConfig)}


def typed_of_train(overrides: object) -> list[str]:
    """Return what the user typed without the settings that only ``plan`` has."""
    every = overrides if isinstance(overrides, tuple | list) else typed_overrides(overrides)
    return [str(o) for o in every if str(o).lstrip("+").partition("=")[0] not in _OWN]


def choose_folder(config: PlanConfig, typed: Sequence[str], is_sweep: bool = False) -> Path:
    """Return the folder for the files of a plan, before anything is planned.

    Plans for which other words were ``typed`` have other folders.

    Raises ``ConfigError`` for a file, and for a folder with other contents.
    """
    folder = Path(config.output) if config.output else _PLACE / _name(config, typed, is_sweep)
    why = ""
    if any(part.is_file() for part in (folder, *folder.parents)):
        why = "this path is, or passes through, a file"
    elif folder.is_dir():
        others = sorted(path.name for path in folder.iterdir() if path.name not in _FILES)
        if others:
            why = f"this folder contains other files: {', '.join(others[:5])}"
    if why:
        fix = "choose a new folder, such as output=outputs/plan/new"
        raise ConfigError([Problem("output", folder, why, fix)])
    return folder


def _name(config: PlanConfig, typed: Sequence[str], is_sweep: bool) -> str:
    """Return ``<name>-<model>-<hash>``, or ``<name>-sweep-<hash>``."""
    words = sorted(word for word in typed if override_key(word) not in _SHOWN)
    what = "sweep" if is_sweep else as_file_name(str(config.model.name))
    return f"{config.name}-{what}-{stable_hash(words)[:8]}"


def show(
    config: PlanConfig, plan: Plan, typed: Sequence[str], sweep: SweepPlan | None = None
) -> None:
    """Print a plan, and write plan.json and report.html."""
    content = {**plan.content(), **({"sweep": sweep.content()} if sweep is not None else {})}
    folder = choose_folder(config, typed, sweep is not None)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "plan.json", content)
    if config.html:
        write_text(folder / "report.html", page.render(plan, sweep))
    if config.json:
        print(json.dumps(content, indent=1))
        return
    if sweep is not None:
        section("sweep")
        for line in sweep.lines:
            console.print(escape(line), soft_wrap=True)
        if sweep.models:
            console.print(_models_table(sweep))
        section("its largest trial")
    for part in terminal.render(plan):
        console.print(part, soft_wrap=isinstance(part, str))
    for model, first in sweep.first_sweeps if sweep is not None else ():
        for part in terminal.first_sweep_lines(first, f" for {model}"):
            console.print(part, soft_wrap=True)
    name = "report.html" if config.html else "plan.json"
    others = "  [dim](and plan.json)" if config.html else ""
    console.print(f"plan        {escape(str(folder / name))}{others}", soft_wrap=True)


def _models_table(sweep: SweepPlan) -> Table:
    table = Table(
        title="the base models, on this machine", title_justify="left", header_style="bold"
    )
    for column in MODEL_COLUMNS:
        table.add_column(column)
    for cells in sweep.models:
        table.add_row(*map(escape, cells))
    return table
