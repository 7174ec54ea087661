"""The story of a sweep: checks every job, runs those that are not finished, and ranks all.

Every job is the command a user would type, so a job's folder alone says how to repeat it. Memory is
freed between packs, and a crash is the crash of one pack.
"""

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from hydra.types import HydraContext
from omegaconf import DictConfig
from rich.markup import escape
from rich.table import Table

from hydratune.comparison.outputs import end_of_sweep
from hydratune.console import console, relative_path, section
from hydratune.errors import ConfigError, Problem, SweepError
from hydratune.experiment.interrupts import listen
from hydratune.records.run_directory import alone
from hydratune.records.status import Outcome
from hydratune.records.sweep import (
    HYDRA_FILE,
    SweepJob,
    chosen_values,
    read_study,
    read_sweep,
    read_wandb_sweep,
    write_sweep,
)
from hydratune.settings.secrets import mask
from hydratune.sweeps.added_jobs import has_added_jobs, is_added, run_waiting
from hydratune.sweeps.executors.submitted import refuse_submitted, submitted_ids
from hydratune.sweeps.in_packs import run_in_packs
from hydratune.sweeps.job_checks import (
    check_sweep,
    refuse_other_halving,
    refuse_other_settings,
)
from hydratune.sweeps.job_processes import run_one_by_one, wait_for_unfinished
from hydratune.sweeps.joining import is_joining, is_running, offer
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.pack_arguments import SETTINGS_FOLDER
from hydratune.sweeps.planning import PlannedJob
from hydratune.sweeps.stop_requests import withdraw_stops
from hydratune.tracking.wandb import sweep_page, sync_command
from hydratune.wording import counted

_ACCEPTED = f".{HYDRA_FILE}"  # multirun.yaml of the last sweep in the folder that was not refused
_NOT_WAITED = (
    "the jobs run without this command; the same command, typed later, says how far they are, and"
    " ranks them once all have ended"
)
_ONE_JOB = (
    "no setting has several values, so the sweep is one run: give values with commas between them,"
    " such as optimizer.lr=1e-4,1e-3, or leave out -m"
)


def launch(
    context: HydraContext,
    sweep: DictConfig,
    overrides: Sequence[Sequence[str]],
    first: int,
    options: PackOptions | None = None,
) -> None:
    """Check every job, then run those that are not finished yet, and rank all.

    ``first``: number of the first job. ``options``: how jobs share a process; None: each has its
    own. Raises ``ConfigError`` before anything runs if any job is wrong, ``SweepError`` at the end
    if any failed.
    """
    folder = Path(str(sweep.hydra.sweep.dir)).absolute()
    try:
        jobs = check_sweep(context, sweep, overrides, first, options)
    except Exception:
        remove_folder_of_refused(folder)
        raise
    if is_joining():
        _join(folder, jobs, options)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        _refuse_other_contents(folder, jobs, options)
        _write_sweep(folder, jobs)
        place = escape(str(relative_path(folder)))
        console.print(f"[bold]sweep of {counted(len(jobs), 'job')}[/]  {place}", soft_wrap=True)
        if len(jobs) == 1 and first == 0 and not is_added(jobs[0].name):
            console.print(f"[yellow]{_ONE_JOB}", soft_wrap=True)
        failed = run_jobs(context, folder, jobs, options)
    if failed is None:
        console.print(_NOT_WAITED, soft_wrap=True)
        return
    _print_stopped(jobs)
    added = run_waiting(folder)
    if not added:
        section("ranking")
        names = {job.name for job in jobs}
        end_of_sweep(folder, names | set(read_sweep(folder) if has_added_jobs(folder) else ()))
        print_wandb_hint(folder)
    _refuse_failed(jobs, failed)
    if any(added):
        raise SweepError(
            "not all jobs that were added have finished; what failed, and how to continue:"
            f" hydratune status {shlex.quote(str(relative_path(folder)))}"
        )


def _refuse_failed(jobs: Sequence[PlannedJob], failed: Sequence[PlannedJob]) -> None:
    """Raise ``SweepError`` if any of ``jobs`` failed, after a table of the reasons."""
    if not failed:
        return
    no_reason = "unknown; see run.log"
    reasons = [(job.job, job.status.error or no_reason) for job in failed]
    console.print(table_of_failures(reasons, "failed jobs"))
    raise SweepError(
        f"{len(failed)} of {counted(len(jobs), 'job')} failed, for the reasons above; the same"
        " sweep, started again, runs only those; a wrong setting has to be changed, which makes it"
        " another sweep"
    )


