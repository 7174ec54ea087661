"""Data-parallel training on one machine: one process for each device.

The main process is rank 0; it alone keeps the record. Just before training it starts the others
with its own command line. They prepare the same rows and the same model, train, and end with it.
What they print is shown only if they fail.

Lightning can start the processes as well. It is not left to do so, because it kills the main
process too when another ends early, so that no status and no reason is written down, because Ctrl-C
does nothing until all processes have met, and because its handler of SIGTERM talks to the other
processes in the midst of a step.
"""

import atexit
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import lightning
import torch
from hydra.utils import get_original_cwd
from lightning.fabric.plugins.environments.lightning import (
    LightningEnvironment,
    find_free_network_port,
)

from hydratune.console import LineFormatter, print_error
from hydratune.errors import HydratuneError, RunError
from hydratune.records.files import write_text
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import State
from hydratune.settings.secrets import mask
from hydratune.settings.trainer import TrainerConfig

log = logging.getLogger(__name__)
# environment: the folder where the processes of one run meet before training
_MEETING = "HYDRATUNE_DDP_FOLDER"
_PARENT = "HYDRATUNE_DDP_PARENT"  # environment: process number of the main process
_CHANGED = (
    "LOCAL_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "OMP_NUM_THREADS",
    _MEETING,
    _PARENT,
)
_NOTICE = 10.0  # seconds from an error of the main process to the end of the process that caused it
_LEAVE = 20.0  # seconds that the main process has to notice that another ended; NCCL waits for ever


