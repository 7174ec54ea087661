"""Start the W&B run (or whatever the settings choose) that mirrors a run."""

from collections.abc import Mapping

from hydratune.experiment.context import RunContext
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import SweepJob, read_sweep, read_wandb_sweep
from hydratune.settings.commands import TrainConfig
from hydratune.settings.registry import plain
from hydratune.settings.tracking import TEXT_SETTINGS
from hydratune.tracking.start import start_tracker
from hydratune.tracking.tracker import Tracker

_LONGEST_NAME = 128  # characters, of runs and groups of W&B


def track_run(config: TrainConfig, record: RunDirectory, context: RunContext) -> Tracker:
    """Start a W&B run, or continue that of an interrupted run.

    In a sweep it is named after the settings that vary, and grouped by the sweep.
    """
    path = record.path
    jobs = read_sweep(path.parent)
    if path.name not in jobs:
        folder, group, name = path, None, f"{config.name}-{path.name}"
    else:
        folder, group = path.parent, cut(path.parent.name)
        name = name_of_job(path.name, jobs, log_text=config.tracking.log_text)
    resumes = record.checkpoint_to_resume() is not None
    tracker = start_tracker(
        config.tracking,
        plain(config),
        folder=folder,
        group=group,
        name=cut(name),
        job_type="train",
        resumed_id=record.read_status().wandb_id if resumes else None,
        on_stop=context.schedule.stop,
        run_folder=path,
        sweep=read_wandb_sweep(path.parent),
        trial=jobs[path.name].trial if path.name in jobs else None,
    )
    record.update(wandb_id=tracker.id)
    return tracker


def name_of_job(job: str, jobs: Mapping[str, SweepJob], *, log_text: bool) -> str:
    """Return the name of a job on W&B: the settings that vary, with the values that it has.

    With ``log_text=False`` a text for the model is "text 1", "text 2", ..., numbered in the sweep.
    """
    parts = []
    for key, value in jobs[job].varying.items():
        name = key.rpartition(".")[2]
        if name in TEXT_SETTINGS and not log_text:
            texts = list(dict.fromkeys(other.varying.get(key) for other in jobs.values()))
            value = f"text {texts.index(value) + 1}"
        parts.append(f"{name}={value}")
    return ", ".join(parts) or job


def cut(name: str) -> str:
    """Return a name as long as W&B allows."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
