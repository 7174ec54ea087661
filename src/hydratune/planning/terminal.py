"""A plan as tables on the terminal."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from hydratune.planning.advice import FirstSweep
from hydratune.planning.duration import Basis, Duration
from hydratune.planning.licence import Licence, Verdict
from hydratune.planning.memory import PARTS, Memory
from hydratune.planning.plan import Plan, memory_rows
from hydratune.planning.row_lengths import RowLengths
from hydratune.settings.data import Level
from hydratune.wording import counted

GIB = 2**30
_SMALLEST_AMOUNT = 0.01  # of money that is shown
_COLOURS = {Verdict.no: "red", Verdict.conditional: "yellow", Verdict.unknown: "yellow"}


def gib(size: float) -> str:
    """Return bytes in GiB."""
    return f"{size / GIB:.2f}" if size < 10 * GIB else f"{size / GIB:.1f}"


def model_lines(plan: Plan) -> Iterator[str]:
    """Yield what is said of the model and of what is trained."""
    own, trained = plan.needs.structure, plan.needs.trained
    every = own.parameters + trained.added
    yield f"{plan.needs.config.model.name}: {own.parameters:,} parameters ({own.source})"
    if own.outside:
        yield (
            f"{own.outside:,} of them outside of the language model, for images or sound: frozen,"
            " and counted as weights"
        )
    about = "about " if own.stand_in else ""
    share = 100 * trained.parameters / max(1, every)
    yield f"training {about}{trained.parameters:,} of {every:,} parameters ({share:.2f} %)"


def row_lines(rows: RowLengths, window: int | None, max_length: int) -> Iterator[str]:
    """Yield what is said of the rows and of the context window."""
    how = "counted by the model's tokenizer" if rows.is_counted else "estimated from characters"
    middle, _, most, longest = rows.quantiles().values()
    yield (
        f"rows: train {rows.train_rows:,}, validation {rows.validation_rows:,}, test"
        f" {rows.test_rows:,}; {rows.tokens:,} training tokens, {100 * rows.trained_share:.0f} % of"
        f" them trained ({how})"
    )
    read = "unknown" if window is None else f"{window:,} tokens"
    yield (
        f"lengths: half of the rows up to {middle:,} tokens, 99 % up to {most:,}, the longest"
        f" {longest:,}; data.max_length={max_length:,}, context window {read}"
    )
    if rows.too_long:
        yield f"{counted(rows.too_long, 'training row')} longer than data.max_length={max_length:,}"


def licence_line(licence: Licence) -> str:
    """Return what is said of the licence."""
    colour = _COLOURS.get(licence.verdict)
    use = f"commercial use: {licence.commercial_use}; conditions: {licence.conditions}"
    text = escape(f"licence: {licence.name} ({use}). {licence.sentence}")
    return f"[{colour}]{text}" if colour else text


def memory_table(plan: Plan) -> Table:
    """Return the memory by part on this machine."""
    here = plan.here
    table = Table(
        title=f"memory on {here.place.name}, GiB", title_justify="left", header_style="bold"
    )
    table.add_column("part")
    table.add_column("GiB", justify="right")
    table.add_column("what it is")
    for name, size in memory_rows(plan).items():
        table.add_row(name, gib(size), PARTS[name])
    table.add_row(
        "generation cache", gib(here.generation), "instead of the step, while answers are generated"
    )
    of = "" if here.place.memory is None else f" of {gib(here.place.memory)}"
    table.add_row("[bold]peak", f"[bold]{gib(here.total)}", f"predicted{of}", end_section=True)
    if plan.probe is not None:
        table.add_row(
            "measured", gib(plan.probe.peak_memory), f"{plan.probe.steps} steps of the probe"
        )
    return table


def places_table(plan: Plan) -> Table:
    """Return what fits where."""
    table = Table(
        title="elsewhere (GPU figures are not measured)", title_justify="left", header_style="bold"
    )
    for title in ("device", "has GiB", "needs GiB", "fits", "micro-pack, tokens", "longest row"):
        right = title not in ("device", "fits")
        table.add_column(title, justify="right" if right else "left")
    for memory in (plan.here, *plan.elsewhere):
        table.add_row(*place_cells(memory))
    return table


def place_cells(memory: Memory) -> tuple[str, ...]:
    """Return the columns of one place as texts."""
    place = memory.place
    known = place.memory is not None
    word = {True: "yes", False: "no", None: "unknown"}[memory.fits]
    row = f"{memory.longest_row:,}" if memory.longest_row else "-"
    size = f"{(place.memory or 0) / GIB:.1f}" if known else "unknown"
    return place.name, size, gib(memory.total), word, f"{memory.micro_tokens:,}", row


def duration_line(duration: Duration) -> str:
    """Return what is said of time and money."""
    work = f"{counted(duration.steps, 'step')} on {duration.tokens:,} tokens"
    if duration.seconds is None:
        return f"time: {work}; unknown: {duration.explanation}"
    about = "about " if duration.basis is Basis.estimate else ""
    if duration.seconds < 1:
        about = ""
    money = ""
    if duration.money is not None:
        before = about if duration.money >= _SMALLEST_AMOUNT else ""
        money = f", {before}{amount(duration.money)} at price_per_hour"
    return (
        f"time: {work}: {about}{spoken(duration.seconds)}{money} ({duration.basis.value}:"
        f" {duration.explanation}); answers to test rows come on top"
    )


def amount(money: float) -> str:
    """Return money with two decimals."""
    small = money < _SMALLEST_AMOUNT
    return f"less than {_SMALLEST_AMOUNT}" if small else f"{money:,.2f}"


def spoken(seconds: float) -> str:
    """Return seconds in a fitting unit."""
    if seconds < 120:
        return "less than a second" if seconds < 1 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def render(plan: Plan) -> Iterator[RenderableType]:
    """Yield everything that is printed of a plan."""
    yield from map(escape, model_lines(plan))
    yield from map(
        escape, row_lines(plan.needs.rows, plan.window, plan.needs.config.data.max_length)
    )
    yield licence_line(plan.licence)
    yield memory_table(plan)
    yield places_table(plan)
    yield (
        "rows are computed in micro-packs: a larger batch needs more memory only until every thread"
        " has a full one; a longer row is one of its own"
    )
    yield escape(duration_line(plan.duration))
    for warning in plan.warnings:
        text = escape(f"{warning.text} (source: {warning.source})")
        yield text if warning.level is Level.off else f"[yellow]{text}"
    yield from first_sweep_lines(plan.first_sweep)


def first_sweep_lines(sweep: FirstSweep, of_what: str = "") -> Iterator[str]:
    """Yield a sweep with which to begin; ``of_what``: for which model, of several."""
    yield f"[bold]a first sweep{escape(of_what)}[/]: {escape(sweep.why)}"
    yield f"  {escape(sweep.command)}"
    yield f"  [dim]source: {escape(sweep.source)}"
