"""What was probably meant by a setting that does not exist."""

import difflib
import re
import shlex
from collections.abc import Sequence
from dataclasses import fields
from enum import Enum
from functools import cache
from typing import Protocol

from hydratune.composition.resolvers import CONF, shipped_options
from hydratune.composition.value_types import (
    SHOW_LAUNCHER,
    declared_type,
    setting_type,
)
from hydratune.errors import Problem
from hydratune.settings.commands import COMMANDS, TrainConfig
from hydratune.settings.registry import all_variants
from hydratune.sweeps.executor_options import EXECUTORS

_OTHER_NAMES = {  # what other tools call a setting
    "rank": "adapter.r",
    "lora_r": "adapter.r",
    "lora_rank": "adapter.r",
    "alpha": "adapter.lora_alpha",
    "dropout": "adapter.lora_dropout",
    "learning_rate": "optimizer.lr",
    "lr_scheduler_type": "optimizer.schedule",
    "lr_scheduler": "optimizer.schedule",
    "optim": "optimizer",
    "num_warmup_steps": "optimizer.warmup_steps",
    "llrd": "optimizer.layer_lr_decay",
    "epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs",
    "num_train_epochs": "trainer.max_epochs",
    "max_samples": "data.max_train_rows",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "max_grad_norm": "trainer.gradient_clip_val",
    "metric_for_best_model": "trainer.monitor",
    "every_steps": "evaluation.validate_every",
    "sample": "evaluation.validation_rows",
    "bf16": "trainer.precision",
    "per_device_train_batch_size": "data.batch_size",
    "micro_batch_size": "data.batch_size",
    "max_seq_length": "data.max_length",
    "cutoff_len": "data.max_length",
    "sequence_len": "data.max_length",
    "load_in_4bit": "model.quantization",
    "model_name_or_path": "model.id",
    "base_model": "model.id",
    "dataset": "data",
    "dataset_path": "data.train",
    "data_path": "data.train",
    "train_file": "data.train",
    "file": "data.train",
    "files": "data.train",
    "validation_file": "data.validation",
    "test_file": "data.test",
}


class ChosenOptions(Protocol):
    """What is known of the command, and of the options of groups, that the user has typed."""

    @property
    def command(self) -> str:
        """The name of the command."""

    def exists(self, key: str) -> bool:
        """Return whether a setting exists with them."""

    def is_refused(self, option: str, setting: str) -> bool:
        """Return whether an option of a group with its setting is refused beside the others."""

    def options_without(self, key: str) -> list[str]:
        """Return those of the group of ``key`` that lack this setting."""


def unknown_setting(
    key: str, value: str, names: Sequence[str], group: str, chosen: ChosenOptions
) -> Problem:
    """Return the problem of a ``key`` that does not exist.

    ``names``: the settings that its ``group`` has; ``group`` is "" at the top level. Settings that
    do not exist with the ``chosen`` options are not suggested.
    """
    name = key.rpartition(".")[2]
    if key == "data.path" and "." in value.rpartition("/")[2]:  # a file, which is no folder
        as_file = unknown_setting("data.file", value, names, group, chosen)
        return Problem(key, value, as_file.why, as_file.fix)
    if key.startswith("hydra.launcher."):
        return _unknown_launcher_setting(key, value, names)
    if mapping := _mapping_around(key):
        why = f"{mapping} has no key {key.removeprefix(f'{mapping}.')} yet"
        fix = f"a new key is added with a plus sign: {shlex.quote(f'+{key}={value}')}"
        return Problem(key, value, why, fix)
    if name not in names:
        owners = _options_with(group, name)
        if owners:
            return _setting_of_others(key, value, key, owners, chosen)
    meant = _meant(key, names, group)
    suggestions = list(filter(chosen.exists, meant))
    if suggestions:
        fix = f"did you mean {' or '.join(_allowed(s, value) for s in suggestions[:3])}?"
    elif meant:
        group, _, name = meant[0].rpartition(".")
        owners = _options_with(group, name)
        own = _setting_of_others(meant[0], value, key, owners, chosen)
        return Problem(key, value, f"it may be {meant[0]}: {own.why}", own.fix)
    elif group and names:
        fix = f"known here: {', '.join(sorted(names))}"
    else:
        fix = f"see hydratune {chosen.command} --cfg job"
    return Problem(key, value, "there is no such setting", fix)


def _mapping_around(key: str) -> str:
    """Return the setting above ``key`` that is a mapping with any keys; "" if there is none."""
    parts = key.split(".")
    above = (".".join(parts[:count]) for count in range(2, len(parts)))
    return next((outer for outer in above if _is_mapping(outer)), "")


def _is_mapping(key: str) -> bool:
    kind = setting_type(key)
    return kind.startswith("dict[") and "None" not in kind


def nearest_setting(name: str) -> list[str]:
    """Return the settings that ``name`` may stand for, at most three."""
    return _meant(name, _all_settings(), "")[:3]


def written(name: str, command: str, value: str | None = None) -> str:
    """Return how the setting of this ``name`` is typed; ``value`` is None if none was given.

    The name may be the end of its key, what another tool calls it, or that of a config group.
    """
    if name in _groups_of_files():
        options = shipped_options(name)
        if value is None:
            return f"{name}={options[0]} (options: {', '.join(options)})"
    elif issubclass(COMMANDS[command], TrainConfig):
        own = {field.name for field in fields(COMMANDS[command])}
        name = name if name in own else next(iter(nearest_setting(name)), name)
    return shlex.quote(f"{name}={'VALUE' if value is None else value}")


