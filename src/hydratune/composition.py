"""Hydra around a command: composition, name resolvers, and every error as one clear message with
its exit code.
"""

import difflib
import math
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins import hydratune_sweeper
from hydratune.bounds import check_yaml
from hydratune.console import complain
from hydratune.errors import ConfigError, HydratuneError, InputError, Problem
from hydratune.experiment import frame
from hydratune.settings.checks import configuration_problems
from hydratune.settings.commands import COMMANDS, TrainConfig, register_commands
from hydratune.settings.registry import all_variants, typed
from hydratune.settings.secrets import mask, refuse_secrets

CONF = next(
    path
    for path in (Path(__file__).parents[2] / "conf", Path(__file__).parent / "conf")
    if path.is_dir()
).resolve()  # beside src/ in a clone, inside the package in a wheel
_OTHER_NAMES = {  # what other tools call it
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
_WAY_OF_SEARCHING = ("sampler", "seed", "objectives", "options")  # of hydra.sweeper
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")


def _run_name(name: str | None, data: str) -> str:
    """``name``, or the data set's where it is null. One folder under outputs/, never a path."""
    name = data if name is None else name
    if not _NAME.fullmatch(str(name)) or ".." in str(name):
        fix = "use letters, digits, '.', '_', '-' only; to choose a place, set hydra.run.dir=DIR"
        raise ConfigError(
            [
                Problem(
                    "name",
                    name,
                    "the name becomes a folder under outputs/ and must stay there",
                    fix,
                )
            ]
        )
    return str(name)


def sweep_name(
    name: str,
    overrides: Sequence[str],
    params: dict[str, str] | None,
    sweeper: Mapping[str, Any] | None = None,
) -> str:
    """``<name>-<swept keys>-<hash>``: the same sweep always has the same name, another sweep
    another.

    ``sweeper``: of a search the way of searching counts as well, but not the number of trials: more
    continue it.
    """
    from hydratune.data.rows import stable_hash

    asked = [
        o for o in overrides if not o.startswith("resume=")
    ]  # how to go on does not make it another sweep
    settings = [f"{key}={value}" for key, value in (params or {}).items()] + asked
    swept = [
        s.split("=", 1)[0].lstrip("+").rsplit(".", 1)[-1] for s in settings if "," in s or "(" in s
    ]
    settings += [
        f"hydra.sweeper.{key}={sweeper[key]}"
        for key in _WAY_OF_SEARCHING
        if sweeper and key in sweeper
    ]
    return "-".join([name, *dict.fromkeys(swept), stable_hash(sorted(settings))[:8]])


def register() -> None:
    """Make the settings, the sweepers and the resolvers of ``conf/`` known to Hydra."""
    register_commands()
    hydratune_sweeper.register()
    OmegaConf.register_new_resolver("run_name", _run_name, replace=True)
    OmegaConf.register_new_resolver(
        "path_name", lambda path: Path(str(path)).name or "model", replace=True
    )
    OmegaConf.register_new_resolver(
        "unless", lambda other, value: value if other is None else None, replace=True
    )
    OmegaConf.register_new_resolver("mul", lambda *factors: math.prod(factors), replace=True)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)


