"""The page of a comparison: one HTML file that needs no server, no network and no other file.

The tables are plain HTML. Plots are drawn by Plotly, which is embedded compressed, with the data.
Texts of runs are embedded as JSON in base64 or escaped by the template, and the script shows them
as text, so that none is interpreted as HTML.
"""

import base64
import functools
import gzip
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from hydratune import extras
from hydratune.comparison import data_size_verdict
from hydratune.comparison.comparison import Comparison
from hydratune.comparison.data_size_chart import charts
from hydratune.comparison.formatting import format_p
from hydratune.comparison.page_data import PageData, page_data
from hydratune.comparison.ties import metric_key
from hydratune.comparison.verdict import describe_difference, headline_of_runs, verdict
from hydratune.metric_format import heading, with_interval
from hydratune.pages.filled import fill
from hydratune.records.files import write_text


def write(compared: Comparison, file: Path, name: str) -> int:
    """Write the page and return its size in bytes.

    Raises ``RunError`` if the disk refuses it, ``InputError`` if plotly is not installed.
    """
    extras.require("plotly", "the page of a comparison")
    text = render(compared, name, file.parent)
    write_text(file, text)
    return len(text.encode())


def render(compared: Comparison, name: str, folder: Path) -> str:
    """Return the page as HTML.

    ``folder`` is where it will lie: links to files of runs are relative to it.
    """
    data = page_data(compared, folder)
    values = {
        "name": name,
        "title": headline_of_runs(compared) or name,
        "compared": compared,
        "lines": verdict(compared),
        "look": "warn" if compared.best is None else "fit",
        "rows": data["runs"],
        "table_metrics": _table_metrics(compared, data),
        "settings": [{"key": key, "short": compared.short_names[key]} for key in data["settings"]],
        "objective": data["objective"],
        "curves": data["curves"],
        "describe_difference": describe_difference,
        "titles": {name: heading(metric_key(name)) for name in compared.tested_metrics},
        "format_p": format_p,
        "format_metric": with_interval,
        "data_size": data_size_verdict,
        "data_size_charts": charts,
        "data": _compress(json.dumps(data, ensure_ascii=False, allow_nan=False)),
        "plotly": _plotly(),
    }
    return fill("comparison.html.j2", values)


def _table_metrics(compared: Comparison, data: PageData) -> Sequence[object]:
    """Return the metrics that have a column in the table of the ranking."""
    shown = (*compared.metrics, *compared.costs)
    return [metric for metric in data["metrics"] if metric["key"] in shown]


def _compress(text: str) -> Markup:
    """Return text compressed and in base64: a quarter of its size, and no character of markup."""
    content = text.encode("utf-8", errors="backslashreplace")
    return Markup(base64.b64encode(gzip.compress(content, 9, mtime=0)).decode())


@functools.cache
def _plotly() -> Markup:
    return _compress((files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8"))
