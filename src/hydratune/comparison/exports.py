"""A comparison for other programs and for papers:

CSV, Parquet, Markdown, LaTeX, and pictures by matplotlib.
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydratune.comparison.compared import Comparison
from hydratune.comparison.entries import decimals, score, spread, varying
from hydratune.comparison.names import title
from hydratune.comparison.ranking import against_best, state
from hydratune.comparison.runs import Run
from hydratune.errors import InputError
from hydratune.records.files import atomic, write_text

TABLES, PICTURES = ("csv", "parquet", "markdown", "latex"), ("png", "svg")
KINDS = (*TABLES, *PICTURES)
_LATEX = {**{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_MOST = 12  # learning curves in a picture


def kinds_of(text: str) -> list[str]:
    """Raises ``InputError``."""
    wanted = [part.strip() for part in text.strip("[]").split(",") if part.strip()]
    wrong = [kind for kind in wanted if kind not in (*KINDS, "all")]
    if wrong or not wanted:
        raise InputError(f"export = {text}: give some of {', '.join(KINDS)}, or all")
    return list(KINDS) if "all" in wanted else wanted


def write(compared: Comparison, folder: Path, kinds: Sequence[str]) -> list[Path]:
    """The files that were written.

    Raises ``InputError`` where a picture needs what is not installed.
    """
    written: list[Path] = []
    if "csv" in kinds:
        written.append(_text(folder / "runs.csv", _csv(compared)))
    if "parquet" in kinds:
        written.append(_parquet(folder / "runs.parquet", compared))
    if "markdown" in kinds:
        written.append(_text(folder / "ranking.md", markdown(compared)))
    if "latex" in kinds:
        written.append(_text(folder / "ranking.tex", latex(compared)))
    formats = [kind for kind in PICTURES if kind in kinds]
    return written + (_pictures(compared, folder, formats) if formats else [])


def _text(file: Path, text: str) -> Path:
    write_text(file, text)
    return file


def records(compared: Comparison) -> list[dict[str, Any]]:
    """One record for each run: everything that is a number, and every setting that varies."""
    places = {id(run): place for place, entry in enumerate(compared.ranked) for run in entry.runs}
    runs = [run for entry in compared.ranked for run in entry.runs]
    keys, metrics = (
        varying(runs),
        sorted({key for run in runs for key in run.metrics if run.value(key) is not None}),
    )
    found = []
    for run in runs:
        place = places[id(run)]
        ranked = score(run, compared.by) is not None and not compared.refused
        record: dict[str, Any] = {
            "place": place + 1 if ranked else None,
            "run": str(run.path),
            "state": state(run),
        }
        record |= {f"setting/{key}": run.settings.get(key) for key in keys}
        record |= {key: run.value(key) for key in metrics}
        for key in metrics:
            if (interval := run.interval(key)) is not None:
                record |= {f"{key}/low": interval[0], f"{key}/high": interval[1]}
        for name, test in compared.against.get(place, {}).items():  # of the entry
            less = f"less_the_best/{name}"
            low, high = test.interval or (None, None)
            record |= {
                less: test.value,
                f"{less}/low": low,
                f"{less}/high": high,
                f"{less}/p": test.p,
                f"{less}/seeds": test.replicated,
            }
        found.append(record)
    columns = dict.fromkeys(key for record in found for key in record)
    return [{key: record.get(key) for key in columns} for record in found]


def _csv(compared: Comparison) -> str:
    rows = records(compared)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _parquet(file: Path, compared: Comparison) -> Path:
    import pyarrow
    import pyarrow.parquet

    rows = records(compared)
    columns = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        numbers = all(
            value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
            for value in values
        )
        columns[key] = pyarrow.array(
            [None if v is None else float(v) if numbers else str(v) for v in values]
        )
    with atomic(file) as stream:
        pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    return file


def _rows(compared: Comparison) -> tuple[list[str], list[list[str]]]:
    """(headings, one row for each entry), as in the ranking."""
    names = [compared.short[key] for key in compared.keys]
    headings = [
        "",
        *names,
        *(["seeds"] if compared.seeded else []),
        title(compared.by.metric),
        *map(title, compared.metrics),
    ]
    headings += ["against the best"] if compared.against else []
    rows = []
    for place, entry in enumerate(compared.ranked):
        rank = str(place + 1) if entry.scores and not compared.refused else "-"
        row = [rank, *(compared.cell(key, entry.settings.get(key)) for key in compared.keys)]
        row += [str(len(entry.finished))] if compared.seeded else []
        row.append(spread(entry.scores, decimals) if entry.scores else state(entry.runs[0]))
        for key in compared.metrics:
            values = [value for run in entry.finished if (value := run.value(key)) is not None]
            interval = entry.finished[0].interval(key) if len(entry.finished) == 1 else None
            row.append(
                spread(values, "{:.3g}".format)
                + (f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else "")
            )
        rows.append(row + ([against_best(compared, place)] if compared.against else []))
    return headings, rows


def markdown(compared: Comparison) -> str:
    headings, rows = _rows(compared)
    lines = [headings, ["---"] * len(headings), *rows]
    why = f"{' '.join(compared.refused.split())}\n\n" if compared.refused else ""
    return why + "".join(
        f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |\n" for line in lines
    )


def latex(compared: Comparison) -> str:
    """A tabular for booktabs."""
    headings, rows = _rows(compared)

    def line(cells: Sequence[str]) -> str:
        texts = [
            re.sub(r"[&%$#_{}~^]", lambda m: _LATEX[m[0]], cell_.replace("\\", "/")).replace(
                "±", r"$\pm$"
            )
            for cell_ in cells
        ]
        return " & ".join(texts) + r" \\"

    body = "\n".join(map(line, rows))
    why = f"% not ranked: {' '.join(compared.refused.split())}\n" if compared.refused else ""
    top = f"\\begin{{tabular}}{{{'r' * len(headings)}}}\n\\toprule\n{line(headings)}\n\\midrule\n"
    return f"{why}{top}{body}\n\\bottomrule\n\\end{{tabular}}\n"


def _pictures(compared: Comparison, folder: Path, formats: Sequence[str]) -> list[Path]:
    try:
        from matplotlib.figure import Figure  # without pyplot there is no display, and no state
    except ImportError:
        raise InputError(
            "export: pictures need matplotlib: pip install 'hydratune[pictures]'"
        ) from None
    drawn = {"curves": _draw_curves, "settings": _draw_settings, "tradeoff": _draw_front}
    written = []
    for name, draw in drawn.items():
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        if not draw(figure, compared):
            continue
        for kind in formats:
            file = folder / f"{name}.{kind}"
            with atomic(file) as stream:
                figure.savefig(
                    stream, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None
                )
            written.append(file)
    return written


def _draw_curves(figure: Any, compared: Comparison) -> bool:
    """Validation loss by step, of the best runs."""
    runs = [run for entry in compared.ranked for run in entry.runs]
    curves = [
        (run, [(row["step"], row["val/loss"]) for row in run.history() if "val/loss" in row])
        for run in runs
    ]
    curves = [(run, points) for run, points in curves if points][:_MOST]
    if not curves:
        return False
    axes = figure.subplots()
    for place, (run, points) in enumerate(curves):
        label = (
            ", ".join(
                f"{compared.short[key]}={compared.cell(key, run.settings.get(key))}"
                for key in compared.keys
            )
            or run.name
        )
        axes.plot(
            *zip(*points, strict=True),
            label=label,
            linewidth=2.2 if place == 0 else 1.0,
            marker="o",
            markersize=3,
        )
    axes.set(xlabel="optimizer step", ylabel="validation loss")
    axes.legend(fontsize=7, frameon=False)
    _plain(axes)
    return True


def _draw_settings(figure: Any, compared: Comparison) -> bool:
    """Every run's score by the values of each setting, with the means."""
    effects = [effect for effect in compared.effects if effect.levels and not effect.is_noise][:4]
    if not effects:
        return False
    figure.set_size_inches(3.2 * len(effects), 3.2)
    for axes, effect in zip(
        figure.subplots(1, len(effects), sharey=True, squeeze=False)[0], effects, strict=True
    ):
        names = [compared.cell(effect.key, level.value) for level in effect.levels]
        for at, level in enumerate(effect.levels):
            axes.plot([at] * level.runs, level.scores, "o", color="0.6", markersize=4)
        means = [level.mean for level in effect.levels]
        edges = [
            [m - (lv.interval or (m, m))[0] for m, lv in zip(means, effect.levels, strict=True)]
            for _ in range(2)
        ]
        axes.errorbar(range(len(names)), means, yerr=edges, fmt="s-", color="C0", capsize=3)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlabel(effect.key)
        _plain(axes)
    figure.axes[0].set_ylabel(title(compared.by.metric))
    return True


