"""hydratune evaluate: measure a finished run again, or on other texts and tasks.

It starts from the run's adapter, or from its stored predictions.
"""

from shlex import quote

from rich.markup import escape

from hydratune import digests
from hydratune.console import console
from hydratune.errors import RunError
from hydratune.evaluation import assess, metrics
from hydratune.evaluation.families import names
from hydratune.evaluation.reproduction import (
    TOLERANCE,
    differing_metrics,
    explain_difference,
    reproduction_table,
)
from hydratune.evaluation.result_rows import without_leaks
from hydratune.experiment.constrained import evaluate_constrained
from hydratune.experiment.finished_run import FinishedRun, load_model, open_run
from hydratune.experiment.lifecycle import write_page
from hydratune.experiment.other_texts import evaluate_other_texts
from hydratune.records.files import write_json, write_jsonl
from hydratune.records.predictions import Prediction, read_predictions
from hydratune.records.run_directory import RunDirectory, RunFile, require_writable
from hydratune.settings.commands import EvaluateConfig, EvaluationSource
from hydratune.settings.evaluation import Task

_REQUIRED = (  # keys of a prediction that is scored again
    *("id", "prediction", "reference", "nll", "answer_tokens"),
    *("finish_reason", "generated_tokens"),
)


def run(config: EvaluateConfig, _: RunDirectory) -> None:
    """Measure a run and write the result into its directory.

    Raises ``RunError`` if the metrics are not reproduced.
    """
    finished = open_run(config.run)
    place = finished.record.path
    require_writable(place, f"copy the run, and evaluate the copy: cp -r {quote(str(place))} COPY")
    if config.texts is not None or config.lm_eval is not None:
        evaluate_other_texts(finished, config)
    elif config.constrained:
        evaluate_constrained(finished, config)
    else:
        _reproduce(finished, config)


def _reproduce(finished: FinishedRun, config: EvaluateConfig) -> None:
    """Measure the metrics of a run again, write evaluation.json and compare with metrics.json."""
    record, evaluation = finished.record, finished.settings.evaluation
    task = Task(finished.measured_with["task"])
    predictions = _predictions(finished, config, task)
    has_schema = finished.schema is not None
    values, intervals = metrics.flat_with_clean(
        "eval", predictions, evaluation, has_schema=has_schema
    )
    limit = finished.measured_with["max_new_tokens"]
    measured_with = metrics.settings(evaluation, task, limit, predictions)
    source = config.source.value
    content = {"intervals": intervals, "source": source, "settings": measured_with}
    write_json(record.file(RunFile.evaluation), {**values, **content})
    write_page(record)
    for problem in digests.problems(record.path):  # the page lacks what is damaged
        console.print(f"[yellow]{escape(problem)}", soft_wrap=True)
    if config.source is EvaluationSource.adapter:
        write_jsonl(record.file(RunFile.evaluation_predictions), predictions)
    console.print(reproduction_table(finished.metrics.values, values))
    if clean := without_leaks(values):
        console.print(f"[yellow]{clean}", soft_wrap=True)
    if different := differing_metrics(finished.metrics.values, values):
        why = explain_difference(different, len(values), finished.measured_with, measured_with)
        raise RunError(
            f"{why}\n  the new values are in {record.path}/evaluation.json; compare the versions"
            " and hardware in environment.json"
        )
    console.print(
        f"[green]all {len(values)} metrics of metrics.json are reproduced[/] (tolerance"
        f" {TOLERANCE}), from the {source}"
    )


def _predictions(finished: FinishedRun, config: EvaluateConfig, task: Task) -> list[Prediction]:
    """Return the stored answers scored again, or newly generated ones."""
    if config.source is EvaluationSource.adapter:
        job, model = load_model(finished, config)
        pad = job.tokenizer.pad_token_id
        return job.test_set.generate(model, job.test_set.zero_shot(), title="fine-tuned", pad=pad)
    file = finished.record.predictions_file()
    stored = read_predictions(file)
    for number, row in enumerate(stored, 1):
        missing = [key for key in _REQUIRED if key not in row]
        if missing:
            raise RunError(
                f"{file}:{number}: no {', '.join(missing)} in this row; the file was changed"
            )
    families = names(finished.settings.evaluation.metrics, task)
    return assess.rescore(stored, families, finished.schema)
