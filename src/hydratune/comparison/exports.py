"""A comparison for other programs and for papers: CSV, Parquet, Markdown, LaTeX and pictures."""

import csv
import io
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydratune.comparison.comparison import Comparison
from hydratune.comparison.data_size import MetricBySize, SizeCurve
from hydratune.comparison.data_size_verdict import answer
from hydratune.comparison.entries import Entry, score_of, varying_settings
from hydratune.comparison.pictures import FORMATS, draw_pictures
from hydratune.comparison.runs import Run
from hydratune.comparison.ties import PairedTest
from hydratune.comparison.verdict import describe_end, describe_outcome, describe_state
from hydratune.errors import InputError
from hydratune.metric_format import heading, mean_and_spread, with_interval
from hydratune.records.files import atomic, write_json, write_text
from hydratune.wording import in_markdown

TABLES = ("csv", "parquet", "markdown", "latex")
KINDS = (*TABLES, *FORMATS)
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"}
_LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # beginnings of what a spreadsheet computes
ExportRow = dict[str, object]  # column -> value


def parse_kinds(text: str) -> list[str]:
    """Return the kinds of a list such as ``[csv,latex]``, or all. Raises ``InputError``."""
    kinds = [part.strip() for part in text.strip("[]").split(",") if part.strip()]
    unknown = [kind for kind in kinds if kind not in (*KINDS, "all")]
    if unknown or not kinds:
        raise InputError(f"export = {text}: give some of {', '.join(KINDS)}, or all")
    return list(KINDS) if "all" in kinds else kinds


def write(compared: Comparison, folder: Path, kinds: Sequence[str]) -> list[Path]:
    """Write tables and pictures and return their files.

    Raises ``InputError`` if pictures are asked for and matplotlib is not installed.
    """
    files: list[Path] = []
    if "csv" in kinds:
        files.append(_write_text(folder / "runs.csv", _csv(records(compared))))
        if compared.data_size:
            sizes = data_size_records(compared)
            files.append(_write_text(folder / "data_size.csv", _csv(sizes)))
            json_file = folder / "data_size.json"
            write_json(json_file, sizes)
            files.append(json_file)
    if "parquet" in kinds:
        files.append(_write_parquet(folder / "runs.parquet", compared))
    if "markdown" in kinds:
        files.append(_write_text(folder / "ranking.md", markdown(compared)))
    if "latex" in kinds:
        files.append(_write_text(folder / "ranking.tex", latex(compared)))
    formats = [kind for kind in FORMATS if kind in kinds]
    return files + (draw_pictures(compared, folder, formats) if formats else [])


def _write_text(file: Path, text: str) -> Path:
    write_text(file, text)
    return file


# ------------------------------------------------------------------------------------ one row a run
def records(compared: Comparison) -> list[ExportRow]:
    """Return one record for each run: every setting that varies and every number."""
    runs = [run for entry in compared.ranked for run in entry.runs]
    keys = varying_settings(runs)
    metrics = sorted({key for run in runs for key in run.metrics if run.value(key) is not None})
    rows = [
        _record(compared, position, run, keys, metrics)
        for position, entry in enumerate(compared.ranked)
        for run in entry.runs
    ]
    columns = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in columns} for row in rows]


def _record(
    compared: Comparison, position: int, run: Run, keys: Sequence[str], metrics: Sequence[str]
) -> ExportRow:
    is_ranked = score_of(run, compared.by) is not None and not compared.why_not_ranked
    record: ExportRow = {
        "place": position + 1 if is_ranked else None,
        "name": run.name,
        "run": str(run.path),
        "state": describe_end(run),  # to be filtered by: "finished"
    }
    record |= {f"setting/{key}": run.settings.get(key) for key in keys}
    record |= {key: run.value(key) for key in metrics}
    for key in metrics:
        if (interval := run.interval(key)) is not None:
            record |= {f"{key}/low": interval[0], f"{key}/high": interval[1]}
    for name, test in compared.paired_tests.get(position, {}).items():  # of the entry
        record |= _test_columns(f"less_the_best/{name}", test)
    return record


def _test_columns(name: str, test: PairedTest) -> ExportRow:
    low, high = test.interval or (None, None)
    return {
        name: test.value,
        f"{name}/low": low,
        f"{name}/high": high,
        f"{name}/p": test.p,
        f"{name}/seeds": test.includes_seed_noise,
    }


def _csv(rows: Sequence[ExportRow]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _inert(value) for key, value in row.items()} for row in rows)
    return stream.getvalue()


