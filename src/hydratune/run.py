"""One job's frame: checks the settings, keeps the status, turns every way of ending into a state and an exit code.

The only place with a broad ``except``, and the last that sees a ``DictConfig``.
"""

import logging
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hydratune import checks, config
from hydratune.errors import ConfigError, HydratuneError, InputError, Problem
from hydratune.records import RunDirectory, State, write_text

log = logging.getLogger(__name__)
STARTED = time.perf_counter()  # this module is imported before anything slow


def is_main_process() -> bool:
    """False in the helper processes of a data-parallel run: they keep no record."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def execute(composed: DictConfig, kind: type[Any], load: Callable[[], Callable[[Any, RunDirectory], None]]) -> None:
    """Runs the command that ``load()`` imports, with ``composed`` as a checked instance of ``kind`` and a run directory.

    The command is imported after the check, because it imports torch. Raises ``HydratuneError`` for whatever went wrong
    and ``KeyboardInterrupt`` if the user stopped it; the run directory's status says the same.
    """
    settings = HydraConfig.get()
    assert settings.mode == RunMode.RUN
    directory = RunDirectory(Path(settings.runtime.output_dir))
    keeps_record = settings.output_subdir is not None and is_main_process()
    try:
        typed = config.typed(composed, kind)
        if isinstance(typed, config.TrainConfig) and typed.name is None:
            typed.name = str(settings.runtime.choices["data"])
        checks.check(typed)
        if keeps_record:
            _claim(directory)
    except BaseException:
        if keeps_record:
            _discard_unused(directory)
        raise
    if not keeps_record or (isinstance(typed, config.TrainConfig) and typed.preview):
        load()(typed, directory)
        if keeps_record:
            _discard_unused(directory)
        return
    signal.signal(signal.SIGTERM, _interrupt)
    directory.start()
    write_text(directory.config_file, checks.mask(OmegaConf.to_yaml(OmegaConf.structured(typed), resolve=True)))
    try:
        load()(typed, directory)
        directory.end(State.finished)
    except KeyboardInterrupt:
        log.warning("interrupted")
        directory.end(State.stopped, "interrupted by the user")
        raise
    except HydratuneError as error:
        log.error("%s", checks.mask(str(error)))
        directory.end(State.failed, str(error))
        raise
    except BaseException as error:
        log.error("unexpected error\n%s", checks.mask(traceback.format_exc()))
        summary = f"{type(error).__name__}: {error}"
        directory.end(State.failed, summary)
        if os.environ.get("HYDRATUNE_TRACEBACK") == "1":
            traceback.print_exc()
        raise HydratuneError(f"unexpected error: {checks.mask(summary)}\n  the full story is in {directory.path}/run.log") from error


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """A polite kill is handled like Ctrl-C: adapter kept, status stopped."""
    raise KeyboardInterrupt


def _claim(directory: RunDirectory) -> None:
    status = directory.status()
    if status.get("state") == State.finished.value:
        fix = "choose another hydra.run.dir, or delete that directory first"
        raise ConfigError([Problem("hydra.run.dir", directory.path, "this directory already holds a finished run", fix)])
    if not os.access(directory.path, os.W_OK):
        raise InputError(f"cannot write into {directory.path}: no permission; choose another place with hydra.run.dir=DIR")


def _discard_unused(directory: RunDirectory) -> None:
    """Removes what Hydra wrote for a job that was refused before it began."""
    if directory.status_file.exists() or not directory.path.is_dir():
        return
    shutil.rmtree(directory.path / ".hydra", ignore_errors=True)
    (directory.path / "run.log").unlink(missing_ok=True)
    for folder in (directory.path, directory.path.parent):
        if folder.is_dir() and folder != Path.cwd() and not any(folder.iterdir()):
            folder.rmdir()
