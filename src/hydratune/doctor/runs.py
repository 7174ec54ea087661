"""Runs that did not end, or whose files are damaged; only small files are read."""

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from hydratune.doctor.finding import Finding, Level

_MOST_RUNS = 2_000
_NAMED = 3  # runs of one kind that are named


def runs_of(folder: Path) -> Callable[[], Iterator[Finding]]:
    """Return the check of the runs in a folder such as outputs."""

    def runs() -> Iterator[Finding]:
        files = _status_files(folder)
        states: dict[str, list[Path]] = {}
        damaged: list[tuple[Path, str]] = []
        for file in files:
            state, damage = _look_at(file.parent)
            states.setdefault(state, []).append(file.parent)
            if damage:
                damaged.append((file.parent, damage))
        counts = ", ".join(f"{len(found)} {state}" for state, found in sorted(states.items()))
        facts = {state: len(found) for state, found in states.items()}
        yield Finding("runs", f"in {folder}: {counts or 'none so far'}", facts=facts)
        for state in ("unfinished", "stopped", "failed"):
            yield from _incomplete(state, states.get(state, []))
        for run, damage in damaged[:_NAMED]:
            remedy = "restore the file from a backup, or train the run again"
            yield Finding("damaged", f"{run}: {damage}", Level.warning, remedy)
        if len(damaged) > _NAMED:
            yield Finding("damaged", f"and {len(damaged) - _NAMED} more", Level.warning)

    return runs


def _status_files(folder: Path) -> list[Path]:
    """Return the newest status files of runs, and of jobs of sweeps."""
    found = [*folder.glob("*/status.json"), *folder.glob("*/*/status.json")]
    return sorted(found, key=lambda file: -file.stat().st_mtime)[:_MOST_RUNS]


def _look_at(run: Path) -> tuple[str, str]:
    """Return the state of a run, and what is wrong with its files."""
    try:
        state = str(dict(json.loads((run / "status.json").read_text("utf-8"))).get("state"))
    except (OSError, ValueError, TypeError, RecursionError):
        return "unreadable", "status.json is no JSON object"
    if state in ("running", "waiting") and not _is_locked(run):
        state = "unfinished"
    if state != "finished":
        return state, ""
    for name in ("metrics.json", "environment.json", "digests.json"):
        try:
            json.loads((run / name).read_text("utf-8"))
        except FileNotFoundError:
            if name == "metrics.json":
                return state, "metrics.json is missing"
        except (OSError, ValueError, RecursionError):
            return state, f"{name} is not readable JSON"
    weights = list((run / "adapter").glob("*.safetensors"))
    if (run / "adapter").is_dir() and not all(file.stat().st_size for file in weights):
        return state, "weights in adapter/ are empty"
    return state, ""


def _is_locked(run: Path) -> bool:
    """Return whether a process is working in a run directory, or in that of its sweep."""
    from filelock import FileLock, Timeout

    for lock in (run / ".lock", run.parent / ".lock"):
        if not lock.exists():
            continue
        try:
            with FileLock(lock, timeout=0):
                pass
        except Timeout:
            return True
        except OSError:
            continue
    return False


def _incomplete(state: str, runs: list[Path]) -> Iterator[Finding]:
    """Yield the newest runs that did not end, each with the command that continues it."""
    words = {"unfinished": "was killed", "stopped": "was stopped", "failed": "failed"}
    for run in runs[:_NAMED]:
        yield Finding(state, f"{run} {words[state]}{_reason(run)}", Level.note, _command(run))
    if len(runs) > _NAMED:
        yield Finding(state, f"and {len(runs) - _NAMED} more", Level.note)


def _reason(run: Path) -> str:
    error = json.loads((run / "status.json").read_text("utf-8")).get("error")
    text = " ".join(str(error or "").split())
    return f" ({text[:100]}{'...' if len(text) > 100 else ''})" if text else ""


def _command(run: Path) -> str:
    """Return the command that continues a run."""
    if (run.parent / "sweep.json").is_file():
        return f"type the command of the sweep again; it is in {run.parent}/sweep.json"
    import yaml

    try:
        overrides = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        overrides = None
    if not isinstance(overrides, list):
        return f"type the command of the run again, with hydra.run.dir={shlex.quote(str(run))}"
    kept = [str(o) for o in overrides if not str(o).startswith("hydra.run.dir=")]
    return shlex.join(["hydratune", "train", *kept, f"hydra.run.dir={run}"])
