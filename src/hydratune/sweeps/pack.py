"""A pack: several jobs of a sweep in one process, over one base model and one set of rows.

Every job is an ordinary run in a thread of its own, with its own Trainer, optimizer, checkpoints, W&B run and record. Its
model is its own as well, but for the frozen weights, which are the same tensors in all of them. Whatever computes goes
through one pool of threads, one per core with one intra-op thread each, in the same pieces as in a run alone: a job's
numbers do not depend on its neighbours. A job that fails, ends or is stopped leaves; nobody waits for anybody.

    python -m hydratune.sweeps.pack FOLDER TOGETHER WORKERS PATIENCE|never NAME...    what hydratune.sweeps.processes starts
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
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import IO, Any

import lightning.pytorch.trainer.trainer as lightning_trainer
import torch

from hydratune import config
from hydratune.config import TrainConfig
from hydratune.console import console, printing_to
from hydratune.errors import HydratuneError, Leaving, UnpackedError
from hydratune.records import RunDirectory, State, alone
from hydratune.run import begin, recorded
from hydratune.sweeps.board import Board
from hydratune.sweeps.planning import GOES_ON, RUNS_ALONE, SETTINGS
from hydratune.sweeps.watch import Pulse, Watch
from hydratune.sweeps.workshop import Made, Workshop

log = logging.getLogger(__name__)


class _Crew(Executor):
    """The threads of a pack as one job sees them: what they compute for it is counted as its own time.

    Once the pack is asked to leave they compute nothing more, and raise ``Leaving``.
    """

    def __init__(self, premises: "Premises", pulse: Pulse) -> None:
        self._premises, self._pulse = premises, pulse
        self.seconds = 0.0
        self._counting = threading.Lock()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._pulse.beat()
        return self._premises.threads.submit(self._counted, function, *args, **kwargs)

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1, **_: Any
    ) -> Iterator[Any]:
        """Pieces of one job follow each other: a piece only waits for pieces of its job that have begun before it."""
        with self._premises.submitting:
            waiting = [self.submit(fn, *args) for args in zip(*iterables, strict=True)]
        return _results(waiting, self._pulse)

    def _counted(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._premises.asked.is_set():
            raise Leaving
        self._pulse.begins()
        start = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            self._pulse.ends()
            with self._counting:
                self.seconds += time.thread_time() - start


def _results(waiting: Sequence[Future[Any]], pulse: Pulse) -> Iterator[Any]:
    try:
        for future in waiting:
            with pulse.waiting():
                result = future.result()
            yield result
    finally:
        for future in waiting:
            future.cancel()


class Premises:
    """What the jobs of a pack share."""

    def __init__(self, workers: int) -> None:
        self.threads = ThreadPoolExecutor(workers, "crew", initializer=torch.set_num_threads, initargs=(1,))
        self.submitting = threading.Lock()
        self.seeding = threading.RLock()
        self.asked = threading.Event()  # to leave
        self._made: dict[str, Any] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._naming = threading.Lock()

    def lock(self, name: str) -> threading.Lock:
        with self._naming:
            return self._locks.setdefault(name, threading.Lock())

    def shared(self, name: str, make: Callable[[], Made], pulse: Pulse) -> Made:
        with pulse.holding(self.lock(f"shared {name}")):
            if name not in self._made:
                self._made[name] = make()
            made: Made = self._made[name]
            return made


class Desk(Workshop):
    """The workshop of one job of a pack."""

    def __init__(self, premises: Premises, pulse: Pulse) -> None:
        self.premises, self.pulse = premises, pulse
        self.crew = _Crew(premises, pulse)
        self.pool = self.crew
        self._began, self._thread_began = time.perf_counter(), time.thread_time()

    @property
    def began(self) -> float:
        return self._began

    def shared(self, name: str, make: Callable[[], Made]) -> Made:
        return self.premises.shared(name, make, self.pulse)

    def own(self, model: Any) -> Any:
        """The same modules anew, holding the same tensors: an adapter changes modules, never a frozen tensor."""
        tensors = [*model.parameters(), *model.buffers()]
        with self.pulse.holding(self.premises.lock("own")):
            return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        with self.pulse.holding(self.premises.seeding), super().seeded(seed):
            yield

    @contextmanager
    def one_at_a_time(self, name: str) -> Iterator[None]:
        with self.pulse.holding(self.premises.lock(name)):
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


def _one(settings: TrainConfig, place: RunDirectory, premises: Premises, board: Board, logs: _ByThread, watch: Watch) -> None:
    """One job, in this thread. Never raises: its status says how it ended."""
    from hydratune.commands import train

    with (place.path / "run.log").open("a", encoding="utf-8") as stream, watch.over(place) as pulse:
        logs.streams[threading.get_ident()] = stream
        name, record = pulse.name, pulse.record
        try:
            torch.set_num_threads(1)
            with printing_to(stream, pulse.telling(board.teller(name))), alone(record.path):
                begin(settings, record)
                board.began(name)
                with recorded(settings, record):
                    train.run(settings, record, Desk(premises, pulse))
        except UnpackedError as error:
            record.update(state=State.stopped.value, error=f"{RUNS_ALONE}: {error}")
        except (HydratuneError, KeyboardInterrupt, Leaving):
            pass
        except BaseException:
            log.exception("unexpected error")
        finally:
            del logs.streams[threading.get_ident()]
            if not pulse.given_up:
                board.ended(name, record.status())


def run(folder: Path, names: Sequence[str], together: int, workers: int, patience: float | None = None) -> None:
    """The jobs ``names`` of the sweep in ``folder``, ``together`` of them at a time. Raises ``KeyboardInterrupt`` at the end if asked.

    Whoever is silent for ``patience`` seconds is given up. Raises ``Leaving`` if the pack could not go on because of that.
    """
    records = {name: RunDirectory(folder / name) for name in names}
    settings = {name: config.load(folder / SETTINGS / f"{name}.yaml") for name in names}
    premises = Premises(workers)
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

        watch = Watch(patience, board.seen, premises.asked)

        def station() -> None:
            while not premises.asked.is_set():
                with taking:
                    if not waiting:
                        return
                    name = waiting.pop(0)
                _one(settings[name], records[name], premises, board, logs, watch)

        def asked(signum: int, frame: FrameType | None) -> None:
            premises.asked.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, asked)
        stations = [_started(station, n) for n in range(min(together, len(names)))]
        while stations and not watch.overdue():
            stations[0].join(0.5)  # without an end it would keep a signal waiting
            board.say()
            hung = watch.look()
            for pulse in hung:
                board.ended(pulse.name, records[pulse.name].status())
                stations.append(_started(station, len(stations)))  # it takes the place of the one that hangs
            lost = {pulse.thread for pulse in hung}
            stations = [thread for thread in stations if thread.is_alive() and thread.ident not in lost]
        if watch.broken_at is not None:
            console.print("[red]this pack cannot go on because of the job that hangs; the others go on in a new one", soft_wrap=True)
            watch.hand_on()
        premises.threads.shutdown(wait=watch.broken_at is None, cancel_futures=True)
        logging.root.removeHandler(logs)
    if watch.broken_at is not None:
        raise Leaving
    if premises.asked.is_set():
        raise KeyboardInterrupt


def _started(station: Callable[[], None], number: int) -> threading.Thread:
    thread = threading.Thread(target=station, name=f"station {number}")
    thread.start()
    return thread


def main(args: Sequence[str]) -> int:
    """``FOLDER TOGETHER WORKERS PATIENCE|never NAME...``; statuses tell how the jobs ended.

    Exit code 130 if it was interrupted, ``GOES_ON`` if what is left needs a new pack, else 0.
    """
    folder, together, workers, patience, *names = args
    config.register()
    try:
        run(Path(folder), names, int(together), int(workers), None if patience == "never" else float(patience))
    except KeyboardInterrupt:
        return 130
    except Leaving:
        return GOES_ON
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code) if threading.active_count() > 1 else sys.exit(code)
