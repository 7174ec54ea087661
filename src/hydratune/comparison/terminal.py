"""A comparison on the terminal: the ranking, the effects of settings and the Pareto fronts.

``tables`` chooses how many settings and metrics fit side by side into the width of the terminal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from hydratune.comparison.comparison import Comparison
from hydratune.comparison.data_size import SizeCurve
from hydratune.comparison.data_size_verdict import NO_RUNS, table_rows
from hydratune.comparison.effects import Effect, SettingValue
from hydratune.comparison.entries import Entry, score_of
from hydratune.comparison.formatting import format_list, format_p, format_value
from hydratune.comparison.fronts import ParetoFront
from hydratune.comparison.runs import Run
from hydratune.comparison.ties import metric_key
from hydratune.comparison.verdict import (
    criterion_title,
    describe_difference,
    describe_outcome,
    describe_score,
    describe_state,
    verdict,
)
from hydratune.console import console
from hydratune.metric_format import heading, mean_and_spread, with_interval, written
from hydratune.metric_table import cost_headings
from hydratune.records.status import State
from hydratune.wording import counted

_MOST_SETTINGS = 6  # columns
_MOST_ROWS = 40  # lines of the ranking; the page has all of it
_MOST_EFFECTS = 6
_MOST_ON_FRONT = 8  # runs named in a sentence
_NARROWEST_STATE = 20  # letters in a line
_WIDEST_NAME = 34  # letters of an entry's settings
_COLUMN_BORDERS = 3  # letters between two columns
_WIDEST_TITLE = 15  # letters of a column's title in one line, if its cells are not wider
_BORDERS = 12  # columns of a table that its lines and the rank take
_UNLIMITED = 1000  # columns


def render(compared: Comparison) -> list[RenderableType]:
    """Return everything that is shown: the conclusion, the ranking, the effects, the fronts."""
    parts: list[RenderableType] = conclusion(compared)
    parts += [f"[yellow]note: {escape(line)}" for line in compared.notes]
    parts += tables(compared)
    effects = [e for e in compared.effects if len(e.levels) > 1 or e.correlation is not None]
    if effects and len(compared.finished) > 2:
        parts.append(effect_table(effects, compared))
    parts += [escape(_front(front)) for front in compared.fronts if len(front.runs) > 1]
    return parts


def conclusion(compared: Comparison) -> list[RenderableType]:
    """Return the sentences of the verdict, the first of them in bold."""
    lines = [escape(line) for line in verdict(compared)]
    return [f"[bold]{line}[/]" if number == 0 else line for number, line in enumerate(lines)]


# --------------------------------------------------------------------------- which tables there are
@dataclass(frozen=True)
class _Column:
    """One column of a table of entries."""

    title: str
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        """Letters it needs if its title, unlike its cells, is broken into words."""
        title = min(len(self.title), _WIDEST_TITLE)
        return _COLUMN_BORDERS + max(title, *map(len, [*self.cells, *self.title.split()]))


def tables(compared: Comparison) -> list[Table]:
    """Return the ranking, then what entries measured and cost, how they differ from the best, and
    what each size of the training set reached.

    The first three in one table if it is narrow enough, else in several with as many columns as
    the terminal is wide.
    """
    return [*_ranking_tables(compared), *map(data_size_table, compared.data_size)]


def _ranking_tables(compared: Comparison) -> list[Table]:
    whole = ranking_table(compared)
    if not compared.paired_tests and _width(whole).maximum <= console.width:
        return [whole]
    most = min(_MOST_SETTINGS, len(compared.keys))
    candidates = [
        ranking_table(compared, measured=False, settings=count) for count in range(most, -1, -1)
    ]
    fitting = (table for table in candidates if _width(table).minimum <= console.width)
    ranking = next(fitting, candidates[-1])
    shown = list(enumerate(compared.ranked[:_MOST_ROWS]))
    measured = [item for item in shown if any(run.metrics for run in item[1].runs)]
    if not measured:
        return [ranking]
    tested = [
        (position, entry) for position, entry in measured if position in compared.paired_tests
    ]
    differences = [
        _Column(
            heading(metric_key(name)),
            tuple(describe_difference(compared, position, name) for position, _ in tested),
        )
        for name in compared.tested_metrics
    ]
    results = _entry_tables(
        "on the test rows, and the cost", compared, measured, _result_columns(compared, measured)
    )
    caption = "difference to the best on these rows, p corrected"
    return [
        ranking,
        *results,
        *_entry_tables(caption, compared, tested, [[column] for column in differences]),
    ]


def _width(table: Table) -> Measurement:
    return Measurement.get(console, console.options.update(max_width=_UNLIMITED), table)


_Positioned = Sequence[tuple[int, Entry]]  # (position in the ranking, entry)


def _result_columns(compared: Comparison, entries: _Positioned) -> list[list[_Column]]:
    """Return a group of one column for each metric, and one group of all costs."""
    rows = [_result_cells(entry, compared.metrics, compared.costs) for _, entry in entries]
    titles = [*map(heading, compared.metrics), *(cost_headings()[name] for name in compared.costs)]
    columns = [
        _Column(column_title, cells)
        for column_title, cells in zip(titles, zip(*rows, strict=True), strict=True)
    ]
    count = len(compared.metrics)
    return [*([column] for column in columns[:count]), columns[count:]]


def _entry_tables(
    caption: str,
    compared: Comparison,
    entries: _Positioned,
    groups: Sequence[Sequence[_Column]],
) -> list[Table]:
    """Return tables with a row for each entry; columns of one group stay in one table."""
    if not entries:
        return []
    names = [
        entry.runs[0].name if len(entry.runs) == 1 else compared.describe(entry, short=True)
        for _, entry in entries
    ]
    ranks = [_rank(compared, position, entry) for position, entry in entries]
    width = max(3, min(_WIDEST_NAME, max(map(len, names))))
    tables: list[Table] = []
    room = console.width - width - _BORDERS
    for columns in _distribute(groups, room):
        table = _new_table(None if tables else caption)
        table.add_column("", justify="right")
        name_title = "" if compared.has_replicates else "run"
        table.add_column(name_title, min_width=min(width, 12), max_width=width, overflow="fold")
        for column in columns:
            needed = min(column.width - _COLUMN_BORDERS, room)
            name = escape(column.title)
            table.add_column(name, justify="right", overflow="fold", width=needed)
        for row, (rank, name) in enumerate(zip(ranks, names, strict=True)):
            cells = [escape(column.cells[row]) for column in columns]
            table.add_row(rank, escape(name), *cells, style="bold green" if rank == "1" else "")
        tables.append(table)
    return tables


def _distribute(groups: Sequence[Sequence[_Column]], room: int) -> list[list[_Column]]:
    """Distribute groups of columns over tables of ``room`` letters."""
    tables: list[list[_Column]] = []
    remaining = room
    for group in groups:
        width = sum(column.width for column in group)
        if not tables or width > remaining:
            tables.append([])
            remaining = room
        tables[-1] += group
        remaining -= width
    return [columns for columns in tables if columns]


def _new_table(caption: str | None) -> Table:
    return Table(title=caption, title_justify="left", title_style="bold", header_style="bold")


def _rank(compared: Comparison, position: int, entry: Entry) -> str:
    return str(position + 1) if entry.scores and not compared.why_not_ranked else ""


# -------------------------------------------------------------------------------------- the ranking
def ranking_table(
    compared: Comparison, *, measured: bool = True, settings: int = _MOST_SETTINGS
) -> Table:
    """Return the table of the ranking, with at most ``settings`` columns of settings.

    Runs that did not finish come last and are never best. Those that were halved show in
    parentheses the loss they had then, those that were set aside the score that cannot be compared.
    ``measured``: with test metrics and costs.
    """
    metrics, costs = (compared.metrics, compared.costs) if measured else ((), ())
    keys = compared.keys[:settings]
    title_ = (
        "not ranked" if compared.why_not_ranked else f"ranking by {criterion_title(compared)}"
    ) + (", mean ± standard deviation over seeds" if compared.has_replicates else "")
    table = _new_table(escape(title_))
    table.add_column("", justify="right")
    table.add_column("run")
    for key in keys:
        table.add_column(escape(compared.short_names[key]), justify="right")
    if compared.has_replicates:
        table.add_column("seed", justify="right")
    table.add_column(escape(heading(compared.by.metric)), justify="right", no_wrap=True)
    if compared.paired_tests:
        table.add_column("against the best", overflow="fold")
    for name in metrics:
        table.add_column(escape(heading(name)), justify="right")
    for name in costs:
        table.add_column(cost_headings()[name], justify="right", no_wrap=True)
    longest = max((len(describe_state(run)) for run in compared.runs), default=0)
    table.add_column("state", overflow="fold", min_width=min(_NARROWEST_STATE, longest))
    rows = _RankingRows(table, compared, keys, metrics, costs)
    for position, entry in enumerate(compared.ranked[:_MOST_ROWS]):
        rows.add(position, entry)
    table.caption = _caption(compared, settings)
    return table


def _caption(compared: Comparison, settings: int) -> str | None:
    """Return what the table leaves to the page."""
    hidden = [
        (len(compared.ranked) - _MOST_ROWS, "more entry", "more entries"),
        (len(compared.keys) - settings, "more setting", "more settings"),
    ]
    parts = [counted(count, one, several) for count, one, several in hidden if count > 0]
    return f"and {' and '.join(parts)}, which the page shows" if parts else None


@dataclass(frozen=True)
class _RankingRows:
    """Adds the rows of entries and of their seeds to the table of the ranking."""

    table: Table
    compared: Comparison
    keys: Sequence[str]
    metrics: Sequence[str]
    costs: Sequence[str]

    def add(self, position: int, entry: Entry) -> None:
        """Add an entry, and its seeds as long as the table is short."""
        compared, rank = self.compared, _rank(self.compared, position, entry)
        style = "bold green" if rank == "1" else ""
        settings = [escape(compared.format_setting(key, _setting(entry, key))) for key in self.keys]
        outcome = [describe_outcome(compared, position)] if compared.paired_tests else []
        if len(entry.runs) == 1:
            self._add_run(rank, entry.runs[0], settings, outcome, style)
            return
        finished, total = len(entry.finished), len(entry.runs)
        state = State.finished.value if finished == total else f"{finished} of {total} finished"
        mean = [f"n={finished}", mean_and_spread(compared.by.metric, entry.scores)]
        results = _result_cells(entry, self.metrics, self.costs)
        fits = self.table.row_count + total < _MOST_ROWS
        self.table.add_row(rank, "", *settings, *mean, *outcome, *results, state, style=style)
        for run in entry.runs if fits else ():
            self._add_run("", run, [""] * len(settings), [""] * len(outcome), "dim")

    def _add_run(
        self, rank: str, run: Run, settings: Sequence[str], outcome: Sequence[str], style: str
    ) -> None:
        compared = self.compared
        seed = [escape(format_value(run.settings.get("seed")))] if compared.has_replicates else []
        score = score_of(run, compared.by)
        if score is None:
            style = "red" if run.state == State.failed.value else "dim"
        results = _result_cells(Entry((run,), compared.by), self.metrics, self.costs)
        self.table.add_row(
            rank,
            escape(run.name),
            *settings,
            *seed,
            describe_score(run, compared.by),
            *outcome,
            *map(escape, results),
            escape(describe_state(run)),
            style=style,
        )


def _setting(entry: Entry, key: str) -> object:
    """Return a setting of the first run that has it."""
    return next((run.settings[key] for run in entry.runs if key in run.settings), None)


def _result_cells(entry: Entry, metrics: Sequence[str], costs: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics and costs of an entry: of several seeds, means and totals."""
    if len(entry.runs) == 1:
        run = entry.runs[0]
        measured = [with_interval(key, run.value(key), run.interval(key)) for key in metrics]
        return *measured, *(written(key, run.value(key)) for key in costs)
    means = [mean_and_spread(key, _values(entry.finished, key)) for key in metrics]
    return *means, *(_total_cost(entry.runs, key) for key in costs)


