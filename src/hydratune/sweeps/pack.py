"""A pack: several jobs of a sweep in one process, over one base model and one set of rows.

Every job is an ordinary run in a thread of its own, with its own Trainer, optimizer, checkpoints,
W&B run and record. Its model is its own as well, but for the frozen weights, which are the same
tensors in all of them. Whatever computes goes through one pool of threads, one per core with one
intra-op thread each, in the same pieces as in a run alone. Short pieces of several jobs are
computed in one pass (``hydratune.sweeps.worker_pool``), where that changes no bit: a job's numbers do not
depend on its neighbours. A job that fails, ends or is stopped leaves; nobody waits for anybody.

    python -m hydratune.sweeps.pack FOLDER OPTIONS NAME...    what hydratune.sweeps.processes starts; options in JSON
"""  # noqa: E501

import copy
import json
import logging
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Any

import lightning.pytorch.trainer.trainer as lightning_trainer
import torch
from rich.markup import escape

from hydratune.console import LineFormatter, console, printing_to, silence
from hydratune.errors import HydratuneError, Leaving, Paused, SweepError, UnpackedError
from hydratune.experiment.context import Made, RunContext
from hydratune.experiment.frame import begin, recorded
from hydratune.models.hardware import accelerator, give_back, memory
from hydratune.records.files import read_json
from hydratune.records.run_directory import RunDirectory, State, alone
from hydratune.settings.commands import Resume, TrainConfig, load, register_commands
from hydratune.settings.secrets import mask
from hydratune.sweeps.board import Board
from hydratune.sweeps.halving import Halving, HalvingScheduler, values_of
from hydratune.sweeps.planning import GOES_ON, RUNS_ALONE, SETTINGS
from hydratune.sweeps.watch import Heartbeat, Watch
from hydratune.sweeps.worker_pool import Task, WorkerPool
from hydratune.training.merged import BaseReplica, MergeableBatch, MergingPool
from hydratune.training.products import lay_out

log = logging.getLogger(__name__)
_MERGE_TOKENS = 512
_SPARE_MEMORY = 3 * 2**28  # bytes of freed memory that a pack keeps for its next pieces
# of the machine's memory: most that laid-out copies of weights may take unasked
_MEMORY_SHARE = 1 / 8


