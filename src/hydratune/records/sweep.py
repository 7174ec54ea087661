"""What a sweep directory contains beside its jobs: sweep.json, which says what varies."""

from dataclasses import dataclass
from pathlib import Path

from hydratune.records.files import Json, read_json, write_json

SWEEP_FILE = "sweep.json"  # in the folder of a sweep
HYDRA_FILE = "multirun.yaml"  # likewise: the settings of the sweep, as Hydra writes them


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep."""

    name: str  # its folder
    overrides: tuple[str, ...]
    varying: dict[str, str]  # the settings in which jobs of this sweep differ


def varying(overrides: list[list[str]]) -> list[dict[str, str]]:
    """Return, for each job, the settings whose value is not the same in all jobs."""
    jobs = [dict(o.lstrip("+").split("=", 1) for o in job if "=" in o) for job in overrides]
    keys = dict.fromkeys(key for job in jobs for key in job)
    differing = [key for key in keys if len({job.get(key) for job in jobs}) > 1]
    return [{key: job[key] for key in differing if key in job} for job in jobs]


def write_sweep(folder: Path, jobs: list[SweepJob], study: dict[str, str] | None = None) -> None:
    """Write sweep.json.

    ``study``: storage and name of the Optuna study whose trials the jobs are.
    """
    content = {job.name: {"overrides": list(job.overrides), "varying": job.varying} for job in jobs}
    write_json(folder / SWEEP_FILE, {"jobs": content, **({"study": study} if study else {})})


def read_study(folder: Path) -> dict[str, str]:
    """Return storage and name of the Optuna study in ``folder``; empty if there is none."""
    file = folder / SWEEP_FILE
    return dict(read_json(file).get("study", {})) if file.is_file() else {}


def read_sweep(folder: Path) -> dict[str, SweepJob]:
    """Return the jobs by folder name; empty if ``folder`` is not a sweep directory."""
    file = folder / SWEEP_FILE
    if not file.is_file():
        return {}
    content: dict[str, Json] = read_json(file)["jobs"]
    return {
        name: SweepJob(name, tuple(job["overrides"]), job["varying"])
        for name, job in content.items()
    }
