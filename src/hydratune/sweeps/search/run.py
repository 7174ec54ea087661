"""The story of a search: trials that Optuna asks for, in a study that can be resumed.

The study records which trials were asked for, the run directories what came of them: trial k is
the run in folder k. A search that was interrupted, or killed, is resumed by the same command, and
several commands at a time can work on one study.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState
from rich.markup import escape

from hydratune.console import console, relative_path
from hydratune.errors import ConfigError, Problem, SweepError
from hydratune.records.files import write_text
from hydratune.records.sweep import HYDRA_FILE, read_study, read_sweep, write_sweep
from hydratune.settings.commands import Resume, TrainConfig
from hydratune.settings.monitor import Monitor
from hydratune.settings.paths import expanded
from hydratune.settings.registry import flat, plain
from hydratune.settings.secrets import mask
from hydratune.sweeps.executor_options import refuse_not_waiting
from hydratune.sweeps.first_rung import say_if_first_rung_is_early
from hydratune.sweeps.job_checks import check_job, refuse_other_environment
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.search.distinct import size_of_space
from hydratune.sweeps.search.objectives import read_objectives, refuse_unmeasured
from hydratune.sweeps.search.report import print_report
from hydratune.sweeps.search.samplers import make_sampler
from hydratune.sweeps.search.settings import Search, SearchSettings
from hydratune.sweeps.search.slots import run_in_slots
from hydratune.sweeps.search.space import SearchSpace, read_space
from hydratune.sweeps.search.study import COMPOSED, open_study
from hydratune.sweeps.search.trials import run_batch
from hydratune.sweeps.train_sizes import check_train_sizes
from hydratune.sweeps.trial_locks import sweep_lock
from hydratune.sweeps.void_axes import effective_identity, void_axis
from hydratune.wording import counted, noun_for

STUDY_FILE = "study.log"


@runtime_checkable
class TrialLauncher(Protocol):
    """A launcher that can run the trials of a search: ``pack`` and ``process``."""

    def pack_options(self) -> PackOptions | None:
        """Return how trials share a process; None: they do not."""


def search(
    context: HydraContext,
    config: DictConfig,
    launcher: object,
    settings: SearchSettings,
    arguments: Sequence[str],
) -> None:
    """Run trials until the study has ``settings.n_trials``, then rank all of them.

    Raises ``ConfigError`` before anything runs if the search is wrong, ``SweepError`` at the end if
    any trial failed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    checked = _check(context, config, launcher, settings, arguments)
    count = len(checked.requested_trials())
    progress = f"{count} of {counted(settings.n_trials, 'trial')} so far"
    if count > settings.n_trials:
        progress = (
            f"{counted(count, 'trial')}, {settings.n_trials}"
            f" {noun_for(settings.n_trials, 'was', 'were')} asked for"
        )
    what = f"by {settings.sampler} for {', '.join(map(str, checked.objectives))}"
    place = escape(str(relative_path(checked.folder)))
    console.print(f"[bold]search[/] {what}: {progress}  {place}", soft_wrap=True)
    _print_size_of_space(checked)
    try:
        _run_trials(checked)
        print_report(checked)
    except optuna.exceptions.StorageInternalError as error:
        why = str(error.__cause__ or error).splitlines()[0]
        raise SweepError(
            f"the database of the study does not answer ({mask(why)}); once it does, the same"
            " command continues, with the results of all trials that have ended"
        ) from error


def _run_trials(search: Search) -> None:
    if search.packing is not None and search.packing.executor.runs_alone_jobs:
        run_in_slots(search, search.packing)
        return
    while run_batch(search):
        pass


def _print_size_of_space(search: Search) -> None:
    """Say that the search ends when every point of a small space has been tried."""
    untried, wanted = search.untried_points(), search.settings.n_trials
    requested = len(search.requested_trials())
    if untried is not None and requested + untried < wanted:
        size = size_of_space(search.space.dimensions) or 0
        left = "all of them have been tried"
        if untried:
            left = f"{untried} {noun_for(untried, 'has', 'have')} not been tried"
        console.print(
            f"the space has {counted(size, 'point')}, each is tried once: {left}, and the search"
            f" ends after {counted(requested + untried, 'trial')} instead of {wanted}",
            soft_wrap=True,
        )


def _check(
    context: HydraContext,
    config: DictConfig,
    launcher: object,
    settings: SearchSettings,
    arguments: Sequence[str],
) -> Search:
    """Check a search, open its study and write what every sweep writes into its folder.

    Raises ``ConfigError``.
    """
    words = [f"{key}={value}" for key, value in (settings.params or {}).items()]
    parser = OverridesParser.create(config_loader=context.config_loader)
    space = read_space(parser.parse_overrides([*words, *arguments]))
    packing = _pack_options(launcher)
    if packing is not None:
        refuse_not_waiting(packing.executor, "a search")
    corners = _check_corners(context, config, space)
    monitor = _monitor(corners)
    objectives = read_objectives(settings.objectives, monitor)
    refuse_unmeasured(objectives, corners)
    check_train_sizes(corners, packing)
    say_if_first_rung_is_early(corners, packing)
    sampler = make_sampler(settings, space.dimensions, objectives)
    resume, common = corners[0].resume, space.describe()
    if resume is not Resume.force:  # a file of settings may have been edited
        common[COMPOSED] = _composed_settings(corners)
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_other_sweep(folder)
    with sweep_lock(folder):
        _refuse_other_sweep(folder)
        name = settings.study_name or read_study(folder).get("name") or folder.name
        place = _storage(settings, folder)
        study = open_study(place, name, sampler, objectives, common)
        checked = Search(
            context, config, folder, settings, packing, space, objectives, study, monitor
        )
        _refuse_other_environment(checked, resume)
        write_text(folder / HYDRA_FILE, mask(OmegaConf.to_yaml(config)))
        jobs = list(read_sweep(folder).values())
        write_sweep(folder, jobs, {"storage": mask(place), "name": name})
    return checked


