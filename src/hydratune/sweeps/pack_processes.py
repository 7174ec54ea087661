"""Runs the packs of a sweep by an executor, and again what is left of those that were killed."""

import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

from omegaconf import OmegaConf

from hydratune.errors import SweepError
from hydratune.experiment.lifecycle import write_hydra_files
from hydratune.records.files import write_text
from hydratune.records.status import BY_SIGNAL, Outcome, State, Status
from hydratune.sweeps.executor_options import RayOptions, SlurmOptions
from hydratune.sweeps.executors.executor import Executor
from hydratune.sweeps.executors.local import LocalExecutor
from hydratune.sweeps.job_processes import set_stopped
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_arguments import SETTINGS_FOLDER, PackArguments
from hydratune.sweeps.planning import PlannedJob, PlannedPack, without_hydra
from hydratune.sweeps.processes import INTERRUPTED
from hydratune.sweeps.retries import packs_for_unfinished, set_end
from hydratune.sweeps.stop_requests import is_to_stop


class PacksEnd(Enum):
    """How ``run_packs`` has ended."""

    over = auto()  # all packs have ended
    left = auto()  # some are still running, because the command is not to wait for them
    cancelled = auto()  # all have ended, and somebody ended one of them on purpose


_POLL = 0.1  # seconds between two questions whether a pack has ended


def create_executor(
    folder: Path, options: PackOptions, gpus: Sequence[str], jobs: Mapping[str, PlannedJob]
) -> Executor:
    """Return the executor that the settings ask for; ``jobs``: all of the sweep, by name."""
    if isinstance(options.executor, SlurmOptions):
        from hydratune.sweeps.executors.slurm import SlurmExecutor  # imports an optional package

        return SlurmExecutor(folder, options, options.executor, jobs)
    if isinstance(options.executor, RayOptions):
        from hydratune.sweeps.executors.ray_tasks import RayExecutor  # imports an optional package

        return RayExecutor(folder, options, options.executor, jobs)
    return LocalExecutor(folder, options, gpus)


class PackSource:
    """Gives further packs while others run. ``busy``: names of jobs that run, or are to."""

    def further(self, busy: Collection[str]) -> Sequence[PlannedPack]:
        """Return packs that are to run as well; asked at the beginning and when one has ended."""
        return ()

    def meanwhile(self, busy: Collection[str]) -> Sequence[PlannedPack]:
        """Return packs that are to run as well; asked often, so it has to be quick."""
        return ()


def run_packs(
    folder: Path,
    packs: Sequence[PlannedPack],
    options: PackOptions,
    executor: Executor,
    source: PackSource | None = None,
) -> PacksEnd:
    """Run packs, those that the executor already runs, and what is left of killed ones.

    ``source``: gives further ones. Raises ``KeyboardInterrupt`` after all jobs have saved their
    work.
    """
    queue = deque(packs)
    tries: dict[str, int] = {}  # how often each job was tried
    waits, end_of_all = options.executor.waits, PacksEnd.over
    try:
        if source is not None:
            queue.extend(source.further(_names([*queue, *executor.running()])))
        while queue or executor.running():
            if starting := [queue.popleft() for _ in range(min(executor.free(), len(queue)))]:
                for pack in starting:
                    _prepare_pack(folder, pack, options)
                _submit(folder, starting, executor)
            ended = executor.ended()
            for end in ended:
                _remove_settings(folder, end.pack)
                if end.is_cancelled:
                    set_end(end.pack.jobs, State.stopped, end.why)
                    end_of_all = PacksEnd.cancelled
                    continue
                if _is_stopped_alone(end.pack):
                    set_stopped(end.pack.jobs[0])
                    continue
                if end.code == INTERRUPTED:
                    set_end(end.pack.jobs, State.stopped, BY_SIGNAL)
                    raise KeyboardInterrupt
                queue.extend(packs_for_unfinished(end.pack, end.code, tries, options, end.why))
            if source is not None:
                busy = _names([*queue, *executor.running()])
                queue.extend(source.further(busy) if ended else source.meanwhile(busy))
            if not ended and not waits and not queue:
                break
            if not ended:
                time.sleep(_POLL)
    except KeyboardInterrupt:
        _cancel(folder, queue, executor)
        raise
    return PacksEnd.left if executor.running() else end_of_all


def _submit(folder: Path, packs: Sequence[PlannedPack], executor: Executor) -> None:
    """Submit packs. Raises ``SweepError`` after their jobs say why they were not taken."""
    try:
        executor.submit(packs)
    except SweepError as error:
        for pack in packs:
            for job in pack.jobs:
                if job.status.outcome is Outcome.no_run:
                    job.record.start()
            set_end(pack.jobs, State.stopped, str(error))
            _remove_settings(folder, pack)
        raise


def _cancel(folder: Path, queue: Iterable[PlannedPack], executor: Executor) -> None:
    """End the packs that run, and set the jobs of all that are left to stopped."""
    left = [*executor.running(), *queue]
    executor.cancel()
    for pack in left:
        set_end(pack.jobs, State.stopped, BY_SIGNAL)
        _remove_settings(folder, pack)


def _is_stopped_alone(pack: PlannedPack) -> bool:
    """Return whether a pack has ended that was asked to stop its only job.

    In other packs the jobs are asked one by one, and the pack goes on.
    """
    if not pack.command or not is_to_stop(pack.jobs[0].record):
        return False
    return pack.jobs[0].status.outcome not in (Outcome.finished, Outcome.failed, Outcome.halved)


def _names(packs: Iterable[PlannedPack]) -> set[str]:
    return {job.name for pack in packs for job in pack.jobs}


def _prepare_pack(folder: Path, pack: PlannedPack, options: PackOptions) -> None:
    """Write what the process of a pack reads."""
    for job in pack.jobs:
        if not job.record.is_finished() and job.name not in pack.failed:
            prepare(folder, job, options)


def prepare(folder: Path, job: PlannedJob, options: PackOptions) -> None:
    """Write the settings of a job for the process of its pack, and what Hydra writes for a job.

    A job that was stopped early by halving only runs if a better one fails, so its record stays.
    """
    record = job.record
    if not (options.is_halving and job.status.outcome is Outcome.halved):
        record.path.mkdir(parents=True, exist_ok=True)
        if job.status.outcome is not Outcome.no_run:
            record.change_status(Status.wait)
        composed = job.composed
        write_hydra_files(record, without_hydra(composed), composed.hydra, job.job.overrides)
    text = OmegaConf.to_yaml(OmegaConf.structured(job.settings), resolve=True)
    write_text(PackArguments.settings_of(folder, job.name), text)


def _remove_settings(folder: Path, pack: PlannedPack) -> None:
    """Remove the settings written for a pack; other packs may have theirs in the same folder."""
    for job in pack.jobs:
        PackArguments.settings_of(folder, job.name).unlink(missing_ok=True)
    with suppress(OSError):
        (folder / SETTINGS_FOLDER).rmdir()
