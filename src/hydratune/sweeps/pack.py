"""A pack: several jobs of a sweep in one process, over one base model and one set of rows.

Every job is an ordinary run in a thread of its own, with its own Trainer, optimizer, checkpoints, W&B run and record. Its
model is its own as well, but for the frozen weights, which are the same tensors in all of them. Whatever computes goes
through one pool of threads, one per core with one intra-op thread each, in the same pieces as in a run alone: a job's
numbers do not depend on its neighbours, but for rounding where short pieces of several jobs are computed in one pass
(``hydratune.sweeps.crew``). A job that fails, ends or is stopped leaves; nobody waits for anybody.

    python -m hydratune.sweeps.pack FOLDER TOGETHER WORKERS MERGE_TOKENS|auto NAME...    what hydratune.sweeps.processes starts
"""

import copy
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Any

import lightning.pytorch.trainer.trainer as lightning_trainer
import torch

from hydratune import config
from hydratune.config import TrainConfig
from hydratune.console import printing_to
from hydratune.errors import HydratuneError, Leaving, UnpackedError
from hydratune.models import hardware
from hydratune.records import RunDirectory, State, alone
from hydratune.run import recorded
from hydratune.sweeps.board import Board
from hydratune.sweeps.crew import Crew, Task
from hydratune.sweeps.planning import RUNS_ALONE, SETTINGS
from hydratune.sweeps.workshop import Made, Workshop
from hydratune.training.merged import Guest, Host, MergingPool

log = logging.getLogger(__name__)
MERGE_TOKENS = {"cpu": 512, "gpu": 8192}  # accelerator -> tokens of a pass that serves several jobs; the second is not measured


class _Crew(MergingPool):
    """The threads of a pack as one job sees them: what they compute for it is counted as its own time.

    Once the pack is asked to leave they compute nothing more, and raise ``Leaving``.
    """

    def __init__(self, premises: "Premises") -> None:
        self._premises = premises
        self.seconds = 0.0
        self._counting = threading.Lock()

    @property
    def host(self) -> Host | None:  # type: ignore[override]
        return self._premises.threads.host

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        task = Task(partial(self._counted, function, *args, **kwargs))
        self._premises.threads.submit([task])
        return task.future

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1, **_: Any
    ) -> Iterator[Any]:
        """Pieces of one job follow each other: a piece only waits for pieces of its job that have begun before it."""
        jobs = list(zip(*iterables, strict=True))
        return self.map_guests(fn, jobs, [None] * len(jobs))

    def map_guests(self, work: Callable[..., Any], jobs: Sequence[Any], guests: Sequence[Guest | None]) -> Iterator[Any]:
        tasks = [Task(partial(self._counted, work, *job), guest, self._admit, self._count) for job, guest in zip(jobs, guests, strict=True)]
        self._premises.threads.submit(tasks)
        return _results([task.future for task in tasks])

    def _admit(self) -> None:
        if self._premises.asked.is_set():
            raise Leaving

    def _count(self, seconds: float) -> None:
        with self._counting:
            self.seconds += seconds

    def _counted(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._admit()
        start = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            self._count(time.thread_time() - start)


def _results(waiting: Sequence[Future[Any]]) -> Iterator[Any]:
    try:
        for future in waiting:
            yield future.result()
    finally:
        for future in waiting:
            future.cancel()


class Premises:
    """What the jobs of a pack share."""

    def __init__(self, workers: int, merge_tokens: int = 0) -> None:
        self.threads = Crew(workers, merge_tokens)
        self.seeding = threading.RLock()
        self.asked = threading.Event()  # to leave
        self._made: dict[str, Any] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._naming = threading.Lock()

    def lock(self, name: str) -> threading.Lock:
        with self._naming:
            return self._locks.setdefault(name, threading.Lock())

    def shared(self, name: str, make: Callable[[], Made]) -> Made:
        with self.lock(f"shared {name}"):
            if name not in self._made:
                self._made[name] = make()
            made: Made = self._made[name]
            return made


class Desk(Workshop):
    """The workshop of one job of a pack."""

    def __init__(self, premises: Premises) -> None:
        self.premises = premises
        self.crew = _Crew(premises)
        self.pool = self.crew
        self._began, self._thread_began = time.perf_counter(), time.thread_time()

    @property
    def began(self) -> float:
        return self._began

    def shared(self, name: str, make: Callable[[], Made]) -> Made:
        return self.premises.shared(name, make)

    def own(self, model: Any) -> Any:
        """The same modules anew, holding the same tensors: an adapter changes modules, never a frozen tensor."""
        tensors = [*model.parameters(), *model.buffers()]

        def copied() -> Any:
            return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})

        with self.premises.lock("own"):
            if self.premises.threads.merge_tokens:
                self.premises.threads.host = self.premises.shared("host", lambda: Host(copied()))
            return copied()

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        with self.premises.seeding, super().seeded(seed):
            yield

    @contextmanager
    def one_at_a_time(self, name: str) -> Iterator[None]:
        with self.premises.lock(name):
            yield

    def cpu_seconds(self) -> float:
        return self.crew.seconds + time.thread_time() - self._thread_began

    def accept(self, model: Any) -> None:
        from hydratune.training.lora import draws_elsewhere

        if draws_elsewhere(model):
            raise UnpackedError("its dropout draws from the process's generator, whose order would depend on the other jobs")

    def last_words(self) -> None:
        pass  # signals only reach the main thread, which waits for all jobs


