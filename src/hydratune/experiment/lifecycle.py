"""What surrounds a command: settings are checked, the status is kept, every end has an exit code.

A command gets typed settings from here, never a ``DictConfig``. Every error of a run that has
started ends here: as a state in status.json, and as a ``HydratuneError`` with an exit code.
"""

import errno
import logging
import os
import re
import shlex
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from hydratune.adapters.folder import use_saved_settings
from hydratune.console import console, print_error
from hydratune.data.source_errors import check_first_rows
from hydratune.errors import (
    ConfigError,
    HydratuneError,
    InputError,
    Paused,
    Problem,
    RunInterrupted,
    refuse,
    summarise,
)
from hydratune.experiment import extension
from hydratune.experiment.idle_settings import without_effect
from hydratune.experiment.interrupts import listen
from hydratune.records.files import write_text
from hydratune.records.run_directory import RunDirectory, RunFile, alone, is_main_process
from hydratune.records.status import BY_SIGNAL, State, Status
from hydratune.records.sweep import read_sweep
from hydratune.settings.commands import CommandConfig, Resume, TrainConfig
from hydratune.settings.data import DataConfig
from hydratune.settings.overrides import typed_overrides
from hydratune.settings.registry import typed
from hydratune.settings.secrets import mask
from hydratune.settings.used_parts import only_in_this_process, part_that_raised

log = logging.getLogger(__name__)
_NO_MEMORY = "out of memory"
_NO_SPACE = "No space left on device"
STARTED = time.perf_counter()  # this module is imported before anything slow
Command = Callable[[Any, RunDirectory], None]  # each command has its own class of settings


def execute(composed: DictConfig, kind: type[CommandConfig], load: Callable[[], Command]) -> None:
    """Check ``composed`` as an instance of ``kind``, then run the command that ``load`` imports.

    The command is imported after the check, because it imports torch. Only ``train`` keeps a
    record in its directory. Raises ``HydratuneError`` for whatever went wrong and
    ``KeyboardInterrupt`` if the user stopped the run; its status says the same.
    """
    settings = HydraConfig.get()
    if settings.mode != RunMode.RUN:
        raise InputError(
            "this command runs one job; for a sweep use hydratune train -m, with"
            " hydra/launcher=pack or process"
        )
    directory = RunDirectory(Path(settings.runtime.output_dir))
    try:
        config = typed(composed, kind)
        if isinstance(config, TrainConfig):
            config = _complete(config, directory, settings)
            check_run(config)
            _say_what_has_no_effect(config, settings)
        else:
            config.check()
            _say_what_is_idle(config, settings)
            data = getattr(config, "data", None)
            if isinstance(data, DataConfig):
                check_first_rows(data)
        keeps_record = kind is TrainConfig and is_main_process()
        if not isinstance(config, TrainConfig) or config.preview:
            keeps_record = False
        if keeps_record:
            refuse_foreign_directory(directory, extending=_extends(config))
    except BaseException:
        _discard_unused(directory)
        raise
    if not keeps_record or not isinstance(config, TrainConfig):
        load()(config, directory)
        _discard_unused(directory)
        return
    listen()
    with kept_record(config, directory):
        overrides = typed_overrides(settings.overrides.task)
        write_hydra_files(directory, composed, settings, overrides)
        load()(config, directory)


def check_run(config: TrainConfig) -> None:
    """Check the settings of a run, the first rows of its files, and what packages bring.

    Raises ``ConfigError`` and ``DataError``.
    """
    config.check()
    check_first_rows(config.data)
    _check_parts(config)


@contextmanager
def kept_record(config: TrainConfig, directory: RunDirectory) -> Iterator[None]:
    """Keep the record of the run that the block performs, in a directory that is its own."""
    with alone(directory.path):
        finished = directory.read_status() if directory.is_finished() else None
        begin(config, directory)
        with _restored_if_untrained(directory, finished), recorded(config, directory):
            yield


def _check_parts(config: TrainConfig) -> None:
    """Import the callbacks, and refuse what the other processes of a run would lack.

    Raises ``ConfigError``.
    """
    if config.trainer.callbacks:
        from hydratune.training.callbacks import check_callbacks  # imports torch

        check_callbacks(config.trainer)
    if config.trainer.strategy != "auto":
        refuse(only_in_this_process(config))


