"""Search: trials that Optuna asks for, each an ordinary job of the launcher, in a study that can be
continued.

The study is the record of what was asked for, the run directories of what came of it: trial k is
the run in folder k. A driver holds a lock for every trial it runs. Whoever finds a running trial
without a driver, which was killed, takes it over. So a search goes on where it was, and several
drivers can work on one study.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.markup import escape
from rich.table import Table

from hydratune.comparison.closing import end_of_sweep
from hydratune.console import console, section
from hydratune.errors import ConfigError, InputError, Problem, SweepError
from hydratune.records.files import read_json, write_text
from hydratune.records.run_directory import RunDirectory, State
from hydratune.records.sweep import Job, read_study, read_sweep, write_sweep
from hydratune.settings.commands import Resume, TrainConfig
from hydratune.settings.registry import flat, plain
from hydratune.settings.secrets import mask
from hydratune.sweeps import processes
from hydratune.sweeps.planning import Packing, Planned
from hydratune.sweeps.space import Dimension, read_space
from hydratune.sweeps.study import (
    COMPOSED,
    Objective,
    Wanted,
    open_study,
    read_objectives,
    sampler_for,
)

STUDY_FILE = "study.log"
_LOCKS = ".trials"  # folder in that of the sweep: a lock for every trial that somebody runs
# two names of one number, by which every sweep is ranked
_VALIDATION_LOSS = (
    "val/loss",
    "objective",
)
_PATIENCE = 120.0  # seconds a driver waits for its turn; a turn takes moments


@dataclass(frozen=True)
class Search:
    """A search that was checked, and its place."""

    context: HydraContext
    config: DictConfig
    folder: Path
    packing: Packing | None
    study: Study
    dimensions: Sequence[Dimension]
    fixed: Sequence[str]
    objectives: Sequence[Objective]
    n_trials: int
    batch: int

    @property
    def is_halving(self) -> bool:
        return self.packing is not None and self.packing.halving is not None

    def record(self, number: int) -> RunDirectory:
        return RunDirectory(self.folder / str(number))

    def job(self, trial: Trial | FrozenTrial) -> Job:
        params = trial.params
        own = [
            d.override(params[d.name]) for d in self.dimensions if d.name in params
        ]  # all, but for a trial of another program
        varying = dict(override.lstrip("+").split("=", 1) for override in own)
        return Job(str(trial.number), (*self.fixed, *own), varying)


def search(
    context: HydraContext,
    config: DictConfig,
    launcher: Any,
    wanted: Wanted,
    arguments: Sequence[str],
) -> None:
    """Runs trials until the study has ``wanted.n_trials``, then ranks all of them.

    Raises ``ConfigError`` before anything runs if the search is wrong, ``SweepError`` at the end if
    any trial failed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parser = OverridesParser.create(config_loader=context.config_loader)
    words = [f"{key}={value}" for key, value in (wanted.params or {}).items()]
    dimensions, fixed = read_space(parser.parse_overrides([*words, *arguments]))
    objectives = read_objectives(wanted.objectives)
    sampler = sampler_for(wanted, dimensions, objectives)
    if not hasattr(launcher, "packing"):
        fix = "set hydra/launcher=pack or hydra/launcher=process"
        raise ConfigError(
            [
                Problem(
                    "hydra/launcher",
                    type(launcher).__name__,
                    "it cannot run the trials of a search",
                    fix,
                )
            ]
        )
    packing = launcher.packing()
    settings = _check_corners(context, config, dimensions, fixed)
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    place, name = (
        wanted.storage or str(folder / STUDY_FILE),
        wanted.study_name or read_study(folder).get("name") or folder.name,
    )
    place = place if "://" in place else str(Path(place).absolute())
    span = {
        "ranges or choices": [f"{d.key}: {d.distribution}" for d in dimensions],
        "settings": [o for o in fixed if not o.startswith("resume=")],
    }
    if settings[0].resume is not Resume.force:  # a file of settings may have been edited
        span[COMPOSED] = _composed(settings)
    _refuse_grid(folder)
    with _turn(folder):
        _refuse_grid(folder)
        study = open_study(place, name, sampler, objectives, span)
        done = [
            RunDirectory(folder / str(t.number))
            for t in _asked(study)
            if t.state is TrialState.COMPLETE
        ]
        if len(_asked(study)) < wanted.n_trials:
            processes.refuse_changed(
                [record for record in done if record.is_finished()], settings[0].resume
            )
        write_text(folder / "multirun.yaml", mask(OmegaConf.to_yaml(config)))
        write_sweep(
            folder, list(read_sweep(folder).values()), {"storage": mask(place), "name": name}
        )
    found = Search(
        context,
        config,
        folder,
        packing,
        study,
        dimensions,
        fixed,
        objectives,
        wanted.n_trials,
        wanted.batch,
    )
    what = f"by {wanted.sampler} for {', '.join(map(str, objectives))}"
    count = len(_asked(study))
    so_far = (
        f"{count} of {wanted.n_trials} trials so far"
        if count <= wanted.n_trials
        else f"{count} trials, {wanted.n_trials} were asked for"
    )
    console.print(
        f"[bold]search[/] {what}: {so_far}  {escape(str(processes.shown(folder)))}", soft_wrap=True
    )
    while _batch(found):
        pass
    _report(found)