def _storage(settings: SearchSettings, folder: Path) -> str:
    """Return the URL of the study's database, or the absolute path of its journal."""
    place = settings.storage or str(folder / STUDY_FILE)
    return place if "://" in place else str(expanded(place).absolute())


def _pack_options(launcher: object) -> PackOptions | None:
    """Return the options of packs. Raises ``ConfigError`` for a launcher of another program."""
    if isinstance(launcher, TrialLauncher):
        return launcher.pack_options()
    why = "it cannot run the trials of a search"
    fix = "set hydra/launcher=pack or hydra/launcher=process"
    raise ConfigError([Problem("hydra/launcher", type(launcher).__name__, why, fix)])


def _check_corners(
    context: HydraContext, config: DictConfig, space: SearchSpace
) -> list[TrainConfig]:
    """Compose and check a job for every choice and both ends of every range; return the settings of
    all.

    Raises ``ConfigError``, or Hydra's own errors, before anything runs.
    """
    problems: list[Problem] = []
    settings: list[TrainConfig] = []
    identities: dict[tuple[str, ...], str] = {}
    for number, overrides in enumerate(space.corners()):
        job, job_problems = check_job(context, config, number, overrides)
        problems += [problem for problem in job_problems if problem not in problems]
        if job is None:
            continue
        settings.append(job.settings)
        identities[tuple(overrides)] = effective_identity(job.settings)
        if job.name != str(number):
            why = "trial 7 of a search has the folder 7"
            fix = "leave it at its default, ${hydra.job.num}"
            problems.append(Problem("hydra.sweep.subdir", job.name, why, fix))
            break
    problems += _void_dimensions(context, config, space, identities) if not problems else []
    if problems:
        raise ConfigError(problems, prefix="search: ")
    return settings


def _void_dimensions(
    context: HydraContext,
    config: DictConfig,
    space: SearchSpace,
    identities: dict[tuple[str, ...], str],
) -> Iterator[Problem]:
    """Yield a problem for each dimension that changes no trial, whatever the others are.

    ``identities``: what is known of jobs by their overrides; it is completed.
    """

    def identity(overrides: Sequence[str]) -> str:
        key = tuple(overrides)
        if key not in identities:
            job, _ = check_job(context, config, 0, overrides)
            identities[key] = effective_identity(job.settings) if job is not None else str(key)
        return identities[key]

    for dimension in space.dimensions:
        lines = space.lines(dimension)
        if all(len(set(map(identity, line))) == 1 for line in lines):
            job, _ = check_job(context, config, 0, lines[0][0])
            if job is not None and len(lines[0]) > 1:
                values = dimension.texts or [str(value) for value in dimension.corners()]
                yield void_axis(dimension.name, values, job.settings)


def _monitor(corners: Sequence[TrainConfig]) -> Monitor:
    """Return what all trials monitor. Raises ``ConfigError`` if it is not the same."""
    monitors = list(dict.fromkeys(settings.trainer.monitor for settings in corners))
    if len(monitors) > 1:
        why = f"trials are ranked by one metric, and these have {' and '.join(monitors)}"
        fix = f"choose one: trainer.monitor={monitors[0]}"
        raise ConfigError([Problem("trainer.monitor", ",".join(monitors), why, fix)], "search: ")
    return Monitor.read(monitors[0])


def _composed_settings(corners: Sequence[TrainConfig]) -> list[str]:
    """Return every setting of every corner, except for paths: another driver of the study may be on
    another machine.
    """
    every = [flat(plain(replace(settings, resume=Resume.auto))) for settings in corners]
    texts = {
        f"{key}={value}"
        for settings in every
        for key, value in settings.items()
        if not str(value).startswith("/")
    }
    return sorted(map(mask, texts))


def _refuse_other_sweep(folder: Path) -> None:
    """Raise ``ConfigError`` if a sweep without a search is in ``folder``."""
    if read_sweep(folder) and not read_study(folder):
        why, fix = "the jobs of another sweep are in it", "choose another hydra.sweep.dir"
        raise ConfigError([Problem("hydra.sweep.dir", folder, why, fix)])


def _refuse_other_environment(search: Search, resume: Resume) -> None:
    """Raise ``ConfigError`` if further trials would not compare with the finished ones."""
    trials = search.requested_trials()
    if len(trials) < search.settings.n_trials:
        complete = [search.record(t.number) for t in trials if t.state is TrialState.COMPLETE]
        finished = [record for record in complete if record.is_finished()]
        refuse_other_environment(finished, resume)
