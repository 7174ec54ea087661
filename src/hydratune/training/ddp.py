"""Data-parallel training on one machine: one process for each device.

The main process is rank 0; it alone keeps the record. Just before training it starts the others
with its own command line. They prepare the same rows and the same model, train, and end with it.
What they print is shown only if they fail.

Lightning could start the processes as well. It does not, for three reasons: it kills the main
process too when another ends early, so that no status and no reason is recorded; Ctrl-C does
nothing until all processes are connected; and its handler of SIGTERM communicates with the other
processes in the middle of a step.
"""

import atexit
import logging
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import lightning
import torch
from hydra.utils import get_original_cwd
from lightning.fabric.plugins.environments.lightning import (
    LightningEnvironment,
    find_free_network_port,
)
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed import FileStore  # type: ignore[attr-defined]  # torch does not list it

from hydratune.console import LineFormatter, print_error
from hydratune.errors import HydratuneError, RunError
from hydratune.records.files import write_text
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import State
from hydratune.settings.secrets import mask
from hydratune.settings.trainer import LOCAL_RANK, TrainerConfig, local_rank

Value = TypeVar("Value")
log = logging.getLogger(__name__)
# environment variable: the folder where the processes of one run report that they are ready
_MEETING = "HYDRATUNE_DDP_FOLDER"
_PARENT = "HYDRATUNE_DDP_PARENT"  # environment variable: process number of the main process
_CHANGED = (
    LOCAL_RANK,
    "NODE_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "OMP_NUM_THREADS",
    "GLOO_SOCKET_IFNAME",
    _MEETING,
    _PARENT,
)
_NOTICE = 10.0  # seconds from an error of the main process to the end of the process that caused it
_LEAVE = 20.0  # seconds that the main process has to notice that another ended; NCCL waits for ever


def rank() -> int:
    """Return the rank of this process; 0 is the main process, and the only one on one device."""
    return local_rank()


def gathered(value: Value) -> list[Value]:
    """Return the ``value`` of every rank, in their order; every rank must call it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Value] = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def summed(value: torch.Tensor) -> torch.Tensor:
    """Return the sum of the ``value`` of every rank; every rank must call it.

    On a GPU the CPU does not wait for it, as it does in Lightning's way.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.clone()
        torch.distributed.all_reduce(value)
    return value


def plugins() -> list[LightningEnvironment]:
    """Return what tells Lightning's Trainer that the processes exist already, whatever else started
    this one.
    """
    return [LightningEnvironment()] if _MEETING in os.environ else []


class OneMachineStrategy(DDPStrategy):
    """Lightning's, for processes that meet in a file.

    The store by which torch's processes usually meet takes connections from every network, without
    a password, and what ranks exchange may be pickles.
    """

    def setup_distributed(self) -> None:
        if _MEETING in os.environ and not torch.distributed.is_initialized():
            self.set_world_ranks()
            device = self.root_device if self.root_device.type != "cpu" else None
            size = self.world_size
            torch.distributed.init_process_group(
                self._get_process_group_backend(),
                store=FileStore(f"{os.environ[_MEETING]}/store", size),
                rank=self.global_rank,
                world_size=size,
                timeout=self._timeout,
                device_id=device,
            )
        super().setup_distributed()


class RankSetup(lightning.Callback):
    """Gives every rank its own random numbers, and SIGTERM the handler that it has in a run on one
    device.
    """

    def __init__(self) -> None:
        self.on_sigterm = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:  # FineTuning
        if trainer.world_size == 1:
            return
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.on_sigterm)
        if trainer.global_rank:  # otherwise dropout would be the same on all ranks
            offset = 1_000_003 * trainer.global_rank
            generator: torch.Generator = module.objective.generator
            generator.manual_seed(generator.initial_seed() + offset)
            torch.manual_seed(torch.initial_seed() + offset)
            random.seed(torch.initial_seed())


