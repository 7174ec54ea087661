"""metrics.json: the metrics of every probe, of the loss curve, and what the run cost."""

from collections.abc import Mapping, Sequence

from hydratune.evaluation import metrics, overfitting
from hydratune.evaluation.metrics import MetricValue
from hydratune.experiment.job import Job
from hydratune.experiment.probes import ProbeResult
from hydratune.experiment.validation_answers import other_choices
from hydratune.models import hardware
from hydratune.records.files import Json
from hydratune.records.metrics import RunMetrics
from hydratune.records.predictions import Prediction
from hydratune.settings.monitor import Monitor
from hydratune.training.fit import Fitted


def collect(
    job: Job,
    fitted: Fitted,
    predictions: dict[str, list[Prediction]],
    answers: ProbeResult,
    validation: Mapping[str, MetricValue],
    probes: Sequence[ProbeResult],
) -> RunMetrics:
    """Return the content of metrics.json.

    ``answers`` are the metrics of ``predictions``, which hold the answers of every system to the
    test rows; ``validation`` are those of the kept weights' answers to the validation rows;
    ``probes`` those of all other probes.
    """
    monitor = Monitor.read(job.config.trainer.monitor)
    course = overfitting.course(fitted.history, int(fitted.best["step"]) if fitted.best else None)
    result = RunMetrics(
        answers=answers.values | course.flat(),
        course=course.stored(),
        training=_losses_and_costs(job, fitted, monitor, validation),
        intervals=answers.intervals | _intervals(validation, monitor),
        seconds={stage: round(seconds, 2) for stage, seconds in job.seconds.items()},
    )
    for measured in probes:
        result.probes |= measured.values
        result.intervals |= measured.intervals
    settings = metrics.settings(
        job.config.evaluation,
        job.test_set.task,
        job.test_set.max_new_tokens,
        next(iter(predictions.values())),
    )
    for system in predictions:
        few_shot = {"shots": len(job.examples)} if system == "fewshot" else {}
        result.settings[system] = {**settings, **few_shot}
    result.settings["objective"] = _objective(monitor)
    if fitted.stopped_early is not None:
        step, planned = fitted.stopped_early
        result.settings["objective"]["stopped_early"] = {"step": step, "planned": planned}
    if others := other_choices(fitted.history, monitor):
        result.settings["objective"]["other_choices"] = others
    if job.validation_set is not None:
        rows = job.validation_set
        result.settings["validation"] = {
            "rows": len(rows.rows),
            "metrics": list(rows.families),
            "step": int(fitted.best["step"]) if fitted.best is not None else None,
        }
    return result


def _objective(monitor: Monitor) -> dict[str, Json]:
    """Return by what the weights were chosen, for metrics.json."""
    if monitor.is_loss:
        chosen = "the checkpoint with the lowest validation loss"
    else:
        chosen = f"the checkpoint with the {'lowest' if monitor.lower else 'highest'} value"
    return {"metric": monitor.metric, "mode": monitor.mode, "chosen": chosen}


def _intervals(validation: Mapping[str, MetricValue], monitor: Monitor) -> dict[str, list[float]]:
    """Return the intervals of the metrics of the validation answers, and of the objective."""
    intervals = {name: list(own.interval) for name, own in validation.items() if own.interval}
    if monitor.metric in intervals:
        intervals["objective"] = intervals[monitor.metric]
    return intervals


def _losses_and_costs(
    job: Job, fitted: Fitted, monitor: Monitor, validation: Mapping[str, MetricValue]
) -> dict[str, float | None]:
    return {
        "train/loss": fitted.history[-1]["train/loss"],
        "val/loss": fitted.best_loss,
        **{name: own.value for name, own in validation.items()},
        "objective": fitted.best.get(monitor.metric) if fitted.best is not None else None,
        "cost/wall_seconds": round(sum(job.seconds.values()), 2),
        "cost/cpu_seconds": round(job.cpu_seconds(), 2),
        "cost/tokens": fitted.tokens,
        "cost/tokens_per_second": round(fitted.tokens / fitted.training_seconds, 1),
        "cost/peak_memory_bytes": hardware.peak_memory(),
    }
