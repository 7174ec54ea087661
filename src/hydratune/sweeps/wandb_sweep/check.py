"""Composes and checks what the trials of a W&B sweep can be, before any is trained."""

from collections.abc import Callable, Sequence

from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from hydratune.errors import ConfigError, HydratuneError, Problem
from hydratune.settings.commands import TrainConfig
from hydratune.settings.tracking import TrackingMode
from hydratune.sweeps.job_checks import check_job
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.search.objectives import refuse_unmeasured
from hydratune.sweeps.wandb_sweep.definition import SweepDefinition, metric_problem

# says what an error of Hydra, raised for these overrides, means for one setting
Explain = Callable[[BaseException, Sequence[str]], Problem | None]


def check_trials(
    context: HydraContext,
    config: DictConfig,
    definition: SweepDefinition,
    words: Sequence[str],
    explain: Explain,
) -> None:
    """Compose and check a trial for every choice and both ends of every range.

    ``words``: the overrides that all trials have in common. Raises ``ConfigError`` that names the
    sweep.
    """
    problems: list[Problem] = []
    trials: list[TrainConfig] = []
    for number, corner in enumerate(definition.corners()):
        overrides = [*words, *(f"{key}={value}" for key, value in corner.items())]
        settings, found = _check(context, config, number, overrides, explain)
        trials += [settings] if settings is not None else []
        problems += [problem for problem in found if str(problem) not in map(str, problems)]
    objective = definition.objective
    if objective is not None:
        try:
            refuse_unmeasured([objective], trials)
        except ConfigError as error:
            problems += [metric_problem(objective.metric, problem) for problem in error.problems]
    if problems:
        raise ConfigError(problems, prefix=f"W&B sweep {definition.source}: ")


def _check(
    context: HydraContext,
    config: DictConfig,
    number: int,
    overrides: Sequence[str],
    explain: Explain,
) -> tuple[TrainConfig | None, list[Problem]]:
    """Return the settings of one trial (None if it has none) and what is wrong with it."""
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
    return job.settings, problems


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
    if options is not None and options.halving is not None and options.is_halving:
        why = "W&B decides which trials of its sweep end early"
        fix = "early_terminate: {type: hyperband, min_iter: 2} in the sweep"
        value = options.halving.min_steps
        raise ConfigError([Problem("hydra.launcher.halving.min_steps", value, why, fix)])
    return options