def run_command(command: str, args: Sequence[str]) -> int:
    """Composes ``conf/<command>.yaml`` with ``args`` and runs the command.

    Returns the exit code.
    """
    register()
    switches = [
        arg for arg in args if arg in ("-m", "--multirun", "--resolve")
    ]  # argparse wants them before the settings
    args = [*switches, *(arg for arg in args if arg not in switches)]
    full_argv = [sys.argv[0], command, *args]
    raised: list[Exception] = []
    try:  # before Hydra writes anything down
        refuse_secrets(args)
        for folder in _own_folders(args):
            for file in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
                check_yaml(file)
    except InputError as error:
        complain(f"hydratune {command}: {error}")
        return error.exit_code

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)
    def job(composed: DictConfig) -> None:
        sys.argv = full_argv  # Lightning starts the other ranks of a data-parallel run from it
        try:
            frame.execute(
                composed,
                COMMANDS[command],
                lambda: import_module(f"hydratune.commands.{command}").run,
            )
        except (
            Exception
        ) as error:  # raised again below: Hydra would print its own line about it first
            raised.append(error)

    completes = "-sc" in args or "--shell-completion" in args  # for which the program has one word
    before, sys.argv = sys.argv, ["hydratune" if completes else f"hydratune {command}", *args]
    wants_traceback = "1" in (
        os.environ.get("HYDRA_FULL_ERROR"),
        os.environ.get("HYDRATUNE_TRACEBACK"),
    )
    given = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of to Hydra's own printer
    try:
        job()
        if raised:
            raise raised[0]
        return 0
    except KeyboardInterrupt:
        complain("\ninterrupted")
        return 130
    except (HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            complain(traceback.format_exc())
        explained = _explain(error, command, args)
        complain(f"\nhydratune {command}: {explained}")
        return explained.exit_code
    except (
        OSError
    ) as error:  # Hydra makes the run directory before the job's frame can explain anything
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        what += (
            " (a part of this path is a file)"
            if isinstance(error, NotADirectoryError | FileExistsError)
            else ""
        )
        complain(f"\nhydratune {command}: {what}; a run's place is chosen with hydra.run.dir=DIR")
        return InputError.exit_code
    except RecursionError:
        complain(
            f"\nhydratune {command}: a setting is nested too deeply to be read; give it in a file,"
            " such as data.schema_file=FILE"
        )
        return InputError.exit_code
    except Exception as error:
        if wants_traceback:
            complain(traceback.format_exc())
        complain(
            f"\nhydratune {command}: unexpected error: {mask(f'{type(error).__name__}: {error}')}"
        )
        complain("  HYDRATUNE_TRACEBACK=1 shows where; a file it read may have been changed or cut")
        return HydratuneError.exit_code
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if given is not None:
            os.environ["HYDRA_FULL_ERROR"] = given


def _own_folders(args: Sequence[str]) -> Iterator[Path]:
    """Folders with settings of the user's own: ``--config-dir``, and ``hydra.searchpath``."""
    for arg, following in zip(args, [*args, ""][1:], strict=True):
        name, _, value = arg.lstrip("+~").partition("=")
        if name in ("-cd", "--config-dir"):
            yield Path(value or following)
        elif name == "hydra.searchpath":
            yield from (
                Path(one.strip(" '\"").removeprefix("file://"))
                for one in value.strip("[]").split(",")
            )


def _explain(error: Exception, command: str, args: Sequence[str]) -> HydratuneError:
    """Turns what Hydra or OmegaConf raised into one of our errors."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HydratuneError):
            return cause
        cause = cause.__cause__ or cause.__context__
    overrides = [arg for arg in args if "=" in arg and not arg.startswith("-")]
    if "-m" not in args and "--multirun" not in args:
        own_folders = [arg for arg in args if arg.startswith(("-cd", "--config-dir"))] or [
            o for o in overrides if "searchpath" in o
        ]
        # it knows the shipped settings only
        problems = [] if own_folders else composition_problems(command, overrides)
        if problems:
            return ConfigError(problems)
    problem = _problem(error, overrides)
    return ConfigError([problem]) if problem else InputError(_first_lines(str(error)))


def composition_problems(command: str, overrides: Sequence[str]) -> list[Problem]:
    """Every problem of ``overrides``:

    Hydra stops at the first, so drop what it complains about and compose again.
    """
    problems: list[Problem] = []
    left = [o for o in overrides if not o.lstrip("+~").startswith("hydra")]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        while True:
            try:
                composed = hydra.compose(command, left, return_hydra_config=False)
                return problems + configuration_problems(typed(composed, COMMANDS[command]))
            except (HydraException, OmegaConfBaseException) as error:
                problem = _problem(error, left)
                if problem is None:
                    return problems
                problems.append(problem)
                fewer = [o for o in left if o.lstrip("+~").split("=", 1)[0] != problem.key]
                if len(fewer) == len(left):  # not one of the overrides: nothing to drop
                    return problems
                left = fewer


def _problem(error: BaseException, overrides: Sequence[str]) -> Problem | None:
    """What a Hydra or OmegaConf error says about one setting, with the nearest valid name for a
    typo.
    """
    text = str(error)
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    values = dict(o.lstrip("+~").split("=", 1) for o in overrides if "=" in o)
    for door in ("hydra.launcher", "hydra.sweeper"):
        if values.get(door, "{").isidentifier():  # it would replace the settings of what is chosen
            group = door.replace(".", "/")
            return Problem(
                door,
                values[door],
                "it is chosen with a slash, not with a dot",
                f"{group}={values[door]}",
            )
    if values.get("hydra.launcher.halving", "{").isdigit():
        steps = values["hydra.launcher.halving"]
        return Problem(
            "hydra.launcher.halving",
            steps,
            "it has several settings",
            f"hydra.launcher.halving.min_steps={steps}",
        )

    if isinstance(error, OverrideParseException):
        return Problem(error.override, "", *_unreadable(error.override, text))
    match = re.search(r"Ambiguous value for argument '([^=']+)=([^']*)'", text)
    if match:
        return Problem(
            match[1],
            match[2],
            "several values are a sweep",
            f"add -m for a sweep, or write a list: {match[1]}=[{match[2]}]",
        )
    interval = next((key for key, value in values.items() if "interval(" in value), "")
    if "does not support sweep type" in text and interval:
        why = "a grid runs every value, and an interval has no end of them"
        return Problem(
            interval,
            values[interval],
            why,
            "add hydra/sweeper=optuna or hydra/sweeper=random, or name the values: a,b,c",
        )
    match = re.search(r"Could not override '([^']+)'\.\s*No match in the defaults list", text)
    if match:
        return _unknown(match[1], values.get(match[1], ""), all_variants(), "")
    match = re.search(
        r"In '[^']*': Could not find '([^']+)/([^'/]+)'(?:\s*\n\nAvailable options in"
        r" '[^']*':\n(.*?))?\n(?:Config|$)",
        text,
        re.S,
    )
    if match:
        options = [line.strip() for line in (match[3] or "").splitlines() if line.strip()]
        if match[1] == "data" and "." in match[2]:
            return Problem(
                "data",
                match[2],
                "this is the place for a kind of data, not for a file",
                f"data=files data.train={match[2]}",
            )
        return Problem(
            match[1],
            match[2],
            f"there is no such option in the group {match[1]!r}",
            _nearest(match[2], options),
        )
    match = re.search(
        r"(?:In '([^']+)': )?.*Invalid value 'False', expected one of \[.*\boff\b", text, re.S
    )
    if match:
        return Problem(
            match[1] or "data.quality",
            "off",
            "YAML reads off as false",
            'write it in quotes: "off"',
        )
    match = re.search(r"Could not override '([^']+)'", text)
    key = match[1] if match else getattr(cause, "full_key", None)
    if not key:
        return None
    if "mandatory" in text.lower() or "Missing" in type(cause).__name__:
        return Problem(
            key, "???", "this setting has no default", f"give it on the command line: {key}=VALUE"
        )
    message = _first_lines(str(cause), 1)
    if values.get(key, "").startswith("{") and "not in" in message:
        fix = (
            f"{_LAUNCHER} shows what there is"
            if key.startswith("hydra")
            else f"a key that is not there yet is added: +{key}.NAME=VALUE"
        )
        return Problem(key, values[key], message, fix)
    if values.get(key, "").startswith("{"):
        return Problem(
            key, values[key], "keys of a mapping are added one by one", f"+{key}.NAME=VALUE"
        )
    if "not in" in message or (match and not isinstance(error.__cause__, OmegaConfBaseException)):
        kind = getattr(cause, "object_type", None)
        names = [f.name for f in fields(kind)] if is_dataclass(kind) else []
        return _unknown(key, values.get(key, ""), names, key.rpartition(".")[0])
    if key not in values:
        prefix = [k for k in values if key.startswith(k) or k.startswith(key)]
        key = prefix[0] if prefix else key
    return Problem(key, values.get(key, ""), message, _expected(key))


def _unknown(key: str, value: str, names: Any, parent: str) -> Problem:
    """``key`` does not exist; ``names`` exist where it was looked for."""
    name = key.rpartition(".")[2]
    if key.startswith("hydra.launcher."):
        options = [n for n in names if n != "_target_"]
        near = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
        fix = (
            f"did you mean hydra.launcher.{near[0]}?"
            if near
            else f"known here: {', '.join(options)}"
        )
        if not options:
            fix = "only hydra/launcher=pack, the default, has some"
        return Problem(
            key, value, "this launcher has no such setting", f"{fix}; all are shown by {_LAUNCHER}"
        )
    kinds = all_variants().get(parent, {}).items() if parent else ()
    owners = [kind for kind, node in kinds if name in {f.name for f in fields(node)}]
    if owners and name not in names:
        return Problem(
            key,
            value,
            f"only {' and '.join(f'{parent}={o}' for o in owners)} has it",
            f"add {parent}={owners[0]} {key}={value}",
        )
    shown = ", ".join(sorted(names))
    everywhere = {
        f.name: f"{group}.{f.name}"
        for group, kinds in all_variants().items()
        for kind in kinds.values()
        for f in fields(kind)
    }
    own = {n: f"{parent}.{n}" if parent else n for n in names}
    meant = {**_OTHER_NAMES, **own}
    near = difflib.get_close_matches(name, list(meant), n=1, cutoff=0.6) or [name]
    known = meant.get(near[0]) or everywhere.get(name, "")
    fix = (
        f"did you mean {known}?"
        if known
        else f"known here: {shown}"
        if shown
        else "see hydratune train --cfg job"
    )
    return Problem(key, value, "there is no such setting", fix)


def _unreadable(override: str, text: str) -> tuple[str, str]:
    """(why, fix) for an override that Hydra's grammar refuses."""
    key, equals, value = override.partition("=")
    if not equals:
        return "a setting is written KEY=VALUE, without spaces", f"{key}=VALUE"
    return _first_lines(text, 1), f"quote a value that holds special signs: '{key}=\"{value}\"'"


def _nearest(word: str, options: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    listed = f"options: {', '.join(options)}" if options else "see the folders in conf/"
    return f"did you mean {near[0]}? ({listed})" if near else listed


_LAUNCHER = "hydratune train --cfg hydra -p hydra.launcher"


def _expected(key: str) -> str:
    """What the type of ``key`` allows, in words."""
    group, _, name = key.rpartition(".")
    kinds = all_variants().get(group, {}).values() if group else [TrainConfig]
    kind = next((f.type for k in kinds for f in fields(k) if f.name == name), None)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of: {', '.join(member.name for member in kind)}"
    optional = " or null" if "None" in str(kind) else ""
    words = {"list": "a list such as [a,b], in brackets even if it has one entry"}
    words |= {"bool": "true or false", "float": "a number such as 1e-4", "int": "a whole number"}
    named = next((text for word, text in words.items() if word in str(kind)), "")
    where = _LAUNCHER if key.startswith("hydra.launcher") else "hydratune train --cfg job"
    return f"give {named}{optional}" if named else f"{where} shows its type"


def _first_lines(text: str, count: int = 6) -> str:
    lines = [
        line
        for line in text.strip().splitlines()
        if not line.strip().startswith(("full_key:", "object_type="))
    ]
    return "\n".join(lines[:count])
