"""The page report.html of a plan, with a picture of the memory by part."""

from collections.abc import Sequence

from markupsafe import Markup, escape

from hydratune.evaluation.pages import page
from hydratune.planning.memory import PARTS, Memory
from hydratune.planning.plan import Plan, memory_rows
from hydratune.planning.sweep_plan import SweepPlan
from hydratune.planning.sweep_trials import MODEL_COLUMNS
from hydratune.planning.terminal import duration_line, gib, model_lines, place_cells, row_lines

_WIDTH, _ROW, _LABEL = 520, 26, 150  # units of the picture
_MORE = "further memory while answers are generated"


def render(plan: Plan, sweep: SweepPlan | None) -> str:
    """Return the page."""
    config = plan.needs.config
    places = (plan.here, *plan.elsewhere)
    return page(
        "plan.html.j2",
        name=str(config.name),
        model=str(config.model.name),
        adapter=str(getattr(config.adapter, "method", "")),
        total=gib(plan.here.total),
        place=plan.here.place.name,
        memory="" if plan.here.place.memory is None else gib(plan.here.place.memory),
        fits=plan.here.fits,
        lines=[
            *model_lines(plan),
            *row_lines(plan.needs.rows, plan.window, config.data.max_length),
            duration_line(plan.duration),
        ],
        licence=plan.licence,
        parts=[(n, gib(size), PARTS[n]) for n, size in memory_rows(plan).items()],
        generation=gib(plan.here.generation),
        legend=legend,
        picture=stacked(places),
        places=[place_cells(memory) for memory in places],
        warnings=plan.warnings,
        first_sweeps=[
            (str(config.model.name), plan.first_sweep),
            *(sweep.first_sweeps if sweep is not None else ()),
        ],
        sweep=sweep,
        model_columns=MODEL_COLUMNS,
        probe=None if plan.probe is None else gib(plan.probe.peak_memory),
    )


def stacked(places: Sequence[Memory]) -> Markup:
    """Return bars of the memory by part, one for each place; a line is what the place has."""
    largest = max(max(m.total, 0) for m in places)
    scale = _WIDTH / max(1, largest)
    rows = []
    for number, memory in enumerate(places):
        y, x = number * _ROW, float(_LABEL)
        rows.append(Markup('<text x="0" y="{}">{}</text>').format(y + 16, memory.place.name))
        for part, size in memory.parts.items():
            width = round(size * scale, 1)
            if width >= 0.1:
                title = f"{part}: {gib(size)} GiB"
                rows.append(
                    Markup(
                        '<rect class="part {}" x="{}" y="{}" width="{}" height="16">'
                        "<title>{}</title></rect>"
                    ).format(part.replace(" ", "-"), round(x, 1), y + 4, width, title)
                )
            x += width
        if (more := memory.total - sum(memory.parts.values())) > 0:
            bar = Markup(
                '<rect class="more" x="{}" y="{}" width="{}" height="15"><title>{}</title></rect>'
            )
            title, width = f"{_MORE}: {gib(more)} GiB", round(more * scale, 1)
            rows.append(bar.format(round(x, 1), y + 4.5, width, title))
        limit = memory.place.memory
        if limit is not None and limit <= largest:
            at = round(_LABEL + limit * scale, 1)
            rows.append(
                Markup('<line x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(at, y + 1, y + 23)
            )
    height = len(places) * _ROW
    head = Markup('<svg class="chart stacked" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    label = "memory by part and device"
    return (
        head.format(_LABEL + _WIDTH + 10, height, label) + Markup("").join(rows) + Markup("</svg>")
    )


def legend() -> Markup:
    """Return the colours of the parts."""
    items = (
        Markup('<span class="key"><i class="part {}"></i>{}</span>').format(
            name.replace(" ", "-"), escape(name)
        )
        for name in PARTS
    )
    more = Markup('<span class="key"><i class="more"></i>{}</span>').format(_MORE)
    return Markup(" ").join([*items, more])
