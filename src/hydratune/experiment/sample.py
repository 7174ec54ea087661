"""The model's answers to a few validation rows during training: sample.jsonl."""

from collections.abc import Mapping

from rich.markup import escape

from hydratune.console import console
from hydratune.errors import RunError
from hydratune.evaluation import metrics
from hydratune.evaluation.assess import TestSet
from hydratune.experiment.job import Job
from hydratune.metric_table import main_metric, title
from hydratune.records.files import Json, read_jsonl, write_jsonl
from hydratune.records.predictions import Prediction
from hydratune.records.run_directory import RunDirectory
from hydratune.training.task import Answer


def sampler(job: Job, record: RunDirectory) -> Answer | None:
    """Return the function that lets the model answer after a step, or None if none is wanted."""
    test_set = job.sample
    if test_set is None:
        return None

    def answer(step: int) -> Mapping[str, float]:
        """Return the metrics of the answers after ``step``."""
        predictions = test_set.generate(
            job.model,
            test_set.zero_shot(),
            title="",
            pad=job.pad,
            quiet=True,
            pool=job.context.compute.pool,
        )
        rows = [_sample_row(step, prediction) for prediction in predictions]
        write_jsonl(record.sample_file, [*_earlier_rows(record, step), *rows])
        return _measure(test_set, predictions, step)

    return answer


def _sample_row(step: int, prediction: Prediction) -> dict[str, object]:
    return {
        "step": step,
        "id": prediction["id"],
        "prediction": prediction["prediction"],
        "reference": prediction["reference"],
        "finish_reason": prediction["finish_reason"],
        "scores": prediction["scores"],
    }


def _earlier_rows(record: RunDirectory, step: int) -> list[dict[str, Json]]:
    """Return the stored rows of earlier steps.

    Later ones are of a part of the run that is repeated after the checkpoint.
    """
    try:
        rows = read_jsonl(record.sample_file) if record.sample_file.is_file() else []
    except RunError as error:
        console.print(f"[yellow]{escape(str(error))}; it begins anew", soft_wrap=True)
        return []
    return [row for row in rows if row["step"] < step]


def _measure(test_set: TestSet, predictions: list[Prediction], step: int) -> dict[str, float]:
    """Return the metrics of the answers, and print the most important one."""
    measures = metrics.measures(
        predictions, test_set.families, has_schema=test_set.schema is not None
    )
    values = {name: measure.value for name, measure in measures.items() if "/" not in name}
    best = main_metric(values, "") or "nll"
    name, count = title(f"eval/{best}"), len(test_set.rows)
    console.print(f"step {step}: {name} {values[best]:.3f} on {count} validation rows")
    return values