class _ByThread(logging.Handler):
    """Log records go to the run.log of the job whose thread wrote them; all others to that of the pack."""

    def __init__(self, common: IO[str]) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self.common, self.streams = common, dict[int, IO[str]]()

    def emit(self, record: logging.LogRecord) -> None:
        stream = self.streams.get(threading.get_ident(), self.common)
        stream.write(self.format(record) + "\n")
        stream.flush()


def _one(settings: TrainConfig, record: RunDirectory, premises: Premises, board: Board, logs: _ByThread) -> None:
    """One job, in this thread. Never raises: its status says how it ended."""
    from hydratune.commands import train

    with (record.path / "run.log").open("a", encoding="utf-8") as stream:
        logs.streams[threading.get_ident()] = stream
        name = record.path.name
        try:
            torch.set_num_threads(1)
            with printing_to(stream, board.teller(name)), alone(record.path):
                record.clear()
                record.start()
                board.began(name)
                with recorded(settings, record):
                    train.run(settings, record, Desk(premises))
        except UnpackedError as error:
            record.update(state=State.stopped.value, error=f"{RUNS_ALONE}: {error}")
        except (HydratuneError, KeyboardInterrupt, Leaving):
            pass
        except BaseException:
            log.exception("unexpected error")
        finally:
            del logs.streams[threading.get_ident()]
            board.ended(name, record.status())


def run(folder: Path, names: Sequence[str], together: int, workers: int, merge_tokens: int | None = 0) -> None:
    """The jobs ``names`` of the sweep in ``folder``, ``together`` of them at a time. Raises ``KeyboardInterrupt`` at the end if asked.

    Small micro-packs of several jobs are computed in passes of at most ``merge_tokens``; None: as many as suit the device.
    """
    records = {name: RunDirectory(folder / name) for name in names}
    settings = {name: config.load(folder / SETTINGS / f"{name}.yaml") for name in names}
    if merge_tokens is None:
        merge_tokens = MERGE_TOKENS[hardware.accelerator(settings[names[0]])]
    premises = Premises(workers, merge_tokens)
    torch.set_num_threads(1)
    waiting = list(names)
    taking = threading.Lock()
    with (folder / "pack.log").open("a", encoding="utf-8") as common, Board(folder, names) as board:
        logs = _ByThread(common)
        logging.root.addHandler(logs)
        logging.root.setLevel(logging.INFO)
        warnings.filterwarnings("ignore", module="lightning|torch")
        # Around its sanity check, which is off, Lightning sets the process's generators back while another job may draw.
        vars(lightning_trainer)["isolate_rng"] = nullcontext

        def station() -> None:
            while not premises.asked.is_set():
                with taking:
                    if not waiting:
                        return
                    name = waiting.pop(0)
                _one(settings[name], records[name], premises, board, logs)

        def asked(signum: int, frame: FrameType | None) -> None:
            premises.asked.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, asked)
        stations = [threading.Thread(target=station, name=f"station {n}") for n in range(min(together, len(names)))]
        for thread in stations:
            thread.start()
        for thread in stations:
            while thread.is_alive():  # join() alone would keep a signal waiting
                thread.join(0.5)
        premises.threads.dismiss()
        logging.root.removeHandler(logs)
    if premises.asked.is_set():
        raise KeyboardInterrupt


def main(args: Sequence[str]) -> int:
    """``FOLDER TOGETHER WORKERS MERGE_TOKENS|auto NAME...``; exit code 130 if it was interrupted, else 0: statuses tell the rest."""
    folder, together, workers, merge_tokens, *names = args
    config.register()
    try:
        run(Path(folder), names, int(together), int(workers), None if merge_tokens == "auto" else int(merge_tokens))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code) if threading.active_count() > 1 else sys.exit(code)
