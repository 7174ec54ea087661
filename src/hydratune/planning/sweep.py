"""``hydratune plan -m``: the trials of a sweep planned, none of them run."""

from collections.abc import Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig

from hydratune.cores import cpu_count
from hydratune.planning.output import show, typed_of_train
from hydratune.planning.plan import Plan, make_plan, with_probe
from hydratune.planning.probe import run_probe
from hydratune.planning.sweep_plan import (
    SweepPlan,
    lines_of,
    memory_of_pack,
    steps_with_halving,
)
from hydratune.planning.sweep_trials import (
    by_model,
    first_sweeps,
    largest,
    model_cells,
    models,
    of_one_model,
    trial_lines,
)
from hydratune.planning.terminal import amount, spoken
from hydratune.settings.commands import PlanConfig
from hydratune.settings.registry import typed
from hydratune.sweeps.job_checks import check_jobs, check_sweep
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.planning import PlannedJob
from hydratune.sweeps.planning import plan as divide


def plan_sweep(
    context: HydraContext,
    sweep: DictConfig,
    overrides: Sequence[Sequence[str]],
    first: int,
    options: PackOptions | None = None,
) -> None:
    """Check every trial as ``train -m`` does, and print what all of them need and cost.

    Raises ``ConfigError`` with every conflict.
    """
    jobs = check_sweep(context, sweep, overrides, first, options)
    plans = _plans(jobs, sweep)
    _show(jobs, plans, len(jobs), sweep, options)


def plan_search(
    context: HydraContext,
    sweep: DictConfig,
    settings: Mapping[str, object],
    arguments: Sequence[str],
) -> None:
    """Print what the trials of a search need and cost: of each that of the settings without a
    range, since what a sampler draws is not known.
    """
    parser = OverridesParser.create()
    fixed = [text for text in arguments if not parser.parse_override(text).is_sweep_override()]
    jobs = check_jobs(context, sweep, [fixed], 0)
    options = PackOptions.from_mapping(
        {key: value for key, value in sweep.hydra.launcher.items() if key != "_target_"}
    )
    count = int(str(settings["n_trials"]))
    batch = int(str(settings["batch"]))
    _show(jobs, _plans(jobs, sweep), count, sweep, options, batch)


def _plans(jobs: Sequence[PlannedJob], sweep: DictConfig) -> dict[int, Plan]:
    """Return the plan of each trial, with the rate of a probe of its own base model."""
    typed_words = typed_of_train(sweep.hydra.overrides.task)
    configs, plans = [_plan_config(job) for job in jobs], {}
    configs[0].check()
    for number, (job, config) in enumerate(zip(jobs, configs, strict=True)):
        words = of_one_model(typed_words, job.job.overrides)
        plans[number] = make_plan(config, words, None)
    if not configs[0].probe:
        return plans
    for numbers in by_model(plans).values():
        most = max(numbers, key=lambda n: plans[n].here.total)
        if plans[most].here.fits is False and len(numbers) < len(plans):
            continue  # another model is probed; trial_lines says that this one does not fit
        probe = run_probe(configs[most], typed_of_train(jobs[most].job.overrides))
        plans |= {n: with_probe(plans[n], configs[n], probe) for n in numbers}
    return plans


def _typed_words(sweep: DictConfig) -> list[str]:
    """Return what was typed of the sweep, with what concerns the launcher and the sweeper."""
    own = [word for word in sweep.hydra.overrides.hydra if not word.startswith("hydra.mode=")]
    return [*map(str, sweep.hydra.overrides.task), *map(str, own)]


def _plan_config(job: PlannedJob) -> PlanConfig:
    config = typed(job.composed, PlanConfig)
    config.name = job.settings.name
    return config


def _show(
    jobs: Sequence[PlannedJob],
    plans: Mapping[int, Plan],
    trials: int,
    sweep: DictConfig,
    options: PackOptions | None,
    batch: int | None = None,
) -> None:
    """``batch``: trials that a search asks for together."""
    settings = {number: job.settings for number, job in enumerate(jobs)}
    if trials > len(jobs):  # of a search, whose trials are alike
        settings = dict.fromkeys(range(trials), jobs[0].settings)
    every = {number: plans[min(number, len(plans) - 1)] for number in settings}
    at_once = (options.executor.divides_into if options is not None else None) or 1
    size = 1 if options is None else batch or options.size_of_packs(len(settings), at_once)
    division = divide(settings, size)
    steps = [plan.duration.steps for plan in every.values()]
    all_steps, halved = sum(steps), steps_with_halving(steps, options)
    seconds, money = _total(list(every.values()), halved / max(1, all_steps))
    said = _said(list(every.values()), seconds, money, at_once)
    together = (options.together if options is not None else None) or cpu_count() + 2
    of_packs = [memory_of_pack([every[n].here for n in pack], together) for pack in division.packs]
    pack_memory = max(of_packs, default=None)
    lines = lines_of(
        trials, division, settings, (all_steps, halved), (seconds, money, said), pack_memory
    )
    result = SweepPlan(
        trials,
        division.packs,
        division.alone,
        all_steps,
        halved,
        seconds,
        money,
        pack_memory,
        (*lines, *(trial_lines(plans) if len(plans) == trials else ())),
        tuple(map(model_cells, models(plans))),
        first_sweeps(plans),
    )
    show(_plan_config(jobs[0]), largest(plans), _typed_words(sweep), result)


def _total(plans: Sequence[Plan], share: float) -> tuple[float | None, float | None]:
    """Return the seconds and the money of all trials, one after the other."""
    seconds = [plan.duration.seconds for plan in plans]
    money = [plan.duration.money for plan in plans]
    known = [s for s in seconds if s is not None]
    paid = [m for m in money if m is not None]
    return (
        share * sum(known) if len(known) == len(plans) else None,
        share * sum(paid) if len(paid) == len(plans) else None,
    )


def _said(plans: Sequence[Plan], seconds: float | None, money: float | None, at_once: int) -> str:
    basis = ", ".join(dict.fromkeys(plan.duration.basis.value for plan in plans))
    if seconds is None:
        return f"time: {basis}"
    cost = "" if money is None else f", {amount(money)} at price_per_hour"
    parts = f"; {spoken(seconds / at_once)} with {at_once} packs at a time" if at_once > 1 else ""
    return (
        f"{spoken(seconds)} for all trials one after the other{cost} ({basis}){parts}; the trials"
        " of a pack share start-up, so they take less"
    )
