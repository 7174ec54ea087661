"""Start the tracker that the settings ask for."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hydratune.records.sweep import WandbSweep, WandbTrial
from hydratune.settings.tracking import TrackingConfig, TrackingMode
from hydratune.tracking.tensorboard import TensorBoardTracker
from hydratune.tracking.tracker import NoTracker, Tracker
from hydratune.tracking.wandb import start_run
from hydratune.tracking.wandb_options import RunNames

_OLDER_NAMES = {"dryrun": "offline"}  # of values of WANDB_MODE


def start_tracker(
    config: TrackingConfig,
    settings: Mapping[str, object],
    *,
    folder: Path,
    group: str | None,
    name: str,
    job_type: str,
    tags: Sequence[str] = (),
    is_job: bool = False,
    resumed_id: str | None = None,
    on_stop: Callable[[], None] | None = None,
    run_folder: Path | None = None,
    sweep: WandbSweep | None = None,
    trial: WandbTrial | None = None,
) -> Tracker:
    """Start tracking a run. ``settings`` is its resolved configuration, as plain nested values.

    W&B's files go to ``folder``, TensorBoard's to ``run_folder``. ``tags`` stand beside those of
    the settings. ``is_job``: the run is a job of the sweep in ``folder``. ``resumed_id`` is the
    W&B id of the run that an interrupted job had, which is resumed; offline, ``restore_history``
    replaces its old files. ``on_stop`` is called when the user presses Stop on W&B; None: as for
    Ctrl-C. ``trial``: the run of the W&B ``sweep`` that this one is. ``WANDB_MODE`` takes
    precedence over ``tracking.mode``, unless that is TensorBoard.
    """
    if config.mode is TrackingMode.tensorboard:
        return TensorBoardTracker(run_folder or folder, settings)
    mode = wandb_mode(config)
    if mode == TrackingMode.disabled.value:
        return NoTracker()
    names = RunNames(folder, group, name, job_type, tuple(tags), is_job, sweep, trial)
    return start_run(config, mode, settings, names, resumed_id=resumed_id, on_stop=on_stop)


def wandb_mode(config: TrackingConfig) -> str:
    """Return the mode of W&B's client: ``WANDB_MODE`` takes precedence over the settings."""
    mode = os.environ.get("WANDB_MODE") or config.mode.value
    return _OLDER_NAMES.get(mode, mode)