def _say_what_has_no_effect(config: TrainConfig, settings: HydraConf) -> None:
    """Print the settings that the user typed and that change nothing beside the others."""
    if is_main_process():
        for sentence in without_effect(config, typed_overrides(settings.overrides.task)):
            console.print(f"[yellow]{escape(sentence)}", soft_wrap=True)


def _say_what_is_idle(config: CommandConfig, settings: HydraConf) -> None:
    """Print the settings of another command than ``train`` that change nothing."""
    idle = config.idle()
    for override in typed_overrides(settings.overrides.task):
        if why := idle.get(override.lstrip("+").partition("=")[0]):
            print_error(f"{override} has no effect: {why}")


def _complete(config: TrainConfig, directory: RunDirectory, settings: HydraConf) -> TrainConfig:
    """Return ``config`` with its name, and with what it takes from an earlier run or adapter."""
    config.name = config.name or str(settings.runtime.choices["data"])
    overrides = typed_overrides(settings.overrides.task)
    command = settings.job.config_name or "train"
    _refuse_sweep_without_m(settings.runtime.choices.get("sweep"), directory, command, overrides)
    if config.resume is Resume.extend:
        config = extension.settings(config, directory, overrides)
    use_saved_settings(config, overrides)
    return config


def _extends(config: object) -> bool:
    """Return whether a finished run is trained further."""
    return isinstance(config, TrainConfig) and config.resume is Resume.extend


@contextmanager
def _restored_if_untrained(directory: RunDirectory, finished: Status | None) -> Iterator[None]:
    """Restore a run whose extension fails before it has trained anything.

    ``finished``: the status of the run before that, or None if it was not finished.
    """
    try:
        yield
    except BaseException:
        if finished is not None and not directory.history_file.is_file():
            directory.restore_finished(finished)
        raise


def begin(config: TrainConfig, directory: RunDirectory) -> None:
    """Prepare the directory for a run that starts, or is resumed from its checkpoint."""
    extending = _extends(config) and directory.is_finished()
    left_behind = directory.checkpoint_to_resume() is not None
    resumed = extending or (config.resume is not Resume.never and left_behind)
    directory.clear(
        keep_checkpoints=resumed, into=directory.next_finished_folder() if extending else None
    )
    directory.start(resumed=resumed)


@contextmanager
def recorded(config: TrainConfig, directory: RunDirectory) -> Iterator[None]:
    """Write down with which settings a run starts, and how it ends."""
    yaml = OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)
    write_text(directory.config_file, mask(yaml), digest=True)
    try:
        yield
        directory.end(State.finished)
    except (KeyboardInterrupt, RunInterrupted):
        log.warning("interrupted")
        directory.end(State.stopped, BY_SIGNAL)
        write_page(directory)
        raise
    except Paused:
        directory.change_status(Status.pause)
        raise
    except HydratuneError as error:
        log.error("%s", mask(str(error)))
        with suppress(HydratuneError):  # the status may be what cannot be written
            directory.end(State.failed, str(error))
        write_page(directory)
        raise
    except BaseException as error:
        if (part := part_that_raised(config, error)) is not None:
            error.add_note(f"it was raised in the {part.title}: {part.owner}")
        _end_unexpectedly(directory, error)
    else:
        write_page(directory)  # an interrupt of this changes nothing: the run is finished


def _end_unexpectedly(directory: RunDirectory, error: BaseException) -> NoReturn:
    """Record an unexpected error, and raise it as a ``HydratuneError``."""
    log.error("unexpected error\n%s", mask(traceback.format_exc()))
    known = _describe_out_of_memory(error) or _describe_full_disk(error, directory)
    summary = known or summarise(error)
    with suppress(HydratuneError):  # the status may be what cannot be written
        directory.end(State.failed, summary)
    if known:
        raise HydratuneError(known) from error
    raise HydratuneError(
        f"unexpected error: {mask(summary)}\n  details are in {directory.log_file}"
    ) from error


def write_page(directory: RunDirectory) -> None:
    """Write report.html, if there is anything to report. A failure does not change the run."""
    try:
        if directory.history_file.is_file():
            from hydratune.evaluation import run_report

            run_report.write(directory)
    except Exception:
        log.exception("the report could not be written; hydratune evaluate writes it again")


