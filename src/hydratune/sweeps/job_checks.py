"""Composes the jobs of a sweep and refuses those that are wrong, or would not be comparable with
what their folders hold.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.markup import escape

from hydratune.adapters.folder import use_saved_settings
from hydratune.console import console
from hydratune.data.rows import stable_hash
from hydratune.data.source_errors import check_first_rows
from hydratune.data.sources.files import FilesData
from hydratune.errors import ConfigError, Problem
from hydratune.records.files import read_json
from hydratune.records.run_directory import RunDirectory, RunFile
from hydratune.records.status import Outcome
from hydratune.records.sweep import HYDRA_FILE, SWEEP_FILE, SweepJob, varying
from hydratune.settings.commands import Resume, TrainConfig, load
from hydratune.settings.registry import plain, typed
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.planning import PlannedJob, without_hydra
from hydratune.tracking import environment

# names in the folder of a sweep that are not folders of jobs
_RESERVED_NAMES = (
    "",
    "wandb",
    "comparison",
    SWEEP_FILE,
    HYDRA_FILE,
    "pack.log",
    "study.log",
    "study.log.sha256",
    "digests.json",
)


def check_jobs(
    context: HydraContext, sweep: DictConfig, overrides: Sequence[Sequence[str]], first: int
) -> list[PlannedJob]:
    """Compose and check every job of a sweep; their numbers begin at ``first``.

    Raises ``ConfigError`` with everything that is wrong in any of them.
    """
    jobs: list[PlannedJob] = []
    problems: list[Problem] = []
    for number, job_overrides in enumerate(overrides, first):
        job, job_problems = check_job(context, sweep, number, job_overrides)
        problems += [problem for problem in job_problems if problem not in problems]
        jobs += [job] if job is not None else []
    if problems:
        raise ConfigError(problems, prefix=f"sweep of {len(overrides)} jobs: ")
    for data in {stable_hash(plain(job.settings.data)): job.settings.data for job in jobs}.values():
        check_first_rows(data)
    _check_folder_names([job.name for job in jobs])
    differing = varying([list(job_overrides) for job_overrides in overrides])
    return _without_repeats(
        [
            replace(job, job=replace(job.job, varying=settings))
            for job, settings in zip(jobs, differing, strict=True)
        ]
    )


def _without_repeats(jobs: Sequence[PlannedJob]) -> list[PlannedJob]:
    """Return the jobs without those whose settings an earlier one has, which are named.

    They would train the same twice: ``optimizer.lr=1e-3,0.001``, ``seed=0,0``.
    """
    first: dict[str, PlannedJob] = {}
    for job in jobs:
        same = first.setdefault(stable_hash(plain(job.settings)), job)
        if same is not job:
            console.print(
                f"[yellow]job {escape(job.name)} ({escape(' '.join(job.job.overrides))}) has the"
                f" settings of job {escape(same.name)}, and is not run",
                soft_wrap=True,
            )
    return list(first.values())


def _check_folder_names(names: Sequence[str]) -> None:
    """Raise ``ConfigError`` if the jobs have no folder of their own in the sweep's folder."""
    why = ""
    if len(set(names)) < len(names):
        why = "several jobs of this sweep would share a folder"
    for name in names:
        if Path(name).name != name or name.startswith(".") or name in _RESERVED_NAMES:
            why = (
                "a job is one folder in the sweep's folder, not a path, and none of the sweep's own"
                " files"
            )
    if why:
        fix = "leave it at its default, ${hydra.job.num}"
        raise ConfigError([Problem("hydra.sweep.subdir", names[0], why, fix)])


def check_job(
    context: HydraContext, sweep: DictConfig, number: int, overrides: Sequence[str]
) -> tuple[PlannedJob | None, list[Problem]]:
    """Return job ``number`` of a sweep (None if it has no settings) and what is wrong with it.

    Raises Hydra's errors for what cannot be composed.
    """
    composed = context.config_loader.load_sweep_config(sweep, list(overrides))
    with open_dict(composed):
        composed.hydra.job.id, composed.hydra.job.num = str(number), number
    try:
        settings = typed(without_hydra(composed), TrainConfig)
    except OmegaConfBaseException as error:
        why, fix = str(error).splitlines()[0], "see hydratune train --cfg job"
        return None, [Problem("job", " ".join(overrides), why, fix)]
    settings.name = settings.name or str(composed.hydra.runtime.choices["data"])
    if settings.resume is Resume.extend:
        why = "it trains one finished run further, and this is a sweep"
        fix = "leave -m out, and name the run: hydra.run.dir=DIR"
        return None, [Problem("resume", "extend", why, fix)]
    try:
        use_saved_settings(settings, overrides)
    except ConfigError as error:
        return None, list(error.problems)
    name = str(composed.hydra.sweep.subdir)
    record = RunDirectory(Path(str(sweep.hydra.sweep.dir)).absolute() / name)
    job = PlannedJob(SweepJob(name, tuple(overrides), {}), record, settings, composed)
    return job, list(settings.problems())


