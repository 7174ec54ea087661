"""The closing report on the terminal: results, where the time went, what to type next."""

import shlex

from rich.markup import escape

from hydratune.console import console, section
from hydratune.evaluation import canaries, forgetting, memorisation, overfitting, terminal
from hydratune.evaluation.result_rows import without_leaks
from hydratune.experiment import validation_answers
from hydratune.experiment.job import Job
from hydratune.experiment.tracker import page_lines
from hydratune.experiment.training import ANSWERING
from hydratune.metric_table import VALIDATION, main_metric, title
from hydratune.models import turn_ends
from hydratune.records.headline import headline
from hydratune.records.metrics import RunMetrics
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import read_sweep
from hydratune.settings.monitor import Monitor
from hydratune.settings.overrides import as_typed
from hydratune.settings.registry import flat, plain
from hydratune.settings.secrets import mask
from hydratune.tracking.tracker import Tracker
from hydratune.tracking.typed_command import typed_command, typed_settings
from hydratune.training.task import Measured
from hydratune.wording import counted


def print_results(job: Job, metrics: RunMetrics) -> None:
    """Print what the run measured."""
    section("results")
    content, values = metrics.to_json(), metrics.values
    line = headline(flat(plain(job.config)))
    console.print(f"[bold]{escape(mask(line))}", soft_wrap=True)
    console.print(terminal.results(content, metrics.systems, len(job.examples)))
    speed, memory = values["cost/tokens_per_second"], values["cost/peak_memory_bytes"]
    console.print(
        f"validation loss {values['val/loss']:.4f}; {speed:,.0f} tokens/s in training; peak memory"
        f" {memory / 2**30:.1f} GiB"
    )
    _print_validation(job, metrics)
    if "forgetting/within_budget" in values:
        _print_forgetting(job, metrics)
    if "memorisation/difference" in values:
        console.print(memorisation.sentence(content, metrics.intervals), soft_wrap=True)
    if "memorisation/canary_difference" in values:
        console.print(canaries.sentence(content, metrics.intervals), soft_wrap=True)
    clean = without_leaks(content)
    if clean:
        console.print(f"[yellow]{clean}", soft_wrap=True)
    overfitted = metrics.course["verdict"] == overfitting.Verdict.overfitted.value
    colour = "[yellow]" if overfitted else ""
    console.print(f"{colour}{metrics.course['advice']}", soft_wrap=True)


def print_next(job: Job, record: RunDirectory, tracker: Tracker) -> None:
    """Print where the time went, and what to type next."""
    console.print(terminal.times(job.seconds))
    section("next")
    _print_commands(job, record)
    if tracker.hint:
        console.print(f"W&B         {escape(tracker.hint)}", soft_wrap=True)
    for line in page_lines(tracker)[1:]:  # of the group and the sweep
        console.print(line, soft_wrap=True)


def _print_validation(job: Job, metrics: RunMetrics) -> None:
    """Print the answers to the validation rows, what they cost, and what they would have chosen."""
    if job.validation_set is None:
        return
    monitor = Monitor.read(job.config.trainer.monitor)
    name = monitor.metric
    if monitor.is_loss:
        name = f"{VALIDATION}/{main_metric(metrics.values, f'{VALIDATION}/') or 'nll'}"
    if name in metrics.values:
        interval = metrics.intervals.get(name)
        edges = (interval[0], interval[1]) if interval else None
        value = validation_answers.describe(name, Measured(metrics.values[name], edges))
        rows = metrics.settings["validation"]["rows"]
        spent = job.seconds.get(ANSWERING, 0.0)
        share = 100 * spent / sum(job.seconds.values())
        console.print(
            f"{title(name)} {value} on {counted(rows, 'validation row')}; answering them took"
            f" {spent:.1f} s,"
            f" {share:.0f} % of the run",
            soft_wrap=True,
        )
    for sentence in metrics.settings["objective"].get("other_choices", []):
        console.print(f"[yellow]{escape(sentence)}", soft_wrap=True)


def _print_forgetting(job: Job, metrics: RunMetrics) -> None:
    content = metrics.to_json()
    console.print(terminal.forgetting(content))
    budgets = job.config.evaluation.forgetting
    for most, colour in ((budgets.fail, "red"), (budgets.warn, "yellow")):
        for excess in forgetting.exceeded(content, most):
            console.print(f"[{colour}]forgotten too much: {escape(excess)}", soft_wrap=True)


def _print_commands(job: Job, record: RunDirectory) -> None:
    folder = record.shown
    place, command = escape(str(folder)), escape(as_typed("run", folder))
    console.print(f"adapter     {place}/adapter  [dim](PEFT format)", soft_wrap=True)
    ends = _where_answers_end(job, f"{folder}/adapter")
    console.print(f"ends        {escape(ends)}", soft_wrap=True)
    console.print(f"read        {place}/report.html  [dim](and predictions.jsonl)", soft_wrap=True)
    if not job.test_set.documents:
        console.print(f"chat        hydratune chat {command}", soft_wrap=True)
    console.print(f"measure     hydratune evaluate {command}", soft_wrap=True)
    console.print(f"export      hydratune export {command} output=FOLDER", soft_wrap=True)
    program = (typed_command() or ("", []))[0]
    if program == "hydratune train" and not read_sweep(record.path.parent):
        sweep = shlex.join([*typed_settings(_is_of_sweep), "sweep=learning_rate"])
        console.print(f"sweep       hydratune train -m {escape(sweep)}", soft_wrap=True)


def _is_of_sweep(key: str) -> bool:
    """Return whether a setting of this run is one of a sweep over the learning rate as well."""
    return not key.startswith("hydra") and key not in ("optimizer.lr", "resume", "preview")


def _where_answers_end(job: Job, folder: str) -> str:
    """Return which tokens end an answer, and how to use them where the base model has others."""
    tokens = turn_ends.describe(job.tokenizer, job.answer_ends)
    text = f"an answer ends with {tokens} (set in the adapter's generation_config.json)"
    if job.config.adapter.trains_base or job.base_declares_turn_ends:
        return text
    return (
        f"{text}; the base model's own file lacks them. In Python: model.generation_config ="
        f" GenerationConfig.from_pretrained({folder!r}); in vLLM: --generation-config"
        f" {shlex.quote(folder)}"
    )