class JobWorkers(MergingPool):
    """The threads of a pack as one job sees them: what they compute for it is counted as its own
    time.

    Once the pack is asked to leave they compute nothing more, and raise ``Leaving``.
    """

    def __init__(
        self, resources: "PackResources", heartbeat: Heartbeat, leaving: threading.Event
    ) -> None:
        """``leaving``: set when this job alone is to leave."""
        self._premises, self._pulse, self._leaving = resources, heartbeat, leaving
        self.seconds = 0.0
        self._counting = threading.Lock()

    @property
    def host(self) -> BaseReplica | None:  # type: ignore[override]
        return self._premises.threads.host

    def welcomes(self, tokens: int) -> bool:
        return self._premises.threads.is_small(tokens)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._pulse.beat()
        task = Task(partial(self._counted, function, *args, **kwargs))
        self._premises.threads.submit([task])
        return task.future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **_: Any,
    ) -> Iterator[Any]:
        """Pieces of one job follow each other: a piece only waits for pieces of its job that have
        begun before it.
        """
        jobs = list(zip(*iterables, strict=True))
        return self.map_guests(fn, jobs, [None] * len(jobs))

    def map_guests(
        self, work: Callable[..., Any], jobs: Sequence[Any], guests: Sequence[MergeableBatch | None]
    ) -> Iterator[Any]:
        self._pulse.beat()
        pieces = [partial(self._counted, work, *job) for job in jobs]
        tasks = [
            Task(piece, guest, self._begin, self._end)
            for piece, guest in zip(pieces, guests, strict=True)
        ]
        self._premises.threads.submit(tasks)
        return _results([task.future for task in tasks], self._pulse)

    def _begin(self) -> None:
        if self._premises.asked.is_set() or self._leaving.is_set():
            raise Leaving
        self._pulse.begins()

    def _end(self, seconds: float) -> None:
        self._pulse.ends()
        with self._counting:
            self.seconds += seconds

    def _counted(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._begin()
        start = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            self._end(time.thread_time() - start)


def _results(waiting: Sequence[Future[Any]], heartbeat: Heartbeat) -> Iterator[Any]:
    try:
        for future in waiting:
            with heartbeat.waiting():
                result = future.result()
            yield result
    finally:
        for future in waiting:
            future.cancel()


class PackResources:
    """What the jobs of a pack share."""

    def __init__(
        self, workers: int, merge_tokens: int | None = None, memory_share: float = 0.0
    ) -> None:
        """``merge_tokens``: of a pass for several jobs; None: as many as pay on a CPU, and only
        where no bit depends on company. ``memory_share``: of the machine's memory that copies of
        the base's weights may take to be read faster.
        """
        self.steadily, self.memory_share = merge_tokens is None, memory_share
        self.threads = WorkerPool(workers, _MERGE_TOKENS if merge_tokens is None else merge_tokens)
        self.seeding = threading.RLock()
        self.asked = threading.Event()  # to leave
        self.trackers: dict[str, Any] = {}  # by name of job
        self.begun: set[str] = set()  # names of jobs
        # by name of job
        self.leaving: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self._made: dict[str, Any] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._naming = threading.Lock()

    def lock(self, name: str) -> threading.Lock:
        with self._naming:
            return self._locks.setdefault(name, threading.Lock())

    def shared(self, name: str, make: Callable[[], Made], heartbeat: Heartbeat) -> Made:
        with heartbeat.holding(self.lock(f"shared {name}")):
            if name not in self._made:
                self._made[name] = make()
            made: Made = self._made[name]
            return made

    def own(self, model: Any, heartbeat: Heartbeat) -> Any:
        """The same modules anew, holding the same tensors: an adapter changes modules, never a
        frozen tensor.
        """
        tensors = [*model.parameters(), *model.buffers()]

        def copied() -> Any:
            return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})

        with heartbeat.holding(self.lock("own")):
            self.shared(
                "layouts", lambda: self._lay_out(model), heartbeat
            )  # once: it also tries whether they change any bit
            if self.threads.merge_tokens:
                self.threads.host = self.shared(
                    "host", lambda: BaseReplica(copied(), steadily=self.steadily), heartbeat
                )
            return copied()

    def _lay_out(self, model: Any) -> int:
        taken = lay_out(model, self.memory_share * memory()) if self.memory_share else 0
        if taken:
            log.info(
                "copies of the frozen weights as this processor reads them fastest take up to"
                " %.2f GiB",
                taken / 2**30,
            )
        return taken


class PackContext(RunContext):
    """The workshop of one job of a pack."""

    def __init__(
        self, resources: PackResources, heartbeat: Heartbeat, turns: HalvingScheduler
    ) -> None:
        self.resources, self.heartbeat, self.record, self.turns = (
            resources,
            heartbeat,
            heartbeat.record,
            turns,
        )
        self._rungs: list[int] = []
        self._shared: set[int] = set()  # weights of the base model
        leaving = resources.leaving[heartbeat.name]
        self.crew, self.stop = JobWorkers(resources, heartbeat, leaving), leaving.set
        self.pool = self.crew
        self._began, self._thread_began = time.perf_counter(), time.thread_time()

    @property
    def began(self) -> float:
        return self._began

    def shared(self, name: str, make: Callable[[], Made]) -> Made:
        return self.resources.shared(name, make, self.heartbeat)

    def own(self, model: Any) -> Any:
        self._shared = {id(tensor) for tensor in model.parameters()}
        return self.resources.own(model, self.heartbeat)

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        with self.heartbeat.holding(self.resources.seeding), super().seeded(seed):
            yield

    @contextmanager
    def one_at_a_time(self, name: str) -> Iterator[None]:
        with self.heartbeat.holding(self.resources.lock(name)):
            yield

    def tracker(self, start: Callable[[], Made]) -> tuple[Made, bool]:
        name = self.record.path.name
        new = name not in self.resources.trackers
        if new:
            self.resources.trackers[name] = start()
        tracker: Made = self.resources.trackers[name]
        return tracker, new

    def rungs(self, total: int) -> Sequence[int]:
        self._rungs = self.turns.halving.rungs(total) if self.turns.halving is not None else []
        return self._rungs

    def judged(self, step: int) -> bool:
        return any(entry[0] == step for entry in self.record.status().get("rungs", []))

    def may_go_on(self, step: int, loss: float) -> bool:
        self.heartbeat.beat()
        known = [entry for entry in self.record.status().get("rungs", []) if entry[0] < step]
        self.record.update(rungs=[*known, [step, loss if math.isfinite(loss) else None]])
        return self.turns.reached(self.record.path.name, self._rungs.index(step), loss)

    def cpu_seconds(self) -> float:
        return self.crew.seconds + time.thread_time() - self._thread_began

    def accept(self, model: Any) -> None:
        from hydratune.training.lora import draws_elsewhere

        own = [p for p in model.parameters() if p.requires_grad and id(p) in self._shared]
        for parameter in own:  # nobody else may take it for one of theirs
            parameter.requires_grad_(False)
        if own:
            raise UnpackedError(
                "its adapter trains weights of the base model, which are not its own here"
            )
        if draws_elsewhere(model):
            raise UnpackedError(
                "its dropout draws from the process's generator, whose order would depend on the"
                " other jobs"
            )

    def ignore_interrupts(self) -> None:
        pass  # signals only reach the main thread, which waits for all jobs


