"""The data that the script of a comparison's page shows, as it is embedded in the page."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from hydratune.comparison.comparison import Comparison
from hydratune.comparison.criterion import monitored
from hydratune.comparison.entries import is_logarithmic, score_of, varying_settings
from hydratune.comparison.runs import Run
from hydratune.comparison.verdict import describe_outcome, describe_score, describe_state
from hydratune.errors import RunError
from hydratune.evaluation.measures import user_text
from hydratune.metric_format import heading, scale
from hydratune.metric_table import VALIDATION, Unit, lower_is_better, title, unit
from hydratune.records.predictions import Prediction
from hydratune.records.run_directory import RunFile
from hydratune.settings.monitor import LOSS
from hydratune.settings.secrets import mask

_MOST_POINTS = 120  # of a learning curve
_TRAINING_LOSS = "train/loss"
_LOSSES = {"val": LOSS, "train": _TRAINING_LOSS}  # kind of curve -> column of history.csv
_MOST_ANSWERING = 12  # runs whose answers are on the page
_MOST_ROWS = 60  # test rows
_LONGEST_TEXT = 1500  # letters
_MOST_LETTERS = 2_000_000  # of all answers together
_LINKS = (
    (RunFile.report, "report"),
    (RunFile.data_page, "data"),
    (RunFile.data, "data"),
    (RunFile.log, "log"),
    (RunFile.predictions, "answers"),
)
Scalar = int | float | bool | str | None


class MetricData(TypedDict):
    """A metric, and how its values are shown.

    ``lower``: whether lower values are better, None if that is unknown. ``scale``: of the number
    that is shown, whose unit is in the title, to the measured value.
    """

    key: str
    title: str
    lower: bool | None
    scale: float


class CurveData(TypedDict):
    """A kind of learning curve that the page can show."""

    key: str
    title: str  # with the unit, for the vertical axis
    decimals: int


class RunData(TypedDict):
    """One run."""

    name: str
    place: int | None  # in the ranking, from 1
    entry: int  # position of its entry
    best: bool
    state: str
    against: str
    objective: float | None
    shown: str  # the score with its interval; of a run that is not ranked, what is shown instead
    settings: dict[str, Scalar]
    cells: dict[str, str]  # the settings as they are shown
    measured: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    curve: dict[str, list[list[float]]]  # by key of its kind: (step, value in its unit)
    kept: dict[str, list[float]]  # likewise the point of the kept weights
    links: dict[str, str]  # label -> path


class RowData(TypedDict):
    """One test row."""

    id: str
    request: str
    reference: str
    answers: list[str | None]  # of the runs in ``answering``


class AnswerData(TypedDict):
    """Test rows with the answers of the best runs."""

    rows: list[RowData]
    answering: list[int]  # indices of runs
    omitted_rows: int  # that did not fit into the page


class PageData(AnswerData):
    """Everything that the script shows."""

    objective: MetricData
    metrics: list[MetricData]
    settings: list[str]
    logarithmic: list[str]  # settings whose axis is logarithmic
    curves: list[CurveData]
    short: dict[str, str]
    runs: list[RunData]
    fronts: list[dict[str, str]]


def page_data(compared: Comparison, folder: Path) -> PageData:
    """Return the data of a page that will lie in ``folder``."""
    runs = [run for entry in compared.ranked for run in entry.runs]
    settings = varying_settings(runs)
    names = [*compared.metrics, *_other_metrics(runs, compared)]
    by = compared.by
    objective = _metric_data(by.metric, lower=by.lower)
    answers = _answers(runs, compared)
    curves = _curve_kinds(compared, runs)
    return PageData(
        objective=objective,
        metrics=[_metric_data(name, lower=lower_is_better(name)) for name in names],
        settings=settings,
        logarithmic=[key for key in settings if is_logarithmic(runs, key)],
        curves=curves,
        short=compared.short_names,
        runs=[
            _run_data(compared, position, run, settings, names, curves, folder)
            for position, entry in enumerate(compared.ranked)
            for run in entry.runs
        ],
        fronts=[{"x": front.x, "y": front.y} for front in compared.fronts],
        **answers,
    )


def _metric_data(key: str, *, lower: bool | None) -> MetricData:
    return MetricData(key=key, title=heading(key), lower=lower, scale=scale(key))


def _run_data(
    compared: Comparison,
    position: int,
    run: Run,
    settings: Sequence[str],
    metrics: Sequence[str],
    curves: Sequence[CurveData],
    folder: Path,
) -> RunData:
    score = score_of(run, compared.by)
    values = {key: run.settings.get(key) for key in settings}
    measured = {key: value for key in metrics if (value := run.value(key)) is not None}
    intervals = {key: edges for key in metrics if (edges := run.interval(key)) is not None}
    curve, kept = _curves(run, [kind["key"] for kind in curves])
    return RunData(
        name=run.name,
        place=position + 1 if score is not None and not compared.why_not_ranked else None,
        entry=position,
        best=compared.best is not None and run is compared.best.finished[0],
        state=mask(describe_state(run)),
        against=describe_outcome(compared, position) if compared.paired_tests else "",
        objective=score,
        shown=describe_score(run, compared.by),
        settings={key: _json_value(value) for key, value in values.items()},
        cells={key: mask(compared.format_setting(key, value)) for key, value in values.items()},
        measured=measured,
        intervals=intervals,
        curve=curve,
        kept=kept,
        links=_links(run, folder),
    )


def _other_metrics(runs: Sequence[Run], compared: Comparison) -> list[str]:
    """Return the metrics besides those of the table: costs, and what is not equal for all runs."""
    values: dict[str, set[float]] = {}
    for run in runs:
        for key in run.metrics:
            if (value := run.value(key)) is not None:
                values.setdefault(key, set()).add(value)
    shown = [key for key, own in values.items() if key in compared.costs or len(own) > 1]
    loss = ("objective", "val/loss")  # two names of one number
    hidden = {*compared.metrics, compared.by.metric, "objective"}
    hidden |= set(loss) if compared.by.metric in loss else set()
    return [key for key in shown if key not in hidden]


def _json_value(value: object) -> Scalar:
    """Return a setting as JSON can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, int | float | bool | None) else mask(str(value))


