"""The story of a driver of a W&B sweep: it takes several trials at a time and trains them together.

The server chooses the trials, and each is its own run of the sweep there; the folder of the sweep
holds their run directories. A driver that was killed is resumed by the same command: its runs are
trained on from their checkpoints, under the same ids.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.markup import escape

from hydratune.comparison.outputs import end_of_sweep
from hydratune.console import console, relative_path, section
from hydratune.errors import ConfigError, Problem, SweepError
from hydratune.experiment.interrupts import listen
from hydratune.records.files import write_text
from hydratune.records.status import State
from hydratune.records.sweep import (
    HYDRA_FILE,
    SWEEP_FILE,
    WandbSweep,
    read_sweep,
    read_wandb_sweep,
    write_sweep,
)
from hydratune.settings.commands import Resume
from hydratune.settings.overrides import typed_overrides, value_text
from hydratune.settings.secrets import mask, secret_problems
from hydratune.settings.tracking import TrackingConfig
from hydratune.sweeps.job_checks import refuse_other_environment
from hydratune.sweeps.launch import table_of_failures
from hydratune.sweeps.trial_locks import sweep_lock
from hydratune.sweeps.wandb_sweep.agents import Agents
from hydratune.sweeps.wandb_sweep.check import Explain, check_trials, pack_options
from hydratune.sweeps.wandb_sweep.definition import SweepDefinition, read_definition, read_file
from hydratune.sweeps.wandb_sweep.settings import SWEEPER, CheckedSweep, WandbSweepSettings
from hydratune.sweeps.wandb_sweep.slots import run_in_slots
from hydratune.sweeps.wandb_sweep.trials import run_batch, unfinished
from hydratune.tracking.wandb_sweep import StoredSweep, SweepServer, parse_sweep
from hydratune.wording import counted, named, noun_for

_FAILURES = 5  # a driver gives up if its first trials, so many, have all failed
_ENDED = ("FINISHED", "STOPPED", "CANCELED", "CANCELLED")  # states in which there are no new trials


def drive(
    context: HydraContext,
    config: DictConfig,
    launcher: object,
    settings: WandbSweepSettings,
    arguments: Sequence[str],
    explain: Explain,
) -> None:
    """Run trials of a W&B sweep until it is over or the driver has run as many as it may.

    ``arguments``: overrides that all trials have in common. Raises ``ConfigError`` before anything
    runs if the sweep is wrong, ``SweepError`` at the end if any trial in the folder failed.
    """
    _refuse_several_values(context, config, arguments)
    packing = pack_options(launcher)
    definition = _definition_of_file(settings)
    if definition is not None:  # before the server is asked anything
        words = _common_words(definition, arguments)
        check_trials(context, config, definition, words, explain, is_new=True)
    _refuse_offline()
    server = SweepServer()
    if definition is not None:
        stored = _created(server, config, definition, words)
    else:
        stored = _stored(server, config, settings)
        _set_folder(config, stored.place)
        definition = read_definition(stored.content, str(stored.place))
        words = _common_words(definition, arguments)
        check_trials(context, config, definition, words, explain, is_new=False)
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    title = str(definition.content.get("name") or "")
    place = replace(stored.place, settings=_settings(words), title=title)
    # so that whoever reads the settings of a run finds it on the server
    names = {"tracking.entity": place.entity, "tracking.project": place.project}
    words += [f"{key}={value_text(key, name)}" for key, name in names.items()]
    sweep = CheckedSweep(
        context, config, folder, settings, packing, definition, place, tuple(words)
    )
    _open_folder(sweep, stored)
    _print_start(sweep, stored)
    listen()
    before = set(read_sweep(folder))
    try:
        trials = _run_trials(sweep, Agents(server, place))
    except KeyboardInterrupt:
        console.print(f"[yellow]interrupted; the same command resumes the runs  {stored.url}")
        raise
    _report(sweep, stored, [name for name in trials if name in before])


def _print_start(sweep: CheckedSweep, stored: StoredSweep) -> None:
    """Print where the sweep is, what it varies, and how it is run."""
    definition, settings = sweep.definition, sweep.settings
    console.print(f"[bold]W&B sweep[/]   {stored.url}", soft_wrap=True)
    keys = escape(", ".join(parameter.key for parameter in definition.parameters))
    by = f" by {definition.objective.metric}" if definition.objective else ""
    folder = escape(str(relative_path(sweep.folder)))
    method = definition.content["method"]
    console.print(
        f"            {method} over {keys}{by}; {counted(settings.together, 'trial')} at a time "
        f" {folder}",
        soft_wrap=True,
    )
    if method != "grid" and settings.count is None and not definition.content.get("run_cap"):
        console.print(
            f"[yellow]a {method} sweep has no end: count=N here, run_cap: N in the sweep, or Stop"
            " on its page ends it"
        )


def _refuse_offline() -> None:
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        why = "a W&B sweep is on its server, and this keeps the client from asking it"
        raise ConfigError([Problem("WANDB_MODE", mode, why, "unset WANDB_MODE")])


def _refuse_several_values(
    context: HydraContext, config: DictConfig, arguments: Sequence[str]
) -> None:
    """Raise ``ConfigError`` for settings with several values beside the sweep."""
    swept = {
        f"hydra.sweeper.params.{key}": v for key, v in (config.hydra.sweeper.params or {}).items()
    }
    parser = OverridesParser.create(config_loader=context.config_loader)
    for override in parser.parse_overrides(list(arguments)):
        if override.is_sweep_override():
            swept[override.key_or_group] = override.get_value_string()
    why = "what varies stands in the W&B sweep, under parameters:"
    fix = "give one value, or none"
    problems = [Problem(key, value, why, fix) for key, value in swept.items()]
    if problems:
        raise ConfigError(problems, prefix="W&B sweep: ")


def _definition_of_file(settings: WandbSweepSettings) -> SweepDefinition | None:
    """Return what the file of the sweep defines; None if the sweep exists already.

    Raises ``ConfigError`` also for secrets in it, because the server gets all of it.
    """
    if settings.file is None:
        return None
    file = Path(settings.file).expanduser()
    content = read_file(file)
    if problems := list(secret_problems("", content)):
        raise ConfigError(problems, prefix=f"W&B sweep {file}: ")
    return read_definition(content, str(file))


def _stored(server: SweepServer, config: DictConfig, settings: WandbSweepSettings) -> StoredSweep:
    """Return the sweep that the settings name."""
    key = f"{SWEEPER}.sweep"
    try:
        entity, project, name = parse_sweep(str(settings.sweep))
    except ValueError:
        fix = "give ENTITY/PROJECT/ID, PROJECT/ID or ID"
        raise ConfigError([Problem(key, settings.sweep, "this is no W&B sweep", fix)]) from None
    return server.read(server.place(name, *_project(config, project, entity)), key)


def _project(
    config: DictConfig, project: object = None, entity: object = None
) -> tuple[str, str | None]:
    """Return (project, entity): as given, else as the environment or the settings have them."""
    project = project or os.environ.get("WANDB_PROJECT")
    project = project or OmegaConf.select(config, "tracking.project") or TrackingConfig.project
    entity = entity or os.environ.get("WANDB_ENTITY") or OmegaConf.select(config, "tracking.entity")
    return str(project), str(entity) if entity else None


def _common_words(definition: SweepDefinition, arguments: Sequence[str]) -> list[str]:
    """Return the overrides that all trials have in common.

    What was typed takes precedence over the command of the sweep.
    """
    words = [*definition.words, *arguments]
    has_tracking = any(word.startswith("tracking=") for word in words)
    return words if has_tracking else ["tracking=online", *words]


def _settings(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words that are settings of the trials, and not of this call."""
    return tuple(word for word in words if not word.startswith("resume="))