class _ByThread(logging.Handler):
    """Log records go to the run.log of the job whose thread wrote them; all others to that of the
    pack.
    """

    def __init__(self, common: IO[str]) -> None:
        super().__init__()
        self.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self.common, self.streams = common, dict[int, IO[str]]()

    def emit(self, record: logging.LogRecord) -> None:
        stream = self.streams.get(threading.get_ident(), self.common)
        try:
            stream.write(mask(self.format(record)) + "\n")
            stream.flush()
        except Exception:  # a full disk must not end a job, or a pack, for the sake of a line
            self.handleError(record)


def _one(
    settings: TrainConfig,
    heartbeat: Heartbeat,
    resources: PackResources,
    turns: HalvingScheduler,
    board: Board,
    logs: _ByThread,
) -> None:
    """One job, in this thread, to its end or until it has to wait.

    Never raises: its status says how it ended.
    """
    from hydratune.commands import train

    name, record, recording = heartbeat.name, heartbeat.record, False
    with (record.path / "run.log").open("a", encoding="utf-8") as stream:
        logs.streams[threading.get_ident()] = stream
        try:
            torch.set_num_threads(1)
            with printing_to(stream, heartbeat.telling(board.teller(name))), alone(record.path):
                # it was paused here: resume=never is about what an earlier command
                # left
                if name in resources.begun:
                    settings = replace(settings, resume=Resume.auto)
                begin(settings, record)
                resources.begun.add(name)
                board.began(name)
                recording = True
                with recorded(settings, record):
                    train.run(settings, record, PackContext(resources, heartbeat, turns))
        except UnpackedError as error:
            record.update(state=State.stopped.value, error=f"{RUNS_ALONE}: {error}")
        except HydratuneError as error:
            if not recording:  # another process holds the folder, say: nothing may be written there
                console.print(
                    f"[red]job {name} did not begin: {escape(str(error))}", soft_wrap=True
                )
        except (KeyboardInterrupt, Leaving, Paused):
            pass
        except BaseException:
            log.exception("unexpected error")
        finally:
            del logs.streams[threading.get_ident()]
            if not heartbeat.given_up and recording:
                _report(record, resources, turns, board)
            elif (
                not heartbeat.given_up
            ):  # nothing of it may be written; and it is not to be handed out again and again
                board.ended(name, record.status())
                turns.ended(name, "failed")


def _report(
    record: RunDirectory, resources: PackResources, turns: HalvingScheduler, board: Board
) -> None:
    """Tells everybody that a job has ended, or waits for a verdict."""
    name, status = record.path.name, record.status()
    if status.get("state") == State.waiting.value:
        board.paused(name, status)
    else:
        resources.trackers.pop(name, None)
        board.ended(name, status)
    turns.ended(name, *_outcome(record))


def _outcome(record: RunDirectory) -> tuple[str, float | None]:
    """(state, validation loss) as ``HalvingScheduler`` wants them."""
    status = record.status()
    if record.is_finished():
        return "finished", read_json(record.metrics_file).get("val/loss")
    if "halved" in status:
        return "out", None
    return ("paused" if status.get("state") == State.waiting.value else "failed"), None