def _values(runs: Sequence[Run], metric: str) -> list[float]:
    return [value for run in runs if (value := run.value(metric)) is not None]


def _total_cost(runs: Sequence[Run], cost: str) -> str:
    """Return the cost of all seeds together; peak memory is that of the largest."""
    values = _values(runs, cost)
    together: Callable[[Sequence[float]], float] = max if cost == "cost/peak_memory_bytes" else sum
    return written(cost, together(values) if values else None)


# -------------------------------------------------------- the training set, effects and fronts
def data_size_table(curve: SizeCurve) -> Table:
    """Return a row for each number of training rows, and one for the extrapolated number."""
    headings, rows = table_rows(curve)
    table = _new_table(
        "by training rows, mean ± standard deviation over seeds; corrected for all doublings"
    )
    for number, name in enumerate(headings):
        table.add_column(escape(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row), style="dim" if row[2] == NO_RUNS else "")
    return table


def effect_table(effects: Sequence[Effect], compared: Comparison) -> Table:
    """Return the means by value, the rank correlation and the importance of settings."""
    percent = f"{100 * compared.confidence:.4g} %"
    mean = f"mean {escape(heading(compared.by.metric))}"
    what = f"{mean} by value, with {percent} intervals over runs"
    has_importances = any(effect.importance is not None for effect in effects)
    table = _new_table(f"what each setting did ({what})")
    table.add_column("setting")
    table.add_column("value: mean", overflow="fold")
    table.add_column("rank correlation", justify="right")
    if has_importances:
        table.add_column("importance", justify="right")
    for effect in effects[:_MOST_EFFECTS]:
        levels = "\n".join(_level_line(effect.key, level, compared) for level in effect.levels)
        correlation = "-"
        if effect.correlation is not None:
            p = format_p(effect.correlation_p or 0.0)
            correlation = f"{effect.correlation:+.2f} (p {p})"
        importance = "-" if effect.importance is None else f"{100 * effect.importance:.0f} %"
        key = f"{effect.key} [dim](chance)[/]" if effect.is_noise else escape(effect.key)
        cells = [key, levels or "many values", correlation]
        table.add_row(*cells, *([importance] if has_importances else []))
    return table


def _level_line(key: str, level: SettingValue, compared: Comparison) -> str:
    mean = escape(with_interval(compared.by.metric, level.mean, level.interval))
    return f"{escape(compared.format_setting(key, level.value))}: {mean} n={level.runs}"


def _front(front: ParetoFront) -> str:
    points = [
        f"{run.name} ({'; '.join(written(key, run.value(key)) for key in (front.x, front.y))})"
        for run in front.runs
    ]
    shown = format_list(points, _MOST_ON_FRONT)
    return f"Pareto front of {heading(front.x)} and {heading(front.y)}: {shown}"
