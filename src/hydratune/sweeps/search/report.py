"""The end of a search: the ranking of every trial of the study, the best, and those that failed."""

from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from rich.markup import escape
from rich.table import Table

from hydratune.comparison.outputs import end_of_sweep
from hydratune.console import console, relative_path, section
from hydratune.errors import SweepError
from hydratune.metric_format import with_unit
from hydratune.records.sweep import read_study
from hydratune.settings.secrets import mask
from hydratune.sweeps.launch import print_wandb_hint, table_of_failures
from hydratune.sweeps.search.settings import Search
from hydratune.wording import counted


def print_report(search: Search) -> None:
    """Rank every trial of the study and print the best. Raises ``SweepError`` if any failed."""
    trials = search.requested_trials()
    section("ranking")
    # every sweep is ranked by what its runs monitor
    is_ranking = [o.ranks_runs(search.monitor) for o in search.objectives] == [True]
    end_of_sweep(search.folder, {str(trial.number) for trial in trials}, best=is_ranking)
    if not is_ranking and any(trial.state is TrialState.COMPLETE for trial in trials):
        console.print(_table_of_best(search))
    _print_counts(search, trials)
    print_wandb_hint(search.folder)
    failed = [trial for trial in trials if trial.state is TrialState.FAIL]
    if failed:
        console.print(_table_of_failed(search, failed))
        raise SweepError(
            f"{len(failed)} of {counted(len(trials), 'trial')} failed and count as such; more"
            " trials: raise"
            " hydra.sweeper.n_trials"
        )


def _print_counts(search: Search, trials: Sequence[FrozenTrial]) -> None:
    """Print where the study is, and how many of its trials are in which state."""
    states = [trial.state for trial in trials]
    counts = {state: states.count(state) for state in TrialState}
    text = ", ".join(f"{count} {state.name.lower()}" for state, count in counts.items() if count)
    storage = escape(read_study(search.folder)["storage"].replace(f"{Path.cwd()}/", ""))
    console.print(
        f"study       {storage}: {counted(len(trials), 'trial')} ({text})", soft_wrap=True
    )
    running = counts[TrialState.RUNNING]
    if running:
        console.print(
            f"[dim]{counted(running, 'trial is', 'trials are')} still run by another driver of"
            " this study"
        )


def _table_of_best(search: Search) -> Table:
    """Return the best trial; with several objectives, those than which no trial is better in all of
    them.
    """
    title = "best"
    if len(search.objectives) > 1:
        title = "Pareto front: no trial is better in one of these without being worse in another"
    table = Table(title=title, title_justify="left", title_style="bold green", header_style="bold")
    table.add_column("run")
    for objective in search.objectives:
        table.add_column(str(objective), justify="right")
    table.add_column("settings", overflow="fold")
    for trial in sorted(search.study.best_trials, key=lambda trial: trial.values):
        settings = ", ".join(f"{key}={value}" for key, value in search.job(trial).varying.items())
        folder = escape(str(relative_path(search.record(trial.number).path)))
        values = [
            with_unit(objective.metric, value)
            for objective, value in zip(search.objectives, trial.values, strict=True)
        ]
        table.add_row(folder, *values, escape(mask(settings)))
    return table


def _table_of_failed(search: Search, failed: Sequence[FrozenTrial]) -> Table:
    unknown = "reported as failed by another program"
    reasons = [
        (search.job(trial), str(trial.user_attrs.get("reason", unknown))) for trial in failed
    ]
    return table_of_failures(reasons, "failed trials")
