"""The trials of a W&B sweep in the folder of a driver: taken, run, and resumed.

Trial k is the run in folder k; sweep.json has the id of its run in W&B. Several drivers can share
the folder, and others the sweep from elsewhere.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from filelock import FileLock

from hydratune.console import section
from hydratune.errors import HydratuneError
from hydratune.experiment.tracker import cut, name_of_job
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import Outcome, State
from hydratune.records.sweep import SweepJob, WandbTrial, read_sweep, write_sweep
from hydratune.settings.tracking import TrackingConfig, TrackingMode
from hydratune.sweeps.job_checks import check_trial, refuse_other_settings
from hydratune.sweeps.launch import run_jobs
from hydratune.sweeps.planning import PlannedJob
from hydratune.sweeps.stop_requests import request_stop, stop_requests
from hydratune.sweeps.trial_locks import lock_trial, sweep_lock
from hydratune.sweeps.wandb_sweep.agents import Agents
from hydratune.sweeps.wandb_sweep.settings import CheckedSweep
from hydratune.tracking.start import start_tracker
from hydratune.wording import named


@dataclass(frozen=True)
class HeldTrial:
    """A trial that this driver runs, and its lock."""

    job: SweepJob
    trial: WandbTrial
    lock: FileLock


def run_batch(sweep: CheckedSweep, agents: Agents, limit: int) -> list[str]:
    """Run at most ``limit`` trials together; return the names of their folders.

    These are the trials that a killed or interrupted driver left in the folder, then new ones.
    Empty if there is nothing to run any more. If it is interrupted, the trials that have not ended
    are resumed by the next call.
    """
    held: list[HeldTrial] = []
    try:
        with sweep_lock(sweep.folder):
            take_unfinished(sweep, limit, held)
        take_new(sweep, agents, limit, held)
        if held:
            _run(sweep, agents, held)
    finally:
        for trial in held:
            trial.lock.release()
    return [trial.job.name for trial in held]


def unfinished(sweep: CheckedSweep) -> list[SweepJob]:
    """Return the trials in the folder that have not ended, those of other drivers included."""
    return [job for job in read_sweep(sweep.folder).values() if not has_ended(sweep, job.name)]


def has_ended(sweep: CheckedSweep, name: str) -> bool:
    """Return whether a trial has ended otherwise than by an interruption of its driver."""
    record = sweep.record(name)
    if record.is_finished() or record.read_status().outcome is Outcome.failed:
        return True
    stopped = record.read_status().state is State.stopped
    return stopped and name in stop_requests(sweep.folder)


def take_unfinished(sweep: CheckedSweep, limit: int, held: list[HeldTrial]) -> None:
    """Append the trials that no driver runs, at most ``limit``."""
    for job in unfinished(sweep):
        if len(held) == limit:
            return
        trial, lock = job.trial, lock_trial(sweep.folder, job.name)
        if lock is None or trial is None:
            continue
        if has_ended(sweep, job.name):  # its driver has released it since
            lock.release()
            continue
        overrides = sweep.overrides(sweep.definition.overrides(trial.parameters))
        job = replace(job, overrides=overrides)  # resume= may have changed
        held.append(HeldTrial(job, trial, lock))


def take_new(
    sweep: CheckedSweep,
    agents: Agents,
    limit: int,
    held: list[HeldTrial],
    others: Sequence[HeldTrial] = (),
) -> None:
    """Append trials that the server hands out, up to ``limit`` in all.

    ``others``: trials that this driver runs beside them.
    """
    trials: list[WandbTrial] = []
    try:
        busy = [trial.trial.run_id for trial in (*held, *others)]
        agents.take(limit - len(held), trials, busy)
    finally:  # the server hands out a trial once
        if trials:
            with sweep_lock(sweep.folder):
                _add(sweep, trials, held)


def _add(sweep: CheckedSweep, trials: Sequence[WandbTrial], held: list[HeldTrial]) -> None:
    """Give each of these trials a folder, write them into sweep.json, and append them."""
    jobs = read_sweep(sweep.folder)
    folders = {job.trial.run_id: job.name for job in jobs.values() if job.trial is not None}
    for trial in trials:
        # a run that W&B hands out again, after it was interrupted on another machine, say
        name = folders.get(trial.run_id) or str(len(jobs))
        overrides = sweep.overrides(sweep.definition.overrides(trial.parameters))
        varying = sweep.definition.varying(trial.parameters)
        jobs[name] = SweepJob(name, overrides, varying, trial=trial)
        lock = lock_trial(sweep.folder, name)
        if lock is not None:
            held.append(HeldTrial(jobs[name], trial, lock))
    write_sweep(sweep.folder, list(jobs.values()), wandb_sweep=sweep.place)


def _run(sweep: CheckedSweep, agents: Agents, held: Sequence[HeldTrial]) -> None:
    """Run these trials to their ends."""
    section(title(sweep, [trial.job for trial in held]))
    jobs = compose(sweep, held)
    with reporting(sweep, agents, held):
        run_jobs(sweep.context, sweep.folder, jobs, sweep.packing)
    note_stopped(sweep, jobs)


def title(sweep: CheckedSweep, jobs: Sequence[SweepJob | PlannedJob]) -> str:
    """Return a title for trials that are run together."""
    return f"{named('trial', [job.name for job in jobs])} of W&B sweep {sweep.place.id}"


def compose(sweep: CheckedSweep, held: Sequence[HeldTrial]) -> list[PlannedJob]:
    """Return the jobs of the trials whose settings are right; the others fail."""
    jobs = [job for trial in held if (job := _compose(sweep, trial)) is not None]
    for job in jobs:
        refuse_other_settings(job)
    return jobs


@contextmanager
def reporting(sweep: CheckedSweep, agents: Agents, held: Sequence[HeldTrial]) -> Iterator[None]:
    """Report inside the block that these trials run, and stop those that W&B stops."""
    names = {trial.trial.run_id: trial.job.name for trial in held}

    def stop(run_id: str) -> None:
        request_stop(sweep.folder, names[run_id])

    with agents.reporting(list(names), lambda run_id: _may_run(sweep, names[run_id]), stop):
        yield


def note_stopped(sweep: CheckedSweep, jobs: Sequence[PlannedJob]) -> None:
    """Write down which of these jobs, whose processes have ended, the user has stopped.

    Those in a process of their own are stopped by the client itself.
    """
    for job in jobs:
        if job.status.outcome in (Outcome.stopped, Outcome.cannot_share_pack):
            request_stop(sweep.folder, job.name)


def _may_run(sweep: CheckedSweep, name: str) -> bool:
    """Return whether a trial has not ended; also while its status cannot be read."""
    with suppress(HydratuneError, OSError):
        return not has_ended(sweep, name)
    return True


def _compose(sweep: CheckedSweep, held: HeldTrial) -> PlannedJob | None:
    """Return the job of a trial; None if it is wrong, which its record and its run then say."""
    job = held.job
    planned, why = check_trial(sweep.context, sweep.config, job)
    if planned is not None:
        return planned
    record = sweep.record(job.name)
    record.path.mkdir(exist_ok=True)
    record.start()
    record.end(State.failed, why)
    _report_failed(sweep, held, record)
    return None


def _report_failed(sweep: CheckedSweep, held: HeldTrial, record: RunDirectory) -> None:
    """Start the run of a trial on W&B and end it as failed, because it will never be trained."""
    tracker = start_tracker(
        # its settings could not be composed, so nobody knows whether texts may be sent
        TrackingConfig(mode=TrackingMode.online, log_text=False),
        dict(held.trial.parameters),
        folder=sweep.folder,
        group=cut(sweep.place.group),
        name=cut(name_of_job(held.job.name, read_sweep(sweep.folder), log_text=False)),
        job_type="train",
        sweep=sweep.place,
        trial=held.trial,
    )
    tracker.finish(1)
    record.update(wandb_id=tracker.id)
