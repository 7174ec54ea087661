"""Packs that were submitted to a cluster, as the sweep's folder remembers them.

They outlive the command that submitted them; the same command typed again finds them here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from hydratune.errors import SweepError
from hydratune.records.files import read_json, write_json
from hydratune.sweeps.executors.slurm_queue import SlurmSilentError, has_slurm, job_infos
from hydratune.sweeps.planning import PlannedJob, PlannedPack

LOG_FOLDER = "slurm"  # in that of the sweep
SUBMITTED_FILE = f"{LOG_FOLDER}/packs.json"  # likewise


@dataclass(frozen=True)
class SubmittedPack:
    """A pack and the job of the cluster that runs it."""

    job_id: str
    pack: PlannedPack


def read_submitted(folder: Path, jobs: Mapping[str, PlannedJob]) -> list[SubmittedPack]:
    """Return the submitted packs of the sweep in ``folder`` all of whose jobs are in ``jobs``."""
    found = []
    for entry in _entries(folder):
        if set(entry["names"]) <= jobs.keys():
            pack = PlannedPack(
                entry["title"],
                tuple(jobs[name] for name in entry["names"]),
                entry["together"],
                tuple(entry["failed"]),
                entry["passed"],
                tuple(entry.get("group", ())),  # an older version has none
                tuple(entry["command"]),
            )
            found.append(SubmittedPack(entry["job_id"], pack))
    return found


def add_submitted(folder: Path, submitted: Sequence[SubmittedPack]) -> None:
    """Remember packs."""
    new = [
        {
            "job_id": item.job_id,
            "title": item.pack.title,
            "names": [job.name for job in item.pack.jobs],
            "together": item.pack.together,
            "failed": list(item.pack.failed),
            "passed": None if item.pack.passed is None else dict(item.pack.passed),
            "group": list(item.pack.group),
            "command": list(item.pack.command),
        }
        for item in submitted
    ]
    with _lock(folder):
        write_json(_file(folder), {"packs": [*_entries(folder), *new]})


def forget_submitted(folder: Path, job_ids: Iterable[str]) -> None:
    """Forget packs that have ended."""
    ended = set(job_ids)
    with _lock(folder):
        left = [entry for entry in _entries(folder) if entry["job_id"] not in ended]
        write_json(_file(folder), {"packs": left})


def submitted_ids(folder: Path) -> dict[str, str]:
    """Return the names of the jobs in submitted packs -> the job of the cluster that has them."""
    return {name: str(entry["job_id"]) for entry in _entries(folder) for name in entry["names"]}


def refuse_submitted(folder: Path) -> None:
    """Raise ``SweepError`` if a cluster runs packs of the sweep, which would run twice."""
    ids = [str(entry["job_id"]) for entry in _entries(folder)]
    if not ids:
        return
    try:
        infos = job_infos(ids) if has_slurm() else {}
    except SlurmSilentError:
        infos = {}
    active = sorted(job for job, info in infos.items() if info.is_active)
    if active:
        raise SweepError(
            f"Slurm runs jobs of this sweep: {', '.join(active)}; add"
            " hydra/launcher/executor=slurm to wait for them, or end them first: scancel"
            f" {' '.join(active)}"
        )


def _file(folder: Path) -> Path:
    return folder / SUBMITTED_FILE


def _lock(folder: Path) -> FileLock:
    _file(folder).parent.mkdir(parents=True, exist_ok=True)
    return FileLock(_file(folder).with_suffix(".lock"))


def _entries(folder: Path) -> list[dict[str, Any]]:
    file = _file(folder)
    entries: Any = read_json(file)["packs"] if file.is_file() else []
    return list(entries)