def _set_folder(config: DictConfig, place: WandbSweep) -> None:
    """Use the folder that has trials of this sweep already, unless the user has chosen one."""
    typed = typed_overrides(config.hydra.overrides.hydra)
    if any(word.startswith("hydra.sweep.dir=") for word in typed):
        return
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    for file in sorted(folder.parent.glob(f"*/{SWEEP_FILE}")):
        known = read_wandb_sweep(file.parent)
        if known is not None and str(known) == str(place):
            with open_dict(config):
                config.hydra.sweep.dir = str(file.parent)
            return


def _created(
    server: SweepServer, config: DictConfig, definition: SweepDefinition, words: Sequence[str]
) -> StoredSweep:
    """Return the sweep of a file, which is created unless its folder names one."""
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with sweep_lock(folder):
        _refuse_other_contents(folder, None)
        place = read_wandb_sweep(folder)
        if place is None:
            project = os.environ.get("WANDB_PROJECT") or definition.content.get("project")
            entity = os.environ.get("WANDB_ENTITY") or definition.content.get("entity")
            created = server.create(definition.content, *_project(config, project, entity))
            place = replace(created, settings=_settings(words))
            write_sweep(folder, [], wandb_sweep=place)
    try:
        return server.read(place, f"{SWEEPER}.file")
    except ConfigError:
        why = f"its sweep {place} is not on the server, where it was created before"
        fix = "choose another hydra.sweep.dir, in which a new sweep is created"
        raise ConfigError([Problem("hydra.sweep.dir", folder, why, fix)]) from None