def _describe_out_of_memory(error: BaseException) -> str:
    """Return the message for an error that means too little memory; "" for any other."""
    text = str(error)
    by_type = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not by_type and "can't allocate memory" not in text:
        return ""
    missing = ""
    amount = re.search(r"[Tt]ried to allocate ([\d.]+) ?(\w+)", text)
    if amount:
        size = f"{amount[1]} {amount[2]}"
        if amount[2] == "bytes":
            size = f"{int(amount[1]) / 2**30:.1f} GiB"
        missing = f" ({size} more were needed)"
    fix = (
        "smaller trainer.micro_tokens, data.batch_size or data.max_length,"
        " trainer.gradient_checkpointing=true, model.quantization=nf4"
    )
    return f"{_NO_MEMORY}{missing}; what helps: {fix}"


def _describe_full_disk(error: BaseException | None, directory: RunDirectory) -> str:
    """Return the message for an error that was caused by a full disk; "" for any other."""
    while error is not None:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            place = shlex.quote(f"hydra.run.dir={directory.shown}")
            return (
                f"{_NO_SPACE} for {directory.path}; free some space, and the same command with"
                f" {place} continues"
            )
        error = error.__cause__ or error.__context__
    return ""


def write_hydra_files(
    directory: RunDirectory, composed: DictConfig, settings: HydraConf, overrides: Sequence[str]
) -> None:
    """Write what Hydra writes into .hydra, after the check of the settings and without secrets."""
    contents = {
        "config": composed,
        "hydra": {"hydra": settings},
        "overrides": list(overrides),
    }
    for name, content in contents.items():
        yaml = OmegaConf.to_yaml(OmegaConf.create(content))  # type: ignore[call-overload]
        write_text(directory.file(RunFile.hydra) / f"{name}.yaml", mask(yaml), digest=True)


def _refuse_sweep_without_m(
    sweep: object, directory: RunDirectory, command: str, overrides: Sequence[str]
) -> None:
    """Refuse a prepared sweep without -m; the jobs of the sweep, which name it too, are allowed."""
    if sweep is None or directory.path.name in read_sweep(directory.path.parent):
        return
    why = "this is a sweep of several jobs, and -m is missing"
    fix = shlex.join(["hydratune", command, "-m", *overrides])
    raise ConfigError([Problem("sweep", sweep, why, fix)])


def refuse_foreign_directory(directory: RunDirectory, *, extending: bool) -> None:
    """Refuse a directory with a finished run, with other files, or without write permission."""
    status = directory.read_status()
    if status.state is State.finished and not extending:
        why = "this directory already holds a finished run"
        fix = (
            "choose another hydra.run.dir, or delete that directory first; to train it further:"
            " resume=extend, with a larger trainer.max_epochs (and trainer.max_steps, if it is set)"
        )
        raise ConfigError([Problem("hydra.run.dir", directory.path, why, fix)])
    if not status.content and directory.contents():
        names = ", ".join(path.name for path in directory.contents())
        why = f"this is no run directory, and a run would overwrite what is in it: {names}"
        fix = "choose another directory"
        raise ConfigError([Problem("hydra.run.dir", directory.path, why, fix)])
    if links := sorted(p.name for p in (directory.path, *directory.links()) if p.is_symlink()):
        why = (
            f"what the run writes would go elsewhere: {', '.join(links)} leads out of it by a link"
        )
        fix = "give the place itself: hydra.run.dir=DIR, a new folder"
        raise ConfigError([Problem("hydra.run.dir", directory.path, why, fix)])
    if not os.access(directory.path, os.W_OK):
        raise InputError(
            f"cannot write into {directory.path}: no permission; choose another place with"
            " hydra.run.dir=DIR"
        )


def _discard_unused(directory: RunDirectory) -> None:
    """Remove the folder that Hydra made under outputs/ for a job that keeps no record.

    A folder that holds anything is kept.
    """
    ours = Path.cwd() / "outputs"
    if directory.status_file.exists() or not directory.path.is_relative_to(ours):
        return
    if [path.name for path in directory.path.iterdir()] == [RunFile.log]:
        directory.log_file.unlink()
    for folder in (directory.path, directory.path.parent, ours):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
