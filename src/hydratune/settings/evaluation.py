"""Settings of what is measured on the test rows."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from hydratune import extras, metric_table
from hydratune.errors import Problem
from hydratune.settings import own_metrics, packages
from hydratune.settings.paths import path_setting
from hydratune.settings.ranges import at_least
from hydratune.settings.registry import variant


class Task(StrEnum):
    """How an answer is scored."""

    auto = "auto"  # json if all references are JSON objects, else text
    json = "json"  # by the fields of JSON objects
    text = "text"  # by their words


# families of metrics unless ``evaluation.metrics`` names some
FAMILIES_BY_TASK = {Task.json: ("json",), Task.text: ("rouge", "match")}


class Baseline(StrEnum):
    """The untouched base model, asked before training."""

    base = "base"  # zero-shot: the training prompt as it is
    fewshot = "fewshot"  # with the schema and ``evaluation.shots`` training examples in the prompt


@dataclass
class ForgettingConfig:
    """Settings of forgetting: what the base model can do, measured before and after fine-tuning."""

    measure: bool = False  # whether what the base model knew is measured before and after
    # file or folder of running texts; null here and below: the small panel that is built in
    texts: str | None = path_setting(None)
    questions: str | None = path_setting(None)  # JSONL with questions and reference answers
    instructions: str | None = path_setting(None)  # JSONL in IFEval's form; rules check the answers
    answers: bool = True  # generate answers to the instructions, which takes most of the time
    answer_tokens: int = 96  # tokens of such an answer, at most
    items: int = 64  # items of each part, at most
    window: int = 1024  # tokens of a text that the model reads at once
    batch_size: int = 8  # texts that are computed together
    # measure -> the largest loss without a warning: bits_per_byte, nll, instructions, kl
    warn: dict[str, float] = field(default_factory=dict)
    # likewise; a run that loses more is never called the best
    fail: dict[str, float] = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        """Yield every problem of these settings."""
        for key in ("answer_tokens", "items", "batch_size"):
            yield from at_least(f"evaluation.forgetting.{key}", getattr(self, key), 1)
        yield from at_least("evaluation.forgetting.window", self.window, 16)
        measures = metric_table.forgetting_budgets()
        for key in ("warn", "fail"):
            for name, most in getattr(self, key).items():
                if name not in measures:
                    fix = f"one of: {', '.join(measures)}"
                    key_of_budget = f"evaluation.forgetting.{key}.{name}"
                    yield Problem(key_of_budget, most, "no such measure", fix)
        if (self.warn or self.fail) and not self.measure:
            why = "there is a budget, and nothing is measured"
            yield Problem("evaluation.forgetting.measure", False, why, "set it to true")


@variant("evaluation", "evaluation")
@dataclass
class EvaluationConfig:
    """Settings of what is measured on the test rows before and after training."""

    task: Task = Task.auto  # how answers are scored
    # families: json, match, rouge, bleu, label, code, or of a package; null: those of the task
    metrics: list[str] | None = None
    run_code: bool = False  # allows the family "code" to execute what the model wrote
    # prompts with which the untouched base model answers the test rows
    baselines: list[Baseline] = field(default_factory=lambda: [Baseline.base, Baseline.fewshot])
    shots: int = 3  # examples in the few-shot prompt
    batch_size: int = 50  # rows generated together, at most
    # tokens of prompts and answers generated together, at most; null: as many as memory holds
    batch_tokens: int | None = None
    max_new_tokens: int | None = None  # null: the longest reference answer + 5 %
    max_rows: int | None = None  # of the test set; null: all
    confidence: float = 0.95  # of all intervals
    bootstrap_samples: int = 2000  # resamples for confidence intervals
    # val/<metric> is measured during training, by answers to validation rows, at every so many
    # validations: 1: at each; null: at none, unless trainer.monitor needs it
    validate_every: int | None = None
    validation_rows: int | None = 32  # validation rows that are answered then; null: all
    # number of training and held-out rows whose answers are continued from their middle; 0: none
    memorisation: int = 0
    # number of invented rows with secrets added to the training rows, to measure how well they are
    # memorised; 0: none
    canaries: int = 0
    forgetting: ForgettingConfig = field(default_factory=ForgettingConfig)
    # take the answers of an identical baseline from the cache instead of generating them again
    reuse_baselines: bool = True

    def problems(self) -> Iterator[Problem]:
        """Yield every problem of these settings."""
        yield from self._metrics_problems()
        for name in ("shots", "batch_size", "batch_tokens", "max_new_tokens", "max_rows"):
            yield from at_least(f"evaluation.{name}", getattr(self, name), 1)
        yield from at_least("evaluation.bootstrap_samples", self.bootstrap_samples, 100)
        yield from at_least("evaluation.memorisation", self.memorisation, 0)
        yield from at_least("evaluation.canaries", self.canaries, 0)
        yield from at_least("evaluation.validate_every", self.validate_every, 1)
        yield from at_least("evaluation.validation_rows", self.validation_rows, 1)
        yield from self.forgetting.problems()
        if not 0.5 <= self.confidence < 1:
            why = "must be in [0.5, 1)"
            yield Problem("evaluation.confidence", self.confidence, why, "usual: 0.95")

    def possible_families(self) -> tuple[str, ...]:
        """Return the families of metrics that may be measured, as far as the settings say."""
        if self.metrics is not None:
            return tuple(self.metrics)
        tasks = FAMILIES_BY_TASK if self.task is Task.auto else (self.task,)
        return tuple(family for task in tasks for family in FAMILIES_BY_TASK[task])

    def _metrics_problems(self) -> Iterator[Problem]:
        key = "evaluation.metrics"
        if self.metrics is None:
            return
        if not self.metrics:
            fix = "set evaluation.metrics=null for those of the task"
            yield Problem(key, [], "names no family", fix)
        own = metric_table.families()
        families = list(dict.fromkeys([*own, *packages.names("metric")]))
        for name in self.metrics:
            if name in own and packages.has("metric", name):
                yield packages.of_two("metric", name, key, "a built-in family of metrics")
            elif packages.has("metric", name):
                yield from own_metrics.problems_of(name, key)
            if name not in families:
                near = difflib.get_close_matches(name, families, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(families)}"
                fix = (
                    f"{hint} (a package brings others: entry points {metric_table.PACKAGE_METRICS})"
                )
                yield Problem(key, name, "no such family of metrics", fix)
        if "code" in self.metrics and not self.run_code:
            why = (
                "it executes what the model writes; its limits of time and memory are no security"
                " boundary"
            )
            fix = "set evaluation.run_code=true, or leave out the family code"
            yield Problem("evaluation.run_code", False, why, fix)
        if "bleu" in self.metrics:
            yield from extras.missing("sacrebleu", key, "bleu")
        if "json" in self.metrics and self.task is Task.text:
            why = "evaluation.task=text answers are not JSON objects"
            yield Problem(key, "json", why, "set evaluation.task=json")
