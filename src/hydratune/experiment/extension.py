"""``resume=extend``: a finished run is trained further, as if it had been planned longer.

It keeps its optimizer's state. Its settings are those of its ``config.yaml``; only how long it is
trained may change. From the next step on, the learning rate follows the schedule of the whole
longer run.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hydratune.errors import ConfigError, Problem
from hydratune.records.files import Json
from hydratune.records.run_directory import RunDirectory, RunFile
from hydratune.records.sweep import read_sweep
from hydratune.settings.commands import Resume, TrainConfig, load
from hydratune.settings.overrides import as_typed
from hydratune.settings.registry import flat, override_key, plain, typed

LENGTH = ("trainer.max_epochs", "trainer.max_steps", "trainer.early_stopping_patience")
# settings that have no part in what is trained, and may change
_FREE = ("evaluation", "tracking", "trainer.checkpoint_minutes")
_NOT_COPIED = ("hydra", "resume", "preview", "name")  # settings of the command, not of the run
_GROUPS = (
    "model",
    "data",
    "adapter",
    "optimizer",
    "trainer",
    "evaluation",
    "tracking",
    "experiment",
    "debug",
    "sweep",
)


def settings(composed: TrainConfig, record: RunDirectory, overrides: Sequence[str]) -> TrainConfig:
    """Return the settings of the run in ``record``, with the length that ``overrides`` ask for.

    Raises ``ConfigError`` if they ask for anything else, or if the run cannot be extended.
    """
    stored = _stored(record)
    values = plain(stored)
    changes = _merge(values, flat(plain(composed)), overrides)
    if changes:
        raise _changed(changes, record)
    extended = OmegaConf.create({**values, "resume": "extend", "preview": composed.preview})
    result = typed(extended, TrainConfig)
    if record.is_finished() and not _is_longer(stored, result):
        raise _not_longer(stored, result)
    return result


@dataclass(frozen=True)
class _Change:
    """A setting that must stay as it was, and the override that changes it."""

    key: str
    value: object
    stored: object
    override: str


def _merge(
    values: dict[str, Json], composed: Mapping[str, object], overrides: Sequence[str]
) -> list[_Change]:
    """Put what may change into ``values``, the settings of the run. Returns all other changes.

    ``composed``: the value of every setting as typed, by its full key.
    """
    changes: list[_Change] = []
    for override in overrides:
        key = override_key(override).split("/")[0]
        if key.split(".")[0] in _NOT_COPIED:
            continue
        named = {override_key(other) for other in overrides} - {override_key(override)}
        for leaf in _leaves(key, composed):
            if leaf in named:
                continue
            stored = flat(values).get(leaf)
            if leaf in LENGTH or leaf.startswith(_FREE):
                _put(values, leaf, composed[leaf])
            elif str(stored) != str(composed[leaf]):
                change = _Change(leaf, composed[leaf], stored, override)
                changes += [change] if change not in changes else []
    return changes


def start_from(record: RunDirectory) -> str:
    """Return the settings, as they are typed, of a run that begins with another's weights."""
    if (record.adapter / "config.json").is_file():  # a whole model
        return f"model=local {as_typed('model.path', record.shown / RunFile.adapter)}"
    return as_typed("model.adapter", record.shown / RunFile.adapter)


def begin_from(record: RunDirectory) -> str:
    """Return the advice to begin another run with the weights of this one."""
    start = start_from(record)
    return f"begin a run from its weights: {start}, in another hydra.run.dir, without resume=extend"


def _changed(changes: Sequence[_Change], record: RunDirectory) -> ConfigError:
    problems = []
    for change in changes:
        why = (
            f"the run was trained with {change.stored}, and resume=extend changes nothing but its"
            " length"
        )
        fix = f"remove {shlex.quote(change.override)}"
        if change.key.split(".")[0] not in ("model", "adapter"):  # those of the weights are fixed
            fix += (
                "; to train with other settings from the trained weights:"
                f" {start_from(record)}, in another hydra.run.dir, without resume=extend"
            )
        problems.append(Problem(change.key, change.value, why, fix))
    return ConfigError(problems)


def _not_longer(stored: TrainConfig, result: TrainConfig) -> ConfigError:
    steps = " trainer.max_steps=null" if stored.trainer.max_steps is not None else ""
    fix = f"set trainer.max_epochs={stored.trainer.max_epochs + 1}{steps}, or more epochs"
    why = "the run was already trained for so long"
    return ConfigError([Problem("trainer.max_epochs", result.trainer.max_epochs, why, fix)])


def _stored(record: RunDirectory) -> TrainConfig:
    """Return the settings of a run that can be trained further. Raises ``ConfigError``."""
    if not record.read_status().content or not record.config_file.is_file():
        why = f"there is no run in {record.path}"
        raise _problem(why, "give the directory of a finished run: hydra.run.dir=DIR")
    if record.path.name in read_sweep(record.path.parent):
        why = "this run is a job of a sweep, which would no longer compare with the others"
        raise _problem(why, begin_from(record))
    if not record.last_checkpoint.is_file():
        why = f"{record.last_checkpoint}, with the optimizer's state, is not there"
        raise _problem(why, begin_from(record))
    try:
        stored = load(record.config_file)
    except ConfigError as error:
        (problem,) = error.problems
        fix = "use the version of hydratune that made this run"
        raise _problem(f"{record.config_file}: {problem.why}", fix) from error
    except (OmegaConfBaseException, YAMLError, KeyError, AssertionError, ValueError) as error:
        why = f"{record.config_file} cannot be read ({(str(error).splitlines() or [''])[0]})"
        raise _problem(why, "bring the file back") from error
    if stored.adapter.resume_obstacle:
        why = f"{stored.adapter.resume_obstacle}, so it cannot be trained further"
        raise _problem(why, "begin a longer run in another hydra.run.dir")
    return stored


def _problem(why: str, fix: str) -> ConfigError:
    return ConfigError([Problem("resume", Resume.extend.value, why, fix)])


def _is_longer(before: TrainConfig, now: TrainConfig) -> bool:
    """Return whether ``now`` may take more steps; the exact number depends on the rows."""
    old, new = before.trainer, now.trainer
    steps = (old.max_steps or float("inf"), new.max_steps or float("inf"))
    patience = (
        old.early_stopping_patience is not None
        and old.early_stopping_patience != new.early_stopping_patience
    )
    # a run that was stopped early has steps left
    return new.max_epochs > old.max_epochs or steps[1] > steps[0] or patience


def _leaves(key: str, every: Mapping[str, object]) -> list[str]:
    """Return the full keys of all settings that the override of ``key`` sets."""
    if key in ("experiment", "debug", "sweep"):
        return [leaf for leaf in every if leaf.split(".")[0] in _GROUPS]
    return [leaf for leaf in every if leaf == key or leaf.startswith(f"{key}.")]


def _put(values: dict[str, Json], key: str, value: object) -> None:
    """Set a value of nested settings by its full key."""
    *groups, name = key.split(".")
    for group in groups:
        values = values.setdefault(group, {})
    values[name] = value