def _turns(
    records: Mapping[str, RunDirectory],
    resources: PackResources,
    board: Board,
    halving: Halving | None,
    lost: Sequence[str] = (),
) -> HalvingScheduler:
    """The order of jobs, and what is known of those of an earlier start; ``lost`` have failed, and
    are not tried again.
    """
    turns = HalvingScheduler(list(records), halving, resources.asked)

    def out(name: str) -> None:
        """``name`` is not among the best: what it has is kept."""
        step, value = records[name].status()["rungs"][-1]
        why = (
            f"halved: not among the best at step {step} (validation loss {value:.4f})"
            if value is not None
            else f"halved at step {step}"
        )
        records[name].update(
            halved={"step": step, "value": value, "rung": len(records[name].status()["rungs"]) - 1}
        )
        records[name].end(State.stopped, why)
        tracker = resources.trackers.pop(name, None)
        if tracker is not None:
            tracker.summary({"halved_at_step": step})
            tracker.finish(0)
        board.ended(name, records[name].status())

    turns.on_out = out
    in_sync = halving is not None and halving.kind == "sync"
    for name, record in records.items() if halving is not None else ():
        state, final = _outcome(record)
        values = values_of(record.status())
        if state in ("finished", "out") or name in lost:
            turns.known(name, values, state, final)
        elif values and record.left() is not None:
            # In sync a verdict is the same whenever it is asked for, so whoever was
            # killed after its report waits for one. In asha
            # that may have been the permission to go on: it goes on, and what was
            # killed before its checkpoint reports again.
            turns.known(
                name, values, "paused" if in_sync or record.status().get("paused") else "new"
            )
    return turns


def run(
    folder: Path,
    names: Sequence[str],
    together: int,
    workers: int,
    halving: Halving | None = None,
    patience: float | None = None,
    lost: Sequence[str] = (),
    merge_tokens: int | None = None,
    driver: int | None = None,
    lay_out: bool | None = None,
) -> None:
    """The jobs ``names`` of the sweep in ``folder``, ``together`` of them at a time; those that
    ended before, or are ``lost``, only count.

    For ``merge_tokens`` see ``PackResources``; ``lay_out``: the base's weights, None: within an
    eighth of the memory, for several jobs. A job that is silent for ``patience`` seconds is given
    up. ``driver`` is the process that started this one: without it, everybody leaves. Raises
    ``KeyboardInterrupt`` at the end if asked, ``Leaving`` if a job hangs in such a way that the
    pack cannot go on.
    """
    records = {name: RunDirectory(folder / name) for name in names}
    unasked = _MEMORY_SHARE if len(names) > 1 else 0.0
    memory_share = {None: unasked, True: math.inf, False: 0.0}[lay_out]
    resources = PackResources(computing_threads(folder, names, workers), merge_tokens, memory_share)
    torch.set_num_threads(1)
    with (folder / "pack.log").open("a", encoding="utf-8") as common, Board(folder, names) as board:
        turns = _turns(records, resources, board, halving, lost)
        watch = Watch(patience, board.seen, resources.asked)
        logs = _ByThread(common)
        logging.root.addHandler(logs)
        logging.root.setLevel(logging.INFO)
        warnings.filterwarnings("ignore", module="lightning|torch")
        # Around its sanity check, which is off, Lightning sets the process's generators
        # back while another job may draw.
        vars(lightning_trainer)["isolate_rng"] = nullcontext

        broken: list[str] = []
        stopped: set[str] = set()  # before it broke
        breaking = threading.Lock()

        def station() -> None:
            try:
                while (name := turns.next()) is not None:
                    settings = load(folder / SETTINGS / f"{name}.yaml")
                    with watch.over(records[name]) as heartbeat:
                        _one(settings, heartbeat, resources, turns, board, logs)
            except BaseException as error:
                log.exception("the pack itself is broken")
                with breaking:
                    if not broken:
                        stopped.update(_stopped(records))
                    broken.append(f"{type(error).__name__}: {error}; see {folder}/pack.log")
                    resources.asked.set()

        def asked(signum: int, frame: FrameType | None) -> None:
            if signum == hung_up:
                silence()
            resources.asked.set()

        hung_up = getattr(signal, "SIGHUP", None)  # the terminal was closed
        for number in (signal.SIGINT, signal.SIGTERM, *([hung_up] if hung_up else [])):
            signal.signal(number, asked)
        stations = [_started(station, n) for n in range(min(together, len(names)))]
        while stations and not watch.overdue():
            stations[0].join(0.5)  # without an end it would keep a signal waiting
            board.say()
            give_back(_SPARE_MEMORY)
            # it was killed: nobody is left to hand the rest to
            if driver not in (
                None,
                os.getppid(),
            ):
                resources.asked.set()
            hung = watch.look()
            for heartbeat in hung:
                _report(records[heartbeat.name], resources, turns, board)
                stations.append(
                    _started(station, len(stations))
                )  # it takes the place of the one that hangs
            lost_threads = {heartbeat.thread for heartbeat in hung}
            stations = [
                thread
                for thread in stations
                if thread.is_alive() and thread.ident not in lost_threads
            ]
        if watch.broken_at is not None:
            console.print(
                "[red]this pack cannot go on because of the job that hangs; the others go on in a"
                " new one",
                soft_wrap=True,
            )
            watch.hand_on()
            for heartbeat in watch.left:
                resources.trackers.pop(heartbeat.name, None)
        if halving is not None and not any(
            record.status().get("rungs") for record in records.values()
        ):
            least = f"hydra.launcher.halving.min_steps={halving.min_steps}"
            console.print(
                f"[yellow]nobody was halved: no job that ended has more than {least} steps",
                soft_wrap=True,
            )
        resources.threads.dismiss(wait=watch.broken_at is None)
        for tracker in resources.trackers.values():  # of jobs that were waiting
            tracker.finish(130)
        logging.root.removeHandler(logs)
    if broken:
        # nobody wanted that: another pack goes on with them
        for name in _stopped(records) - stopped:
            records[name].update(state=State.waiting.value, error=None)
        raise SweepError(broken[0])
    if watch.broken_at is not None:
        raise Leaving
    if resources.asked.is_set():
        raise KeyboardInterrupt


