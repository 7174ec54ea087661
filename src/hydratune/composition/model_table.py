"""``hydratune configs model``: the model catalogue as a table, and what filters leave of it."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from hydratune.composition.listing import options
from hydratune.composition.resolvers import register
from hydratune.console import console
from hydratune.models.catalogue import filters
from hydratune.models.catalogue.entries import UNKNOWN, ModelFacts, models
from hydratune.wording import counted

_HEAD = ("model=", "on the hub", "size", "context", "licence", "commercial", "gated")
_HUB, _LICENCE = _HEAD.index("on the hub"), _HEAD.index("licence")
_GAP = 2  # spaces between columns


def print_models(typed: Sequence[str]) -> None:
    """Print the models that match all filters as they are typed; without filters, all options.

    Raises ``InputError`` for a wrong filter.
    """
    register()
    found = filters.apply(typed, models().values())
    if not typed:
        _print_other_options()
    if found.models:
        console.print(_table(found.models))
    of = f"{len(found.models)} of {counted(len(models()), 'model')}"
    if typed:
        said = f"{of} match{'es' if len(found.models) == 1 else ''}"
        if found.unknown:
            said += (
                f"; of {found.unknown} more a value that a filter asks for is unknown"
                f" ({UNKNOWN} never matches)"
            )
        console.print(said, soft_wrap=True)
    else:
        console.print(
            "filters: hydratune configs model licence=commercial context=32k+ size=8b-",
            soft_wrap=True,
        )
    console.print(
        "conditional: the licence names conditions; hydratune plan model=NAME shows them, with the"
        " source of each fact",
        soft_wrap=True,
    )


def _print_other_options() -> None:
    """Print the options that are no rows of the catalogue."""
    console.print("model=OPTION; default: smollm2_135m", soft_wrap=True)
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in options("model"):
        if name not in models():
            table.add_row(escape(name), escape(text))
    console.print(table)


def _table(found: Sequence[ModelFacts]) -> Table:
    """Return the models, one line each where the terminal allows it, and no word cut.

    A narrow terminal gets no names of the hub, of which ``hydratune plan model=NAME`` shows one.
    """
    rows = [cells(facts) for facts in found]
    shown = [n for n in range(len(_HEAD)) if n != _HUB or _width(rows) <= console.width]
    table = Table(header_style="bold", box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    for number in shown:
        title = _HEAD[number]
        right = title in ("size", "context")
        table.add_column(title, justify="right" if right else "left", no_wrap=number != _LICENCE)
    for row in rows:
        table.add_row(*(escape(row[number]) for number in shown))
    return table


def _width(rows: Sequence[tuple[str, ...]]) -> int:
    """Return the columns of the terminal that the table needs, with licences cut between words."""
    columns = zip(_HEAD, *rows, strict=True)
    widths = [
        max(len(part) for cell in column for part in (cell.split() if n == _LICENCE else [cell]))
        for n, column in enumerate(columns)
    ]
    return sum(widths) + _GAP * (len(widths) - 1)


def cells(facts: ModelFacts) -> tuple[str, ...]:
    """Return the columns of one model as texts."""
    gated = UNKNOWN if facts.gated is None else "yes" if facts.gated else "no"
    context = UNKNOWN if facts.context_window is None else f"{facts.context_window:,}"
    size = f"{facts.parameters / 1e9:.3g}B"
    licence, use = facts.licence or UNKNOWN, facts.commercial_use.value
    return facts.name, facts.hub_id, size, context, licence, use, gated