def _draw_front(figure: Any, compared: Comparison) -> bool:
    """The first front: quality against forgetting, where that was measured."""
    if not compared.fronts or len(compared.fronts[0].runs) < 1:
        return False
    front, axes = compared.fronts[0], figure.subplots()
    known = [
        run
        for run in compared.runs
        if run.objective is not None and None not in (run.value(front.x), run.value(front.y))
    ]
    for run in known:
        _point(axes, run, front.x, front.y)
    line = [(run.value(front.x), run.value(front.y)) for run in front.runs]
    axes.plot(*zip(*line, strict=True), ":", color="0.4", zorder=0)
    axes.set(xlabel=title(front.x), ylabel=title(front.y))
    _plain(axes)
    return len(known) > 1


def _point(axes: Any, run: Run, x: str, y: str) -> None:
    at = run.value(x) or 0.0, run.value(y) or 0.0
    intervals = [run.interval(key) or (value, value) for value, key in zip(at, (x, y), strict=True)]
    edges = [
        [[abs(value - edge)] for edge in interval]
        for value, interval in zip(at, intervals, strict=True)
    ]
    axes.errorbar(*at, xerr=edges[0], yerr=edges[1], fmt="o", color="C0", capsize=2, markersize=5)
    axes.annotate(run.name, at, textcoords="offset points", xytext=(5, 4), fontsize=7)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