def _inert(value: object) -> object:
    """Return the value of a cell; a text that a spreadsheet would compute gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def _write_parquet(file: Path, compared: Comparison) -> Path:
    """Write a table whose columns are numbers, or else texts."""
    import pyarrow
    import pyarrow.parquet

    rows = records(compared)
    columns = {key: pyarrow.array(_column([row[key] for row in rows])) for key in rows[0]}
    with atomic(file) as stream:
        pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    return file


# ------------------------------------------------------------------- one row a size and metric
def data_size_records(compared: Comparison) -> list[ExportRow]:
    """Return a record for each curve, metric and number of training rows, and for the size to
    which it was extrapolated; changes are from the next smaller size, for one doubling.
    """
    return [
        record
        for number, curve in enumerate(compared.data_size, 1)
        for metric in curve.metrics
        for record in _size_records(number, curve, metric)
    ]


def _size_records(number: int, curve: SizeCurve, metric: MetricBySize) -> Iterator[ExportRow]:
    """Yield the records of one metric of one curve."""
    for position, rows in enumerate(curve.rows):
        values = metric.values[position]
        mean_low, mean_high = metric.intervals[position] or (None, None)
        record: ExportRow = {
            "curve": number,
            "metric": metric.key,
            "training_rows": rows,
            "extrapolated": False,
            "runs": len(values),
            "optimizer_steps": curve.steps[position] or None,
            "mean": statistics.fmean(values),
            "mean/low": mean_low,
            "mean/high": mean_high,
            "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
        }
        step = metric.steps[position - 1] if position else None
        change, share = (step.difference, 1 / step.doublings) if step else (None, 1.0)
        low, high = (change.interval if change else None) or (None, None)
        yield record | {
            "change_per_doubling": change.value * share if change else None,
            "change_per_doubling/low": None if low is None else low * share,
            "change_per_doubling/high": None if high is None else high * share,
            "change_per_doubling/p": change.p if change else None,
            "answer": answer(metric).value if position == len(curve.rows) - 1 else None,
        }
    if metric.trend is not None:
        change_to, value_to = metric.trend.next_change, metric.trend.next_value
        low, high = change_to.interval or (None, None)
        mean_low, mean_high = value_to.interval or (None, None)
        yield {
            "curve": number,
            "metric": metric.key,
            "training_rows": 2 * curve.rows[-1],
            "extrapolated": True,
            "runs": 0,
            "optimizer_steps": None,
            "mean": value_to.value,
            "mean/low": mean_low,
            "mean/high": mean_high,
            "standard_deviation": None,
            "change_per_doubling": change_to.value,
            "change_per_doubling/low": low,
            "change_per_doubling/high": high,
            "change_per_doubling/p": change_to.p,
            "answer": None,
        }


def _column(values: Sequence[object]) -> list[float | None] | list[str | None]:
    given = [value for value in values if value is not None]
    numbers = [v for v in given if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(given):
        return [None if value is None else str(value) for value in values]
    remaining = iter(numbers)
    return [None if value is None else float(next(remaining)) for value in values]


# --------------------------------------------------------------------------------- one row an entry
def ranking(
    compared: Comparison, *, settings: int | None = None
) -> tuple[list[str], list[list[str]]]:
    """Return (headings, one row for each entry), as in the ranking on the terminal.

    ``settings``: of those that vary, at most so many.
    """
    keys = compared.keys[:settings]
    headings = [
        "",
        "run",
        *(compared.short_names[key] for key in keys),
        *(["seeds"] if compared.has_replicates else []),
        heading(compared.by.metric),
        *map(heading, compared.metrics),
        *(["against the best"] if compared.paired_tests else []),
    ]
    rows = []
    for position, entry in enumerate(compared.ranked):
        rank = str(position + 1) if entry.scores and not compared.why_not_ranked else "-"
        row = [rank, ", ".join(run.name for run in entry.runs)]
        row += [compared.format_setting(key, entry.settings.get(key)) for key in keys]
        row += [str(len(entry.finished))] if compared.has_replicates else []
        score = mean_and_spread(compared.by.metric, entry.scores)
        row.append(score if entry.scores else describe_state(entry.runs[0]))
        row += [_measured(entry, key) for key in compared.metrics]
        row += [describe_outcome(compared, position)] if compared.paired_tests else []
        rows.append(row)
    return headings, rows


def _measured(entry: Entry, metric: str) -> str:
    values = [value for run in entry.finished if (value := run.value(metric)) is not None]
    if len(entry.finished) == 1 and values:
        return with_interval(metric, values[0], entry.finished[0].interval(metric))
    return mean_and_spread(metric, values)


def markdown(compared: Comparison) -> str:
    """Return the ranking as a Markdown table."""
    headings, rows = ranking(compared)
    lines = [headings, ["---"] * len(headings), *rows]
    why = " ".join((compared.why_not_ranked or "").split())
    table = "".join(
        f"| {' | '.join(in_markdown(text).replace('|', chr(92) + '|') for text in line)} |\n"
        for line in lines
    )
    return f"{why}\n\n{table}" if why else table


def latex(compared: Comparison) -> str:
    """Return the ranking as a tabular for booktabs."""
    headings, rows = ranking(compared)
    why = ""
    if compared.why_not_ranked:
        why = f"% not ranked: {' '.join(compared.why_not_ranked.split())}\n"
    body = "\n".join(map(_latex_line, rows))
    return (
        f"{why}\\begin{{tabular}}{{{'r' * len(headings)}}}\n\\toprule\n{_latex_line(headings)}\n"
        f"\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex_text, cells)) + r" \\"


def _latex_text(text: str) -> str:
    escaped = re.sub(r"[&%$#_{}~^]", lambda match: _LATEX[match[0]], text.replace("\\", "/"))
    return escaped.replace("±", r"$\pm$")