def _open_folder(sweep: CheckedSweep, stored: StoredSweep) -> None:
    """Write what every sweep writes into its folder.

    Raises ``ConfigError`` if there are other runs in it, or if there is nothing left to run.
    """
    folder, place = sweep.folder, sweep.place
    if stored.state in _ENDED and not read_sweep(folder):
        why = f"the sweep is {stored.state.lower()}: it hands out no more trials"
        fix = f"start another one, or resume this one on its page: {stored.url}"
        raise ConfigError([Problem("W&B sweep", place.id, why, fix)])
    folder.mkdir(parents=True, exist_ok=True)
    with sweep_lock(folder):
        _refuse_other_contents(folder, place)
        if unfinished(sweep) or stored.state not in _ENDED:
            records = [sweep.record(name) for name in read_sweep(folder)]
            force = Resume.force if "resume=force" in sweep.words else Resume.auto
            refuse_other_environment([r for r in records if r.is_finished()], force)
        write_text(folder / HYDRA_FILE, mask(OmegaConf.to_yaml(sweep.config)))
        write_sweep(folder, list(read_sweep(folder).values()), wandb_sweep=place)


def _refuse_other_contents(folder: Path, place: WandbSweep | None) -> None:
    """Raise ``ConfigError`` if ``folder`` holds other runs than those of the sweep ``place``."""
    known, why = read_wandb_sweep(folder), ""
    if known is None:
        why = "the jobs of another sweep are in it" if read_sweep(folder) else ""
    elif place is not None and str(known) != str(place):
        why = f"the trials of the W&B sweep {known} are in it"
    elif place is not None and known.settings != place.settings:
        before = " ".join(word for word in known.settings if word not in place.settings)
        now = " ".join(word for word in place.settings if word not in known.settings)
        why = (
            f"the trials in it have other settings (there {before or 'none'}, here {now or 'none'})"
        )
    if why:
        fix = "repeat the earlier command, or choose another hydra.sweep.dir"
        raise ConfigError([Problem("hydra.sweep.dir", folder, why, fix)], prefix="W&B sweep: ")


def _run_trials(sweep: CheckedSweep, agents: Agents) -> list[str]:
    """Run all batches; return the names of the trials, resumed ones included.

    On an executor, a batch begins when one of the others has ended, else when the last has.
    """
    if sweep.packing is not None and sweep.packing.executor.runs_alone_jobs:
        return run_in_slots(sweep, agents, sweep.packing, _have_failed)
    count = math.inf if sweep.settings.count is None else sweep.settings.count
    names: list[str] = []
    while len(names) < count:
        limit = int(min(sweep.settings.together, count - len(names)))
        batch = run_batch(sweep, agents, limit)
        if not batch:
            break
        names += batch
        states = [sweep.record(name).read_status().state for name in names]
        if _have_failed(states):
            break
    return names


def _have_failed(states: Sequence[State | None]) -> bool:
    """Return whether the first trials, which have these states, have all failed, and say so."""
    if len(states) < _FAILURES or set(states) != {State.failed}:
        return False
    console.print(
        f"[red]the first {counted(len(states), 'trial')} have all failed: this driver ends"
    )
    return True


def describe_call(resumed: Sequence[str], *, had_ended: bool, has_file: bool) -> str:
    """Return what this call did beside running new trials; "" if that was all.

    ``had_ended``: the sweep, before this call. ``has_file``: its file was given, and not its id.
    """
    parts = [f"resumed in this call: {named('trial', resumed)}"] if resumed else []
    if had_ended:
        if not resumed:
            parts.append("nothing was run in this call")
        parts.append("the sweep had ended before and handed out no new trials")
        parts += ["hydra.sweep.dir=DIR makes a new sweep of this file"] if has_file else []
    return "; ".join(parts)


def _report(sweep: CheckedSweep, stored: StoredSweep, resumed: Sequence[str]) -> None:
    """Rank the trials in the folder, and say what this driver did if the sweep had ended before.

    ``resumed``: the trials that this driver has resumed. Raises ``SweepError`` if any trial failed.
    """
    jobs = read_sweep(sweep.folder)
    statuses = {name: sweep.record(name).read_status() for name in jobs}
    if not any(status.state for status in statuses.values()):
        console.print(f"no trial was run: the sweep is over  {stored.url}", soft_wrap=True)
        return
    section("ranking")
    end_of_sweep(sweep.folder, set(jobs))
    states = [str(status.state.value) for status in statuses.values() if status.state]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    console.print(f"W&B sweep   {stored.url}: {counts}", soft_wrap=True)
    had_ended, has_file = stored.state in _ENDED, sweep.settings.file is not None
    if line := describe_call(resumed, had_ended=had_ended, has_file=has_file):
        console.print(f"[dim]{line}", soft_wrap=True)
    left = unfinished(sweep)
    if left:
        names = named("trial", [job.name for job in left])
        verb = noun_for(len(left), "is", "are")
        console.print(f"[dim]{names} {verb} still run by another driver in this folder")
    failed = [
        (jobs[name], status.error or "see run.log")
        for name, status in statuses.items()
        if status.state is State.failed
    ]
    if failed:
        console.print(table_of_failures(failed, "failed trials"))
        raise SweepError(
            f"{len(failed)} of {counted(len(jobs), 'trial')} failed, for the reasons above"
        )
