"""Start the W&B run (or whatever the settings choose) that mirrors a run."""

from hydratune.experiment.context import RunContext
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import read_sweep
from hydratune.settings.commands import TrainConfig
from hydratune.settings.registry import plain
from hydratune.tracking.start import start_tracker
from hydratune.tracking.tracker import Tracker


def track_run(config: TrainConfig, record: RunDirectory, context: RunContext) -> Tracker:
    """Start a W&B run, or continue that of an interrupted run.

    In a sweep it is named after the settings that vary, and grouped by the sweep.
    """
    path = record.path
    sweep_job = read_sweep(path.parent).get(path.name)
    if sweep_job is None:
        folder, group, name = path, None, f"{config.name}-{path.name}"
    else:
        settings = [f"{key.rsplit('.', 1)[-1]}={value}" for key, value in sweep_job.varying.items()]
        folder, group, name = path.parent, path.parent.name, ", ".join(settings) or path.name
    resumes = record.checkpoint_to_resume() is not None
    tracker = start_tracker(
        config.tracking,
        plain(config),
        folder=folder,
        group=group,
        name=name,
        job_type="train",
        resumed_id=record.read_status().wandb_id if resumes else None,
        on_stop=context.schedule.stop,
        run_folder=path,
    )
    record.update(wandb_id=tracker.id)
    return tracker
