"""The ranking of runs: by objective, with only the settings that differ. Reads run directories and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.markup import escape
from rich.table import Table
from yaml import YAMLError

from hydratune.errors import InputError, RunError
from hydratune.records import RunDirectory, State, read_json
from hydratune.sweeps.records import read_sweep

_METRICS = (("eval/field_f1", "field F1"), ("eval/schema_valid", "schema valid"), ("eval/exact_match", "exact match"), ("eval/nll", "NLL"))
_IGNORED = ("name",)
_COLUMNS = 6  # settings shown at most
_LIKELY = ("optimizer", "adapter", "trainer")  # groups whose settings are shown first


@dataclass(frozen=True)
class Run:
    """One run directory as the ranking sees it."""

    path: Path
    state: str
    error: str | None
    settings: dict[str, Any]  # flat
    metrics: dict[str, Any]
    measured_on: str = ""  # hash of the validation rows, as tokens

    @property
    def objective(self) -> float | None:
        return self.metrics.get("objective") if self.state == State.finished.value else None


def collect(folders: Sequence[Path]) -> list[Run]:
    """Every run in and below ``folders``. Raises ``InputError`` if there is none."""
    runs: list[Run] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such directory; give a sweep or run directory from outputs/")
        found = sorted(p.parent for p in folder.glob("**/status.json"))
        names = read_sweep(folder)
        missing = [folder / name for name in names if folder / name not in found]
        if not found and not missing:
            raise InputError(f"{folder}: no run in it (no status.json); give a sweep or run directory from outputs/")
        found = [path for path in found if path.resolve() not in {run.path.resolve() for run in runs}]
        runs += [read(path) for path in found] + [Run(p, "not started", None, dict(names[p.name].varying), {}) for p in missing]
    return runs


def read(path: Path) -> Run:
    """One run directory; a broken one is shown as unreadable, not an error: the others can still be ranked."""
    record = RunDirectory(path)
    try:
        status = record.status()
        settings = _flat(OmegaConf.to_container(OmegaConf.load(record.config_file))) if record.config_file.is_file() else {}
        metrics = read_json(record.metrics_file) if record.metrics_file.is_file() else {}
        data = read_json(path / "data.json") if (path / "data.json").is_file() else {}
        validation = data.get("splits", {}).get("validation", {})
        measured_on = str(validation.get("tokens_hash") or validation.get("hash", ""))
        return Run(path, status.get("state", "unknown"), status.get("error"), settings, dict(metrics), measured_on)
    except (RunError, OmegaConfBaseException, YAMLError, ValueError, AttributeError) as error:
        return Run(path, "unreadable", str(error), {}, {})


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, inner in value.items():
        result |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return result


def ranking_table(runs: Sequence[Run]) -> tuple[Table, str]:
    """(table, a line that names the best run, or "" if none finished). Best is the lowest validation loss.

    Runs that did not finish come last and are never best.
    """
    ranked = sorted(runs, key=lambda r: (r.objective is None, r.objective if r.objective is not None else 0.0, str(r.path)))
    keys = [k for k in dict.fromkeys(k for r in runs for k in r.settings) if k not in _IGNORED]
    varying = [k for k in keys if len({str(r.settings.get(k)) for r in runs if r.settings}) > 1]
    shown = [(key, title) for key, title in _METRICS if any(key in r.metrics for r in runs)]
    varying = sorted(varying, key=lambda k: k.rpartition(".")[0] not in _LIKELY)[:_COLUMNS]
    table = Table(title="ranking by validation loss", title_justify="left", title_style="bold", header_style="bold")
    table.add_column("", justify="right")
    table.add_column("run")
    for key in varying:
        table.add_column(key.rsplit(".", 1)[-1], justify="right")
    table.add_column("val loss", justify="right")
    for _, title in shown:
        table.add_column(title, justify="right")
    table.add_column("state")
    for place, run in enumerate(ranked, 1):
        finished = run.objective is not None
        cells = [_cell(run.settings.get(key)) for key in varying]
        cells += [f"{run.objective:.4f}" if run.objective is not None else "-"]
        cells += [_cell(run.metrics.get(key)) for key, _ in shown]
        style = "bold green" if finished and place == 1 else "" if finished else "red" if run.state == "failed" else "dim"
        table.add_row(str(place) if finished else "", escape(run.path.name), *cells, run.state, style=style)
    if len({run.measured_on for run in ranked if run.objective is not None}) > 1:
        return table, "no best run: these runs were validated on different rows or tokens, so their losses cannot be compared"
    best = ranked[0] if ranked and ranked[0].objective is not None else None
    line = f"best: {best.path}  (validation loss {best.objective:.4f}; the test metrics took no part in the choice)" if best else ""
    return table, line


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else escape(str(value))
