"""A pack: several jobs of a sweep in one process, over one base model and one set of rows.

Every job is an ordinary run in a thread of its own, with its own Trainer, optimizer, checkpoints,
W&B run and record. Its model is its own as well, except for the frozen weights, which are the same
tensors in all jobs. What computes goes through one pool of threads, one per core with one intra-op
thread each, in the same pieces as in a run alone. Short pieces of several jobs are computed in one
pass (``hydratune.sweeps.worker_pool``) where that changes no bit, so a job's numbers do not depend
on the other jobs. A job that fails, ends or is stopped leaves; the others do not wait for it.

    python -m hydratune.sweeps.pack FOLDER JSON NAME...    see hydratune.sweeps.pack_arguments
"""

import gc
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from types import FrameType

from hydratune import lean_imports

if __name__ == "__main__":
    lean_imports.install()
    gc.disable()  # until all is imported, as lean_imports.load does for a command

import lightning.pytorch.trainer.trainer as lightning_trainer
import torch
from lightning.pytorch.trainer.connectors import data_connector
from rich.markup import escape

from hydratune.console import console, discard_output
from hydratune.errors import HydratuneError, RunInterrupted, SweepError
from hydratune.models.hardware import accelerator, give_back
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import Outcome, Status
from hydratune.settings.commands import load
from hydratune.settings.monitor import Monitor
from hydratune.sweeps.joining import take
from hydratune.sweeps.pack_arguments import NEEDS_NEW_PACK, PackArguments
from hydratune.sweeps.pack_job import Pack, create_scheduler, report_end, run_job
from hydratune.sweeps.pack_logging import log_by_thread
from hydratune.sweeps.pack_resources import PackResources
from hydratune.sweeps.planning import shared_by
from hydratune.sweeps.processes import INTERRUPTED
from hydratune.sweeps.progress_table import ProgressTable
from hydratune.sweeps.stop_requests import stop_requests
from hydratune.sweeps.watch import Watch
from hydratune.tracking.typed_command import use_typed_command

log = logging.getLogger(__name__)
_SPARE_MEMORY = 3 * 2**28  # bytes of freed memory that a pack keeps for its next pieces
_MEMORY_SHARE = 1 / 8  # of the machine's memory, for copies of weights that nobody asked for


def run(arguments: PackArguments) -> None:
    """Run the jobs of a pack.

    Raises ``KeyboardInterrupt`` at the end if the pack was interrupted, ``RunInterrupted`` if a job
    hung in such a way that the pack cannot continue, or if its cluster takes the machine away,
    ``SweepError`` if the pack itself failed.
    """
    folder, names = arguments.folder, arguments.names
    torch.set_num_threads(1)
    keep_lightning_from_other_jobs()
    resources = _create_resources(arguments)
    records = {name: RunDirectory(folder / name) for name in names}
    monitor = Monitor.read(arguments.monitor)
    with (
        log_by_thread(folder / "pack.log") as logs,
        ProgressTable(folder, names, monitor) as progress_table,
    ):
        scheduler = create_scheduler(arguments, records, resources, progress_table)
        watch = Watch(arguments.options.patience, progress_table.seen, resources.leave)
        pack = Pack(arguments, records, resources, scheduler, watch, progress_table, logs)
        resources.signals_reach_all = arguments.is_requeued
        _leave_on_signals(resources, is_requeued=arguments.is_requeued)
        threads = JobThreads(pack)
        threads.run_all()
        _close(pack)
    if threads.errors:
        threads.requeue_stopped()
        raise SweepError(threads.errors[0])
    if watch.broken_at is not None:
        raise RunInterrupted
    if resources.leave.is_set():
        raise KeyboardInterrupt
    if resources.leave_after_step.is_set() and threads.requeue_stopped():
        raise RunInterrupted


