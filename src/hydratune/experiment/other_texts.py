"""The base and the fine-tuned model of a run on running texts and on tasks of lm-eval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from hydratune.console import console
from hydratune.errors import ConfigError, Problem
from hydratune.evaluation import harness, texts
from hydratune.evaluation.corpus import score_texts
from hydratune.evaluation.decision import TITLES
from hydratune.evaluation.retrieval import documents
from hydratune.experiment.finished_run import FinishedRun, load_model
from hydratune.records.files import Json, write_json
from hydratune.records.run_directory import RunFile
from hydratune.settings.commands import EvaluateConfig, EvaluationSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hydratune.experiment.job import Job

_LM_EVAL_BATCH = 8  # rows, unless batch_size is given


@dataclass(frozen=True)
class _Window:
    """How a long text is read: tokens seen at once, and tokens predicted in each window."""

    size: int
    stride: int


def evaluate_other_texts(run: FinishedRun, config: EvaluateConfig) -> None:
    """Measure both models and write evaluation_texts.json, evaluation_lm_eval.json.

    Raises ``ConfigError`` for settings that cannot be measured.
    """
    if config.source is EvaluationSource.predictions:
        why = "texts and tasks need the model"
        raise ConfigError([Problem("source", "predictions", why, "leave source out")])
    if config.lm_eval is not None:
        harness.check(config.lm_eval, config.lm_eval_path)
    named = _read_texts(config)
    job, tuned = load_model(run, config)
    models = {"base": job.model, "tuned": tuned}
    window = _window(run, config, job)
    if named:
        _measure_texts(run, job, models, named, window)
    if config.lm_eval is not None:
        _measure_tasks(run, config, job, models, window)


def _read_texts(config: EvaluateConfig) -> list[tuple[str, str]]:
    """Return (name, text) of each text; empty if none were asked for."""
    if config.texts is None:
        return []
    named = documents(Path(config.texts), "texts")
    empty = [name for name, text in named if not text]
    if empty:
        raise ConfigError([Problem("texts", config.texts, f"{empty[0]} is empty", "leave it out")])
    return named


def _window(run: FinishedRun, config: EvaluateConfig, job: "Job") -> _Window:
    """Return the window of the settings, by default all that the model reads."""
    from hydratune.models.loading import context_window

    settings = run.settings
    most = context_window(settings.model, job.model) - settings.adapter.virtual_tokens()
    size = most if config.window is None else config.window
    stride = size if config.stride is None else config.stride
    if not 1 <= stride <= size <= most:
        key, value, limit = ("window", size, most)
        if 1 <= size <= most:
            key, value, limit = ("stride", stride, size)
        why = f"the model reads {most} tokens, and stride is at most the window"
        raise ConfigError([Problem(key, value, why, f"give a number from 1 to {limit}")])
    return _Window(size, stride)


def _measure_texts(
    run: FinishedRun,
    job: "Job",
    models: "Mapping[str, PreTrainedModel]",
    named: Sequence[tuple[str, str]],
    window: _Window,
) -> None:
    """Measure the likelihood of texts."""
    names, contents = zip(*named, strict=True)
    evaluation = run.settings.evaluation
    scores = {
        system: score_texts(
            model,
            job.tokenizer,
            contents,
            window=window.size,
            stride=window.stride,
            pad=job.tokenizer.pad_token_id,
            title=system,
        )
        for system, model in models.items()
    }
    content = texts.summary(
        scores,
        names,
        window.size,
        window.stride,
        evaluation.confidence,
        evaluation.bootstrap_samples,
    )
    write_json(run.record.file(RunFile.evaluation_texts), content)
    systems: Mapping[str, Mapping[str, float]] = content["systems"]
    numbers = {
        system: {key: value for key, value in own.items() if key != "interval"}
        for system, own in systems.items()
    }
    console.print(_systems_table(numbers))
    console.print(_difference_line(content["bits_per_byte_delta"], len(names), window))


def _difference_line(delta: Mapping[str, Json], count: int, window: _Window) -> str:
    """Return what fine-tuning changed on ``count`` texts."""
    interval = f"(too few texts for an interval: {count})"
    if delta["interval"]:
        interval = "[{:+.4f}, {:+.4f}]".format(*delta["interval"])
    return (
        f"bits per byte: {delta['value']:+.4f} {escape(interval)} by fine-tuning; windows of"
        f" {window.size} tokens, stride {window.stride}"
    )


def _measure_tasks(
    run: FinishedRun,
    config: EvaluateConfig,
    job: "Job",
    models: "Mapping[str, PreTrainedModel]",
    window: _Window,
) -> None:
    """Measure tasks of lm-eval."""
    assert config.lm_eval is not None
    options: dict[str, Json] = {
        "window": window.size,
        "limit": config.lm_eval_limit,
        "batch_size": config.batch_size or _LM_EVAL_BATCH,
    }
    results = {
        system: harness.ask(model, job.tokenizer, config.lm_eval, config.lm_eval_path, **options)
        for system, model in models.items()
    }
    settings = {"tasks": config.lm_eval, **options}
    content = {"systems": results, "settings": settings}
    write_json(run.record.file(RunFile.evaluation_lm_eval), content)
    console.print(
        _systems_table(
            {
                system: {
                    f"{task}/{name}": value
                    for task, values in tasks.items()
                    for name, value in values.items()
                }
                for system, tasks in results.items()
            }
        )
    )


def _systems_table(systems: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a column for each system, and a row for each metric."""
    table = Table(header_style="bold")
    table.add_column("metric")
    for system in systems:
        table.add_column(TITLES[system], justify="right")
    for key in next(iter(systems.values())):
        values = [own[key] for own in systems.values()]
        cells = (f"{v:,.6g}" if isinstance(v, float) else f"{v:,}" for v in values)
        table.add_row(escape(key), *cells)
    return table
