"""Compose the settings of a command, run it, and turn every error into a message and exit code."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra._internal.hydra import Hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from hydratune import lean_imports
from hydratune.bounds import check_yaml
from hydratune.composition.arguments import (
    check_settings,
    expand_home,
    flag_that_shows,
    read_arguments,
    repeated_settings,
)
from hydratune.composition.code_paths import code_refused
from hydratune.composition.hydra_settings import OF_SWEEPS
from hydratune.composition.mappings import schema_problem
from hydratune.composition.problems import explain
from hydratune.composition.resolvers import CONF, register
from hydratune.console import print_error
from hydratune.errors import ConfigError, HydratuneError, InputError, summarise
from hydratune.experiment import lifecycle
from hydratune.settings.commands import COMMANDS
from hydratune.settings.secrets import mask, refuse_secrets


def run_command(command: str, args: Sequence[str], shown: str | None = None) -> int:
    """Compose ``conf/<command>.yaml`` with ``args`` and run the command. Returns the exit code.

    ``shown``: the name of the command in messages, if the user typed another one.
    """
    register()
    shown = shown or command
    wants_traceback = "1" in map(os.environ.get, ("HYDRA_FULL_ERROR", "HYDRATUNE_TRACEBACK"))
    try:
        args = _read(command, args)
    except InputError as error:
        print_error(f"hydratune {shown}: {error}")
        return error.exit_code
    argv = [sys.argv[0], command, *args]
    try:
        with _environment_of_hydra(command, args):
            _compose_and_execute(command, argv)
    except KeyboardInterrupt:
        print_error("\ninterrupted")
        return 130
    except Exception as error:
        if wants_traceback and not isinstance(error, OSError | RecursionError):
            print_error(traceback.format_exc())
        return _report(error, command, args, shown)
    return 0


def _read(command: str, args: Sequence[str]) -> list[str]:
    """Return ``args`` as Hydra takes them.

    Refuses what Hydra must not read: secrets, missing folders, files that take too long.
    Raises ``InputError``.
    """
    refuse_secrets(list(args))
    args = expand_home(args)
    arguments = read_arguments(args, command)
    for folder in _own_folders(args):
        for file in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
            check_yaml(file)
    is_sweep = "-m" in arguments.flags or "--multirun" in arguments.flags
    if is_sweep and command not in OF_SWEEPS:
        raise InputError("this command runs once; for a sweep use hydratune train -m")
    shows = flag_that_shows(arguments.flags) is not None
    checked = check_settings(arguments.settings, command, is_sweep=is_sweep, shows=shows)
    for notice in repeated_settings(arguments.settings):
        print_error(f"hydratune {command}: {notice}")
    return [*arguments.flags, *checked]


def _own_folders(args: Sequence[str]) -> Iterator[Path]:
    """Yield the folders with settings of the user: ``--config-dir`` and ``hydra.searchpath``."""
    for arg, following in zip(args, [*args, ""][1:], strict=True):
        name, _, value = arg.lstrip("+~").partition("=")
        if name in ("-cd", "--config-dir"):
            yield _existing(Path(value or following))
        elif name == "hydra.searchpath":
            for folder in value.strip("[]").split(","):
                yield Path(folder.strip(" '\"").removeprefix("file://"))


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(
            f"--config-dir {folder}: no such folder; give the folder that holds your settings: that"
            " of experiment=NAME is the file experiment/NAME.yaml in it"
        )
    return folder


@contextmanager
def _environment_of_hydra(command: str, args: Sequence[str]) -> Iterator[None]:
    """Give Hydra its command line, and have it raise errors instead of printing them."""
    completes = "-sc" in args or "--shell-completion" in args  # the program is then one word
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    get_mode = Hydra.get_mode
    sys.argv = ["hydratune" if completes else f"hydratune {command}", *args]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if not _may_set_mode(args):
        Hydra.get_mode = lambda *args, **kwargs: None  # type: ignore[method-assign]
    try:
        with code_refused():
            yield
    finally:
        sys.argv = argv
        Hydra.get_mode = get_mode  # type: ignore[method-assign]
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _may_set_mode(args: Sequence[str]) -> bool:
    """Return whether ``hydra.mode`` may be set, for which Hydra composes all settings once more.

    No settings of this package do; they leave it to ``-m``.
    """
    return any(_own_folders(args)) or any("hydra.mode" in arg for arg in args)


def _compose_and_execute(command: str, argv: list[str]) -> None:
    """Let Hydra read the command line and run the command once, or once per job of a sweep.

    ``argv``: the command line from which Lightning starts the other processes of a data-parallel
    run. Raises whatever the command raises, later than Hydra, which would print a line of its own.
    """
    raised: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)
    def job(composed: DictConfig) -> None:
        sys.argv = argv
        try:
            with lean_imports.garbage_collection_paused() as resume:
                lifecycle.execute(composed, COMMANDS[command], lambda: _load(command, resume))
        except Exception as error:
            raised.append(error)

    job()
    if raised:
        raise raised[0]


def _load(command: str, resume_garbage_collection: Callable[[], None]) -> lifecycle.Command:
    """Import a command, the end of the start-up."""
    module = lean_imports.load(f"hydratune.commands.{command}")
    resume_garbage_collection()
    return module.run


def _report(error: Exception, command: str, args: Sequence[str], shown: str) -> int:
    """Print an error as one message. Returns the exit code."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        explained = explain(error, command, args)
        print_error(f"\nhydratune {shown}: {explained}")
        return explained.exit_code
    if isinstance(error, OSError):  # Hydra makes the run directory before a command can check it
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        if isinstance(error, NotADirectoryError | FileExistsError):
            what += " (a part of this path is a file)"
        hint = "the folder of a run is chosen with hydra.run.dir=DIR"
        if {"-m", "--multirun"} & set(args):
            hint = "the folder of a sweep is chosen with hydra.sweep.dir=DIR"
        print_error(f"\nhydratune {shown}: {what}; {hint}")
        return InputError.exit_code
    schema = schema_problem(error, args)
    if schema is not None:
        print_error(f"\nhydratune {command}: {ConfigError([schema])}")
        return ConfigError.exit_code
    if isinstance(error, RecursionError):
        print_error(
            f"\nhydratune {shown}: a setting is nested too deeply to be read; give it in a file,"
            " such as data.schema_file=FILE"
        )
        return InputError.exit_code
    print_error(f"\nhydratune {shown}: unexpected error: {mask(summarise(error))}")
    has_notes = hasattr(error, "__notes__")  # they say where it comes from
    hint = "" if has_notes else "; a file it read may have been changed or cut"
    print_error(f"  HYDRATUNE_TRACEBACK=1 shows where{hint}")
    return HydratuneError.exit_code
