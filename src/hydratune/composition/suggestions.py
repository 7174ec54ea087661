"""What was probably meant by a setting that does not exist, and what type one has."""

import difflib
from collections.abc import Sequence
from dataclasses import fields
from enum import Enum

from hydratune.errors import Problem
from hydratune.settings.commands import TrainConfig
from hydratune.settings.registry import all_variants

SHOW_LAUNCHER = "hydratune train --cfg hydra -p hydra.launcher"
_SHOW_SETTINGS = "hydratune train --cfg job"
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
}


def unknown_setting(key: str, value: str, names: Sequence[str], group: str) -> Problem:
    """Return the problem of a ``key`` that does not exist.

    ``names``: the settings that its ``group`` has; ``group`` is "" at the top level.
    """
    name = key.rpartition(".")[2]
    if key.startswith("hydra.launcher."):
        return _unknown_launcher_setting(key, value, names)
    if name not in names:
        owners = _variants_with(group, name)
        if owners:
            why = f"only {' and '.join(f'{group}={owner}' for owner in owners)} has it"
            return Problem(key, value, why, f"add {group}={owners[0]} {key}={value}")
    meant = {**_OTHER_NAMES, **{n: f"{group}.{n}" if group else n for n in names}}
    near = difflib.get_close_matches(name, list(meant), n=1, cutoff=0.6) or [name]
    suggestion = meant.get(near[0]) or _in_any_group(name)
    if suggestion:
        fix = f"did you mean {suggestion}?"
    elif names:
        fix = f"known here: {', '.join(sorted(names))}"
    else:
        fix = f"see {_SHOW_SETTINGS}"
    return Problem(key, value, "there is no such setting", fix)


def _unknown_launcher_setting(key: str, value: str, names: Sequence[str]) -> Problem:
    options = [name for name in names if name != "_target_"]
    near = difflib.get_close_matches(key.rpartition(".")[2], options, n=1, cutoff=0.6)
    if near:
        fix = f"did you mean hydra.launcher.{near[0]}?"
    elif options:
        fix = f"known here: {', '.join(options)}"
    else:
        fix = "only hydra/launcher=pack, the default, has some"
    why = "this launcher has no such setting"
    return Problem(key, value, why, f"{fix}; all are shown by {SHOW_LAUNCHER}")


def _variants_with(group: str, name: str) -> list[str]:
    """Return the variants of ``group`` that have a setting ``name``."""
    variants = all_variants().get(group, {}) if group else {}
    return [kind for kind, node in variants.items() if name in {f.name for f in fields(node)}]


def _in_any_group(name: str) -> str:
    """Return the full key of a setting that any group has, or ""."""
    keys = {
        field.name: f"{group}.{field.name}"
        for group, kinds in all_variants().items()
        for kind in kinds.values()
        for field in fields(kind)
    }
    return keys.get(name, "")


def nearest_option(word: str, options: Sequence[str]) -> str:
    """Return the advice for an option that a group does not have."""
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    listed = f"options: {', '.join(options)}" if options else "see the folders in conf/"
    return f"did you mean {near[0]}? ({listed})" if near else listed


def describe_type(key: str) -> str:
    """Return, in words, what the type of the setting ``key`` allows."""
    group, _, name = key.rpartition(".")
    kinds = all_variants().get(group, {}).values() if group else [TrainConfig]
    kind = next((f.type for k in kinds for f in fields(k) if f.name == name), None)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of: {', '.join(member.name for member in kind)}"
    words = {
        "list": "a list such as [a,b], in brackets even if it has one entry",
        "bool": "true or false",
        "float": "a number such as 1e-4",
        "int": "a whole number",
    }
    description = next((text for word, text in words.items() if word in str(kind)), "")
    if description:
        return f"give {description}{' or null' if 'None' in str(kind) else ''}"
    where = SHOW_LAUNCHER if key.startswith("hydra.launcher") else _SHOW_SETTINGS
    return f"{where} shows its type"
