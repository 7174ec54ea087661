"""The command as the user typed it, for the page of a run and for commands that are suggested."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydratune.settings.secrets import mask

_VARIABLE = "HYDRATUNE_TYPED"  # the command of a sweep, for the process of a pack, as JSON
_PROGRAM = "hydratune"
_OWN_FOLDER = ("-cd", "--config-dir")  # flags that name a folder with settings of the user


def typed_command() -> tuple[str, list[str]] | None:
    """Return the program and the arguments: ``("hydratune train", ["model=tiny"])``.

    None if the process was not started by the command line.
    """
    if handed := os.environ.get(_VARIABLE):
        program, *arguments = json.loads(handed)
        return str(program), [str(argument) for argument in arguments]
    first, *arguments = sys.argv
    if first.startswith(f"{_PROGRAM} "):  # as Hydra is given it
        return first, arguments
    is_ours = Path(first).stem == _PROGRAM or Path(first).parts[-2:] == (_PROGRAM, "__main__.py")
    if not is_ours or not arguments:
        return None
    return f"{_PROGRAM} {arguments[0]}", arguments[1:]


def typed_settings(is_kept: Callable[[str], bool]) -> list[str]:
    """Return the typed settings whose key ``is_kept``, and the folders of the user's own settings.

    Secrets in them are masked. Empty if the process was not started by the command line.
    """
    command = typed_command()
    words = command[1] if command is not None else []
    kept: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        key, equals, _ = word.partition("=")
        if key in _OWN_FOLDER:
            kept += [word] if equals else [word, following]
        elif equals and not key.startswith("-") and is_kept(key.lstrip("+~")):
            kept.append(mask(word))
    return kept


def environment_with_command(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` with the command of this process, for a process that it starts."""
    command = typed_command()
    typed = {_VARIABLE: json.dumps([command[0], *command[1]])} if command is not None else {}
    return {**environment, **typed}


@contextmanager
def typed_as(program: str, arguments: Sequence[str]) -> Iterator[None]:
    """Let the block, which runs another command than the user typed, show the typed one."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = json.dumps([program, *arguments])
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE)
        if before is not None:
            os.environ[_VARIABLE] = before


def use_typed_command() -> None:
    """Give this process, which a sweep started, the command of the sweep as ``sys.argv``."""
    if os.environ.get(_VARIABLE) and (command := typed_command()) is not None:
        sys.argv = [command[0], *command[1]]


@contextmanager
def shown_as_typed(arguments: Sequence[str]) -> Iterator[None]:
    """Let W&B's client, which reads ``sys.argv``, see these arguments inside the block.

    Nothing changes in the process of a pack, whose ``sys.argv`` is right from its start: several
    of its threads may start a run at the same time.
    """
    shown = [mask(argument) for argument in arguments]
    if sys.argv[1:] == shown:
        yield
        return
    before = sys.argv
    sys.argv = [before[0], *shown]
    try:
        yield
    finally:
        sys.argv = before
