"""Find the runs to compare: in and below folders, and in the files of W&B's client."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hydratune.comparison import wandb_runs
from hydratune.comparison.runs import Run, parse_setting, read_run
from hydratune.errors import InputError
from hydratune.records.run_directory import RunFile
from hydratune.records.sweep import SweepJob, read_sweep
from hydratune.tracking import wandb_file

_LOG = ".wandb"  # the ending of a file of W&B's client


def collect_runs(folders: Sequence[Path]) -> list[Run]:
    """Return every run in and below ``folders``.

    Of a folder without run directories, and of .wandb files, these are the runs that W&B's client
    logged. Raises ``InputError`` if a folder holds no run.
    """
    found: list[list[Run]] = []
    files = [folder for folder in folders if folder.suffix == _LOG and folder.is_file()]
    links = {file.resolve(): file for file in files}  # each file once
    seen: set[Path] = set()  # run directories below folders that came before
    for folder in folders:
        if logs := _wandb_files(folder):
            if folder in files:  # together, because several may be of one resumed run
                logs = sorted(links.values()) if folder == files[0] else []
            found.append(wandb_runs.collect_logged_runs(logs))
        else:
            runs = _runs_below(folder)
            found.append([run for run in runs if run.path.resolve() not in seen])
            seen |= {run.path.resolve() for run in runs}
    return _with_names(folders, _once_each(found))


def _once_each(found: Sequence[Sequence[Run]]) -> list[list[Run]]:
    """Return the runs without those that W&B logged of a run that is there already.

    That is one with a run directory, or one whose file was given twice, as by ``wandb/*/*.wandb``
    with its link ``latest-run``.
    """
    seen = {run.wandb_id for runs in found for run in runs if not run.only_logged}
    kept: list[list[Run]] = []
    for runs in found:
        own = []
        for run in runs:
            if run.only_logged and run.wandb_id is not None:
                if run.wandb_id in seen:
                    continue
                seen.add(run.wandb_id)
            own.append(run)
        kept.append(own)
    return kept


def _wandb_files(folder: Path) -> list[Path]:
    """Return the .wandb files to read; empty if there are run directories to read instead."""
    if folder.suffix != _LOG and any(folder.glob(f"**/{RunFile.status}")):
        return []
    return wandb_file.find_logs(folder)


def _runs_below(folder: Path) -> list[Run]:
    """Return the runs in and below ``folder``, with those of a sweep that have not started."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: {_what_is_there(folder)}; give a sweep or run directory from outputs/"
        )
    paths = sorted(
        (file.parent for file in folder.glob(f"**/{RunFile.status}")), key=_natural_order
    )
    jobs = read_sweep(folder)
    missing = [folder / name for name in jobs if folder / name not in paths]
    if not paths and not missing:
        hint = "give a sweep or run directory from outputs/"
        raise InputError(f"{folder}: no run in it (no status.json); {hint}")
    runs = [read_run(path) for path in paths]
    runs += [Run(path, "not started", None, {}, {}) for path in missing]
    direct = {run.path.name: run.settings for run in runs if run.path.parent == folder}
    recorded = {name: settings for name, settings in direct.items() if settings}
    return [
        run
        if run.settings or run.path.parent != folder
        else _with_settings_of_sweep(run, jobs, recorded)
        for run in runs
    ]


def _what_is_there(folder: Path) -> str:
    if folder.exists():
        return "not a directory, nor a .wandb file"
    return "no such file" if folder.suffix == ".wandb" else "no such directory"


def _natural_order(path: Path) -> tuple[str, int, str]:
    """Return a sort key by which job 10 comes after job 9."""
    return str(path.parent), int(path.name) if path.name.isdecimal() else -1, path.name


def _with_settings_of_sweep(
    run: Run, jobs: Mapping[str, SweepJob], recorded: Mapping[str, Mapping[str, object]]
) -> Run:
    """Return a run that recorded no settings with those of its sweep.

    These are the settings of a job that differs in its seed alone, or else those that vary.
    ``recorded``: job name -> recorded settings.
    """
    if run.path.name not in jobs:
        return run
    varying = jobs[run.path.name].varying
    without_seed = _without_seed(varying)
    for name, settings in recorded.items():
        if "seed" not in varying or name not in jobs:
            continue
        if without_seed == _without_seed(jobs[name].varying):
            return replace(run, settings={**settings, "seed": parse_setting(varying["seed"])})
    values = {key: parse_setting(text) for key, text in varying.items()}
    return replace(run, settings=values, partial=True)


def _without_seed(settings: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in settings.items() if key != "seed"}


def _with_names(folders: Sequence[Path], found: Sequence[Sequence[Run]]) -> list[Run]:
    """Return all runs under names that distinguish them; ``found`` has those of each folder.

    In one folder a run is named by its path below the folder that all runs have in common. Of
    several folders the name begins with that of the folder, with as many of its parents as
    distinguish the folders. Runs known from W&B's files only have their title instead of a path.
    Names that are still equal have the W&B id, or else the whole path, behind them.
    """
    prefixes = _distinguished([folder.resolve() for folder in folders])
    named: list[Run] = []
    for folder, prefix, runs in zip(folders, prefixes, found, strict=True):
        top = folder
        if len(folders) == 1:
            top = _common_parent([run.path for run in runs if not run.only_logged])
        has_prefix = len(folders) > 1 and folder.suffix != _LOG
        for run in runs:
            own = run.name if run.only_logged else run.path.relative_to(top).as_posix()
            parts = [prefix if has_prefix else "", "" if own == "." else own]
            named.append(replace(run, label="/".join(filter(None, parts)) or prefix))
    times = Counter(run.name for run in named)
    if max(times.values(), default=0) < 2:
        return named
    same_kind = {run.only_logged for run in named if times[run.name] > 1}
    return [
        replace(run, label=f"{run.name} ({run.wandb_id or run.path})")
        if run.only_logged in same_kind
        else run
        for run in named
    ]


def _distinguished(folders: Sequence[Path]) -> list[str]:
    """Return as many of the last parts of every folder as make all of them different."""
    deepest = max((len(folder.parts) for folder in folders), default=0)
    for length in range(1, deepest):
        endings = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(endings)) == len(set(folders)):
            return endings
    return [str(folder) for folder in folders]


def _common_parent(paths: Sequence[Path]) -> Path:
    """Return the deepest folder that holds all ``paths`` and is none of them."""
    return Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