def keep_lightning_from_other_jobs() -> None:
    """Switch off what Lightning changes in the whole process while other jobs use it."""
    # Around its sanity check, which is off, it restores the generators of the process while another
    # job may draw from them.
    vars(lightning_trainer)["isolate_rng"] = nullcontext
    # While it asks a job for its data, it replaces methods of DataLoader, to make a loader again
    # with another sampler for several devices; of two jobs that are asked at the same time, one
    # finds methods that the other has removed.
    vars(data_connector)["_replace_dunder_methods"] = lambda *_: nullcontext()


class JobThreads:
    """The threads of a pack that run its jobs, each one job after the other."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._stopped_before: set[str] = set()  # jobs that were stopped before the first error
        self._shared = _shared_by_all(pack.arguments)  # by jobs that may join
        self.errors: list[str] = []  # of the pack itself, which no job is to blame for

    def run_all(self) -> None:
        """Run jobs until there are none left, or the pack cannot continue because of one."""
        pack = self._pack
        for _ in range(min(pack.arguments.together, len(pack.records))):
            self._start()
        while self._threads and not pack.watch.is_overdue():
            self._threads[0].join(0.5)  # a wait without a limit would delay signals
            pack.progress_table.print_progress()
            give_back(_SPARE_MEMORY)
            if pack.arguments.parent not in (None, os.getppid()):  # it was killed
                pack.resources.leave.set()
            self._let_jobs_join()
            for name in stop_requests(pack.arguments.folder) & set(pack.records):
                pack.resources.leave_job[name].set()
            self._replace_hanging()

    def _let_jobs_join(self) -> None:
        """Run the jobs that were added to the sweep meanwhile and share what this pack shares."""
        pack = self._pack
        if not self._shared or pack.resources.is_leaving():
            return
        for name in take(pack.arguments.folder, self._shared):
            pack.records[name] = RunDirectory(pack.arguments.folder / name)
            pack.progress_table.add(name)
            pack.scheduler.add(name)
            console.print(f"job {escape(name)} was added, and joins this pack", soft_wrap=True)
            if len(self._threads) < pack.arguments.together:
                self._start()

    def _start(self) -> None:
        name = f"job thread {len(self._threads)}"
        thread = threading.Thread(target=self._run_jobs, name=name)
        thread.start()
        self._threads.append(thread)

    def _run_jobs(self) -> None:
        """Run one job after the other, in this thread."""
        pack = self._pack
        try:
            while (name := pack.scheduler.next_job()) is not None:
                settings = load(pack.arguments.settings_file(name))
                with pack.watch.over(pack.records[name]) as heartbeat:
                    run_job(pack, settings, heartbeat)
        except BaseException as error:
            log.exception("the pack itself failed")
            with self._lock:
                if not self.errors:
                    self._stopped_before = _stopped(pack)
                place = pack.arguments.folder / "pack.log"
                self.errors.append(f"{type(error).__name__}: {error}; see {place}")
                pack.resources.leave.set()

    def _replace_hanging(self) -> None:
        """Give up the jobs that hang, and start new threads in place of theirs."""
        hanging = self._pack.watch.give_up_hanging()
        for heartbeat in hanging:
            report_end(self._pack, self._pack.records[heartbeat.name])
            self._start()
        lost = {heartbeat.thread for heartbeat in hanging}
        self._threads = [t for t in self._threads if t.is_alive() and t.ident not in lost]

    def requeue_stopped(self) -> bool:
        """Set the jobs that left with the pack to waiting, for another pack.

        Return whether any job is left to run.
        """
        asked = stop_requests(self._pack.arguments.folder)
        for name in _stopped(self._pack) - self._stopped_before - asked:
            self._pack.records[name].change_status(Status.wait)
        outcomes = [record.read_status().outcome for record in self._pack.records.values()]
        left = (Outcome.no_run, Outcome.waiting, Outcome.paused)
        return any(outcome in left for outcome in outcomes)


def _stopped(pack: Pack) -> set[str]:
    """Return the jobs that were stopped, but not by halving, as far as statuses can be read."""
    stopped = set()
    for name, record in pack.records.items():
        with suppress(HydratuneError, OSError):
            if record.read_status().outcome in (Outcome.stopped, Outcome.cannot_share_pack):
                stopped.add(name)
    return stopped


def _shared_by_all(arguments: PackArguments) -> str:
    """Return what jobs have to share to join the pack; "": none can.

    Jobs that are judged together are known from the beginning, and a cluster runs a pack again
    without those that joined it.
    """
    if arguments.halving.is_on or arguments.is_requeued:
        return ""
    files = map(arguments.settings_file, arguments.names)
    file = next((file for file in files if file.is_file()), None)
    return shared_by(load(file)) if file is not None else ""


def _create_resources(arguments: PackArguments) -> PackResources:
    """Return what the jobs share; by default, weights are laid out anew for several jobs only."""
    memory_share = _MEMORY_SHARE if len(arguments.names) > 1 else 0.0
    if arguments.options.lay_out is not None:
        memory_share = math.inf if arguments.options.lay_out else 0.0
    threads = count_computing_threads(arguments)
    return PackResources(threads, arguments.options.merge_tokens, memory_share)


def count_computing_threads(arguments: PackArguments) -> int:
    """Return how many threads compute for a pack: as many as it was given on a CPU, one on a GPU.

    A GPU does one thing after the other, and every further thread would hold the activations of a
    micro-pack, or the keys and values of a batch of answers, there. All jobs of a pack compute on
    the same device.
    """
    for name in arguments.names:
        file = arguments.settings_file(name)
        if file.is_file():  # jobs that have ended have none
            with suppress(HydratuneError):  # the job itself reports that there is no GPU
                return 1 if accelerator(load(file)) == "gpu" else arguments.threads
    return arguments.threads


def _leave_on_signals(resources: PackResources, *, is_requeued: bool) -> None:
    """Make all jobs leave on Ctrl-C, on a kill, and if the terminal is closed.

    ``is_requeued``: a kill, and SIGUSR2, are how a cluster takes the machine away; jobs in training
    then leave after their optimizer step, with a checkpoint.
    """
    hung_up = getattr(signal, "SIGHUP", None)
    soon = (signal.SIGTERM, signal.SIGUSR2) if is_requeued else ()

    def handle(signum: int, frame: FrameType | None) -> None:
        if signum == hung_up:
            discard_output()
        (resources.leave_after_step if signum in soon else resources.leave).set()

    for number in {signal.SIGINT, signal.SIGTERM, *([hung_up] if hung_up else []), *soon}:
        signal.signal(number, handle)


def _close(pack: Pack) -> None:
    """End what the jobs have shared, and say what became of the pack."""
    watch, trackers, halving = pack.watch, pack.resources.trackers, pack.arguments.halving
    if watch.broken_at is not None:
        console.print(
            "[red]this pack cannot continue because of the job that hangs; the others are resumed"
            " in a new one",
            soft_wrap=True,
        )
        watch.requeue_unfinished()
        for heartbeat in watch.unfinished:
            trackers.pop(heartbeat.name, None)
    if halving.is_on and not any(r.read_status().rungs for r in pack.records.values()):
        least = f"hydra.launcher.halving.min_steps={halving.min_steps}"
        console.print(
            f"[yellow]no job was halved: no job that ended has more than {least} steps",
            soft_wrap=True,
        )
    pack.resources.workers.close(wait=watch.broken_at is None)
    for tracker in trackers.values():  # of jobs that were paused
        tracker.finish(INTERRUPTED)


def main(arguments: Sequence[str]) -> int:
    """Run the pack that ``arguments`` describe, and return the exit code.

    130 if it was interrupted, ``NEEDS_NEW_PACK`` if the unfinished jobs need a new pack, 1 if the
    pack itself failed, else 0. What became of each job is in its status.
    """

    use_typed_command()
    try:
        run(PackArguments.parse(arguments))
    except KeyboardInterrupt:
        return INTERRUPTED
    except SweepError as error:
        console.print(f"[red]{escape(str(error))}", soft_wrap=True)
        return 1
    except RunInterrupted:
        return NEEDS_NEW_PACK
    return 0


if __name__ == "__main__":
    lean_imports.freeze()
    gc.enable()
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(exit_code) if threading.active_count() > 1 else sys.exit(exit_code)