class OtherProcesses:
    """Ranks 1 and above, as the main process sees them.

    In any other process, and on one device, there are none.
    """

    def __init__(self, record: RunDirectory, folder: Path | None = None) -> None:
        self.record, self.folder = record, folder
        self.cpu_seconds = 0.0  # of the processes, once they have ended
        self.starting_seconds = 0.0  # until all of them were ready to train
        self._processes: list[subprocess.Popen[bytes]] = []
        self._printed: list[IO[bytes]] = []
        self._over = threading.Event()

    def start(self, count: int, prepared: str) -> None:
        """Start ``count`` processes, and return when they have prepared what is to be trained.

        Raises ``RunError`` if one fails or has prepared something else.
        """
        start = time.perf_counter()
        assert self.folder is not None
        path = str(self.record.path).replace("\\", "\\\\").replace('"', '\\"')
        command = [sys.executable, "-m", "hydratune", *sys.argv[1:], f'hydra.run.dir="{path}"']
        for number in range(1, count + 1):
            self._start_one(command, number)
        threading.Thread(target=self._watch, name="ddp", daemon=True).start()
        self._await_ready(count, prepared)
        self.starting_seconds = time.perf_counter() - start

    def _start_one(self, command: Sequence[str], number: int) -> None:
        """Start the process of rank ``number``; what it prints goes to a file."""
        assert self.folder is not None
        self._printed.append((self.folder / f"{number}.txt").open("w+b"))
        # In a session of its own, Ctrl-C reaches the main process only, which ends the others.
        process = subprocess.Popen(
            command,
            env={**os.environ, LOCAL_RANK: str(number)},
            cwd=get_original_cwd(),
            start_new_session=True,
            stdout=self._printed[-1],
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        self._processes.append(process)

    def _await_ready(self, count: int, prepared: str) -> None:
        assert self.folder is not None
        waiting = [_ready_file(self.folder, number) for number in range(1, count + 1)]
        while waiting:
            if why := self.failure():
                raise RunError(why)
            ready = [file for file in waiting if file.is_file()]
            if any(file.read_text("utf-8") != prepared for file in ready):
                raise RunError(
                    "the processes of this run read different rows, code or settings: something"
                    " was changed while it started"
                )
            waiting = [file for file in waiting if file not in ready]
            time.sleep(0.02)

    def failure(self) -> str | None:
        """Return the message about the first process that failed; None if none did."""
        for number, process in enumerate(self._processes, 1):
            code = process.poll()
            if code:
                return self._describe(number, code)
        return None

    def _describe(self, number: int, code: int) -> str:
        """Describe the failure of the process of rank ``number``, which ended with ``code``."""
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        printed = ""
        if self.folder is not None:
            printed = mask((self.folder / f"{number}.txt").read_text("utf-8", "replace"))
        if "hydratune train: " in printed:
            error = printed.rpartition("hydratune train: ")[2].strip()
        else:
            error = "\n".join(printed.splitlines()[-3:])
        detail = resumable = ""
        if error and code > 0:
            detail = f"; it said:\n  {error}\n  run.log has all that it printed"
            log.error("what the process of rank %d printed:\n%s", number, printed)
        if self.record.last_checkpoint.is_file():
            resumable = (
                "\n  the same command with this hydra.run.dir resumes from the last checkpoint"
            )
        return (
            f"the process of rank {number}, of a run on {len(self._processes) + 1} devices,"
            f" {how}{detail}{resumable}"
        )

    def reason(self, error: Exception) -> str | None:
        """Return the ``failure`` of the process that caused an ``error`` of this one, which may not
        have ended quite yet; None if there is none.
        """
        text = str(error).lower()
        of_communication = isinstance(error, torch.distributed.DistError) or any(
            word in text for word in ("gloo", "nccl", "connection")
        )
        until = time.monotonic() + (_NOTICE if of_communication else 0.0)
        while True:
            why = self.failure()
            if why is not None or time.monotonic() >= until:
                return why
            time.sleep(0.1)

    def end(self) -> None:
        """End all processes at once: they have nothing to save."""
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
        """End a main process that would wait for ever for a process that ended."""
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
    """Start the other ranks of a data-parallel run, and end them after the block; in another rank,
    report to the main process that it is ready.

    ``prepared`` identifies what is to be trained, and must be the same in all of them. Raises
    ``RunError``, instead of the error that it caused in the main process, if another process
    failed.
    """
    if config.strategy != "ddp":
        yield OtherProcesses(record)
        return
    if LOCAL_RANK in os.environ:  # not started by a person: by the main process, or by torchrun
        if rank() and _MEETING in os.environ:
            write_text(_ready_file(Path(os.environ[_MEETING]), rank()), prepared)
        yield OtherProcesses(record)
        _leave_group()
        return
    with tempfile.TemporaryDirectory(prefix="hydratune-ddp-") as folder, _main_rank(folder):
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


@contextmanager
def _main_rank(folder: str) -> Iterator[None]:
    """Make this process rank 0 of a run whose processes meet in ``folder``."""
    before = {name: os.environ.get(name) for name in _CHANGED}
    os.environ |= {
        LOCAL_RANK: "0",
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_network_port()),
        _MEETING: folder,
        _PARENT: str(os.getpid()),
    }
    if loopback := {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback.pop())
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _leave_group() -> None:
    """Leave the process group: what follows is done by one process, and must not wait."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    # its orderly end waits for processes that may be gone
    if torch.distributed.get_backend() == "nccl":
        torch.distributed.distributed_c10d._abort_process_group()
    else:
        torch.distributed.destroy_process_group()


def join_main_process() -> None:
    """Make this process follow the main process, in another rank.

    It logs to where the main process looks if this one fails, and ends when the main process does.
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
