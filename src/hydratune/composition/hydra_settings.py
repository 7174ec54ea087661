"""Settings of Hydra itself that a command cannot honour, and sweeps that are typed without -m."""

import shlex
from collections.abc import Iterator
from dataclasses import fields

from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    Sweep,
)

from hydratune.errors import Problem
from hydratune.settings.commands import COMMANDS
from hydratune.sweeps.executor_options import EXECUTORS

LAUNCHERS = ("pack", "process")  # those of hydra_plugins.hydratune_launcher
OF_SWEEPS = ("train", "plan")  # commands that take -m
RUN_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
_OF_SWEEPS = ("hydra.launcher", "hydra.sweeper", "hydra.sweep.")


def hydra_problems(
    override: Override, setting: str, command: str, *, is_sweep: bool, shows: bool
) -> Iterator[Problem]:
    """Yield what is wrong with a setting below ``hydra``.

    ``is_sweep``: -m is given; ``shows``: the settings are only shown.
    """
    key, typed = override.key_or_group, setting.partition("=")[2]
    if key in ("hydra.launcher", "hydra.sweeper") and not isinstance(override._value, dict):
        why, fix = "it is chosen with a slash, not with a dot", setting.replace(".", "/", 1)
        yield Problem(key, typed, why, fix if is_sweep or shows else fix_of_sweep(fix, command))
        return
    if key == "hydra.launcher.executor" and typed in EXECUTORS:
        fix = f"hydra/launcher/executor={typed}"
        why = "it is chosen with slashes, not with dots; its settings have dots"
        yield Problem(key, typed, why, fix if is_sweep or shows else fix_of_sweep(fix, command))
        return
    if not (is_sweep or shows) and key.replace("/", ".").startswith(_OF_SWEEPS):
        yield Problem(key, typed, "only a sweep uses it", fix_of_sweep(setting, command))
        return
    if key in RUN_FOLDERS and command != "train":
        yield _run_folder_problem(key, setting, command)
    elif key == "hydra.run.dir" and is_sweep:
        why = "it is the folder of one run, and -m runs a sweep"
        fix = shlex.quote(f"hydra.sweep.dir={typed}")
        yield Problem(key, typed, why, f"with -m: {fix}; or leave out -m")
    elif key == "hydra.job.chdir" and override._value is True:
        why = "relative paths of settings would be looked for in the run directory"
        fix = "leave it out; hydra.run.dir=DIR chooses the place of the results"
        yield Problem(key, "true", why, fix)
    elif key == "hydra/launcher" and typed not in LAUNCHERS:
        yield launcher_problem(typed)


def launcher_problem(name: str) -> Problem:
    """Return why a launcher of Hydra, or of another package, cannot run the jobs."""
    why = "only hydratune's launchers keep the records from which a sweep is resumed and compared"
    fix = "hydra/launcher=pack shares the base model; hydra/launcher=process: a process for each"
    if "," in name:
        why, fix = "one launcher runs all jobs of a sweep", "hydra/launcher=pack"
    return Problem("hydra/launcher", name, why, fix)


def _run_folder_problem(key: str, setting: str, command: str) -> Problem:
    """Return what is wrong with a run directory for a command that makes no run."""
    typed = setting.partition("=")[2]
    has_output = any(field.name == "output" for field in fields(COMMANDS[command]))
    fix = (
        shlex.quote(f"output={typed}")
        if has_output
        else "leave it out: the results go to the directory of run=DIR"
    )
    return Problem(key, typed, f"hydratune {command} makes no run directory", fix)


def sweep_problems(override: Override, setting: str, command: str) -> Iterator[Problem]:
    """Yield a problem if a value is a sweep function such as ``range``, and -m is not given."""
    value = override._value
    if not isinstance(value, Sweep | Glob):
        return
    if isinstance(value, ChoiceSweep) and value.simple_form:  # explained when Hydra refuses it
        return
    key, typed = override.key_or_group, setting.partition("=")[2]
    yield Problem(
        key,
        typed,
        "this stands for several values, which are a sweep",
        fix_of_sweep(setting, command, search=isinstance(value, IntervalSweep)),
    )


def fix_of_sweep(setting: str, command: str, *, search: bool = False) -> str:
    """Return what is typed for a sweep over the values of ``setting``; ``search``: at random."""
    is_of_sweeps = setting.replace("/", ".").startswith(_OF_SWEEPS)
    if command not in OF_SWEEPS:
        return (
            f"hydratune {command} runs once: {'leave it out' if is_of_sweeps else 'give one value'}"
        )
    sweeper = " hydra/sweeper=random" if search else ""
    fix = f"add -m for a sweep: -m{sweeper} {shlex.quote(setting)}"
    return f"{fix}; or leave it out" if is_of_sweeps else fix
