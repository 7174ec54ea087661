"""The model's answers to validation rows during training, and their metrics ``val/<metric>``.

The answers after every measured step are in validation.jsonl.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from rich.markup import escape

from hydratune.console import console
from hydratune.errors import RunError
from hydratune.evaluation import metrics
from hydratune.evaluation.assess import TestSet
from hydratune.evaluation.metrics import MetricValue
from hydratune.experiment.job import Job
from hydratune.metric_format import in_sentence, with_unit
from hydratune.metric_table import GENERATION, VALIDATION, answer_metric, main_metric, title
from hydratune.records.files import Json, read_jsonl, write_jsonl
from hydratune.records.predictions import Prediction
from hydratune.records.run_directory import HistoryRow, RunDirectory, RunFile
from hydratune.settings.monitor import Monitor
from hydratune.training.history import best_row
from hydratune.training.task import Answer, Measured
from hydratune.wording import counted

_LEFT_OUT = ("prompt", "request")  # of a prediction: the rows have them
_ALWAYS = ("finished", "cut")  # metrics of GENERATION that are part of the history


def answer_function(job: Job, record: RunDirectory) -> Answer | None:
    """Return the function that lets the model answer after a step, or None if none is wanted."""
    rows = job.validation_set
    if rows is None:
        return None
    monitor = Monitor.read(job.config.trainer.monitor)

    def answer(step: int) -> Mapping[str, Measured]:
        """Return the metrics of the answers after ``step``."""
        predictions = rows.generate(
            job.model,
            rows.zero_shot(),
            title="",
            pad=job.pad,
            quiet=True,
            pool=job.context.compute.pool,
        )
        stored = [{"step": step, **_without_prompt(p)} for p in predictions]
        earlier = [row for row in read_answers(record) if row["step"] < step]
        write_jsonl(record.file(RunFile.validation), [*earlier, *stored])
        values = _measure(job, rows, predictions)
        _print(step, values, monitor, len(rows.rows))
        return {name: Measured(own.value, own.interval) for name, own in values.items()}

    return answer


def _without_prompt(prediction: Prediction) -> dict[str, object]:
    return {key: value for key, value in prediction.items() if key not in _LEFT_OUT}


def read_answers(record: RunDirectory) -> list[dict[str, Json]]:
    """Return the stored answers of all steps; none, with a notice, if they cannot be read."""
    file = record.file(RunFile.validation)
    try:
        return read_jsonl(file) if file.is_file() else []
    except RunError as error:
        console.print(f"[yellow]{escape(str(error))}; it begins anew", soft_wrap=True)
        return []


def _measure(job: Job, rows: TestSet, predictions: Sequence[Prediction]) -> dict[str, MetricValue]:
    """Return the metrics of the answers by name: ``val/field_f1``.

    Those of single fields and classes are left out, unless one is monitored.
    """
    measured = metrics.metrics(
        predictions,
        job.config.evaluation,
        has_schema=rows.schema is not None,
        families=rows.families,
    )
    values = {f"{VALIDATION}/{name}": own for name, own in measured.items()}
    monitored = Monitor.read(job.config.trainer.monitor).metric
    return {name: own for name, own in values.items() if name == monitored or _is_recorded(name)}


def _is_recorded(name: str) -> bool:
    own = name.removeprefix(f"{VALIDATION}/")
    row = answer_metric(own)
    return "/" not in own and (own in _ALWAYS or row is None or GENERATION not in row.families)


def _print(step: int, values: Mapping[str, MetricValue], monitor: Monitor, count: int) -> None:
    """Print the monitored metric, or if that is the loss the most important one."""
    name = monitor.metric
    if monitor.is_loss:
        prefix = f"{VALIDATION}/"
        name = prefix + (main_metric(values, prefix) or "nll")
    value = values.get(name)
    if value is not None:
        console.print(
            f"step {step}: {title(name)} {describe(name, value)} on {counted(count, 'row')}"
        )


def describe(name: str, measured: MetricValue | Measured) -> str:
    """Return a value with its interval, for the terminal: ``41.2 % [30.0, 52.0]``."""
    return escape(in_sentence(name, measured.value, measured.interval))


def at_kept_weights(
    job: Job, record: RunDirectory, best: HistoryRow | None
) -> dict[str, MetricValue]:
    """Return the metrics of the validation answers at the step whose weights are kept.

    Empty if none were measured there.
    """
    rows = job.validation_set
    if rows is None or best is None:
        return {}
    answers = [row for row in read_answers(record) if row["step"] == best["step"]]
    if not answers:
        return {}
    return _measure(job, rows, cast("list[Prediction]", answers))


def other_choices(history: Sequence[HistoryRow], monitor: Monitor) -> list[str]:
    """Return sentences that say which other metric would have kept the weights of another step.

    They compare the validation loss with the most important metric of the answers.
    """
    kept = best_row(history, monitor)
    measured = {name for row in history for name in row}
    prefix = f"{VALIDATION}/"
    answers = main_metric(measured, prefix)
    names = [Monitor().metric, *([prefix + answers] if answers else [])]
    sentences = []
    for other in map(Monitor.read, names):
        best = best_row(history, other)
        if kept is None or best is None or best["step"] == kept["step"]:
            continue
        if other.metric in kept and kept[other.metric] == best[other.metric]:
            continue  # equally good there
        sentences.append(_sentence(monitor, other, kept, best))
    return sentences


def _sentence(monitor: Monitor, other: Monitor, kept: HistoryRow, best: HistoryRow) -> str:
    """Return what ``other`` would have kept instead of the weights that ``monitor`` kept."""

    def values(row: HistoryRow) -> str:
        names = dict.fromkeys([monitor, other])
        return ", ".join(
            f"{own.title} {with_unit(own.metric, row[own.metric])}"
            for own in names
            if own.metric in row
        )

    return (
        f"the weights of step {kept['step']:.0f} are kept by the {monitor.title}"
        f" ({values(kept)}); the {other.title} would have kept those of step"
        f" {best['step']:.0f} ({values(best)})"
    )