def refuse_other_settings(job: PlannedJob) -> None:
    """Raise ``ConfigError`` if the job's folder holds a run with other settings, or a finished run
    on older data files.
    """
    record, settings = job.record, job.settings
    if record.read_status().outcome is Outcome.no_run or not record.config_file.is_file():
        return
    why = ""
    if replace(load(record.config_file), resume=settings.resume) != settings:
        why = f"job {job.name} was run there with other settings (see its {RunFile.config})"
    elif record.is_finished() and (files := _changed_data_files(job)):
        why = f"job {job.name} is finished, but {', '.join(files)} changed since"
    if why:
        fix = "choose another hydra.sweep.dir, or delete that one"
        raise ConfigError([Problem("hydra.sweep.dir", record.path.parent, why, fix)])
    if record.is_finished():
        refuse_other_environment([record], settings.resume)


def _changed_data_files(job: PlannedJob) -> list[str]:
    """Return the data files that are newer than the run in the job's folder."""
    data = job.settings.data
    if not isinstance(data, FilesData):
        return []
    files = [Path(file) for file in (data.train, data.validation, data.test) if file]
    began = job.record.config_file.stat().st_mtime
    return [str(file) for file in files if file.stat().st_mtime > began]


def refuse_other_environment(finished: Sequence[RunDirectory], resume: Resume) -> None:
    """Raise ``ConfigError`` if code or versions are not those that finished runs were made with,
    unless ``resume=force``; ``RunError`` if their records are damaged.
    """
    for record in finished:
        read_json(record.metrics_file)  # damage is noticed before anything runs
    if resume is Resume.force:
        return
    for record in finished:
        changes = environment.changes(read_json(record.environment_file))
        if changes:
            why = (
                f"job {record.path.name} is finished, and since then {'; '.join(changes)}: the"
                " other jobs could not be compared with it"
            )
            fix = "resume=force compares them nevertheless; or choose another hydra.sweep.dir"
            raise ConfigError([Problem("hydra.sweep.dir", record.path.parent, why, fix)])


def refuse_several_monitors(jobs: Sequence[PlannedJob], options: PackOptions | None) -> None:
    """Raise ``ConfigError`` if halving would judge the jobs by different metrics."""
    monitors = list(dict.fromkeys(job.settings.trainer.monitor for job in jobs))
    halving = options.halving if options is not None else None
    if halving is None or not halving.is_on or halving.metric is not None or len(monitors) < 2:
        return
    why = f"halving judges all jobs by one metric, and these have {' and '.join(monitors)}"
    fix = "set hydra.launcher.halving.metric=val/loss, or one trainer.monitor"
    raise ConfigError([Problem("trainer.monitor", ",".join(monitors), why, fix)])


def refuse_other_halving(job: PlannedJob, options: PackOptions | None) -> None:
    """Raise ``ConfigError`` if the job has results at other steps than those of the rungs.

    Its losses could not be compared with those of the other jobs.
    """
    halving = options.halving if options is not None else None
    steps = [rung.step for rung in job.status.rungs]
    if halving is None or not halving.is_on or not steps or job.settings.resume is Resume.force:
        return
    rungs = halving.first_rungs(len(steps))
    if steps != rungs:
        why = (
            f"job {job.name} was compared after {', '.join(map(str, steps))} steps, and these"
            f" settings compare the jobs after {', '.join(map(str, rungs))}"
        )
        fix = "set halving as before, or switch it off; or choose another hydra.sweep.dir"
        value = f"min_steps {halving.min_steps}, eta {halving.eta}"
        raise ConfigError([Problem("hydra.launcher.halving", value, why, fix)])