def _join(folder: Path, jobs: Sequence[PlannedJob], options: PackOptions | None) -> None:
    """Offer jobs to the process that runs the sweep in ``folder``, and say what became of it."""
    for job in jobs:
        refuse_other_settings(job)
    done = [job.name for job in jobs if job.record.is_finished() or is_running(job)]
    joined = offer(folder, jobs, options)
    every = read_sweep(folder).values()
    is_elsewhere = options is not None and options.executor.runs_alone_jobs
    for job in jobs:
        values = chosen_values(job.job, every)
        text = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in values.items())
        named = f"job {job.name} ({text})" if text else f"job {job.name}"
        what = "is kept: it starts when the sweep's own jobs have ended"
        if job.name in done:
            what = "has finished or is running already"
        elif job.name in joined and is_elsewhere:
            what = "is taken by the command that runs the sweep, as a pack beside the others"
        elif job.name in joined:
            what = "joined the running pack"
        console.print(f"{escape(mask(named))} {what}", soft_wrap=True)


def run_jobs(
    context: HydraContext, folder: Path, jobs: Sequence[PlannedJob], options: PackOptions | None
) -> list[PlannedJob] | None:
    """Run those of ``jobs`` that are not finished; return those that still are not at the end.

    None: some are still running, because the command is not to wait for them.
    """
    listen()
    if options is not None:
        return run_in_packs(context, folder, jobs, options)
    refuse_submitted(folder)
    for job in jobs:
        wait_for_unfinished(job.record)
    withdraw_stops(folder, [job.name for job in jobs])
    return run_one_by_one(context, jobs)


def print_wandb_hint(folder: Path) -> None:
    """Print where the runs of a sweep are on W&B, and the command that sends those that are not."""
    if page := sweep_page(folder):
        console.print(f"W&B group   {escape(page)}", soft_wrap=True)
    if command := sync_command(folder):
        console.print(f"W&B         {escape(command)}", soft_wrap=True)


def table_of_failures(failed: Sequence[tuple[SweepJob, str]], title: str) -> Table:
    """Return a table of jobs and the reasons for which they failed; equal reasons share a row."""
    by_reason: dict[str, list[SweepJob]] = {}
    for job, reason in failed:
        by_reason.setdefault(reason, []).append(job)
    table = Table(title=title, title_justify="left", title_style="bold red", header_style="bold")
    for column in ("job", "settings", "reason"):
        table.add_column(column, overflow="fold")
    for reason, jobs in by_reason.items():
        names = "\n".join(job.name for job in jobs)
        settings = "\n".join(
            ", ".join(f"{key}={value}" for key, value in job.varying.items()) for job in jobs
        )
        table.add_row(names, escape(mask(settings)), escape(mask(reason)))
    return table


def remove_folder_of_refused(folder: Path) -> None:
    """Remove what Hydra wrote for a sweep that is refused: multirun.yaml, and folders without more.

    A folder in which jobs have been run is kept.
    """
    if read_sweep(folder):
        return
    (folder / HYDRA_FILE).unlink(missing_ok=True)
    for empty in (folder, folder.parent):
        if empty.is_dir() and empty != Path.cwd() and not any(empty.iterdir()):
            empty.rmdir()


def _refuse_other_contents(
    folder: Path, jobs: Sequence[PlannedJob], options: PackOptions | None
) -> None:
    """Raise ``ConfigError`` if what is in ``folder`` must not be taken for results of ``jobs``.

    The multirun.yaml of the sweep in the folder, which Hydra has overwritten, is restored then.
    """
    try:
        if read_study(folder) or read_wandb_sweep(folder):
            kind = "a W&B sweep" if read_wandb_sweep(folder) else "a search"
            why = f"the trials of {kind} are in this folder"  # which are numbered by it
            fix = "choose another hydra.sweep.dir"
            raise ConfigError([Problem("hydra.sweep.dir", folder, why, fix)])
        for job in jobs:
            refuse_other_settings(job)
            refuse_other_halving(job, options)
    except ConfigError:
        if (folder / _ACCEPTED).is_file():
            shutil.copyfile(folder / _ACCEPTED, folder / HYDRA_FILE)
        raise


def _write_sweep(folder: Path, jobs: Sequence[PlannedJob]) -> None:
    """Add ``jobs`` to sweep.json, and remove what a killed process left in the folder."""
    submitted = submitted_ids(folder)
    for file in (folder / SETTINGS_FOLDER).glob("*"):
        if file.stem not in submitted:
            file.unlink(missing_ok=True)
    if (folder / HYDRA_FILE).is_file():
        shutil.copyfile(folder / HYDRA_FILE, folder / _ACCEPTED)
    names = {job.name for job in jobs}
    earlier = [job for name, job in read_sweep(folder).items() if name not in names]
    write_sweep(folder, [*earlier, *(job.job for job in jobs)])


def _print_stopped(jobs: Sequence[PlannedJob]) -> None:
    """Name the jobs that the user stopped one by one, in W&B; Ctrl-C ends the whole sweep."""
    stopped_by_user = (Outcome.stopped, Outcome.cannot_share_pack)
    stopped = [job.name for job in jobs if job.status.outcome in stopped_by_user]
    if stopped:
        console.print(
            f"[yellow]stopped by the user: job {', '.join(stopped)}; the same command resumes it"
        )
