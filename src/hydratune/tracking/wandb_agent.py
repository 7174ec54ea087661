"""The trial that ``wandb agent`` started this process for: its sweep, and what varies in it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from hydratune.records.sweep import WandbSweep

_TIMEOUT = 10  # seconds for an answer of the server
_OF_TRIAL = ("sweep_id", "sweep_param_path", "run_id")  # settings of the client


@dataclass(frozen=True)
class AgentTrial:
    """A trial of a W&B sweep."""

    sweep: str  # its id
    values: Mapping[str, str]  # what the sweep sets for this trial, by setting
    title: str = ""  # the sweep's name; empty: it has none, or it is not known
    # the values that a setting may take, where they are listed; None: the server was not asked
    choices: Mapping[str, tuple[str, ...]] | None = None
    constants: frozenset[str] = field(default_factory=frozenset)  # settings with one value

    @property
    def varying(self) -> dict[str, str]:
        """The settings that differ between the trials; all of them if none is known to vary."""
        differing = {k: v for k, v in self.values.items() if k not in self.constants}
        return differing or dict(self.values)

    @property
    def group(self) -> str:
        """The name under which W&B groups the runs of the sweep."""
        return WandbSweep("", "", self.sweep, title=self.title).group


def trial_of_agent(*, ask_server: bool) -> AgentTrial | None:
    """Return the trial of this process; None if no agent started it.

    ``ask_server``: also read the sweep's name and what varies in it. If the server does not
    answer, all settings of the trial count as varying.
    """
    sweep, file = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_SWEEP_PARAM_PATH")
    if not sweep:
        return None
    trial = AgentTrial(sweep, _values(Path(file)) if file else {})
    if ask_server:
        with suppress(Exception):  # the client raises its own errors, requests' and Go's
            return _with_sweep(trial)
    return trial


@contextmanager
def outside_of_sweep() -> Iterator[None]:
    """Let the client start a run that is no trial, inside the block, in the process of a trial.

    The client reads the sweep, the run's id and the parameters that the agent has chosen into
    settings of the process, which the arguments of ``wandb.init`` cannot unset.
    """
    import wandb

    client = wandb.setup()
    kept = {name: getattr(client.settings, name) for name in _OF_TRIAL}
    parameters, client._sweep_config = client._sweep_config, None
    for name in _OF_TRIAL:
        setattr(client.settings, name, None)
    try:
        yield
    finally:
        client._sweep_config = parameters
        for name, value in kept.items():
            setattr(client.settings, name, value)


def _values(file: Path) -> dict[str, str]:
    """Read what the agent wrote: ``{"optimizer.lr": {"value": 0.001}}``."""
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    items = content.items() if isinstance(content, dict) else ()
    return {
        str(key): str(item["value"])
        for key, item in items
        if isinstance(item, dict) and "value" in item
    }


def _with_sweep(trial: AgentTrial) -> AgentTrial:
    """Return ``trial`` with what the server knows of its sweep."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    api = wandb.Api(timeout=_TIMEOUT)
    entity = os.environ.get("WANDB_ENTITY") or api.default_entity
    project = os.environ.get("WANDB_PROJECT") or api.settings.get("project")
    config = api.sweep(f"{entity}/{project}/{trial.sweep}").config
    parameters = {
        str(key): item
        for key, item in config.get("parameters", {}).items()
        if isinstance(item, dict)
    }
    choices = {
        key: tuple(map(str, item["values"]))
        for key, item in parameters.items()
        if isinstance(item.get("values"), list)
    }
    constants = {key for key, item in parameters.items() if "value" in item}
    constants |= {key for key, values in choices.items() if len(values) == 1}
    return AgentTrial(
        trial.sweep, trial.values, str(config.get("name") or ""), choices, frozenset(constants)
    )
