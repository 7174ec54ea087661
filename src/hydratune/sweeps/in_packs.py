"""The jobs of a sweep divided among packs, run where the executor runs them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.types import HydraContext
from rich.markup import escape

from hydratune.console import console
from hydratune.data.quality.skipped import describe_skipped, skipped_for_packages
from hydratune.records.status import Outcome, State
from hydratune.sweeps.asynchronous import run_asynchronously
from hydratune.sweeps.devices import visible_gpus
from hydratune.sweeps.executors.executor import Executor
from hydratune.sweeps.executors.submitted import refuse_submitted
from hydratune.sweeps.job_processes import (
    begun_anew,
    pack_of_one,
    run_one_by_one,
    wait_for_unfinished,
)
from hydratune.sweeps.joined_packs import JoinedPacks
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_processes import PacksEnd, create_executor, run_packs
from hydratune.sweeps.planning import Plan, PlannedJob, PlannedPack, plan
from hydratune.sweeps.rounds import run_rounds
from hydratune.sweeps.stop_requests import withdraw_stops
from hydratune.wording import counted


def run_in_packs(
    context: HydraContext, folder: Path, jobs: Sequence[PlannedJob], options: PackOptions
) -> list[PlannedJob] | None:
    """Run jobs in packs, and those that cannot share a process alone; return those that failed.

    All jobs are planned, also those that have ended, so that a pack has the same members however
    often the sweep is started. None: some are still running, because the command is not to wait.
    """
    if not options.executor.outlives_driver:
        refuse_submitted(folder)
    gpus = [] if all(job.settings.trainer.accelerator == "cpu" for job in jobs) else visible_gpus()
    gpus = gpus if len(gpus) > 1 else []
    executor = create_executor(folder, options, gpus, {job.name: job for job in jobs})
    try:
        parts = options.executor.divides_into or max(1, len(gpus))
        sweep = _start(context, folder, jobs, options, executor, parts)
        end = _run_packs(sweep)
        if end is PacksEnd.over:
            end = _run_alone(sweep)
    finally:
        executor.close()
    if end is PacksEnd.left:
        return None
    unfinished = [job for job in jobs if not job.record.is_finished()]
    return [job for job in unfinished if job.status.state is not State.stopped]


def packs_of_batch(
    context: HydraContext,
    folder: Path,
    jobs: Sequence[PlannedJob],
    options: PackOptions,
    executor: Executor,
) -> list[PlannedPack]:
    """Return the packs of jobs that an executor is to run together, those of jobs that cannot share
    a process among them.
    """
    sweep = _start(context, folder, jobs, options, executor, parts=1)
    return [*_packs(sweep), *_alone_packs(sweep)]


@dataclass(frozen=True)
class _Sweep:
    """A sweep whose jobs are divided; jobs are given by their numbers."""

    context: HydraContext
    folder: Path
    jobs: Sequence[PlannedJob]
    options: PackOptions
    executor: Executor
    groups: Sequence[Sequence[int]]  # jobs that can share a pack
    division: Plan
    parts: int  # packs that run at the same time
    ended: Collection[int]  # jobs that are not run: finished, halved, or submitted before

    @property
    def is_judged_in_packs(self) -> bool:
        """Whether jobs that are judged together are in several packs."""
        return self.options.is_halving and len(self.division.packs) > len(self.groups)


def _start(
    context: HydraContext,
    folder: Path,
    jobs: Sequence[PlannedJob],
    options: PackOptions,
    executor: Executor,
    parts: int,
) -> _Sweep:
    """Divide the jobs, and say what is skipped and what is tried again.

    ``parts``: how many packs can run at the same time.
    """
    busy = {job.name for pack in executor.running() for job in pack.jobs}
    submitted = {number for number, job in enumerate(jobs) if job.name in busy}
    free = [job for job in jobs if job.name not in busy]
    for job in free:
        wait_for_unfinished(job.record)
    withdraw_stops(folder, [job.name for job in free])
    finished = {number for number, job in enumerate(jobs) if job.record.is_finished()}
    halved: set[int] = set()
    if options.is_halving:
        halved = {n for n, job in enumerate(jobs) if job.status.outcome is Outcome.halved}
    _print_before_packs(jobs, finished, halved, options)
    _reset_tries(free)
    size = options.size_of_packs(len(jobs), parts)
    settings = {number: job.settings for number, job in enumerate(jobs)}
    groups, division = plan(settings, None).packs, plan(settings, size)
    ended = finished | halved | submitted
    return _Sweep(context, folder, jobs, options, executor, groups, division, parts, ended)


def _run_packs(sweep: _Sweep) -> PacksEnd:
    """Run the jobs that can share a process.

    Where jobs alone are run by the executor as well, they are among them.
    """
    jobs, options, executor = sweep.jobs, sweep.options, sweep.executor
    more = _alone_packs(sweep) if options.executor.runs_alone_jobs else []
    if sweep.is_judged_in_packs:
        busy = {job.name for pack in executor.running() for job in pack.jobs}
        groups = [[jobs[n] for n in numbers] for numbers in sweep.groups]
        groups = [[begun_anew(job, busy) for job in group] for group in groups]
        waits_for_all = options.halving is not None and options.halving.waits_for_all
        run = run_rounds if waits_for_all else run_asynchronously
        return run(sweep.folder, groups, options, executor, more, sweep.parts)
    joined = None
    if options.executor.runs_alone_jobs and not options.is_halving:  # others join packs themselves
        joined = JoinedPacks(sweep.context, sweep.folder, options)
    return run_packs(sweep.folder, [*_packs(sweep), *more], options, executor, joined)


def _run_alone(sweep: _Sweep) -> PacksEnd:
    """Run the jobs that cannot share a process."""
    jobs = sweep.jobs
    alone = {n: why for n, why in sweep.division.alone.items() if n not in sweep.ended}
    if sweep.options.executor.runs_alone_jobs:
        alone = {}  # they have been submitted with the packs
    for number in (number for numbers in sweep.division.packs for number in numbers):
        status = jobs[number].status
        if status.outcome is Outcome.cannot_share_pack:
            alone[number] = str(status.cannot_share_pack)
    _say_alone(sweep, alone)
    if not alone:
        return PacksEnd.over
    chosen = [job for number, job in enumerate(jobs) if number in alone]
    if sweep.options.executor.runs_alone_jobs:
        packs = [pack_of_one(sweep.context, job) for job in chosen]
        return run_packs(sweep.folder, packs, sweep.options, sweep.executor)
    run_one_by_one(sweep.context, chosen)
    return PacksEnd.over


def _alone_packs(sweep: _Sweep) -> list[PlannedPack]:
    """Return a pack for each job that cannot share a process."""
    alone = {n: why for n, why in sweep.division.alone.items() if n not in sweep.ended}
    _say_alone(sweep, alone)
    return [pack_of_one(sweep.context, sweep.jobs[number]) for number in alone]


def _say_alone(sweep: _Sweep, alone: dict[int, str]) -> None:
    for number, why in alone.items():
        name = escape(sweep.jobs[number].name)
        console.print(f"[dim]job {name} runs alone: {escape(why)}", soft_wrap=True)


def _print_before_packs(
    jobs: Sequence[PlannedJob],
    finished: Collection[int],
    halved: Collection[int],
    options: PackOptions,
) -> None:
    """Say which jobs are skipped, which are tried again, what halving does with seeds, and which
    data checks are skipped.
    """
    if finished or halved:
        early = f", {len(halved)} stopped early by halving" if halved else ""
        console.print(
            f"{len(finished)} of {counted(len(jobs), 'job')} finished before{early}; skipped"
        )
    failed = [job.name for job in jobs if job.status.state is State.failed]
    if failed:
        names = ", ".join(failed)
        console.print(
            f"{len(failed)} of {counted(len(jobs), 'job')} failed before and are tried again:"
            f" {names}",
            soft_wrap=True,
        )
    if options.is_halving and len({job.settings.seed for job in jobs}) > 1:
        console.print(
            "[yellow]halving judges the jobs of all seeds together: a mean over seeds is then one"
            " over the jobs that were not stopped early",
            soft_wrap=True,
        )
    skipped: dict[str, str] = {}
    for job in jobs:
        skipped |= skipped_for_packages(job.settings.data)
    if skipped:  # the terminal of a job in a pack is its run.log
        console.print(f"[yellow]data checks {escape(describe_skipped(skipped))}", soft_wrap=True)


def _reset_tries(jobs: Sequence[PlannedJob]) -> None:
    """Allow every job all its tries again, because the user has started the sweep again."""
    for job in jobs:
        if job.status.tries is not None and not job.record.is_finished():
            job.record.update(tries=1)


def _packs(sweep: _Sweep) -> list[PlannedPack]:
    """Return the packs in which there is something to run.

    Jobs that have ended stay in their pack only if its jobs are judged together.
    """
    packs, options, divided = [], sweep.options, sweep.division.packs
    for count, numbers in enumerate(divided, 1):
        to_run = [number for number in numbers if number not in sweep.ended]
        if not to_run:
            continue
        members = numbers if options.is_halving else to_run
        jobs = [sweep.jobs[number] for number in members]
        if options.executor.runs_alone_jobs:
            jobs = [begun_anew(job, ()) for job in jobs]
        jobs_to_run = counted(len(to_run), "job")
        title = f"pack {count} of {len(divided)}: {jobs_to_run} on one base model"
        packs.append(PlannedPack(title, tuple(jobs), options.jobs_at_once))
    return packs
