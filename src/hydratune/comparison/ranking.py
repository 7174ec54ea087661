"""A comparison on the terminal."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from hydratune.comparison.compared import Comparison, Front, compare, verdict
from hydratune.comparison.effects import Effect
from hydratune.comparison.entries import Entry, cell, chance, decimals, score, spread
from hydratune.comparison.names import COSTS, title, written
from hydratune.comparison.runs import Run
from hydratune.console import console
from hydratune.records.run_directory import State
from hydratune.settings.secrets import mask

_COLUMNS = 6  # settings shown at most
_ROWS = 40  # entries shown at most, and lines up to which every seed has its own; the page has all
_LONGEST_REASON = 40  # letters; status.json has all of it
_EFFECTS = 6
# what a ConfigError begins with, before the first wrong setting
_COUNTED = "in the configuration; nothing was run"
_LEAST_STATE = 20  # letters in a line
_WHO = 34  # letters of an entry's settings
_WIDEST = 1000  # letters: no limit
_Column = tuple[str, Sequence[str]]  # title, cells


def ranking_table(runs: Sequence[Run]) -> tuple[Table, str]:
    """(table, lines that name the best run and what cannot be told from it, or "" if none
    finished).
    """
    compared = compare(runs)
    return table(compared), "\n".join(verdict(compared))


def shown(compared: Comparison) -> list[RenderableType]:
    """Everything, from the ranking to the fronts."""
    parts: list[RenderableType] = [*tables(compared)]
    parts += [escape(line) for line in verdict(compared)]
    parts += [f"[yellow]note: {escape(line)}" for line in compared.notes]
    several = [
        effect
        for effect in compared.effects
        if len(effect.levels) > 1 or effect.correlation is not None
    ]
    if several and len(compared.finished) > 2:
        parts.append(effect_table(several, compared))
    parts += [escape(_front(front, compared)) for front in compared.fronts if len(front.runs) > 1]
    return parts


def tables(compared: Comparison) -> list[Table]:
    """The ranking, what its entries measured on the test rows and cost, and how they differ from
    the best there.

    With as many settings and columns side by side as the terminal is wide.
    """
    whole = table(compared)
    if not compared.against and _width(whole).maximum <= console.width:
        return [whole]
    most = min(_COLUMNS, len(compared.keys))
    ranked = [table(compared, measured=False, settings=count) for count in range(most, -1, -1)]
    first = next((one for one in ranked if _width(one).minimum <= console.width), ranked[-1])
    entries = [
        (place, entry)
        for place, entry in enumerate(compared.ranked[:_ROWS])
        if any(run.metrics for run in entry.runs)
    ]
    if not entries:
        return [first]
    values = list(
        zip(
            *(_values(entry, compared.metrics, compared.costs) for _, entry in entries), strict=True
        )
    )
    metrics = [(title(name), cells) for name, cells in zip(compared.metrics, values, strict=False)]
    costs = [
        (COSTS[name], cells)
        for name, cells in zip(compared.costs, values[len(metrics) :], strict=True)
    ]
    found = _beside(
        "on the test rows, and at what cost",
        compared,
        entries,
        [*([one] for one in metrics), costs],
    )
    tested = [(place, entry) for place, entry in entries if place in compared.against]
    less = [
        (title(f"eval/{name}"), [difference(compared, place, name) for place, _ in tested])
        for name in compared.tested
    ]
    return [
        first,
        *found,
        *_beside(
            "less the best's on these rows, p corrected", compared, tested, [[one] for one in less]
        ),
    ]


def _width(one: Table) -> Measurement:
    return Measurement.get(console, console.options.update(max_width=_WIDEST), one)


def _beside(
    heading: str,
    compared: Comparison,
    entries: Sequence[tuple[int, Entry]],
    groups: Sequence[Sequence[_Column]],
) -> list[Table]:
    """Entries and columns in as many tables as the width asks for, ``groups`` of columns together;
    none without columns.
    """
    if not entries:
        return []
    who = [
        entry.runs[0].name if len(entry.runs) == 1 else compared.named(entry, short=True)
        for _, entry in entries
    ]
    names = max(3, min(_WHO, max(map(len, who))))
    parts: list[list[_Column]] = []
    left = room = console.width - names - 12
    for group in groups:
        width = sum(
            3 + max(len(word) for word in [*cells, *heading_.split()]) for heading_, cells in group
        )
        if not parts or width > left:
            parts.append([])
            left = room
        parts[-1] += group
        left -= width
    found: list[Table] = []
    for part in filter(None, parts):
        one = Table(
            title=heading if not found else None,
            title_justify="left",
            title_style="bold",
            header_style="bold",
        )
        one.add_column("", justify="right")
        one.add_column(
            "" if compared.seeded else "run",
            min_width=min(names, 12),
            max_width=names,
            overflow="fold",
        )
        for heading_, _ in part:
            one.add_column(escape(heading_), justify="right", overflow="fold")
        for row, (place, entry) in enumerate(entries):
            rank = str(place + 1) if entry.scores and not compared.refused else ""
            cells_ = [escape(cells[row]) for _, cells in part]
            one.add_row(rank, escape(who[row]), *cells_, style="bold green" if rank == "1" else "")
        found.append(one)
    return found


def table(compared: Comparison, *, measured: bool = True, settings: int = _COLUMNS) -> Table:
    """Best is the lowest validation loss, of entries with several seeds the lowest mean.

    Runs that did not finish come last and are never best; those that were halved show the loss they
    had then, in brackets. ``measured``: with test metrics and costs. ``settings``: how many of them
    at most.
    """
    metrics, costs = (compared.metrics, compared.costs) if measured else ((), ())
    by, seeded = compared.by, compared.seeded
    what = "validation loss" if by.metric == "objective" else title(by.metric)
    heading = "not ranked" if compared.refused else f"ranking by {what}"
    heading += ", mean ± standard deviation over seeds" if seeded else ""
    keys = compared.keys[:settings]
    result = Table(
        title=escape(heading), title_justify="left", title_style="bold", header_style="bold"
    )
    result.add_column("", justify="right")
    result.add_column("run")
    for key in keys:
        result.add_column(escape(compared.short[key]), justify="right")
    if seeded:
        result.add_column("seed", justify="right")
    result.add_column(escape(title(by.metric)), justify="right", no_wrap=True)
    if compared.against:
        result.add_column("against the best", overflow="fold")
    for name in metrics:
        result.add_column(escape(title(name)), justify="right")
    for name in costs:
        result.add_column(COSTS[name], justify="right", no_wrap=True)
    longest = max((len(state(run)) for run in compared.runs), default=0)
    result.add_column("state", overflow="fold", min_width=min(_LEAST_STATE, longest))
    for place, entry in enumerate(compared.ranked[:_ROWS]):
        _add(
            result,
            compared,
            place,
            entry,
            keys,
            (metrics, costs),
            each=result.row_count + len(entry.runs) < _ROWS,
        )
    left = [(len(compared.ranked) - _ROWS, "entries"), (len(compared.keys) - settings, "settings")]
    if any(count > 0 for count, _ in left):
        result.caption = (
            f"and {' and '.join(f'{count} more {what}' for count, what in left if count > 0)},"
            " which the page shows"
        )
    return result


def _values(entry: Entry, metrics: Sequence[str], costs: Sequence[str]) -> list[str]:
    if len(entry.runs) == 1:
        return [
            *(_measured(entry.runs[0], key) for key in metrics),
            *(written(key, entry.runs[0].value(key)) for key in costs),
        ]
    values = [
        spread([v for r in entry.finished if (v := r.value(key)) is not None]) for key in metrics
    ]
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
    rank = str(place + 1) if finished and not compared.refused else ""
    style = "bold green" if rank == "1" else ""
    settings = [
        escape(
            compared.cell(
                key, next((r.settings[key] for r in entry.runs if key in r.settings), None)
            )
        )
        for key in keys
    ]
    against = [against_best(compared, place)] if compared.against else []
    if len(entry.runs) > 1:
        values = _values(entry, *measured)
        whole = len(finished) == len(entry.runs)
        ended = State.finished.value if whole else f"{len(finished)} of {len(entry.runs)} finished"
        result.add_row(
            rank,
            "",
            *settings,
            f"n={len(finished)}",
            spread(entry.scores, decimals),
            *against,
            *values,
            ended,
            style=style,
        )
        if not each:
            return
        rank, style, settings, against = "", "dim", [""] * len(keys), [""] * len(against)
    for run in entry.runs:
        own = [escape(cell(run.settings.get("seed")))] if compared.seeded else []
        value, early = score(run, compared.by), (run.halved or {}).get("value")
        loss = (
            decimals(value)
            if value is not None
            else f"({decimals(early)})"
            if isinstance(early, float)
            else "-"
        )
        values = [escape(text) for text in _values(Entry((run,), compared.by), *measured)]
        look = "red" if run.state == State.failed.value else style if value is not None else "dim"
        result.add_row(
            rank,
            escape(run.name),
            *settings,
            *own,
            loss,
            *against,
            *values,
            escape(state(run)),
            style=look,
        )


def _measured(run: Run, metric: str) -> str:
    """With its interval, if there is one."""
    value, interval = run.value(metric), run.interval(metric)
    edges = (
        f" [{interval[0]:.3g}, {interval[1]:.3g}]"
        if value is not None and interval is not None
        else ""
    )
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
        return (
            f"worse ({title(compared.by.metric)}, seeds)"
            if compared.apart_by_seeds(place)
            else "tied"
        )
    kinds = {
        word: [title(f"eval/{a.metric}") for a in apart if a.better is (word == "better")]
        for word in ("better", "worse")
    }
    return "; ".join(f"{word} ({', '.join(names)})" for word, names in kinds.items() if names)


def difference(compared: Comparison, place: int, metric: str) -> str:
    """To the best on the test rows, with its interval and its corrected p."""
    found = compared.against.get(place, {}).get(metric)
    if found is None:
        return "" if place == 0 else "-"
    return f"{found.value:+.3g} {found.found.between()} p {chance(found.p)}"


def effect_table(effects: Sequence[Effect], compared: Comparison) -> Table:
    """Means by value, the rank correlation, the importance."""
    percent = f"{100 * compared.confidence:.4g} %"
    ranked = any(effect.importance is not None for effect in effects)
    name = f"mean {escape(title(compared.by.metric))} by value, with {percent} intervals over runs"
    result = Table(
        title=f"what each setting did ({name})",
        title_justify="left",
        title_style="bold",
        header_style="bold",
    )
    result.add_column("setting")
    result.add_column("value: mean", overflow="fold")
    result.add_column("rank correlation", justify="right")
    if ranked:
        result.add_column("importance", justify="right")
    for effect in effects[:_EFFECTS]:
        levels = []
        for level in effect.levels:
            interval = (
                f" \\[{level.interval[0]:.4g}, {level.interval[1]:.4g}]" if level.interval else ""
            )
            levels.append(
                f"{escape(compared.cell(effect.key, level.value))}: {level.mean:.4g}{interval}"
                f" n={level.runs}"
            )
        correlation = (
            "-"
            if effect.correlation is None
            else f"{effect.correlation:+.2f} (p {chance(effect.correlation_p or 0.0)})"
        )
        share = (
            []
            if not ranked
            else ["-" if effect.importance is None else f"{100 * effect.importance:.0f} %"]
        )
        key = f"{effect.key} [dim](chance)[/]" if effect.is_noise else escape(effect.key)
        result.add_row(key, "\n".join(levels) or "many values", correlation, *share)
    return result


def _front(front: Front, compared: Comparison) -> str:
    names = ", ".join(
        f"{run.name} ({run.value(front.x):.4g}; {run.value(front.y):.4g})" for run in front.runs[:8]
    )
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
    why = (
        mask(lines[0 if len(lines) < 2 or _COUNTED not in lines[0] else 1])
        if lines and run.objective is None
        else ""
    )
    why = why if len(why) <= _LONGEST_REASON else f"{why[:_LONGEST_REASON].rstrip()} ..."
    return f"{run.state}: {why}" if why else run.state
