"""The trials of one batch of a search: taken from the study, run, and reported to it.

Several drivers may work on one study. A driver holds a lock for every trial it runs; a running
trial whose lock is free belongs to a driver that was killed, and is taken over.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from optuna.trial import FrozenTrial, Trial, TrialState

from hydratune.console import section
from hydratune.records.files import read_json
from hydratune.records.run_directory import RunDirectory
from hydratune.records.status import Outcome, State
from hydratune.records.sweep import read_study, read_sweep, write_sweep
from hydratune.settings.secrets import mask
from hydratune.sweeps.job_checks import check_trial, refuse_other_halving, refuse_other_settings
from hydratune.sweeps.job_processes import wait_for_unfinished
from hydratune.sweeps.launch import run_jobs
from hydratune.sweeps.planning import PlannedJob
from hydratune.sweeps.search.objectives import SearchObjective
from hydratune.sweeps.search.settings import Search
from hydratune.sweeps.trial_locks import lock_trial, sweep_lock
from hydratune.wording import noun_for

BATCH = "batch"  # user attribute of a trial: the number of the first trial of its batch
HeldTrial = tuple[Trial, FileLock]


def run_batch(search: Search) -> bool:
    """Take trials, run them, and report their results to the study.

    Returns False if there is nothing to run any more. If it is interrupted, it reports the trials
    that have ended, and the others are resumed by the next call; with halving all of them are, so
    that they are judged together.
    """
    held: list[HeldTrial] = []
    is_complete = False
    try:
        with sweep_lock(search.folder):
            _take(search, held)
            write_jobs(search, [trial for trial, _ in held])
        _run(search, [trial for trial, _ in held])
        is_complete = True
    finally:
        for trial, lock in held:
            has_ended = not search.is_halving and has_run(search.record(trial.number))
            if is_complete or has_ended:
                report(search, trial)
            lock.release()
    return bool(held)


def _take(search: Search, held: list[HeldTrial]) -> None:
    """Append trials and their locks to ``held``: those that a killed driver left running, or if
    there are none new ones, at most a batch.
    """
    take_abandoned(search, held, search.settings.batch)
    if not held:
        take_new(search, held)


def take_new(search: Search, held: list[HeldTrial]) -> None:
    """Append new trials and their locks to ``held``, at most a batch."""
    new: list[HeldTrial] = []
    for _ in range(min(search.settings.batch, count_missing(search))):
        trial = search.study.ask()
        lock = lock_trial(search.folder, str(trial.number))
        assert lock is not None, "no other driver knows the trial"
        new.append((trial, lock))
        held.append(new[-1])
    for trial, _ in new:
        trial.set_user_attr(BATCH, new[0][0].number)
    _suggest(search, new)


def count_missing(search: Search) -> int:
    """Return how many further trials are to be asked for."""
    missing = search.settings.n_trials - len(search.requested_trials())
    untried = search.untried_points()
    return max(0, missing if untried is None else min(missing, untried))


def take_abandoned(search: Search, held: list[HeldTrial], limit: int) -> None:
    """Append the running trials that no driver runs, at most ``limit`` of them."""
    study = search.study
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_elsewhere(search, trial):
            continue
        lock = lock_trial(search.folder, str(trial.number))
        if lock is None:
            continue
        # its driver may have reported it since
        if study.get_trials(deepcopy=False)[trial.number].state is not TrialState.RUNNING:
            lock.release()
            continue
        held.append((Trial(study, trial._trial_id), lock))
        if len(held) == limit:
            break
    _suggest(search, held)


def _suggest(search: Search, held: Sequence[HeldTrial]) -> None:
    """Give trials their parameters, unless they have them."""
    for trial, _ in held:
        for dimension in search.space.dimensions:
            dimension.suggest(trial)
        trial.set_user_attr("run", str(search.record(trial.number).path))


def _is_elsewhere(search: Search, trial: FrozenTrial) -> bool:
    """Return whether the trial belongs to a driver in another folder, perhaps on another machine,
    whose locks are there.
    """
    storage = Path(str(read_study(search.folder).get("storage") or ""))
    if storage.parent == search.folder:  # nobody else uses the study
        return False
    run = trial.user_attrs.get("run", search.record(trial.number).path)
    return Path(run).parent != search.folder


def write_jobs(search: Search, trials: Sequence[Trial]) -> None:
    """Add the jobs of ``trials`` to sweep.json."""
    jobs = read_sweep(search.folder)
    new = {str(trial.number): search.job(trial) for trial in trials}
    if not new.keys() <= jobs.keys():
        write_sweep(search.folder, list({**jobs, **new}.values()), read_study(search.folder))


def _run(search: Search, trials: Sequence[Trial]) -> None:
    """Have the launcher run the trials that have not ended.

    A trial that cannot be composed or is refused fails alone.
    """
    for trial in trials:
        wait_for_unfinished(search.record(trial.number))
    jobs = jobs_to_run(search, compose(search, trials))
    if jobs:
        section(title(search, jobs))
        run_jobs(search.context, search.folder, jobs, search.packing)


def compose(search: Search, trials: Sequence[Trial]) -> list[PlannedJob]:
    """Return the jobs of trials, without those that are wrong, which their records then say."""
    jobs = []
    for trial in trials:
        job = _compose(search, trial)
        if job is not None:
            refuse_other_settings(job)
            refuse_other_halving(job, search.packing)
            jobs.append(job)
    return jobs


def jobs_to_run(search: Search, jobs: Sequence[PlannedJob]) -> list[PlannedJob]:
    """Return the jobs of a batch that are handed to the launcher; none if all of them have run."""
    if all(has_run(job.record) for job in jobs):
        return []
    if search.is_halving:
        # Trials that were finished or halved before are judged beside the others, which takes no
        # time.
        return [job for job in jobs if job.status.state is not State.failed]
    return [job for job in jobs if not has_run(job.record)]


def title(search: Search, jobs: Sequence[PlannedJob]) -> str:
    """Return a title for jobs that are run together."""
    names = ", ".join(job.name for job in jobs)
    return f"{noun_for(len(jobs), 'trial')} {names} of {_expected(search)}"


def _expected(search: Search) -> int:
    """Return with how many trials the search ends: fewer than asked for in a small space."""
    untried, wanted = search.untried_points(), search.settings.n_trials
    requested = len(search.requested_trials())
    return wanted if untried is None else max(requested, min(wanted, requested + untried))


def _compose(search: Search, trial: Trial) -> PlannedJob | None:
    """Return the job of ``trial``; None if it is wrong, which its record then says."""
    job = search.job(trial)
    planned, why = check_trial(search.context, search.config, job)
    if planned is not None:
        return planned
    record = search.record(trial.number)
    if not has_run(record):
        record.path.mkdir(exist_ok=True)
        record.start()
        record.end(State.failed, why)
    return None


def has_run(record: RunDirectory) -> bool:
    """Return whether a run has ended otherwise than by an interruption."""
    return record.is_finished() or record.read_status().outcome in (Outcome.failed, Outcome.halved)


def report(search: Search, trial: Trial) -> None:
    """Report to the study what is in the record of ``trial``, unless that was done before."""
    stored = search.study.get_trials(deepcopy=False)[trial.number]
    if stored.state is not TrialState.RUNNING:
        return
    record = search.record(trial.number)
    status = record.read_status()
    if len(search.objectives) == 1:
        for rung in status.rungs:
            value = search.objectives[0].at_rung(rung, search.monitor)
            if value is not None and rung.step not in stored.intermediate_values:
                trial.report(value, rung.step)
    # by halving, or by the user, who can stop one run in W&B
    if status.state is State.stopped:
        trial.set_user_attr("reason", status.error or "stopped")
        search.study.tell(trial, state=TrialState.PRUNED)
        return
    values, why = _values(record, search.objectives)
    if why:
        trial.set_user_attr("reason", mask(why))
        search.study.tell(trial, state=TrialState.FAIL)
    else:
        search.study.tell(trial, values)


def _values(record: RunDirectory, objectives: Sequence[SearchObjective]) -> tuple[list[float], str]:
    """Return (a value for every objective, why there is none)."""
    if not record.is_finished():
        status = record.read_status()
        return [], status.error or f"it ended as {status.state or 'not started'}; see run.log"
    metrics = read_json(record.metrics_file)
    values = []
    for objective in objectives:
        value = metrics.get(objective.metric)
        if not isinstance(value, int | float) or not math.isfinite(value):
            what = f"is {value}" if objective.metric in metrics else "is not there"
            names = ", ".join(key for key, v in metrics.items() if isinstance(v, int | float))
            return [], f"{objective.metric} {what} in metrics.json, which has {names}"
        values.append(float(value))
    return values, ""
