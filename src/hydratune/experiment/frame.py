"""One job's frame: checks the settings, keeps the status, turns every way of ending into a state
and an exit code.

The only place with a broad ``except``, and the last that sees a ``DictConfig``.
"""

import logging
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hydratune.adapters.folder import adopt
from hydratune.console import silence
from hydratune.errors import ConfigError, HydratuneError, InputError, Leaving, Paused, Problem
from hydratune.experiment import extension
from hydratune.records.files import write_text
from hydratune.records.run_directory import RunDirectory, State, alone
from hydratune.records.sweep import read_sweep
from hydratune.settings import checks
from hydratune.settings.commands import Resume, TrainConfig
from hydratune.settings.registry import typed
from hydratune.settings.secrets import mask

log = logging.getLogger(__name__)
_NO_MEMORY = "out of memory"
_UNNOTICED = 30.0  # seconds; Python drops what is raised inside a destructor
STARTED = time.perf_counter()  # this module is imported before anything slow


def is_main_process() -> bool:
    """False in the helper processes of a data-parallel run: they keep no record."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def execute(
    composed: DictConfig, kind: type[Any], load: Callable[[], Callable[[Any, RunDirectory], None]]
) -> None:
    """Runs the command that ``load()`` imports, with ``composed`` as a checked instance of ``kind``
    and a run directory.

    The command is imported after the check, because it imports torch. Raises ``HydratuneError`` for
    whatever went wrong and ``KeyboardInterrupt`` if the user stopped it; the run directory's status
    says the same.
    """
    settings = HydraConfig.get()
    if settings.mode != RunMode.RUN:
        raise InputError(
            "this command runs one job; for a sweep use hydratune train -m, with"
            " hydra/launcher=pack or process"
        )
    directory = RunDirectory(Path(settings.runtime.output_dir))
    keeps_record = kind is TrainConfig and is_main_process()
    try:
        config = typed(composed, kind)
        if isinstance(config, TrainConfig):
            config.name = config.name or str(settings.runtime.choices["data"])
            keeps_record = keeps_record and not config.preview
            _refuse_sweep_without_m(settings.runtime.choices.get("sweep"), directory)
            config = (
                extension.settings(config, directory, settings.overrides.task)
                if config.resume is Resume.extend
                else config
            )
            adopt(config, settings.overrides.task)
        checks.check(config)
        if keeps_record:
            _claim(
                directory,
                extending=isinstance(config, TrainConfig) and config.resume is Resume.extend,
            )
    except BaseException:
        _discard_unused(directory)
        raise
    if not keeps_record:
        load()(config, directory)
        _discard_unused(directory)
        return
    with alone(directory.path):
        listen()
        finished = directory.status() if directory.is_finished() else None
        begin(config, directory)
        write_hydra_files(directory, composed, settings, list(settings.overrides.task))
        try:
            with recorded(config, directory):
                load()(config, directory)
        except BaseException:
            # nothing was trained: it is what it was
            if finished is not None and not directory.history_file.is_file():
                directory.put_back(finished)
            raise


def begin(config: Any, directory: RunDirectory) -> None:
    """The directory as a run finds it that begins, or goes on from the checkpoint of an interrupted
    one.
    """
    extending = config.resume is Resume.extend and directory.is_finished()
    going_on = extending or (config.resume is not Resume.never and directory.left() is not None)
    directory.clear(keep_checkpoints=going_on, into=directory.finished if extending else None)
    directory.start(going_on=going_on)


@contextmanager
def recorded(config: Any, directory: RunDirectory) -> Iterator[None]:
    """A run that was started; however it ends, its directory says so."""
    write_text(
        directory.config_file,
        mask(OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)),
        digest=True,
    )
    try:
        yield
        directory.end(State.finished)
    except (KeyboardInterrupt, Leaving):
        log.warning("interrupted")
        directory.end(State.stopped, "interrupted by the user")
        write_page(directory)
        raise
    except Paused:
        directory.update(state=State.waiting.value, paused=True)
        raise
    except HydratuneError as error:
        log.error("%s", mask(str(error)))
        directory.end(State.failed, str(error))
        write_page(directory)
        raise
    except BaseException as error:
        log.error("unexpected error\n%s", mask(traceback.format_exc()))
        summary = _out_of_memory(error) or f"{type(error).__name__}: {error}"
        directory.end(State.failed, summary)
        if summary.startswith(_NO_MEMORY):
            raise HydratuneError(summary) from error
        raise HydratuneError(
            f"unexpected error: {mask(summary)}\n  the full story is in {directory.path}/run.log"
        ) from error
    else:
        write_page(directory)  # whatever interrupts this, the run is finished


def write_page(directory: RunDirectory) -> None:
    """report.html, if there is anything to report.

    What goes wrong with it changes nothing of the run.
    """
    try:
        if directory.history_file.is_file():
            from hydratune.evaluation import run_report

            run_report.write(directory)
    except Exception:
        log.exception("the report could not be written; hydratune evaluate writes it again")


def _out_of_memory(error: BaseException) -> str:
    """What to say if there was not enough memory, or nothing."""
    text = str(error)
    if (
        not isinstance(error, MemoryError)
        and type(error).__name__ != "OutOfMemoryError"
        and "can't allocate memory" not in text
    ):
        return ""
    asked = re.search(r"[Tt]ried to allocate ([\d.]+) ?(\w+)", text)
    wanted = (
        f" ({f'{int(asked[1]) / 2**30:.1f} GiB' if asked[2] == 'bytes' else f'{asked[1]} {asked[2]}'}"  # noqa: E501
        " more were wanted)"
        if asked
        else ""
    )
    fix = (
        "smaller trainer.micro_tokens, data.batch_size or data.max_length,"
        " trainer.gradient_checkpointing=true, model.quantization=nf4"
    )
    return f"{_NO_MEMORY}{wanted}; what helps: {fix}"


def _refuse_sweep_without_m(sweep: object, directory: RunDirectory) -> None:
    """A prepared sweep is only a sweep with -m; its jobs, which name it as well, lie in a sweep's
    folder.
    """
    if sweep is not None and directory.path.name not in read_sweep(directory.path.parent):
        raise ConfigError(
            [
                Problem(
                    "sweep",
                    sweep,
                    "this is a sweep of several jobs, and -m is missing",
                    f"hydratune train -m sweep={sweep}",
                )
            ]
        )


def write_hydra_files(
    directory: RunDirectory, composed: DictConfig, settings: Any, overrides: Sequence[str]
) -> None:
    """What Hydra writes into .hydra, after the check instead of before it, and without secrets."""
    for name, content in (
        ("config", composed),
        ("hydra", {"hydra": settings}),
        ("overrides", list(overrides)),
    ):
        write_text(
            directory.path / ".hydra" / f"{name}.yaml",
            mask(OmegaConf.to_yaml(OmegaConf.create(content))),
            digest=True,
        )


@dataclass
class _Ending:
    """What is known of the end that a signal asked for."""

    asked: float | None = None  # when, by ``time.monotonic``
    closing: bool = False  # the run knows of it, and only writes down what it has


_ending = _Ending()


def listen() -> None:
    """Ctrl-C, a kill and a closed terminal end the run from now on: its adapter is kept, its status
    is stopped.

    One of them is enough, and those that follow change nothing. A signal that whoever started this
    process has it ignore stays ignored.
    """
    _ending.asked, _ending.closing = None, False
    _install()


def _install() -> None:
    handlers = {"SIGINT": interrupt, "SIGTERM": interrupt, "SIGHUP": hung_up}
    for name, handler in handlers.items():
        number = getattr(signal, name, None)
        if number is not None and (
            name != "SIGINT" or signal.getsignal(number) is not signal.SIG_IGN
        ):
            signal.signal(number, handler)


def closing() -> None:
    """From here on the run only writes down what it has: no signal interrupts that."""
    _ending.asked, _ending.closing = _ending.asked or time.monotonic(), True
    _install()


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Raises ``KeyboardInterrupt`` at the first signal, and again if nobody has noticed for a while
    that there was one.
    """
    now = time.monotonic()
    if _ending.asked is not None and (_ending.closing or now - _ending.asked < _UNNOTICED):
        with suppress(OSError):  # not print: this may be in the midst of one
            os.write(
                2,
                b"\nending: what was trained is being saved, a moment (Ctrl-\\ ends it at once, and"
                b" loses it)\n",
            )
        return
    _ending.asked = now
    raise KeyboardInterrupt


