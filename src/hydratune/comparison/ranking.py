"""A comparison on the terminal."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from hydratune.checks import mask
from hydratune.comparison.compared import Comparison, Front, compare, verdict
from hydratune.comparison.effects import Effect
from hydratune.comparison.entries import Entry, cell, score, spread
from hydratune.comparison.names import COSTS, title, written
from hydratune.comparison.runs import Run
from hydratune.console import console
from hydratune.records import State

_COLUMNS = 6  # settings shown at most
_ROWS = 40  # entries shown at most, and lines up to which every seed has its own; the page has all
_LONGEST_REASON = 40  # letters; status.json has all of it
_EFFECTS = 6
_COUNTED = "in the configuration; nothing was run"  # what a ConfigError begins with, before the first wrong setting
_LEAST_STATE = 20  # letters in a line
_WIDEST = 1000  # letters: no limit


def ranking_table(runs: Sequence[Run]) -> tuple[Table, str]:
    """(table, lines that name the best run and what cannot be told from it, or "" if none finished)."""
    compared = compare(runs)
    return table(compared), "\n".join(verdict(compared))


def shown(compared: Comparison) -> list[RenderableType]:
    """Everything, from the ranking to the fronts."""
    parts: list[RenderableType] = [*tables(compared)]
    parts += [escape(line) for line in verdict(compared)]
    parts += [f"[yellow]note: {escape(line)}" for line in compared.notes]
    several = [effect for effect in compared.effects if len(effect.levels) > 1 or effect.correlation is not None]
    if several and len(compared.finished) > 2:
        parts.append(effect_table(several, compared))
    parts += [escape(_front(front, compared)) for front in compared.fronts if len(front.runs) > 1]
    return parts


def tables(compared: Comparison) -> list[Table]:
    """All in one where the terminal is wide enough; else the ranking, and beneath it what its entries measured and cost."""
    whole = table(compared)
    measured = [*compared.metrics, *compared.costs]
    needed = Measurement.get(console, console.options.update(max_width=_WIDEST), whole).maximum
    return [whole] if not measured or needed <= console.width else [table(compared, measured=False), _measured_table(compared)]


def table(compared: Comparison, *, measured: bool = True) -> Table:
    """Best is the lowest validation loss, of entries with several seeds the lowest mean.

    Runs that did not finish come last and are never best; those that were halved show the loss they had then, in brackets.
    ``measured``: with test metrics and costs.
    """
    metrics, costs = (compared.metrics, compared.costs) if measured else ((), ())
    by, seeded = compared.by, compared.seeded
    what = "validation loss" if by.metric == "objective" else title(by.metric)
    heading = "not ranked" if compared.refused else f"ranking by {what}"
    heading += ", mean ± standard deviation over seeds" if seeded else ""
    keys = compared.keys[:_COLUMNS]
    result = Table(title=heading, title_justify="left", title_style="bold", header_style="bold")
    result.add_column("", justify="right")
    result.add_column("run")
    for key in [*keys, *(["seed"] if seeded else [])]:
        result.add_column(key.rsplit(".", 1)[-1], justify="right")
    result.add_column(title(by.metric), justify="right", no_wrap=True)
    if compared.against:
        result.add_column("against the best", overflow="fold")
    for name in metrics:
        result.add_column(title(name), justify="right")
    for name in costs:
        result.add_column(COSTS[name], justify="right", no_wrap=True)
    longest = max((len(state(run)) for run in compared.runs), default=0)
    result.add_column("state", overflow="fold", min_width=min(_LEAST_STATE, longest))
    for place, entry in enumerate(compared.ranked[:_ROWS]):
        _add(result, compared, place, entry, keys, (metrics, costs), each=result.row_count + len(entry.runs) < _ROWS)
    left = len(compared.ranked) - _ROWS
    if left > 0:
        result.caption = f"and {left} more, which the page shows"
    return result


def _measured_table(compared: Comparison) -> Table:
    """Test metrics with their intervals, over seeds with their spread, and costs."""
    result = Table(title="on the test rows, and at what cost", title_justify="left", title_style="bold", header_style="bold")
    result.add_column("", justify="right")
    result.add_column("run" if not compared.seeded else "")
    for name in compared.metrics:
        result.add_column(title(name), justify="right")
    for name in compared.costs:
        result.add_column(COSTS[name], justify="right", no_wrap=True)
    for place, entry in enumerate(compared.ranked[:_ROWS]):
        values = _values(entry, compared.metrics, compared.costs)
        if any(value != "-" for value in values):
            number = str(place + 1) if entry.scores and not compared.refused else ""
            who = entry.runs[0].name if len(entry.runs) == 1 else compared.named(entry)
            result.add_row(number, escape(who), *values, style="bold green" if number == "1" else "")
    return result


def _values(entry: Entry, metrics: Sequence[str], costs: Sequence[str]) -> list[str]:
    if len(entry.runs) == 1:
        return [*(_measured(entry.runs[0], key) for key in metrics), *(written(key, entry.runs[0].value(key)) for key in costs)]
    values = [spread([v for r in entry.finished if (v := r.value(key)) is not None], ".4g") for key in metrics]
    return values + [_total(entry.runs, key) for key in costs]


def _add(
    result: Table,
    compared: Comparison,
    place: int,
    entry: Entry,
    keys: Sequence[str],
    measured: tuple[Sequence[str], Sequence[str]],
    *,
    each: bool,
) -> None:
    """``each``: with a line for every seed."""
    finished = entry.finished
    number = str(place + 1) if finished and not compared.refused else ""
    style = "bold green" if number == "1" else ""
    settings = [escape(cell(next((r.settings[key] for r in entry.runs if key in r.settings), None))) for key in keys]
    against = [against_best(compared, place)] if compared.against else []
    if len(entry.runs) > 1:
        values = _values(entry, *measured)
        whole = len(finished) == len(entry.runs)
        ended = State.finished.value if whole else f"{len(finished)} of {len(entry.runs)} finished"
        result.add_row(number, "", *settings, f"n={len(finished)}", spread(entry.scores, ".4f"), *against, *values, ended, style=style)
        if not each:
            return
        number, style, settings, against = "", "dim", [""] * len(keys), [""] * len(against)
    for run in entry.runs:
        own = [escape(cell(run.settings.get("seed")))] if compared.seeded else []
        value, early = score(run, compared.by), (run.halved or {}).get("value")
        loss = f"{value:.4f}" if value is not None else f"({early:.4f})" if isinstance(early, float) else "-"
        values = _values(Entry((run,), compared.by), *measured)
        look = "red" if run.state == State.failed.value else style if value is not None else "dim"
        result.add_row(number, escape(run.name), *settings, *own, loss, *against, *values, escape(state(run)), style=look)


def _measured(run: Run, metric: str) -> str:
    """With its interval, if there is one."""
    value, interval = run.value(metric), run.interval(metric)
    edges = f" \\[{interval[0]:.3g}, {interval[1]:.3g}]" if value is not None and interval is not None else ""
    return f"{cell(value)}{edges}"


def _total(runs: Sequence[Run], cost: str) -> str:
    """Of all seeds; the peak of memory is that of the largest."""
    values = [value for run in runs if (value := run.value(cost)) is not None]
    together = max if cost == "cost/peak_memory_bytes" else sum
    return written(cost, together(values) if values else None)


def against_best(compared: Comparison, place: int) -> str:
    """In a few words."""
    if place == 0 and compared.best is not None:
        return "best"
    tests = compared.against.get(place)
    if not tests:
        return "-"
    apart = [a for a in tests.values() if a.told_apart]
    if not apart:
        return f"worse ({title(compared.by.metric)}, seeds)" if compared.apart_by_seeds(compared.ranked[place]) else "tied"
    kinds = {word: [title(f"eval/{a.metric}") for a in apart if a.better is (word == "better")] for word in ("better", "worse")}
    return "; ".join(f"{word} ({', '.join(names)})" for word, names in kinds.items() if names)


def effect_table(effects: Sequence[Effect], compared: Comparison) -> Table:
    """Means by value, the rank correlation, the importance."""
    percent = f"{100 * compared.confidence:.0f} %"
    ranked = any(effect.importance is not None for effect in effects)
    name = f"mean {title(compared.by.metric)} by value, with {percent} intervals over runs"
    result = Table(title=f"what each setting did ({name})", title_justify="left", title_style="bold", header_style="bold")
    result.add_column("setting")
    result.add_column("value: mean", overflow="fold")
    result.add_column("rank correlation", justify="right")
    if ranked:
        result.add_column("importance", justify="right")
    for effect in effects[:_EFFECTS]:
        levels = []
        for level in effect.levels:
            interval = f" \\[{level.interval[0]:.4g}, {level.interval[1]:.4g}]" if level.interval else ""
            levels.append(f"{escape(cell(level.value))}: {level.mean:.4g}{interval} n={level.runs}")
        correlation = "-" if effect.correlation is None else f"{effect.correlation:+.2f} (p = {effect.correlation_p:.2g})"
        share = [] if not ranked else ["-" if effect.importance is None else f"{100 * effect.importance:.0f} %"]
        key = f"{effect.key} [dim](chance)[/]" if effect.is_noise else escape(effect.key)
        result.add_row(key, "\n".join(levels) or "many values", correlation, *share)
    return result


def _front(front: Front, compared: Comparison) -> str:
    names = ", ".join(f"{run.name} ({run.value(front.x):.4g}; {run.value(front.y):.4g})" for run in front.runs[:8])
    more = f" and {len(front.runs) - 8} more" if len(front.runs) > 8 else ""
    return f"no run beats these in both {title(front.x)} and {title(front.y)}: {names}{more}"


def state(run: Run) -> str:
    """How a run ended, and in short why if it did not finish."""
    if run.halved:
        return f"halved at step {run.halved.get('step')}"
    if run.over_budget:
        return f"{run.state}: forgot more than evaluation.forgetting.fail allows"
    if run.state == State.finished.value and run.objective is None:
        return "finished without a validation loss that is a number"
    lines = [line.strip() for line in str(run.error or "").splitlines() if line.strip()]
    why = mask(lines[0 if len(lines) < 2 or _COUNTED not in lines[0] else 1]) if lines and run.objective is None else ""
    why = why if len(why) <= _LONGEST_REASON else f"{why[:_LONGEST_REASON].rstrip()} ..."
    return f"{run.state}: {why}" if why else run.state
