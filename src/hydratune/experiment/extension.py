"""``resume=extend``: a finished run is trained further, with its optimizer's state, as if it had
been planned longer.

Its settings are those of its ``config.yaml``; only how long it is trained may be another. The
learning rate follows, from the next step on, the schedule of the whole longer run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hydratune.errors import ConfigError, Problem
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import read_sweep
from hydratune.settings.adapter import AdaLoraAdapter, FullFinetune
from hydratune.settings.commands import Resume, TrainConfig, load
from hydratune.settings.registry import flat, plain, typed

LENGTH = ("trainer.max_epochs", "trainer.max_steps", "trainer.early_stopping_patience")
# of what is trained: may be others
_NO_PART = (
    "evaluation",
    "tracking",
    "trainer.checkpoint_minutes",
)
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
    """Those of the run in ``record``, with the length that ``overrides`` ask for.

    Raises ``ConfigError``.
    """
    stored = _stored(record)
    wanted, values = flat(plain(composed)), plain(stored)
    problems = []
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~").split("@")[0].split("/")[0]
        if key.split(".")[0] in ("hydra", "resume", "preview", "name"):
            continue
        own = {other.split("=", 1)[0].lstrip("+~") for other in overrides if other != override}
        for leaf in _leaves(key, wanted):
            if leaf in own:  # said with the override that names it
                continue
            if leaf in LENGTH or leaf.startswith(_NO_PART):
                _put(values, leaf, wanted[leaf])
            elif str(flat(values).get(leaf)) != str(wanted[leaf]):
                problems.append((leaf, wanted[leaf], flat(values).get(leaf), override))
    if problems:
        again = f"model.adapter={record.shown}/adapter"
        if isinstance(stored.adapter, FullFinetune):
            again = f"model=local model.path={record.shown}/adapter"
        fix = (
            "leave {} out; to train with other settings from what was learnt: "
            + again
            + ", in another hydra.run.dir"
        )
        why = "the run was trained with {}, and resume=extend changes nothing but its length"
        raise ConfigError(
            [
                Problem(k, v, why.format(old), fix.format(typed))
                for k, v, old, typed in dict.fromkeys(problems)
            ]
        )
    result = typed(
        OmegaConf.create({**values, "resume": "extend", "preview": composed.preview}), TrainConfig
    )
    if record.is_finished() and not _is_longer(stored, result):
        epochs = stored.trainer.max_epochs
        fix = f"set trainer.max_epochs={epochs + 1} or more"
        if stored.trainer.max_steps is not None:
            fix += (
                f" and trainer.max_steps=null, or trainer.max_steps={stored.trainer.max_steps * 2}"
            )
        raise ConfigError(
            [
                Problem(
                    "trainer.max_epochs",
                    result.trainer.max_epochs,
                    "the run was trained so long before",
                    fix,
                )
            ]
        )
    return result


def _stored(record: RunDirectory) -> TrainConfig:
    """The settings of a run that can be trained further. Raises ``ConfigError``."""
    key, value = "resume", Resume.extend.value
    if not record.status() or not record.config_file.is_file():
        why = f"there is no run in {record.path}"
        raise ConfigError(
            [Problem(key, value, why, "give the directory of a finished run: hydra.run.dir=DIR")]
        )
    if record.path.name in read_sweep(record.path.parent):
        why = "this run is a job of a sweep, which would no longer compare with the others"
        fix = (
            f"begin a run from its adapter: model.adapter={record.shown}, with its settings, in"
            " another hydra.run.dir"
        )
        raise ConfigError([Problem(key, value, why, fix)])
    if not (record.checkpoints / "last.ckpt").is_file():
        why = f"{record.checkpoints}/last.ckpt, with the optimizer's state, is not there"
        fix = (
            f"begin a run from its adapter: model.adapter={record.shown}, in another hydra.run.dir"
        )
        raise ConfigError([Problem(key, value, why, fix)])
    try:
        stored = load(record.config_file)
    except (OmegaConfBaseException, YAMLError, KeyError, AssertionError, ValueError) as error:
        why = f"{record.config_file} cannot be read ({(str(error).splitlines() or [''])[0]})"
        raise ConfigError([Problem(key, value, why, "bring the file back")]) from error
    if isinstance(stored.adapter, AdaLoraAdapter):
        why = "AdaLoRA deals its ranks out over one run, so it cannot be trained further"
        raise ConfigError([Problem(key, value, why, "begin a longer run in another hydra.run.dir")])
    return stored


def _is_longer(before: TrainConfig, now: TrainConfig) -> bool:
    """Whether ``now`` may take more steps; how many there are is known with the rows."""
    old, new = before.trainer, now.trainer
    steps = (old.max_steps or float("inf"), new.max_steps or float("inf"))
    patience = (
        old.early_stopping_patience is not None
        and old.early_stopping_patience != new.early_stopping_patience
    )
    # of one that was stopped early, some steps are left
    return new.max_epochs > old.max_epochs or steps[1] > steps[0] or patience


def _leaves(key: str, every: Mapping[str, Any]) -> list[str]:
    if key in ("experiment", "debug", "sweep"):
        return [leaf for leaf in every if leaf.split(".")[0] in _GROUPS]
    return [leaf for leaf in every if leaf == key or leaf.startswith(f"{key}.")]


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        values = values.setdefault(group, {})
    values[name] = value