@cache
def _groups_of_files() -> frozenset[str]:
    """Return the config groups: debug, experiment and sweep, whose files change others, as well."""
    return frozenset(folder.name for folder in CONF.iterdir() if folder.is_dir()) - {"hydra"}


def _setting_of_others(
    key: str, value: str, typed: str, owners: Sequence[str], chosen: ChosenOptions
) -> Problem:
    """Return the problem of a setting that the chosen option of its group lacks.

    ``typed``: the name by which the user meant it; ``owners``: the options that have it.
    """
    group = key.rpartition(".")[0]
    having = ", ".join(f"{group}={owner}" for owner in owners)
    without = chosen.options_without(key)
    plain = f"{key}={value}"
    works = (owner for owner in owners if not chosen.is_refused(f"{group}={owner}", plain))
    setting = f"{group}={next(works, owners[0])} {shlex.quote(plain)}"
    if not without:
        why = f"only these have it: {having}"
        return Problem(typed, value, why, f"add {setting}")
    lacking = ", ".join(f"{group}={option}" for option in without)
    why = f"{lacking} {'have' if len(without) > 1 else 'has'} no such setting (only {having})"
    fix = f"leave out {typed}; or, instead of {lacking}: {setting}"
    return Problem(typed, value, why, fix)


def _allowed(key: str, value: str) -> str:
    """Return ``key``, with one of its values if it has few and ``value`` is none of them."""
    kind = declared_type(key)
    if not (isinstance(kind, type) and issubclass(kind, Enum)) or value in kind.__members__:
        return key
    return f"{key}={next(iter(kind.__members__))} (one of: {', '.join(kind.__members__)})"


def _meant(key: str, names: Sequence[str], group: str) -> list[str]:
    """Return the settings that ``key`` may stand for.

    In this order: the same name in another group, the name that another tool gives it, and names
    that are spelled nearly so.
    """
    key = key.replace("-", "_")
    name = key.rpartition(".")[2]
    exact = _in_any_group(name)
    if exact:
        near = difflib.get_close_matches(key, exact, n=1, cutoff=0.75)  # optimzer.lr
        return near or exact
    if name in _OTHER_NAMES:
        return [_OTHER_NAMES[name]]
    own = {n: f"{group}.{n}" if group else n for n in names}
    near = difflib.get_close_matches(name, list(own), n=1, cutoff=0.6)
    if near:
        return [own[near[0]]]
    near = difflib.get_close_matches(name, list(_OTHER_NAMES), n=1, cutoff=0.75)
    if near:
        return [_OTHER_NAMES[near[0]]]
    return difflib.get_close_matches(key, _all_settings(), n=1, cutoff=0.75)


def _unknown_launcher_setting(key: str, value: str, names: Sequence[str]) -> Problem:
    options = [name for name in names if not name.startswith("_")]
    group, _, name = key.rpartition(".")
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    executors = [k for k, own in EXECUTORS.items() if name in {f.name for f in fields(own)}]
    if group == "hydra.launcher.executor" and executors:
        fix = " or ".join(f"hydra/launcher/executor={kind}" for kind in executors)
        return Problem(key, value, "it belongs to another executor", f"add {fix}")
    if near:
        fix = f"did you mean {group}.{near[0]}?"
    elif options:
        fix = f"known here: {', '.join(options)}"
    else:
        fix = "only hydra/launcher=pack, the default, has some"
    why = "this launcher has no such setting"
    return Problem(key, value, why, f"{fix}; all are shown by {SHOW_LAUNCHER}")


def _options_with(group: str, name: str) -> list[str]:
    """Return options of ``group`` whose variant has a setting ``name``: one for each variant."""
    variants = all_variants().get(group, {}) if group else {}
    owners = [kind for kind, node in variants.items() if name in {f.name for f in fields(node)}]
    options = _option_of_variants(group)
    return [options[kind] for kind in owners if kind in options]


@cache
def _option_of_variants(group: str) -> dict[str, str]:
    """Return, for each variant of a group, the option of this name, or else the first that is one.

    An option says in its defaults list which variant it is: ``/schema/model@_here_: wheel``.
    """
    result: dict[str, str] = {}
    for file in sorted((CONF / group).glob("*.yaml")):
        match = re.search(rf"/schema/{group}@_here_: (\w+)", file.read_text())
        if match and (match[1] not in result or file.stem == match[1]):
            result[match[1]] = file.stem
    return result


def _in_any_group(name: str) -> list[str]:
    """Return the full keys of the settings of this name."""
    return [key for key in _all_settings() if key.rpartition(".")[2] == name]


@cache
def _all_settings() -> list[str]:
    """Return the full keys of the settings of all groups and variants."""
    keys = [f.name for f in fields(TrainConfig)]
    for group, kinds in all_variants().items():
        keys += [f"{group}.{f.name}" for kind in kinds.values() for f in fields(kind)]
    return list(dict.fromkeys(keys))


def nearest_option(word: str, options: Sequence[str]) -> str:
    """Return the advice for an option that a group does not have."""
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    listed = f"options: {', '.join(options)}" if options else "see the folders in conf/"
    return f"did you mean {near[0]}? ({listed})" if near else listed
