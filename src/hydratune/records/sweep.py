"""What a sweep directory contains beside its jobs: sweep.json, which says what varies."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hydratune.records.files import Json, read_json, write_json
from hydratune.settings.registry import override_key

SWEEP_FILE = "sweep.json"  # in the folder of a sweep
HYDRA_FILE = "multirun.yaml"  # likewise: the settings of the sweep, as Hydra writes them


@dataclass(frozen=True)
class WandbTrial:
    """The run of a W&B sweep that a job is."""

    run_id: str
    parameters: Mapping[str, Json]  # as the server chose them


@dataclass(frozen=True)
class WandbSweep:
    """The W&B sweep whose trials the jobs are."""

    entity: str
    project: str
    id: str
    settings: tuple[str, ...] = ()  # overrides that all trials have in common
    title: str = ""  # its name in its definition, if it has one

    @property
    def group(self) -> str:
        """The name under which W&B groups the runs of the sweep, whatever started them."""
        return self.title or f"sweep {self.id}"

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}/{self.id}"


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep."""

    name: str  # its folder
    overrides: tuple[str, ...]
    varying: dict[str, str]  # the settings in which jobs of this sweep differ
    trial: WandbTrial | None = field(default=None, kw_only=True)


def varying(overrides: list[list[str]]) -> list[dict[str, str]]:
    """Return, for each job, the settings whose value is not the same in all jobs."""
    jobs = [dict(o.lstrip("+").split("=", 1) for o in job if "=" in o) for job in overrides]
    keys = dict.fromkeys(key for job in jobs for key in job)
    differing = [key for key in keys if len({job.get(key) for job in jobs}) > 1]
    return [{key: job[key] for key in differing if key in job} for job in jobs]


def chosen_values(job: SweepJob, jobs: Iterable[SweepJob]) -> dict[str, str]:
    """Return what a job has for the settings that vary among ``jobs``; an added job has them too,
    though it does not differ in them from those that were added with it.
    """
    keys = dict.fromkeys(key for other in (*jobs, job) for key in other.varying)
    own = {override_key(word): word.partition("=")[2] for word in job.overrides}
    return {key: value for key in keys if (value := job.varying.get(key, own.get(key))) is not None}


def write_sweep(
    folder: Path,
    jobs: list[SweepJob],
    study: dict[str, str] | None = None,
    wandb_sweep: WandbSweep | None = None,
) -> None:
    """Write sweep.json.

    ``study``: storage and name of the Optuna study whose trials the jobs are. ``wandb_sweep``: the
    W&B sweep whose trials they are.
    """
    content: dict[str, Json] = {"jobs": {job.name: _job_content(job) for job in jobs}}
    if study:
        content["study"] = dict(study)
    if wandb_sweep is not None:
        content["wandb"] = {
            "entity": wandb_sweep.entity,
            "project": wandb_sweep.project,
            "sweep": wandb_sweep.id,
            "settings": list(wandb_sweep.settings),
            "title": wandb_sweep.title,
        }
    write_json(folder / SWEEP_FILE, content)


def _job_content(job: SweepJob) -> dict[str, Json]:
    content: dict[str, Json] = {"overrides": list(job.overrides), "varying": dict(job.varying)}
    if job.trial is not None:
        content["wandb"] = {"run": job.trial.run_id, "parameters": dict(job.trial.parameters)}
    return content


def read_study(folder: Path) -> dict[str, str]:
    """Return storage and name of the Optuna study in ``folder``; empty if there is none."""
    file = folder / SWEEP_FILE
    return dict(read_json(file).get("study", {})) if file.is_file() else {}


def read_wandb_sweep(folder: Path) -> WandbSweep | None:
    """Return the W&B sweep whose trials are in ``folder``, or None."""
    file = folder / SWEEP_FILE
    content = read_json(file).get("wandb") if file.is_file() else None
    if not content:
        return None
    place = content["entity"], content["project"], content["sweep"]
    return WandbSweep(*place, tuple(content["settings"]), str(content.get("title", "")))


def read_sweep(folder: Path) -> dict[str, SweepJob]:
    """Return the jobs by folder name; empty if ``folder`` is not a sweep directory."""
    file = folder / SWEEP_FILE
    if not file.is_file():
        return {}
    content: dict[str, Json] = read_json(file)["jobs"]
    return {
        name: SweepJob(name, tuple(job["overrides"]), job["varying"], trial=_trial(job))
        for name, job in content.items()
    }


def _trial(job: dict[str, Json]) -> WandbTrial | None:
    content = job.get("wandb")
    return WandbTrial(content["run"], content["parameters"]) if content else None