def _composed(corners: Sequence[TrainConfig]) -> list[str]:
    """Every setting of every corner, but for places on this machine: the next driver may be on
    another.
    """
    every = [flat(plain(replace(settings, resume=Resume.auto))) for settings in corners]
    words = {
        f"{key}={value}"
        for settings in every
        for key, value in settings.items()
        if not str(value).startswith("/")
    }
    return sorted(map(mask, words))


def _check_corners(
    context: HydraContext, config: DictConfig, dimensions: Sequence[Dimension], fixed: Sequence[str]
) -> list[TrainConfig]:
    """Composes and checks a job for every choice and every end of a range; returns the settings of
    all.

    Raises ``ConfigError``, or Hydra's own errors, before anything runs.
    """
    first = {d.key: d.corners()[0] for d in dimensions}
    corners = [first] + [{**first, d.key: value} for d in dimensions for value in d.corners()[1:]]
    problems: list[Problem] = []
    every: list[TrainConfig] = []
    for number, corner in enumerate(corners):
        planned, found = processes.check_job(
            context, config, number, [*fixed, *(d.override(corner[d.key]) for d in dimensions)]
        )
        problems += [p for p in found if p not in problems]
        every += [planned.settings] if planned is not None else []
        if planned is not None and planned.job.name != str(number):
            why = "trial 7 of a search lives in folder 7"
            problems.append(
                Problem(
                    "hydra.sweep.subdir",
                    planned.job.name,
                    why,
                    "leave it at its default, ${hydra.job.num}",
                )
            )
            break
    if problems:
        raise ConfigError(problems, prefix="search: ")
    return every


