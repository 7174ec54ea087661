"""Composes the jobs of a sweep and refuses those that are wrong, or would not be comparable with
what their folders hold.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.default_element import GroupDefault
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.markup import escape

from hydratune.adapters.folder import use_saved_settings
from hydratune.console import console
from hydratune.data.rows import stable_hash
from hydratune.data.source_errors import check_first_rows
from hydratune.data.sources.files import FilesData
from hydratune.errors import ConfigError, Problem, refuse
from hydratune.records.files import read_json
from hydratune.records.run_directory import RunDirectory, RunFile
from hydratune.records.status import Outcome
from hydratune.records.sweep import HYDRA_FILE, SWEEP_FILE, SweepJob, varying
from hydratune.settings.commands import Resume, TrainConfig, load
from hydratune.settings.not_given import not_given
from hydratune.settings.overrides import typed_overrides
from hydratune.settings.registry import all_variants, override_key, plain, typed
from hydratune.settings.used_parts import only_in_this_process
from hydratune.sweeps.first_rung import say_if_first_rung_is_early
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.planning import PlannedJob, of_train
from hydratune.sweeps.test_size import say_if_too_few_test_rows
from hydratune.sweeps.train_sizes import check_train_sizes
from hydratune.sweeps.void_axes import effective_identity, void_axes, without_effect_on_any
from hydratune.tracking import environment
from hydratune.wording import counted

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
    "added.json",
    "digests.json",
)


def check_sweep(
    context: HydraContext,
    sweep: DictConfig,
    overrides: Sequence[Sequence[str]],
    first: int,
    options: PackOptions | None,
) -> list[PlannedJob]:
    """Compose and check the jobs of a sweep, each by itself and all of them together.

    Raises ``ConfigError`` with what is wrong.
    """
    jobs = check_jobs(context, sweep, overrides, first)
    refuse_several_monitors(jobs, options)
    settings = [job.settings for job in jobs]
    say_if_first_rung_is_early(settings, options)
    check_train_sizes(settings, options)
    return jobs


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
        raise ConfigError(problems, prefix=f"sweep of {counted(len(overrides), 'job')}: ")
    for data in {stable_hash(plain(job.settings.data)): job.settings.data for job in jobs}.values():
        check_first_rows(data)
    _check_parts(jobs)
    _check_folder_names([job.name for job in jobs])
    differing = varying([list(job_overrides) for job_overrides in overrides])
    jobs = [
        replace(job, job=replace(job.job, varying=settings))
        for job, settings in zip(jobs, differing, strict=True)
    ]
    jobs = _without_repeats(jobs, lambda settings: stable_hash(plain(settings)), "has the settings")
    if void := list(void_axes(jobs)):
        raise ConfigError(void, prefix=f"sweep of {counted(len(overrides), 'job')}: ")
    common = [key for key in overrides[0] if all(key in own for own in overrides)]
    for sentence in without_effect_on_any(jobs, common):
        console.print(f"[yellow]{escape(sentence)}", soft_wrap=True)
    say_if_too_few_test_rows([job.settings for job in jobs])
    return _without_repeats(jobs, effective_identity, "has, where it matters, the settings")


def _check_parts(jobs: Sequence[PlannedJob]) -> None:
    """Import the callbacks of the jobs, and refuse what only this process knows.

    Raises ``ConfigError``.
    """
    by_settings = {stable_hash(plain(job.settings.trainer)): job.settings.trainer for job in jobs}
    chosen = [trainer for trainer in by_settings.values() if trainer.callbacks]
    for trainer in chosen:
        from hydratune.training.callbacks import check_callbacks  # imports torch

        check_callbacks(trainer)
    only_here = {p: None for job in jobs for p in only_in_this_process(job.settings)}
    refuse(only_here)


def _without_repeats(
    jobs: Sequence[PlannedJob], identity: Callable[[TrainConfig], str], what: str
) -> list[PlannedJob]:
    """Return the jobs without those of the ``identity`` of an earlier one, which are named.

    They would train the same twice: ``optimizer.lr=1e-3,0.001``, ``seed=0,0``.
    """
    first: dict[str, PlannedJob] = {}
    for job in jobs:
        same = first.setdefault(identity(job.settings), job)
        if same is not job:
            console.print(
                f"[yellow]job {escape(job.name)} ({escape(' '.join(job.job.overrides))}) {what}"
                f" of job {escape(same.name)}, and is not run",
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
        settings = typed(of_train(composed), TrainConfig)
    except OmegaConfBaseException as error:
        return None, [_uncomposed(error, overrides)]
    settings.name = settings.name or str(composed.hydra.runtime.choices["data"])
    if settings.resume is Resume.extend:
        why = "it trains one finished run further, and this is a sweep"
        fix = "leave -m out, and name the run: hydra.run.dir=DIR"
        return None, [Problem("resume", "extend", why, fix)]
    try:
        use_saved_settings(settings, overrides)
    except ConfigError as error:
        return None, list(error.problems)
    problems = list(_hydra_problems(context, sweep, composed, overrides))
    name = str(composed.hydra.sweep.subdir)
    record = RunDirectory(Path(str(sweep.hydra.sweep.dir)).absolute() / name)
    job = PlannedJob(SweepJob(name, tuple(overrides), {}), record, settings, composed)
    return job, [*problems, *settings.problems()]


def _uncomposed(error: OmegaConfBaseException, overrides: Sequence[str]) -> Problem:
    """Return why the settings of a job have the wrong type, or are incomplete."""
    chosen = " ".join(overrides)
    missing = re.search(
        r"Structured config of type `(\w+)` has missing mandatory value: (\w+)", str(error)
    )
    groups = [
        group
        for group, kinds in all_variants().items()
        if missing and missing[1] in {kind.__name__ for kind in kinds.values()}
    ]
    if missing is None or not groups:
        fix = f"hydratune train --cfg job {chosen} shows the settings of this job"
        return Problem("job", chosen, str(error).splitlines()[0], fix)
    key = f"{groups[0]}.{missing[2]}"
    why = f"this setting has no default, and the job {chosen} needs it"
    option = next((f"{o} " for o in overrides if override_key(o) == groups[0]), "")
    # the other options of the group may have no such setting
    return not_given(key, why, option)


def _launchers_in_files(context: HydraContext, composed: DictConfig) -> dict[str, str]:
    """Return the launcher that each chosen file of settings names in its defaults list."""
    loader = context.config_loader
    assert isinstance(loader, ConfigLoaderImpl)
    result: dict[str, str] = {}
    for group in ("experiment", "sweep", "debug"):
        name = composed.hydra.runtime.choices.get(group)
        loaded = loader.repository.load_config(f"{group}/{name}") if name else None
        for default in (loaded.defaults_list or []) if loaded is not None else []:
            if not isinstance(default, GroupDefault) or not default.override:
                continue
            if str(default.group).lstrip("/") == "hydra/launcher":
                result[f"{group}/{name}.yaml"] = str(default.value)
    return result


def _hydra_problems(
    context: HydraContext, sweep: DictConfig, composed: DictConfig, overrides: Sequence[str]
) -> Iterator[Problem]:
    """Yield the settings of Hydra that a job chooses for itself, and that only a sweep can have."""
    chosen = " ".join(overrides)
    fix = "type hydra/{0}={1} for the whole sweep, or leave it out of the file"
    files = _launchers_in_files(context, composed)
    typed = typed_overrides(sweep.hydra.overrides.hydra)
    is_typed = any(text.startswith("hydra/launcher=") for text in typed)
    for file, name in files.items():
        if name != sweep.hydra.runtime.choices["hydra/launcher"] and not is_typed:
            why = f"{file} chooses it, and a file cannot: train.yaml has chosen one before"
            yield Problem("hydra/launcher", name, why, fix.format("launcher", name))
    for group in ("launcher", "sweeper"):
        if OmegaConf.to_container(sweep.hydra[group]) != OmegaConf.to_container(
            composed.hydra[group]
        ):
            name = composed.hydra.runtime.choices[f"hydra/{group}"]
            why = f"a job ({chosen}) changes its settings, and one {group} runs all jobs of a sweep"
            change = (
                f"type the settings of hydra.{group}, such as hydra/{group}={name}, for the whole"
            )
            yield Problem(
                f"hydra/{group}", name, why, f"{change} sweep, and leave them out of the file"
            )
    if composed.hydra.job.chdir:
        why = "relative paths of settings would be looked for in the run directory"
        yield Problem("hydra.job.chdir", "true", why, "leave it out of the file")


def check_trial(
    context: HydraContext, sweep: DictConfig, job: SweepJob
) -> tuple[PlannedJob | None, str]:
    """Return (the job of a trial, ""); (None, why) if it cannot be composed or is refused.

    Its name is its number in the sweep.
    """
    try:
        planned, problems = check_job(context, sweep, int(job.name), job.overrides)
    except (HydraException, OmegaConfBaseException) as error:
        return None, " ".join(str(error).split())
    why = "; ".join(f"{p.key} = {p.value}: {p.why}; {p.fix}" for p in problems)
    if planned is None or why:
        return None, why
    return PlannedJob(job, planned.record, planned.settings, planned.composed), ""


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