def computing_threads(folder: Path, names: Sequence[str], cores: int) -> int:
    """How many threads compute for a pack: one per core on a CPU, one on a GPU.

    A GPU does one thing after the other whoever asks, and every further thread would hold the
    activations of a micro-pack or the keys and values of a batch of answers there. Jobs of a pack
    all compute on the same device.
    """
    for name in names:
        file = folder / SETTINGS / f"{name}.yaml"
        if file.is_file():  # those of finished jobs are gone
            with suppress(HydratuneError):  # its job says that there is no GPU
                return 1 if accelerator(load(file)) == "gpu" else cores
    return cores


def _stopped(records: Mapping[str, RunDirectory]) -> set[str]:
    """By somebody, that is, and not halved; as far as that can be read."""
    found = set()
    for name, record in records.items():
        with suppress(HydratuneError, OSError):
            status = record.status()
            if status.get("state") == State.stopped.value and "halved" not in status:
                found.add(name)
    return found


def _started(station: Callable[[], None], number: int) -> threading.Thread:
    thread = threading.Thread(target=station, name=f"station {number}")
    thread.start()
    return thread


def main(args: Sequence[str]) -> int:
    """``FOLDER OPTIONS NAME...``; exit code 130 if it was interrupted, ``GOES_ON`` if what is left
    needs a new pack, else 0.

    Statuses tell the rest.
    """
    folder, options, *names = args
    register_commands()
    chosen = {
        "halving": None,
        "patience": None,
        "lost": (),
        "merge_tokens": None,
        "lay_out": None,
        "driver": None,
        **json.loads(options),
    }
    halving = Halving(**chosen["halving"]) if chosen["halving"] else None
    try:
        settings = (
            chosen["together"],
            chosen["workers"],
            halving,
            chosen["patience"],
            chosen["lost"],
            chosen["merge_tokens"],
        )
        run(Path(folder), names, *settings, chosen["driver"], chosen["lay_out"])
    except KeyboardInterrupt:
        return 130
    except SweepError as error:
        console.print(f"[red]{escape(str(error))}", soft_wrap=True)
        return 1
    except Leaving:
        return GOES_ON
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code) if threading.active_count() > 1 else sys.exit(code)
