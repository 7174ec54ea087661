"""hydratune sweep SWEEP: train trials of a W&B sweep, several at a time in one process.

It is ``hydratune train -m hydra/sweeper=wandb``; ``sweeps.wandb_sweep.run`` is the whole story.
"""

from collections.abc import Sequence
from pathlib import Path

from hydratune.errors import InputError
from hydratune.settings.overrides import quoted_value

HELP = """\
usage: hydratune sweep SWEEP [count=N] [together=K] [SETTING=VALUE ...] [FLAG ...]

SWEEP is a sweep on the W&B server, as ID, PROJECT/ID, ENTITY/PROJECT/ID or its address; or a YAML
file such as sweeps/wandb/rank.yaml, of which a sweep is created. Its trials are trained together
in one process, and each is its own run of the sweep. Stop on W&B's page stops one trial, or all.
The same command, typed again, resumes what was interrupted; typed twice, the trials are divided.

options:
  count=N              trials that this driver runs at most; without it, all of the sweep
  together=4           trials that are asked for, and trained, together
  SETTING=VALUE        as of hydratune train, for every trial; settings in the command of the sweep
                       count as well (hydratune train --help lists them)
  hydra.launcher.together=4   trials that compute at the same time; the others wait their turn
"""
_OPTIONS = ("count", "together")
_SUFFIXES = (".yaml", ".yml")


def train_arguments(args: Sequence[str]) -> list[str]:
    """Return the arguments of ``hydratune train`` that do what ``args`` ask of this command.

    Raises ``InputError``.
    """
    targets = [word for word in args if _is_target(word, args)]
    if len(targets) != 1:
        what = f"and not {len(targets)}: {' '.join(targets)}" if targets else "and there is none"
        raise InputError(
            f"one sweep is needed, {what}; give ENTITY/PROJECT/ID, or a file such as"
            " sweeps/wandb/rank.yaml"
        )
    target = targets[0]
    is_file = target.endswith(_SUFFIXES) and "://" not in target
    if is_file and not Path(target).expanduser().is_file():
        raise InputError(f"{target}: no such file; give the YAML file of a W&B sweep, or its id")
    key = "hydra.sweeper.file" if is_file else "hydra.sweeper.sweep"
    words = []
    for word in args:
        name = word.removeprefix("--").partition("=")[0]
        if name in _OPTIONS and "=" in word:
            _check_number(word.removeprefix("--"))
            words.append(f"hydra.sweeper.{word.removeprefix('--')}")
        elif word != target and word not in ("-m", "--multirun"):
            words.append(word)
    return ["-m", "hydra/sweeper=wandb", f"{key}={quoted_value(target)}", *words]


def _check_number(option: str) -> None:
    """Raise ``InputError`` if the value of ``count=`` or ``together=`` is no whole number."""
    name, _, value = option.partition("=")
    if not value.isdecimal() and not (name == "count" and value == "null"):
        raise InputError(f"{option}: give a whole number of trials, such as {name}=4")


def _is_target(word: str, args: Sequence[str]) -> bool:
    """Return whether a word names the sweep: it is no setting, flag, or value of a flag."""
    if word.startswith("-") or ("=" in word and "://" not in word):
        return False
    before = args[args.index(word) - 1] if args.index(word) else ""
    return before not in ("-cd", "--config-dir", "-cn", "--config-name", "-p", "--package")
