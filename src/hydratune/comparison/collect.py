"""Find the runs to compare: in and below folders, and in the files of W&B's client."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hydratune.comparison import wandb_runs
from hydratune.comparison.runs import Run, read_run
from hydratune.errors import InputError
from hydratune.records.run_directory import RunFile
from hydratune.records.sweep import SweepJob, read_sweep
from hydratune.tracking import wandb_file


def collect_runs(folders: Sequence[Path]) -> list[Run]:
    """Return every run in and below ``folders``.

    Of a folder without run directories, and of .wandb files, these are the runs that W&B's client
    logged. Raises ``InputError`` if a folder holds no run.
    """
    runs: list[Run] = []
    for folder in folders:
        if logs := _wandb_files(folder):
            runs += wandb_runs.collect_logged_runs(logs)
        else:
            seen = {run.path.resolve() for run in runs}
            runs += [run for run in _runs_below(folder) if run.path.resolve() not in seen]
    return _with_labels(runs)


def _wandb_files(folder: Path) -> list[Path]:
    """Return the .wandb files to read; empty if there are run directories to read instead."""
    if folder.suffix != ".wandb" and any(folder.glob(f"**/{RunFile.status}")):
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
            return replace(run, settings={**settings, "seed": varying["seed"]})
    return replace(run, settings=dict(varying))


def _without_seed(settings: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in settings.items() if key != "seed"}


def _with_labels(runs: Sequence[Run]) -> list[Run]:
    """Label runs of several sweeps by as much of their paths as makes their names unique."""
    labelled = list(runs)
    parts = [run.path.absolute().parts for run in runs]
    for length in range(2, max((len(path) for path in parts), default=0) + 1):
        times = Counter(run.name for run in labelled)
        if max(times.values(), default=0) < 2:
            break
        labelled = [
            replace(run, label="/".join(path[-length:])) if times[run.name] > 1 else run
            for run, path in zip(labelled, parts, strict=True)
        ]
    return labelled
