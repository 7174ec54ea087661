"""Jobs of a sweep in processes of their own, run one after the other, or as packs of one."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from filelock import FileLock, Timeout
from hydra.types import HydraContext

from hydratune.console import console, section
from hydratune.records.run_directory import RunDirectory, RunFile
from hydratune.records.status import BY_SIGNAL, Outcome, State
from hydratune.settings.commands import Resume
from hydratune.settings.secrets import mask
from hydratune.sweeps.planning import PlannedJob, PlannedPack
from hydratune.sweeps.processes import INTERRUPTED, describe_exit, wait
from hydratune.sweeps.stop_requests import is_to_interrupt, is_to_stop


def run_one_by_one(context: HydraContext, jobs: Sequence[PlannedJob]) -> list[PlannedJob]:
    """Run jobs in order; return those that failed.

    Raises ``KeyboardInterrupt`` after the running job has saved its work, if this process was
    interrupted as well.
    """
    failed = []
    for number, job in enumerate(jobs, 1):
        title = ", ".join(f"{key}={value}" for key, value in job.job.varying.items())
        section(f"job {number} of {len(jobs)}{f': {mask(title)}' if title else ''}")
        if job.record.is_finished():
            console.print("finished before; skipped")
            continue
        if job.status.state is State.failed:
            console.print("failed before; tried again")
        if is_to_stop(job.record):
            set_stopped(job)
            code = INTERRUPTED
        else:
            code = run_job_process(context, job)
        if code == INTERRUPTED:
            console.print(f"[yellow]job {number} was stopped; the next jobs are run")
        elif code != 0:
            failed.append(job)
            console.print(
                f"[red]job {number} failed ({describe_exit(code)}); the next jobs are run"
            )
    return failed


def set_stopped(job: PlannedJob) -> None:
    """Set the status of a job that was to stop, and whose process did not do so itself."""
    if job.status.outcome is Outcome.no_run:
        job.record.path.mkdir(parents=True, exist_ok=True)
        job.record.start()
    if job.status.state is not State.stopped:
        job.record.end(State.stopped, BY_SIGNAL)


def job_command(context: HydraContext, job: PlannedJob) -> list[str]:
    """Return the command that a user would type for ``job``."""
    train = [sys.executable, "-m", "hydratune", "train"]
    folder = f'hydra.run.dir="{job.record.path}"'
    return [*train, *_config_paths(context), *job.job.overrides, folder]


def run_job_process(context: HydraContext, job: PlannedJob) -> int:
    """Run ``job`` by the command that a user would type; return its exit code.

    If the process died without a word, the job's status is set to failed.
    """
    record, overrides = job.record, job.job.overrides
    command = job_command(context, job)
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    record.path.mkdir(parents=True, exist_ok=True)
    code = wait(subprocess.Popen(command, env=environment), lambda: is_to_interrupt(record))
    if code != 0 and is_to_stop(record):
        set_stopped(job)
        return INTERRUPTED
    if code != 0 and not job.status.error:
        if job.status.outcome is Outcome.no_run:
            record.start()
        repeat = shlex.join(["hydratune", "train", *overrides])
        error = f"{describe_exit(code)}; repeat it alone: {repeat}"
        record.update(state=State.failed.value, error=error)
    return code


def _config_paths(context: HydraContext) -> list[str]:
    """Return the arguments that give a job the user's --config-dir and hydra.searchpath."""
    entries = context.config_loader.get_search_path().get_path()
    folders = [
        f"--config-dir={entry.path.removeprefix('file://')}"
        for entry in entries
        if entry.provider == "command-line" and entry.path
    ]
    from_searchpath = "hydra.searchpath in command-line"
    more = [entry.path for entry in entries if entry.provider == from_searchpath and entry.path]
    return [*folders, *([f"hydra.searchpath=[{','.join(more)}]"] if more else [])]


def wait_for_unfinished(record: RunDirectory) -> None:
    """Wait until no process works on a run any more.

    After a driver was killed, its run may still be ending.
    """
    if not record.path.is_dir():
        return
    lock, has_printed = FileLock(record.file(RunFile.lock)), False
    while True:
        try:
            with lock.acquire(timeout=0):
                return
        except Timeout:
            if not has_printed:
                console.print(
                    f"{record.path.name} is still being run by a process of an earlier call;"
                    " waiting for it"
                )
            has_printed = True
            time.sleep(0.5)


def pack_of_one(context: HydraContext, job: PlannedJob) -> PlannedPack:
    """Return the pack of a job that cannot share a process."""
    job = begun_anew(job, ())
    again = ("resume=auto",) if job.settings.resume is Resume.auto else ()
    command = (*job_command(context, job), *again)
    return PlannedPack(f"job {job.name}", (job,), 1, command=command)


def begun_anew(job: PlannedJob, busy: Collection[str]) -> PlannedJob:
    """Return a job that is resumed whenever a process takes it up again.

    With ``resume=never``, what an earlier command left is moved away here, once. ``busy``: names of
    jobs that are running.
    """
    if job.settings.resume is not Resume.never or job.name in busy:
        return job
    if not job.record.is_finished() and job.status.outcome is not Outcome.paused:
        job.record.clear()
    return replace(job, settings=replace(job.settings, resume=Resume.auto))
