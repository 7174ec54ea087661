"""Composes and checks what the trials of a W&B sweep can be, before any is trained."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.markup import escape

from hydratune.console import console
from hydratune.data.rows import stable_hash
from hydratune.data.source_errors import check_first_rows
from hydratune.errors import ConfigError, HydratuneError, Problem
from hydratune.settings.commands import TrainConfig
from hydratune.settings.registry import plain
from hydratune.settings.tracking import TEXT_SETTINGS, TrackingMode
from hydratune.sweeps.executor_options import refuse_not_waiting
from hydratune.sweeps.job_checks import check_job
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.planning import PlannedJob
from hydratune.sweeps.search.objectives import refuse_unmeasured
from hydratune.sweeps.test_size import say_if_too_few_test_rows
from hydratune.sweeps.void_axes import void_axes
from hydratune.sweeps.wandb_sweep.definition import SweepDefinition, metric_problem

# says what an error of Hydra, raised for these overrides, means for one setting
Explain = Callable[[BaseException, Sequence[str]], Problem | None]


def check_trials(
    context: HydraContext,
    config: DictConfig,
    definition: SweepDefinition,
    words: Sequence[str],
    explain: Explain,
    *,
    is_new: bool,
) -> None:
    """Compose and check a trial for every choice and both ends of every range.

    ``words``: the overrides that all trials have in common. ``is_new``: the sweep is to be created.
    Raises ``ConfigError`` that names the sweep.
    """
    problems: list[Problem] = []
    jobs: list[PlannedJob] = []
    for number, corner in enumerate(definition.corners()):
        overrides = [*words, *(f"{key}={value}" for key, value in corner.items())]
        job, found = _check(context, config, number, overrides, explain)
        jobs += [replace(job, job=replace(job.job, varying=corner))] if job is not None else []
        problems += [problem for problem in found if str(problem) not in map(str, problems)]
    trials = [job.settings for job in jobs]
    objective = definition.objective
    if objective is not None:
        try:
            refuse_unmeasured([objective], trials)
        except ConfigError as error:
            problems += [metric_problem(objective.metric, problem) for problem in error.problems]
    texts = list(_sent_texts(definition, trials))
    problems += texts if is_new else []
    if not problems and sum(not p.is_constant for p in definition.parameters) == 1:
        problems += void_axes(jobs)
    if problems:
        raise ConfigError(problems, prefix=f"W&B sweep {definition.source}: ")
    for data in {stable_hash(plain(trial.data)): trial.data for trial in trials}.values():
        check_first_rows(data)
    for problem in [*texts, *void_axes(jobs)]:
        console.print(f"[yellow]{escape(f'{problem.key}: {problem.why}')}", soft_wrap=True)
    say_if_too_few_test_rows(trials)


def _sent_texts(definition: SweepDefinition, trials: Sequence[TrainConfig]) -> Iterator[Problem]:
    """Yield the texts for a model in the sweep's definition, if texts stay on this machine."""
    if all(trial.tracking.log_text for trial in trials):
        return
    why = (
        "tracking.log_text=false keeps texts on this machine, and W&B's server has the definition"
        " of the sweep, with this text"
    )
    for parameter in definition.parameters:
        if parameter.key.rpartition(".")[2] in TEXT_SETTINGS:
            fix = "vary it with hydratune train -m, or leave out tracking.log_text=false"
            yield Problem(f"parameters.{parameter.key}", "a text", why, fix)
    for word in definition.words:
        key = word.partition("=")[0]
        if key.rpartition(".")[2] in TEXT_SETTINGS:
            fix = f"type {key}=... after hydratune sweep FILE, and not in the file"
            yield Problem("command", f"{key}=...", why, fix)


def _check(
    context: HydraContext,
    config: DictConfig,
    number: int,
    overrides: Sequence[str],
    explain: Explain,
) -> tuple[PlannedJob | None, list[Problem]]:
    """Return the job of one trial (None if it has none) and what is wrong with it."""
    try:
        job, problems = check_job(context, config, number, overrides)
    except HydratuneError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        problem = explain(error, overrides)
        why = " ".join(str(error).split())
        fix = "see hydratune train --help"
        return None, [problem or Problem("trial", " ".join(overrides), why, fix)]
    if job is None:
        return None, problems
    if job.name != str(number):
        fix = "leave it at its default, ${hydra.job.num}"
        why = "trial 7 of a W&B sweep has the folder 7"
        problems.append(Problem("hydra.sweep.subdir", job.name, why, fix))
    mode = job.settings.tracking.mode
    if mode is not TrackingMode.online:
        why = "the runs of a W&B sweep are on its server"
        problems.append(Problem("tracking.mode", mode.value, why, "tracking=online"))
    return job, problems


def pack_options(launcher: object) -> PackOptions | None:
    """Return how trials share a process; None: they do not.

    Raises ``ConfigError`` for a launcher of another program, and for halving.
    """
    get_options = getattr(launcher, "pack_options", None)
    if get_options is None:
        why = "it cannot run the trials of a W&B sweep"
        fix = "set hydra/launcher=pack or hydra/launcher=process"
        raise ConfigError([Problem("hydra/launcher", type(launcher).__name__, why, fix)])
    options: PackOptions | None = get_options()
    if options is not None:
        refuse_not_waiting(options.executor, "a W&B sweep")
    if options is not None and options.halving is not None and options.is_halving:
        why = "W&B decides which trials of its sweep end early"
        fix = "early_terminate: {type: hyperband, min_iter: 2} in the sweep"
        value = options.halving.min_steps
        raise ConfigError([Problem("hydra.launcher.halving.min_steps", value, why, fix)])
    return options