def rank() -> int:
    """Of this process; 0 is the main process, and any process of a run on one device."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def gathered(value: Any) -> list[Any]:
    """The ``value`` of every rank, in their order; every rank must ask."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def summed(value: torch.Tensor) -> torch.Tensor:
    """The sum of the ``value`` of every rank; every rank must ask.

    On a GPU the host does not wait, as it does in Lightning's way.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.clone()
        torch.distributed.all_reduce(value)
    return value


def plugins() -> list[Any]:
    """What Lightning's Trainer must know of the processes: that they are there already, whatever
    else started this one.
    """
    return [LightningEnvironment()] if _MEETING in os.environ else []


class RankSetup(lightning.Callback):
    """Every rank draws its own random numbers, and SIGTERM means what it means in a run on one
    device.
    """

    def __init__(self) -> None:
        self.on_sigterm = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        if trainer.world_size == 1:
            return
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.on_sigterm)
        if trainer.global_rank:  # otherwise all would leave out the same with dropout
            further = 1_000_003 * trainer.global_rank
            generator: torch.Generator = module.objective.generator
            generator.manual_seed(generator.initial_seed() + further)
            torch.manual_seed(torch.initial_seed() + further)
            random.seed(torch.initial_seed())


class OtherProcesses:
    """Ranks 1 and above, as the main process sees them.

    In any other process, and on one device, there are none.
    """

    def __init__(self, record: RunDirectory, folder: Path | None = None) -> None:
        self.record, self.folder = record, folder
        self.cpu_seconds = 0.0  # that they took, once they have ended
        self.starting_seconds = 0.0  # until all of them were ready to train
        self._processes: list[subprocess.Popen[bytes]] = []
        self._printed: list[IO[bytes]] = []
        self._over = threading.Event()

    def start(self, count: int, prepared: str) -> None:
        """Returns when they have prepared what is to be trained.

        Raises ``RunError`` if one fails or has prepared something else.
        """
        began = time.perf_counter()
        assert self.folder is not None
        place = str(self.record.path).replace("\\", "\\\\").replace('"', '\\"')
        command = [sys.executable, "-m", "hydratune", *sys.argv[1:], f'hydra.run.dir="{place}"']
        for number in range(1, count + 1):
            self._printed.append((self.folder / f"{number}.txt").open("w+b"))
            environment = {**os.environ, "LOCAL_RANK": str(number)}
            options: dict[str, Any] = {
                "stdout": self._printed[-1],
                "stderr": subprocess.STDOUT,
                "stdin": subprocess.DEVNULL,
            }
            # In a session of its own, Ctrl-C reaches the main process only, which ends the others.
            self._processes.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    cwd=get_original_cwd(),
                    start_new_session=True,
                    **options,
                )
            )
        threading.Thread(target=self._watch, name="ddp", daemon=True).start()
        waiting = list(range(1, count + 1))
        while waiting:
            if why := self.failure():
                raise RunError(why)
            ready = [number for number in waiting if _ready_file(self.folder, number).is_file()]
            if any(
                _ready_file(self.folder, number).read_text("utf-8") != prepared for number in ready
            ):
                raise RunError(
                    "the processes of this run found different rows, code or settings: something"
                    " was changed while it started"
                )
            waiting = [number for number in waiting if number not in ready]
            time.sleep(0.02)
        self.starting_seconds = time.perf_counter() - began

    def failure(self) -> str | None:
        """What to say of the first process that failed, if one did."""
        for number, process in enumerate(self._processes, 1):
            code = process.poll()
            if code:
                how = (
                    f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                )
                text = (
                    mask((self.folder / f"{number}.txt").read_text("utf-8", "replace"))
                    if self.folder is not None
                    else ""
                )
                said = (
                    text.rpartition("hydratune train: ")[2].strip()
                    if "hydratune train: " in text
                    else "\n".join(text.splitlines()[-3:])
                )
                told = (
                    f"; it said:\n  {said}\n  run.log has all that it printed"
                    if said and code > 0
                    else ""
                )
                kept = (
                    "\n  the same command with this hydra.run.dir goes on from the last checkpoint"
                )
                kept = kept if (self.record.checkpoints / "last.ckpt").is_file() else ""
                if told:
                    log.error("what the process of rank %d printed:\n%s", number, text)
                return (
                    f"the process of rank {number}, of a run on {len(self._processes) + 1} devices,"
                    f" {how}{told}{kept}"
                )
        return None

    def reason(self, error: Exception) -> str | None:
        """``failure`` of the process behind an ``error`` of this one, which may not have ended
        quite yet; None if there is none.
        """
        text = str(error).lower()
        from_talking = isinstance(error, torch.distributed.DistError) or any(
            word in text for word in ("gloo", "nccl", "connection")
        )
        until = time.monotonic() + (_NOTICE if from_talking else 0.0)
        while True:
            why = self.failure()
            if why is not None or time.monotonic() >= until:
                return why
            time.sleep(0.1)

    def end(self) -> None:
        """Ends them all at once: they have nothing to keep."""
        self._over.set()
        before = _cpu_seconds_of_ended()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        if self._processes:
            self.cpu_seconds += _cpu_seconds_of_ended() - before
        for stream in self._printed:
            stream.close()
        self._processes, self._printed = [], []

    def _watch(self) -> None:
        """Ends a main process that waits for ever for one that ended."""
        while not self._over.wait(0.5):
            if any(process.poll() for process in self._processes) and not self._over.wait(_LEAVE):
                why = self.failure() or "a process of this run ended"
                self.record.end(State.failed, why)
                print_error(f"\nhydratune train: {why}")
                for process in self._processes:
                    process.kill()
                if self.folder is not None:
                    shutil.rmtree(self.folder, ignore_errors=True)
                os._exit(HydratuneError.exit_code)


def _ready_file(folder: Path, number: int) -> Path:
    return folder / f"{number}.ready"


def _cpu_seconds_of_ended() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def other_processes(
    config: TrainerConfig, record: RunDirectory, prepared: str
) -> Iterator[OtherProcesses]:
    """Starts the other ranks of a data-parallel run, and ends them after the block; in another
    rank, tells the main process.

    ``prepared`` says what is to be trained, and must be the same in all of them. Raises
    ``RunError``, instead of what the main process made of it, if another process failed.
    """
    if config.strategy != "ddp":
        yield OtherProcesses(record)
        return
    if "LOCAL_RANK" in os.environ:  # not started by a person: by the main process, or by torchrun
        if rank() and _MEETING in os.environ:
            write_text(_ready_file(Path(os.environ[_MEETING]), rank()), prepared)
        yield OtherProcesses(record)
        _leave_group()
        return
    before = {name: os.environ.get(name) for name in _CHANGED}
    with tempfile.TemporaryDirectory(prefix="hydratune-ddp-") as folder:
        os.environ |= {
            "LOCAL_RANK": "0",
            "NODE_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(find_free_network_port()),
        }
        os.environ |= {_MEETING: folder, _PARENT: str(os.getpid())}
        others = OtherProcesses(record, Path(folder))
        try:
            others.start(config.devices - 1, prepared)
            yield others
        except HydratuneError:
            raise
        except Exception as error:
            if why := others.reason(error):
                raise RunError(why) from error
            raise
        finally:
            others.end()
            _leave_group()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _leave_group() -> None:
    """What follows is done by one process, and must not wait for others."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    # its orderly end waits for processes that may be gone
    if torch.distributed.get_backend() == "nccl":
        torch.distributed.distributed_c10d._abort_process_group()
    else:
        torch.distributed.destroy_process_group()


def join_main_process() -> None:
    """In another rank: logs to where the main process looks if this one fails, and ends when the
    main process does.
    """
    root = logging.getLogger()
    for handler in [
        handler for handler in root.handlers if isinstance(handler, logging.FileHandler)
    ]:
        root.removeHandler(handler)  # run.log is the main process's
        handler.close()
    terminal = logging.StreamHandler()
    terminal.setFormatter(LineFormatter())
    root.addHandler(terminal)
    if _PARENT not in os.environ:  # started by torchrun, which ends all of them
        return

    main = int(os.environ[_PARENT])

    def tidy_up() -> None:
        if os.getppid() != main:  # it was killed, or it would have ended this process
            shutil.rmtree(os.environ[_MEETING], ignore_errors=True)

    def watch() -> None:
        while os.getppid() == main:
            time.sleep(0.5)
        tidy_up()
        os._exit(HydratuneError.exit_code)

    atexit.register(tidy_up)
    threading.Thread(target=watch, name="ddp", daemon=True).start()