def _curve_kinds(compared: Comparison, runs: Sequence[Run]) -> list[CurveData]:
    """Return the curves to choose from: the losses and, where runs have them, the metrics of
    answers to validation rows by which their weights were chosen; first what ranks the runs.
    """
    metrics = [compared.by.metric, *(monitored(run).metric for run in runs), *compared.metrics]
    answers = [
        name
        for name in dict.fromkeys(metrics)
        if name.startswith(f"{VALIDATION}/") and name != LOSS
    ]
    losses = [
        CurveData(key="val", title=title(LOSS), decimals=4),
        CurveData(key="train", title=title(_TRAINING_LOSS), decimals=4),
    ]
    own = [CurveData(key=name, title=heading(name), decimals=_decimals(name)) for name in answers]
    return [*own, *losses] if compared.by.metric in answers else [*losses, *own]


def _decimals(name: str) -> int:
    return 1 if unit(name) is Unit.rate else 4


def _curves(
    run: Run, kinds: Sequence[str]
) -> tuple[dict[str, list[list[float]]], dict[str, list[float]]]:
    """Return by kind the (step, value) of a run, at most about ``_MOST_POINTS``, and the point of
    the kept weights.
    """
    history, kept_step = run.history(), run.value("fit/best_step")
    curves, kept = dict[str, list[list[float]]](), dict[str, list[float]]()
    for kind in kinds:
        key = _LOSSES.get(kind, kind)
        points = [
            [row["step"], float(f"{scale(key) * row[key]:.5g}")]
            for row in history
            if key in row and "step" in row and math.isfinite(row[key])
        ]
        stride = max(1, -(-len(points) // _MOST_POINTS))
        last = len(points) - 1
        curves[kind] = [
            point
            for number, point in enumerate(points)
            if number % stride == 0 or number == last or point[0] == kept_step
        ]
        if kind != "train":  # no weights are kept for their training loss
            kept.update((kind, point) for point in points if point[0] == kept_step)
    return curves, kept


def _links(run: Run, folder: Path) -> dict[str, str]:
    """Return links to a run's files; of two with the same label, to the first that exists."""
    links: dict[str, str] = {}
    for name, label in _LINKS:
        file = run.path / name
        if file.is_file():
            links.setdefault(label, Path(os.path.relpath(file, folder)).as_posix())
    return links


def _answers(runs: Sequence[Run], compared: Comparison) -> AnswerData:
    """Return test rows with the answers of the best runs, as many as fit into the page."""
    predictions = _answering(runs, compared)
    if not predictions:
        return AnswerData(rows=[], answering=[], omitted_rows=0)
    first = next(iter(predictions.values()))
    rows: list[RowData] = []
    letters = 0
    for item, prediction in first.items():
        answers = [
            str(own[item]["prediction"])[:_LONGEST_TEXT] if item in own else None
            for own in predictions.values()
        ]
        row = RowData(
            id=str(prediction.get("id")),
            request=user_text(prediction)[:_LONGEST_TEXT],
            reference=str(prediction.get("reference"))[:_LONGEST_TEXT],
            answers=answers,
        )
        letters += len(row["request"]) + len(row["reference"])
        letters += sum(len(answer or "") for answer in answers)
        if len(rows) == _MOST_ROWS or letters > _MOST_LETTERS:
            break
        rows.append(row)
    omitted = len(first) - len(rows)
    return AnswerData(rows=rows, answering=list(predictions), omitted_rows=omitted)


def _answering(runs: Sequence[Run], compared: Comparison) -> dict[int, Mapping[str, Prediction]]:
    """Return index of a run -> hash of a test row -> its prediction, for the best runs.

    All of them answered rows that the first one answered.
    """
    predictions: dict[int, Mapping[str, Prediction]] = {}
    for index, run in enumerate(runs):
        if len(predictions) == _MOST_ANSWERING:
            break
        if score_of(run, compared.by) is None:
            continue
        try:
            rows = run.predictions()
        except RunError:
            continue
        own = {
            str(row.get("item_hash")): row
            for row in rows
            if isinstance(row, dict) and "prediction" in row
        }
        if own and (not predictions or own.keys() & next(iter(predictions.values())).keys()):
            predictions[index] = own
    return predictions
