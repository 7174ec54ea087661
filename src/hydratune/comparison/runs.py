"""Runs as they are compared: what their directories say. Reads run directories and nothing else."""

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from hydratune import digests
from hydratune.bounds import check_yaml
from hydratune.data.rows import stable_hash
from hydratune.errors import InputError, RunError
from hydratune.records.files import read_json, read_jsonl, read_text
from hydratune.records.run_directory import RunDirectory, State
from hydratune.records.sweep import Job, read_sweep
from hydratune.settings.registry import flat
from hydratune.tracking import wandb_file

UNREADABLE = "unreadable"  # the state of a run whose files are broken


@dataclass(frozen=True)
class Run:
    """One run directory as the comparison sees it."""

    path: Path
    state: str
    error: str | None
    settings: dict[str, Any]  # flat
    metrics: dict[str, Any]
    measured_on: str = ""  # hash of the validation rows, as tokens
    halved: Mapping[str, Any] | None = (
        None  # step, value and rung at which successive halving stopped it
    )
    environment: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    wandb_id: str | None = None
    damaged: tuple[str, ...] = ()  # what is wrong with files that its rank does not depend on
    label: str | None = None  # where the name of the folder alone would not tell it from others

    @property
    def objective(self) -> float | None:
        """None: it takes no part in the choice, for it did not finish, has no loss or forgot more
        than its budget allows.
        """
        value = self.metrics.get("objective")
        known = isinstance(value, (int, float)) and math.isfinite(value)
        return (
            value if self.state == State.finished.value and known and not self.over_budget else None
        )

    @property
    def over_budget(self) -> bool:
        return self.metrics.get("forgetting/within_budget") is False

    @property
    def logged(self) -> bool:
        """Whether all that is known comes from W&B's files."""
        return False

    @property
    def name(self) -> str:
        return self.label or self.path.name

    @property
    def tested_on(self) -> str:
        """Hash of the test rows, whatever the tokens; empty where nobody knows."""
        known = inside(self.data, "splits", "test", "hash")
        if known:
            return str(known)
        try:
            items = [str(row.get("item_hash")) for row in self.predictions()]
        except (RunError, AttributeError):
            return ""
        return stable_hash(items) if items else ""

    def value(self, metric: str) -> float | None:
        """A number of metrics.json; None where there is none, or it is not a number."""
        found = self.metrics.get(metric)
        return (
            float(found)
            if isinstance(found, (int, float))
            and not isinstance(found, bool)
            and math.isfinite(found)
            else None
        )

    def interval(self, metric: str) -> tuple[float, float] | None:
        found = inside(self.metrics, "intervals", metric)
        if (
            not isinstance(found, list)
            or len(found) != 2
            or not all(isinstance(edge, (int, float)) and math.isfinite(edge) for edge in found)
        ):
            return None
        return float(found[0]), float(found[1])

    @property
    def cut(self) -> int:
        """Answers that ended at the token limit; of a run that did not count them, what its share
        of finished ones leaves.
        """
        found, finished, rows = (
            self.value("eval/cut"),
            self.value("eval/finished"),
            inside(self.metrics, "settings", "eval", "rows"),
        )
        if found is None and finished is not None and isinstance(rows, int):
            found = (1 - finished) * rows
        return round(found or 0)

    def predictions(self, system: str = "eval") -> list[dict[str, Any]]:
        """Empty where nobody was asked. Raises ``RunError`` for a broken file."""
        file = RunDirectory(self.path).predictions_file(system)
        return read_jsonl(file) if file.is_file() else []

    def history(self) -> list[dict[str, float]]:
        """One record for each step so far, of what is a number; empty where there is none, or it
        cannot be read.
        """
        file = RunDirectory(self.path).history_file
        try:
            rows = list(csv.DictReader(io.StringIO(read_text(file))))
            return [
                {key: float(value) for key, value in row.items() if key and value} for row in rows
            ]
        except (RunError, OSError, ValueError, csv.Error):
            return []


