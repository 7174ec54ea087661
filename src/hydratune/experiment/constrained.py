"""Answers held to the JSON schema, beside the free answers of a finished run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from hydratune import metric_format
from hydratune.console import console
from hydratune.errors import ConfigError, Problem
from hydratune.evaluation import metrics
from hydratune.evaluation.constrained import guide_for, library, no_schema
from hydratune.evaluation.decision import CONSTRAINED, TITLES
from hydratune.evaluation.measures import Measure, difference, groups_of
from hydratune.evaluation.statistics import Difference
from hydratune.experiment.finished_run import FinishedRun, load_model
from hydratune.metric_table import is_likelihood, largest_difference
from hydratune.records.files import write_json, write_jsonl
from hydratune.records.predictions import Prediction, read_predictions
from hydratune.records.run_directory import RunFile
from hydratune.settings.commands import EvaluateConfig, EvaluationSource
from hydratune.settings.evaluation import EvaluationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hydratune.experiment.job import Job


def evaluate_constrained(run: FinishedRun, config: EvaluateConfig) -> None:
    """Ask the fine-tuned model, and the base with examples if the run asked it, under the schema.

    Writes evaluation_constrained.json and the answers. Raises ``ConfigError`` if there is no schema
    or no model to ask.
    """
    if config.source is EvaluationSource.predictions:
        why = "answers held to the schema need the model"
        raise ConfigError([Problem("source", "predictions", why, "leave source out")])
    if run.schema is None:
        raise no_schema()
    library("constrained")
    job, tuned = load_model(run, config)
    content: dict[str, object] = {
        "settings": {**run.measured_with, "decoding": "greedy, held to the JSON schema"}
    }
    evaluation = run.settings.evaluation
    for system, model in _systems(run, job, tuned).items():
        title = TITLES[f"{'tuned' if system == 'eval' else system}{CONSTRAINED}"]
        constrained = _ask(run, job, system, model, title)
        free = job.test_set.rescored(read_predictions(run.record.predictions_file(system)))
        pair = [
            metrics.measures(rows, job.test_set.families, has_schema=True)
            for rows in (constrained, free)
        ]
        table = _new_table(title, evaluation)
        content |= _compare(system, pair[0], pair[1], groups_of(constrained), evaluation, table)
        console.print(table)
    write_json(run.record.file(RunFile.evaluation_constrained), content)
    console.print(
        f"written     {escape(str(run.record.path))}/evaluation_constrained.json  [dim](and"
        " predictions_*constrained.jsonl)",
        soft_wrap=True,
    )


def _systems(
    run: FinishedRun, job: "Job", tuned: "PreTrainedModel"
) -> "dict[str, PreTrainedModel]":
    """Return system -> model."""
    systems = {"eval": tuned}
    if run.record.predictions_file("fewshot").is_file() and job.examples:
        systems["fewshot"] = job.model
    return systems


def _ask(
    run: FinishedRun, job: "Job", system: str, model: "PreTrainedModel", title: str
) -> list[Prediction]:
    """Return and write the constrained answers of a system."""
    test_set = job.test_set
    prompts = test_set.zero_shot() if system == "eval" else test_set.few_shot(job.examples)
    guide = guide_for(run.schema, job.encoder, model)
    pad = job.tokenizer.pad_token_id
    answers = test_set.generate(model, prompts, title=title, pad=pad, guide=guide)
    name = "" if system == "eval" else f"{system}_"
    write_jsonl(run.record.path / f"predictions_{name}constrained.jsonl", answers)
    return list(answers)


def _new_table(title: str, evaluation: EvaluationConfig) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("metric")
    percent = f"{100 * evaluation.confidence:.0f} %"
    for column in ("free", "constrained", f"difference, {percent}", "p"):
        table.add_column(column, justify="right")
    return table


def _interval(metric: str, change: Difference) -> str:
    return change.interval_text(*metric_format.difference_form(metric))


def _compare(
    system: str,
    constrained: Mapping[str, Measure],
    free: Mapping[str, Measure],
    groups: list[str],
    evaluation: EvaluationConfig,
    table: Table,
) -> dict[str, object]:
    """Return the metrics and their differences for the file, and add a row for each to ``table``.

    Likelihoods are those of the model, whatever the decoding, and are skipped.
    """
    content: dict[str, object] = {}
    confidence, samples = evaluation.confidence, evaluation.bootstrap_samples
    for name, measure in constrained.items():
        if "/" in name or name not in free or is_likelihood(name):
            continue
        own, key = f"eval/{name}", f"{system}_constrained/{name}"
        change = difference(measure, free[name], groups, confidence, samples)
        change = change.within(largest_difference(own))
        content[key] = measure.value
        content[f"{key}_difference"] = {
            "value": change.value,
            "interval": None if change.interval is None else list(change.interval),
            "p": change.p,
        }
        table.add_row(
            escape(metric_format.heading(own)),
            metric_format.written(own, free[name].value),
            metric_format.written(own, measure.value),
            f"{metric_format.difference(own, change.value)} {escape(_interval(own, change))}",
            f"{change.p:.2g}",
        )
    return content
