"""The arguments of ``wandb.init``: how a run appears on W&B, and what of its settings is sent."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydratune.records.sweep import WandbSweep, WandbTrial
from hydratune.settings.secrets import mask
from hydratune.settings.tracking import TEXT_SETTINGS, TrackingConfig
from hydratune.tracking.typed_command import typed_command


@dataclass(frozen=True)
class RunNames:
    """How a run appears on W&B, and where its files go."""

    folder: Path  # the client's files go into its subfolder wandb
    group: str | None  # the sweep
    name: str
    job_type: str
    tags: tuple[str, ...] = ()  # beside those of the settings
    is_job: bool = False  # of a sweep of this program, whose jobs share ``folder``
    sweep: WandbSweep | None = None  # the W&B sweep of which the run is a trial, or a baseline
    trial: WandbTrial | None = None


def run_options(
    config: TrackingConfig,
    settings: Mapping[str, object],
    names: RunNames,
    on_stop: Callable[[], None] | None,
) -> dict[str, Any]:
    """Return the arguments of ``wandb.init`` that do not depend on whether a server answers."""
    import wandb

    sent = settings if config.log_text else without_texts(settings)
    command = typed_command()
    client = wandb.Settings(
        console="off",  # it would mix the lines of all runs of a process; see ``write_log``
        save_code=False,
        finish_timeout=60,
        finish_timeout_raises=True,
        init_timeout=20,
        silent=True,
        disable_git=True,
        stop_fn=on_stop,
        x_disable_meta=not config.log_text,  # the command line is part of it
    )
    if command is not None:
        client.program = command[0]
    project, entity = os.environ.get("WANDB_PROJECT"), os.environ.get("WANDB_ENTITY")
    if names.sweep is not None:  # also a baseline goes to the project of the sweep
        project, entity = names.sweep.project, names.sweep.entity
        if names.trial is not None:
            client.sweep_id = names.sweep.id
            sent = _with_parameters(sent, names.trial.parameters)
    return {
        "project": project or config.project,
        "entity": entity or config.entity,
        "dir": str(names.folder),
        "group": names.group,
        "job_type": names.job_type,
        "name": names.name,
        "tags": list(dict.fromkeys([*config.tags, *names.tags])),
        "config": masked(sent),
        "reinit": "create_new",
        "settings": client,
    }


def _with_parameters(
    settings: Mapping[str, object], parameters: Mapping[str, object]
) -> dict[str, object]:
    """Return settings with the parameters of a W&B sweep, as the server has chosen them.

    The server finds a parameter in a run under its own name only, ``optimizer.lr`` or ``adapter``.
    The settings of a group that is a parameter keep their dotted names.
    """
    result = dict(settings)
    for key, value in parameters.items():
        group = settings.get(key)
        if isinstance(group, dict) and isinstance(value, dict):
            value = {**group, **value}
        elif isinstance(group, dict):
            result |= {f"{key}.{name}": setting for name, setting in group.items()}
        result[key] = value
    return result


def without_texts(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings with "not sent" in the place of texts for a model."""
    kept = {k: "not sent" if k in TEXT_SETTINGS and v else v for k, v in settings.items()}
    return {k: without_texts(v) if isinstance(v, dict) else v for k, v in kept.items()}


def masked(value: object) -> object:
    """Return settings with all secrets in them masked."""
    if isinstance(value, Mapping):
        return {key: masked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [masked(inner) for inner in value]
    return mask(value) if isinstance(value, str) else value