def collect(folders: Sequence[Path]) -> list[Run]:
    """Every run in and below ``folders``; of one without run directories, and of .wandb files, what
    W&B's client wrote.

    Raises ``InputError`` if there is none.
    """
    from hydratune.comparison import logged  # which builds on this module

    runs: list[Run] = []
    for folder in folders:
        logs = (
            wandb_file.files_of(folder)
            if folder.suffix == ".wandb" or not any(folder.glob("**/status.json"))
            else []
        )
        if logs:
            runs += logged.collect(logs)
            continue
        if not folder.is_dir():
            what = "not a directory, nor a .wandb file" if folder.exists() else "no such directory"
            what = "no such file" if folder.suffix == ".wandb" and not folder.exists() else what
            raise InputError(f"{folder}: {what}; give a sweep or run directory from outputs/")
        found = sorted((p.parent for p in folder.glob("**/status.json")), key=_natural)
        jobs = read_sweep(folder)
        missing = [folder / name for name in jobs if folder / name not in found]
        if not found and not missing:
            raise InputError(
                f"{folder}: no run in it (no status.json); give a sweep or run directory from"
                " outputs/"
            )
        found = [
            path for path in found if path.resolve() not in {run.path.resolve() for run in runs}
        ]
        here = [read(path) for path in found] + [
            Run(path, "not started", None, {}, {}) for path in missing
        ]
        known = {
            run.path.name: run.settings
            for run in here
            if run.path.parent == folder and run.settings
        }
        runs += [
            (
                run
                if run.settings or run.path.parent != folder
                else _told_by_the_sweep(run, jobs, known)
            )
            for run in here
        ]
    return _labelled(runs)


def _labelled(runs: Sequence[Run]) -> list[Run]:
    """Runs of several sweeps by as much of their paths as tells them apart."""
    found = list(runs)
    parts = [run.path.absolute().parts for run in runs]
    for length in range(2, max((len(some) for some in parts), default=0) + 1):
        times = Counter(run.name for run in found)
        if max(times.values(), default=0) < 2:
            break
        found = [
            replace(r, label="/".join(some[-length:])) if times[r.name] > 1 else r
            for r, some in zip(found, parts, strict=True)
        ]
    return found


def _natural(path: Path) -> tuple[str, int, str]:
    """Job 10 comes after job 9."""
    return str(path.parent), int(path.name) if path.name.isdecimal() else -1, path.name


def _told_by_the_sweep(
    run: Run, jobs: Mapping[str, Job], known: Mapping[str, dict[str, Any]]
) -> Run:
    """A run that wrote no settings down has those of a job that differs in its seed alone, or at
    least what varies.
    """
    if run.path.name not in jobs:
        return run
    varying = jobs[run.path.name].varying
    others = {key: value for key, value in varying.items() if key != "seed"}
    for name, settings in known.items():
        if (
            "seed" in varying
            and name in jobs
            and others == {k: v for k, v in jobs[name].varying.items() if k != "seed"}
        ):
            return replace(run, settings={**settings, "seed": varying["seed"]})
    return replace(run, settings=dict(varying))


def read(path: Path) -> Run:
    """One run directory; a broken one is shown as unreadable, not an error: the others can still be
    ranked.
    """
    record = RunDirectory(path)
    try:
        status = record.status()
        settings = _settings(record.config_file) if record.config_file.is_file() else {}
        metrics = _object(record.metrics_file)
        data, environment = _object(path / "data.json"), _object(path / "environment.json")
        hashes = [inside(data, "splits", "validation", name) for name in ("tokens_hash", "hash")]
        measured_on = next((str(one) for one in hashes if one), "")
        state, error, halved = (
            str(status.get("state") or "unknown"),
            status.get("error"),
            status.get("halved"),
        )
        halved = halved if isinstance(halved, dict) else None
        damaged = tuple(digests.problems(path))
        return Run(
            path,
            state,
            error,
            settings,
            metrics,
            measured_on,
            halved,
            environment,
            data,
            status.get("wandb_id"),
            damaged,
        )
    except (InputError, RunError, yaml.YAMLError, ValueError, AttributeError) as error:
        return Run(path, UNREADABLE, str(error), {}, {})


class _Settings(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads what OmegaConf wrote: the same values as its own loader's, which is in Python and takes
    20 times as long.
    """

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers


def _settings(file: Path) -> dict[str, Any]:
    """Raises ``ValueError`` for a file that holds something else."""
    check_yaml(file)
    text = read_text(file)
    if "*" in text and any(
        isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Settings)
    ):
        raise ValueError(
            f"{file} holds YAML aliases, which hydratune never writes"
        )  # a few lines of them can mean any number of values
    # an empty file has no settings, as OmegaConf reads it
    content = yaml.load(text, Loader=_Settings) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no settings")
    return flat({str(key): value for key, value in content.items()})


def inside(values: Any, *keys: str) -> Any:
    """What stands under these names in objects of a file that may hold anything; None where that is
    not there.
    """
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _object(file: Path) -> dict[str, Any]:
    """Raises ``RunError`` for a file that is not whole, ``ValueError`` for one that holds something
    else.
    """
    content = read_json(file) if file.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no object")
    return content
