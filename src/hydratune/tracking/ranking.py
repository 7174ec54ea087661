"""The ranking of runs: by objective, with only the settings that differ. Reads run directories and nothing else.

Runs that differ in ``seed`` alone are one entry, ranked by the mean of its finished runs.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.markup import escape
from rich.table import Table
from yaml import YAMLError

from hydratune.checks import mask
from hydratune.config import flat
from hydratune.errors import InputError, RunError
from hydratune.records import RunDirectory, State, read_json
from hydratune.sweeps.records import Job, read_sweep

_METRICS = (
    ("eval/field_f1", "field F1"),
    ("eval/schema_valid", "schema valid"),
    ("eval/exact_match", "exact match"),
    ("eval/nll", "NLL"),
    ("forgetting/bits_per_byte_delta", "forgotten, bits/byte"),
)
_IGNORED = ("name",)
_COLUMNS = 6  # settings shown at most
_LIKELY = ("optimizer", "adapter", "trainer")  # groups whose settings are shown first
_LONGEST_REASON = 40  # letters; status.json has all of it
_APART = 2.0  # standard errors by which two means must differ before one is called better


@dataclass(frozen=True)
class Run:
    """One run directory as the ranking sees it."""

    path: Path
    state: str
    error: str | None
    settings: dict[str, Any]  # flat
    metrics: dict[str, Any]
    measured_on: str = ""  # hash of the validation rows, as tokens
    halved: Mapping[str, Any] | None = None  # step, value and rung at which successive halving stopped it

    @property
    def objective(self) -> float | None:
        """None: it takes no part in the choice, for it did not finish or forgot more than its budget allows."""
        return self.metrics.get("objective") if self.state == State.finished.value and not self.over_budget else None

    @property
    def over_budget(self) -> bool:
        return self.metrics.get("forgetting/within_budget") is False


def collect(folders: Sequence[Path]) -> list[Run]:
    """Every run in and below ``folders``. Raises ``InputError`` if there is none."""
    runs: list[Run] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such directory; give a sweep or run directory from outputs/")
        found = sorted(p.parent for p in folder.glob("**/status.json"))
        jobs = read_sweep(folder)
        missing = [folder / name for name in jobs if folder / name not in found]
        if not found and not missing:
            raise InputError(f"{folder}: no run in it (no status.json); give a sweep or run directory from outputs/")
        found = [path for path in found if path.resolve() not in {run.path.resolve() for run in runs}]
        here = [read(path) for path in found] + [Run(path, "not started", None, {}, {}) for path in missing]
        known = {run.path.name: run.settings for run in here if run.path.parent == folder and run.settings}
        runs += [run if run.settings or run.path.parent != folder else _told_by_the_sweep(run, jobs, known) for run in here]
    return runs


def _told_by_the_sweep(run: Run, jobs: Mapping[str, Job], known: Mapping[str, dict[str, Any]]) -> Run:
    """A run that wrote no settings down has those of a job that differs in its seed alone, or at least what varies."""
    if run.path.name not in jobs:
        return run
    varying = jobs[run.path.name].varying
    others = {key: value for key, value in varying.items() if key != "seed"}
    for name, settings in known.items():
        if "seed" in varying and name in jobs and others == {k: v for k, v in jobs[name].varying.items() if k != "seed"}:
            return replace(run, settings={**settings, "seed": varying["seed"]})
    return replace(run, settings=dict(varying))


def read(path: Path) -> Run:
    """One run directory; a broken one is shown as unreadable, not an error: the others can still be ranked."""
    record = RunDirectory(path)
    try:
        status = record.status()
        settings = flat(OmegaConf.to_container(OmegaConf.load(record.config_file))) if record.config_file.is_file() else {}
        metrics = read_json(record.metrics_file) if record.metrics_file.is_file() else {}
        data = read_json(path / "data.json") if (path / "data.json").is_file() else {}
        validation = data.get("splits", {}).get("validation", {})
        measured_on = str(validation.get("tokens_hash") or validation.get("hash", ""))
        state, error, halved = status.get("state", "unknown"), status.get("error"), status.get("halved")
        return Run(path, state, error, settings, dict(metrics), measured_on, halved)
    except (RunError, OmegaConfBaseException, YAMLError, ValueError, AttributeError) as error:
        return Run(path, "unreadable", str(error), {}, {})


@dataclass(frozen=True)
class Entry:
    """Runs whose settings differ in the seed alone, the best first."""

    runs: tuple[Run, ...]

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.objective is not None]

    @property
    def losses(self) -> list[float]:
        return [run.objective for run in self.runs if run.objective is not None]

    @property
    def loss(self) -> float:
        """The mean over the finished runs; infinite without any."""
        return statistics.fmean(self.losses) if self.losses else math.inf


def entries(runs: Sequence[Run]) -> list[Entry]:
    """``runs`` by their settings, the lowest mean loss first; what has no finished run comes last.

    The same settings with the same seed twice are two entries: a repetition says nothing about the spread.
    """
    seeds = seed_keys(runs)
    groups: dict[tuple[object, ...], list[Run]] = {}
    times: dict[tuple[object, ...], int] = {}
    for run in runs:
        same = tuple(sorted((key, str(value)) for key, value in run.settings.items() if key not in _IGNORED and key not in seeds))
        whole = (same or run.path, str(run.settings.get("seed")))
        times[whole] = times.get(whole, 0) + 1
        groups.setdefault((same or run.path, times[whole]), []).append(run)
    found = [Entry(tuple(sorted(group, key=_place))) for group in groups.values()]
    return sorted(found, key=lambda entry: (entry.loss, _place(entry.runs[0])))


def seed_keys(runs: Sequence[Run]) -> set[str]:
    """``seed``, and the settings that follow it: ``data.seed=${seed}``. They are no setting that a user compares."""
    known = [run.settings for run in runs if run.settings.get("seed") is not None]
    if len({str(settings["seed"]) for settings in known}) < 2:
        return {"seed"}
    keys = {key for settings in known for key in settings if key.endswith(".seed")}
    return {"seed"} | {key for key in keys if all(str(s.get(key)) == str(s["seed"]) for s in known)}


def _place(run: Run) -> tuple[bool, float, bool, int, float, str]:
    """Finished runs by loss, then halved ones by how far they came, then the others by name."""
    halved = run.halved or {}
    loss = run.objective if run.objective is not None else 0.0
    return run.objective is None, loss, not halved, -int(halved.get("step", 0)), float(halved.get("value") or 0.0), str(run.path)


def ranking_table(runs: Sequence[Run]) -> tuple[Table, str]:
    """(table, lines that name the best run and what cannot be told from it, or "" if none finished).

    Best is the lowest validation loss, of entries with several seeds the lowest mean. Runs that did not finish come last
    and are never best; those that were halved show the loss they had then, in brackets.
    """
    ranked = entries(runs)
    seeded = any(len(entry.runs) > 1 for entry in ranked)
    keys = [k for k in dict.fromkeys(k for r in runs for k in r.settings) if k not in _IGNORED]
    varying = [k for k in keys if len({str(r.settings.get(k)) for r in runs if r.settings}) > 1]
    if seeded:
        varying = [key for key in varying if key not in seed_keys(runs)]
    shown = [(key, title) for key, title in _METRICS if any(key in r.metrics for r in runs)]
    varying = sorted(varying, key=lambda k: k.rpartition(".")[0] not in _LIKELY)[:_COLUMNS]
    title = "ranking by validation loss" + (", mean ± standard deviation over seeds" if seeded else "")
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("", justify="right")
    table.add_column("run")
    for key in [*varying, *(["seed"] if seeded else [])]:
        table.add_column(key.rsplit(".", 1)[-1], justify="right")
    table.add_column("val loss", justify="right", no_wrap=True)
    for _, title in shown:
        table.add_column(title, justify="right")
    table.add_column("state", overflow="fold")
    for place, entry in enumerate(ranked, 1):
        finished = entry.finished
        number = str(place) if finished else ""
        style = "bold green" if finished and place == 1 else ""
        settings = [_cell(next((r.settings[key] for r in entry.runs if key in r.settings), None)) for key in varying]
        if len(entry.runs) > 1:
            values = [_spread([float(r.metrics[key]) for r in finished if r.metrics.get(key) is not None], ".4g") for key, _ in shown]
            whole = len(finished) == len(entry.runs)
            state = State.finished.value if whole else f"{len(finished)} of {len(entry.runs)} finished"
            table.add_row(number, "", *settings, f"n={len(finished)}", _spread(entry.losses, ".4f"), *values, state, style=style)
            number, style, settings = "", "dim", [""] * len(varying)
        for run in entry.runs:
            own = [_cell(run.settings.get("seed"))] if seeded else []
            early = (run.halved or {}).get("value")
            loss = f"{run.objective:.4f}" if run.objective is not None else f"({early:.4f})" if isinstance(early, float) else "-"
            metrics = [_cell(run.metrics.get(key)) for key, _ in shown]
            look = "red" if run.state == State.failed.value else style if run.objective is not None else "dim"
            table.add_row(number, escape(run.path.name), *settings, *own, loss, *metrics, escape(_state(run)), style=look)
    return table, _verdict(ranked, varying, "data.seed" in seed_keys(runs))


def _verdict(ranked: Sequence[Entry], varying: Sequence[str], rows_follow_seed: bool) -> str:
    """The lines below the table."""
    finished = [entry for entry in ranked if entry.losses]
    if not finished:
        return ""
    rows = [sorted(run.measured_on for run in entry.finished) for entry in finished]
    if len({one for some in rows for one in some}) > 1 and not (rows_follow_seed and all(some == rows[0] for some in rows)):
        return "no best run: these runs were validated on different rows or tokens, so their losses cannot be compared"
    best, run = finished[0], finished[0].finished[0]
    chosen = "the test metrics took no part in the choice"
    if len(best.runs) == 1:
        line = f"best: {run.path}  (validation loss {run.objective:.4f}; {chosen})"
    else:
        of = f"{len(best.losses)} seeds" if len(best.losses) == len(best.runs) else f"{len(best.losses)} of {len(best.runs)} seeds"
        line = f"best: {run.path}  (validation loss {run.objective:.4f}, the lowest of {of} of {_named(best, varying)}, "
        line += f"mean {_spread(best.losses, '.4f')}; {chosen})"
    alike = [entry for entry in finished[1:] if not told_apart(best.losses, entry.losses)]
    if alike:
        names = "; ".join(f"{_named(entry, varying)} ({_spread(entry.losses, '.4f')})" for entry in alike[:3])
        more = f" and {len(alike) - 3} more" if len(alike) > 3 else ""
        line += f"\nnot told apart from it by these seeds: {names}{more}: less than {_APART:g} standard errors between the means"
    return line


def told_apart(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two means differ by more than ``_APART`` standard errors of their difference; True where there is no spread to judge by.

    The variance is pooled over both, so that one run can be compared with several.
    """
    free = len(a) + len(b) - 2
    if free < 1:
        return True
    within = sum((x - statistics.fmean(some)) ** 2 for some in (a, b) for x in some) / free
    return abs(statistics.fmean(a) - statistics.fmean(b)) > _APART * math.sqrt(within * (1 / len(a) + 1 / len(b)))


def _named(entry: Entry, varying: Sequence[str]) -> str:
    settings = next((run.settings for run in entry.runs if run.settings), {})
    return ", ".join(f"{key}={_cell(settings[key])}" for key in varying if key in settings) or "these settings"


def _state(run: Run) -> str:
    """How a run ended, and in short why if it did not finish."""
    if run.halved:
        return f"halved at step {run.halved.get('step')}"
    if run.over_budget:
        return f"{run.state}: forgot more than evaluation.forgetting.fail allows"
    why = mask((str(run.error or "").splitlines() or [""])[0]) if run.objective is None else ""
    why = why if len(why) <= _LONGEST_REASON else f"{why[:_LONGEST_REASON].rstrip()} ..."
    return f"{run.state}: {why}" if why else run.state


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else escape(str(value))
