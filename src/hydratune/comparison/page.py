"""The page of a comparison: one HTML file that needs nothing else, no server and no network.

The table is plain HTML; everything that moves is drawn by Plotly, which is put into the file
compressed, with the data. Texts of runs get into the page as JSON in base64 or through the
template's autoescape, and are shown as text by the script.
"""

import base64
import functools
import gzip
import json
import math
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hydratune.comparison.compared import Comparison, verdict
from hydratune.comparison.entries import chance, decimals, score, varying
from hydratune.comparison.names import lower_is_better, title, written
from hydratune.comparison.ranking import against_best, difference, state
from hydratune.comparison.runs import Run
from hydratune.errors import RunError
from hydratune.evaluation.measures import asked_by_user
from hydratune.settings.secrets import mask

_POINTS = 120  # of a learning curve
_TALKING = 12  # runs whose answers are in the page
_ROWS = 60  # test rows likewise
_LONGEST = 1500  # letters of a text
_BUDGET = 2_000_000  # letters of all answers
_LINKS = (
    ("report.html", "report"),
    ("data.html", "data"),
    ("data.json", "data"),
    ("run.log", "log"),
    ("predictions.jsonl", "answers"),
)


def write(compared: Comparison, file: Path, name: str) -> int:
    """Returns the size of the page in bytes. Raises ``RunError`` if the disk refuses it."""
    from hydratune.records.files import write_text

    text = render(compared, name, file.parent)
    write_text(file, text)
    return len(text.encode())


def render(compared: Comparison, name: str, folder: Path) -> str:
    """``folder``: where the page will lie; links to files of runs are relative to it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["raw"] = lambda part: (Path(__file__).parent / part).read_text("utf-8")
    data = content(compared, folder)
    return environment.get_template("page.html.j2").render(
        name=name,
        compared=compared,
        lines=verdict(compared),
        rows=data["runs"],
        metrics=data["metrics"],
        settings=[{"key": key, "short": compared.short[key]} for key in data["settings"]],
        objective=data["objective"],
        difference=difference,
        titles={name: title(f"eval/{name}") for name in compared.tested},
        decimals=decimals,
        chance=chance,
        written=written,
        data=_packed(json.dumps(data, ensure_ascii=False, allow_nan=False)),
        plotly=_plotly(),
    )


def content(compared: Comparison, folder: Path) -> dict[str, Any]:
    """Everything that the script shows."""
    places = {id(run): place for place, entry in enumerate(compared.ranked) for run in entry.runs}
    ordered = [run for entry in compared.ranked for run in entry.runs]
    settings = varying(ordered)
    names = [*compared.metrics, *_more(ordered, compared)]
    runs = []
    for run in ordered:
        place = places[id(run)]
        value = score(run, compared.by)
        runs.append(
            {
                "name": run.name,
                "path": mask(str(run.path)),
                "place": place + 1 if value is not None and not compared.refused else None,
                "entry": place,
                "best": compared.best is not None and run is compared.best.finished[0],
                "state": mask(state(run)),
                "kind": "halved" if run.halved else run.state,
                "against": against_best(compared, place) if compared.against else "",
                "objective": value,
                "settings": {key: _plain(run.settings.get(key)) for key in settings},
                "cells": {key: mask(compared.cell(key, run.settings.get(key))) for key in settings},
                "measured": {key: run.value(key) for key in names if run.value(key) is not None},
                "intervals": {
                    key: interval for key in names if (interval := run.interval(key)) is not None
                },
                "curve": _curve(run),
                "links": _links(run, folder),
            }
        )
    return {
        "objective": {
            "key": compared.by.metric,
            "title": title(compared.by.metric),
            "lower": compared.by.lower,
        },
        "metrics": [
            {"key": key, "title": title(key), "lower": lower_is_better(key)} for key in names
        ],
        "settings": settings,
        "short": compared.short,
        "runs": runs,
        "fronts": [{"x": front.x, "y": front.y} for front in compared.fronts],
        "importance": {
            effect.key: effect.importance
            for effect in compared.effects
            if effect.importance is not None
        },
        **_answers(ordered, compared),
    }


def _more(runs: Sequence[Run], compared: Comparison) -> list[str]:
    """Metrics that can be looked at besides those of the table: costs, and whatever is not the same
    for all runs.
    """
    values: dict[str, set[float]] = {}
    for run in runs:
        for key in run.metrics:
            if (value := run.value(key)) is not None:
                values.setdefault(key, set()).add(value)
    shown = [key for key, some in values.items() if key in compared.costs or len(some) > 1]
    return [key for key in shown if key not in (*compared.metrics, compared.by.metric, "objective")]


def _plain(value: Any) -> Any:
    """A setting as JSON knows it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (int, float, bool)) or value is None else mask(str(value))


def _curve(run: Run) -> dict[str, list[list[float]]]:
    """(step, loss) of training and of validation, thinned out."""
    history = run.history()
    found = {}
    for key, name in (("train/loss", "train"), ("val/loss", "val")):
        points = [
            [row["step"], row[key]]
            for row in history
            if key in row and "step" in row and math.isfinite(row[key])
        ]
        stride = max(1, -(-len(points) // _POINTS))
        thin = points[::stride] + (points[-1:] if points and (len(points) - 1) % stride else [])
        found[name] = [[step, float(f"{loss:.5g}")] for step, loss in thin]
    return found


def _links(run: Run, folder: Path) -> dict[str, str]:
    """To a run's files; where two have the same label, to the first that is there."""
    found: dict[str, str] = {}
    for name, label in _LINKS:
        file = run.path / name
        if file.is_file():
            found.setdefault(label, Path(os.path.relpath(file, folder)).as_posix())
    return found


def _answers(ordered: Sequence[Run], compared: Comparison) -> dict[str, Any]:
    """Test rows and what the best runs said to them, as far as they fit."""
    talking: list[int] = []
    said: dict[int, dict[str, dict[str, Any]]] = {}
    for number, run in enumerate(ordered):
        if len(talking) == _TALKING:
            break
        try:
            rows = run.predictions() if score(run, compared.by) is not None else []
        except RunError:
            continue
        known = {
            str(row.get("item_hash")): row
            for row in rows
            if isinstance(row, dict) and "prediction" in row
        }
        if known and (not said or set(known) & set(next(iter(said.values())))):
            talking.append(number)
            said[number] = known
    if not talking:
        return {"rows": [], "talking": [], "left_out": 0}
    first = said[talking[0]]
    shown: list[dict[str, Any]] = []
    letters = 0
    for item, row in first.items():
        texts = [
            str(said[number][item]["prediction"])[:_LONGEST] if item in said[number] else None
            for number in talking
        ]
        request = asked_by_user(row)
        entry = {
            "id": str(row.get("id")),
            "request": request[:_LONGEST],
            "reference": str(row.get("reference"))[:_LONGEST],
            "said": texts,
        }
        letters += (
            len(entry["request"]) + len(entry["reference"]) + sum(len(text or "") for text in texts)
        )
        if len(shown) == _ROWS or letters > _BUDGET:
            break
        shown.append(entry)
    return {"rows": shown, "talking": talking, "left_out": len(first) - len(shown)}


def _packed(text: str) -> str:
    """Compressed, in base64: 1 byte in 4 of the text, and nothing in it means anything to a
    browser.
    """
    return base64.b64encode(
        gzip.compress(text.encode("utf-8", errors="backslashreplace"), 9, mtime=0)
    ).decode()


@functools.cache
def _plotly() -> str:
    return _packed((files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8"))