def hung_up(signum: int, frame: FrameType | None) -> None:
    """Without a terminal, printing is an error of its own."""
    silence()
    interrupt(signum, frame)


def _claim(directory: RunDirectory, *, extending: bool) -> None:
    status = directory.status()
    if status.get("state") == State.finished.value and not extending:
        fix = "choose another hydra.run.dir, or delete that directory first"
        fix += "; to train it further: resume=extend, with a larger trainer.max_epochs"
        raise ConfigError(
            [
                Problem(
                    "hydra.run.dir",
                    directory.path,
                    "this directory already holds a finished run",
                    fix,
                )
            ]
        )
    if not status and directory.contents():
        names = ", ".join(path.name for path in directory.contents())
        why = f"this is no run directory, and a run would overwrite what is in it: {names}"
        raise ConfigError(
            [Problem("hydra.run.dir", directory.path, why, "choose another directory")]
        )
    if not os.access(directory.path, os.W_OK):
        raise InputError(
            f"cannot write into {directory.path}: no permission; choose another place with"
            " hydra.run.dir=DIR"
        )


def _discard_unused(directory: RunDirectory) -> None:
    """Removes the folder that Hydra made under outputs/ for a job that keeps no record; never one
    that holds anything.
    """
    ours = Path.cwd() / "outputs"
    if directory.status_file.exists() or not directory.path.is_relative_to(ours):
        return
    log_file = directory.path / "run.log"
    if [p.name for p in directory.path.iterdir()] == ["run.log"]:
        log_file.unlink()
    for folder in (directory.path, directory.path.parent, ours):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
