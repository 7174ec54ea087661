"""metrics.json: the metrics of every probe, of the loss curve, and what the run cost."""

from collections.abc import Sequence

from hydratune.evaluation import metrics, overfitting
from hydratune.experiment.job import Job
from hydratune.experiment.probes import ProbeResult
from hydratune.models import hardware
from hydratune.records.metrics import RunMetrics
from hydratune.records.predictions import Prediction
from hydratune.training.fit import Fitted

_OBJECTIVE = {
    "metric": "val/loss",
    "mode": "min",
    "chosen": "the checkpoint with the lowest validation loss",
}


def collect(
    job: Job,
    fitted: Fitted,
    predictions: dict[str, list[Prediction]],
    answers: ProbeResult,
    probes: Sequence[ProbeResult],
) -> RunMetrics:
    """Return the content of metrics.json.

    ``answers`` are the metrics of ``predictions``, which hold the answers of every system to the
    test rows; ``probes`` those of all other probes.
    """
    course = overfitting.course(fitted.history)
    result = RunMetrics(
        answers=answers.values | course.flat(),
        course=course.stored(),
        training=_losses_and_costs(job, fitted),
        intervals=answers.intervals,
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
    result.settings["objective"] = dict(_OBJECTIVE)
    return result


def _losses_and_costs(job: Job, fitted: Fitted) -> dict[str, float | None]:
    return {
        "train/loss": fitted.history[-1]["train/loss"],
        "val/loss": fitted.best_loss,
        "objective": fitted.best_loss,
        "cost/wall_seconds": round(sum(job.seconds.values()), 2),
        "cost/cpu_seconds": round(job.cpu_seconds(), 2),
        "cost/tokens": fitted.tokens,
        "cost/tokens_per_second": round(fitted.tokens / fitted.training_seconds, 1),
        "cost/peak_memory_bytes": hardware.peak_memory(),
    }