def _refuse_grid(folder: Path) -> None:
    if read_sweep(folder) and not read_study(folder):
        raise ConfigError(
            [
                Problem(
                    "hydra.sweep.dir",
                    folder,
                    "the jobs of another sweep are in it",
                    "choose another hydra.sweep.dir",
                )
            ]
        )


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One driver after the other.

    A plain sweep holds the same lock as long as it runs. Raises ``InputError`` then.
    """
    try:
        with FileLock(folder / ".lock", timeout=_PATIENCE):
            yield
    except Timeout:
        raise InputError(
            f"another process is working in {folder}; wait for it, or choose another"
            " hydra.sweep.dir"
        ) from None


def _asked(study: Study) -> list[FrozenTrial]:
    """Every trial but those that somebody queued and nobody has taken."""
    return [
        trial for trial in study.get_trials(deepcopy=False) if trial.state is not TrialState.WAITING
    ]


def _batch(search: Search) -> bool:
    """Takes trials, runs them, tells the study. False if there is nothing to run any more."""
    held: list[tuple[Trial, FileLock]] = []
    ran = False
    try:
        with _turn(search.folder):
            _take(search, held)
            jobs = read_sweep(search.folder)
            own = {str(trial.number): search.job(trial) for trial, _ in held}
            if not own.keys() <= jobs.keys():
                write_sweep(
                    search.folder, list({**jobs, **own}.values()), read_study(search.folder)
                )
        _run(search, [trial for trial, _ in held])
        ran = True
    finally:  # interrupted: what has ended is told, the rest goes on with the next call; under halving all of it, to be judged together  # noqa: E501
        for trial, lock in held:
            if ran or (not search.is_halving and _has_ended(search.record(trial.number))):
                _tell(search, trial)
            lock.release()
    return bool(held)


def _take(search: Search, held: list[tuple[Trial, FileLock]]) -> None:
    """Appends to ``held`` the trials that a driver which was killed has left, or if there are none
    new ones, at most a batch.
    """
    study = search.study
    (search.folder / _LOCKS).mkdir(exist_ok=True)
    shared = Path(str(read_study(search.folder).get("storage") or "")).parent != search.folder
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if (
            shared
            and Path(left.user_attrs.get("run", search.record(left.number).path)).parent
            != search.folder
        ):
            # of a driver in another folder, perhaps on another machine, whose locks are
            # there
            continue
        lock = _locked(search, left.number)
        if lock is None:
            continue
        # its driver has told just now
        if study.get_trials(deepcopy=False)[left.number].state is not TrialState.RUNNING:
            lock.release()
            continue
        held.append((Trial(study, left._trial_id), lock))
        if len(held) == search.batch:
            break
    wanted = 0 if held else min(search.batch, search.n_trials - len(_asked(study)))
    for _ in range(wanted):
        trial = study.ask()
        lock = _locked(search, trial.number)
        assert lock is not None, "a trial that nobody else knows"
        held.append((trial, lock))
    for trial, _ in held:
        for dimension in search.dimensions:
            dimension.suggest(trial)
        trial.set_user_attr("run", str(search.record(trial.number).path))


def _locked(search: Search, number: int) -> FileLock | None:
    """The lock of a trial, held; None if another driver holds it."""
    lock = FileLock(search.folder / _LOCKS / f"{number}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def _run(search: Search, trials: Sequence[Trial]) -> None:
    """Has the launcher run what has not ended.

    A trial that cannot be composed or is refused fails alone.
    """
    batch = []
    for trial in trials:
        processes.wait_for_left(search.record(trial.number))
        item = _planned(search, trial)
        if item is not None:
            processes.refuse_other_job(item)
            processes.refuse_other_halving(item, search.packing)
            batch.append(item)
    if all(_has_ended(item.record) for item in batch):
        return
    # Those that were finished or halved before take no time, but the others are judged beside them.
    batch = [
        item
        for item in batch
        if not _has_ended(item.record) or (search.is_halving and not _has_failed(item.record))
    ]
    section(
        f"trial{'s' if len(batch) > 1 else ''} {', '.join(item.job.name for item in batch)} of"
        f" {search.n_trials}"
    )
    processes.run_jobs(search.context, search.folder, batch, search.packing)


def _planned(search: Search, trial: Trial) -> Planned | None:
    """None if the job of ``trial`` is wrong, which its record then says."""
    job = search.job(trial)
    try:
        item, problems = processes.check_job(
            search.context, search.config, trial.number, job.overrides
        )
        why = "; ".join(f"{p.key} = {p.value}: {p.why}; {p.fix}" for p in problems)
    except (HydraException, OmegaConfBaseException) as error:
        item, why = None, " ".join(str(error).split())
    if item is None or why:
        record = search.record(trial.number)
        if not _has_ended(record):
            record.path.mkdir(exist_ok=True)
            record.start()
            record.end(State.failed, why)
        return None
    return Planned(job, item.record, item.settings, item.composed)


def _has_ended(record: RunDirectory) -> bool:
    """Not one that was interrupted."""
    return record.is_finished() or _has_failed(record) or "halved" in record.status()


def _has_failed(record: RunDirectory) -> bool:
    return bool(record.status().get("state") == State.failed.value)


def _tell(search: Search, trial: Trial) -> None:
    """Tells the study what came of ``trial``, from its record, if it was not told yet."""
    known = search.study.get_trials(deepcopy=False)[trial.number]
    if known.state is not TrialState.RUNNING:
        return
    record = search.record(trial.number)
    status = record.status()
    if [o.metric in _VALIDATION_LOSS for o in search.objectives] == [
        True
    ]:  # rungs are about validation losses
        for step, value in status.get("rungs") or []:
            if step not in known.intermediate_values:
                trial.report(math.nan if value is None else value, step)
    # by halving, or by the user in W&B, who ends one run with it
    if status.get("state") == State.stopped.value:
        trial.set_user_attr("reason", str(status.get("error") or "stopped"))
        search.study.tell(trial, state=TrialState.PRUNED)
        return
    values, reason = _values(record, search.objectives)
    if reason:
        trial.set_user_attr("reason", mask(reason))
        search.study.tell(trial, state=TrialState.FAIL)
    else:
        search.study.tell(trial, values)


def _values(record: RunDirectory, objectives: Sequence[Objective]) -> tuple[list[float], str]:
    """(a value for every objective, why there is none)."""
    status = record.status()
    if not record.is_finished():
        return [], str(
            status.get("error") or f"it ended as {status.get('state', 'not started')}; see run.log"
        )
    metrics = read_json(record.metrics_file)
    values = []
    for objective in objectives:
        value = metrics.get(objective.metric)
        if not isinstance(value, int | float) or not math.isfinite(value):
            what = f"is {value}" if objective.metric in metrics else "is not there"
            own = ", ".join(k for k, v in metrics.items() if isinstance(v, int | float))
            return [], f"{objective.metric} {what} in metrics.json, which has {own}"
        values.append(float(value))
    return values, ""


def _report(search: Search) -> None:
    """The ranking of every trial of the study, and the best.

    Raises ``SweepError`` if any failed.
    """
    study, names = search.study, {str(trial.number) for trial in _asked(search.study)}
    section("ranking")
    by_loss = (
        len(search.objectives) == 1
        and search.objectives[0].metric in _VALIDATION_LOSS
        and search.objectives[0].direction == "min"
    )
    end_of_sweep(search.folder, names, best=by_loss)
    if not by_loss and any(trial.state is TrialState.COMPLETE for trial in _asked(study)):
        console.print(_best(search))
        on_test = [o.metric for o in search.objectives if o.metric.startswith("eval/")]
        if on_test:
            console.print(
                f"[yellow]{', '.join(on_test)}: measured on the test rows, so the best of many"
                " looks better there than it is"
            )
    counts = {
        state.name.lower(): len([t for t in _asked(study) if t.state is state])
        for state in TrialState
    }
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    place = read_study(search.folder)["storage"].replace(f"{Path.cwd()}/", "")
    console.print(f"study       {escape(str(place))}: {len(names)} trials ({told})", soft_wrap=True)
    if counts["running"]:
        console.print(
            f"[dim]{counts['running']} trials are still run by another driver of this study"
        )
    processes.print_wandb_hint(search.folder)
    failed = [trial for trial in _asked(study) if trial.state is TrialState.FAIL]
    if failed:
        console.print(_failures(search, failed))
        raise SweepError(
            f"{len(failed)} of {len(names)} trials failed and count as such; more trials: raise"
            " hydra.sweeper.n_trials"
        )


def _best(search: Search) -> Table:
    """The best trial, or those than which none is better in every objective."""
    several = len(search.objectives) > 1
    title = (
        "Pareto front: no trial is better in one of these without being worse in another"
        if several
        else "best"
    )
    table = Table(title=title, title_justify="left", title_style="bold green", header_style="bold")
    table.add_column("run")
    for objective in search.objectives:
        table.add_column(str(objective), justify="right")
    table.add_column("settings", overflow="fold")
    for trial in sorted(search.study.best_trials, key=lambda t: t.values):
        settings = ", ".join(f"{key}={value}" for key, value in search.job(trial).varying.items())
        path = processes.shown(search.record(trial.number).path)
        table.add_row(
            escape(str(path)), *(f"{value:.4g}" for value in trial.values), escape(mask(settings))
        )
    return table


def _failures(search: Search, failed: Sequence[FrozenTrial]) -> Table:
    rows = [
        (search.job(t), str(t.user_attrs.get("reason", "told so by another program")))
        for t in failed
    ]
    return processes.failures(rows, "failed trials")
