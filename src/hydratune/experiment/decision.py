"""The systems that ``hydratune decide`` compares: asked here, measured and decided upon."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from hydratune.console import console
from hydratune.data.rows import Row
from hydratune.errors import ConfigError, Problem
from hydratune.evaluation import assess, decision, metrics
from hydratune.evaluation.canaries import is_canary
from hydratune.evaluation.constrained import Guide, guide_for
from hydratune.evaluation.decision import CONSTRAINED, TITLES
from hydratune.evaluation.decision_output import DecisionResult, cost_of_calls
from hydratune.evaluation.decision_prompts import (
    Prompts,
    RetrievedPassages,
    base_prompts,
    with_passages,
)
from hydratune.evaluation.overfitting import Verdict
from hydratune.evaluation.retrieval import Library, Passage, from_files, from_rows, request
from hydratune.experiment.finished_run import has_adapter, load_settings, require_files
from hydratune.records.files import write_jsonl
from hydratune.records.metrics import RunMetrics
from hydratune.records.predictions import Prediction
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.commands import DecideConfig, TrainConfig
from hydratune.settings.evaluation import Task
from hydratune.settings.overrides import typed_overrides
from hydratune.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hydratune.experiment.job import Job

_MAIN_METRICS = {Task.json: "field_f1", Task.text: "rougeL"}
_SETTINGS_OF_RUN = (
    "model",
    "data",
    "adapter",
    "optimizer",
    "trainer",
    "experiment",
    "debug",
)


def choose_settings(config: DecideConfig) -> tuple[TrainConfig, RunDirectory | None]:
    """Return the settings of the run and the run, or those of the command line and None.

    A run keeps its own name, unless one is typed. Raises ``ConfigError`` if both are given, or the
    run has no trained weights.
    """
    if config.run is None:
        settings: TrainConfig = config
        record = None
    else:
        typed_keys = _typed_keys()
        _refuse_settings_beside_run(typed_keys)
        record = RunDirectory(Path(config.run).resolve())
        settings = load_settings(record)
        require_files(settings, record)
        if not has_adapter(record):
            why = "holds no trained weights (adapter/*.safetensors)"
            raise ConfigError([Problem("run", config.run, why, "give a finished run")])
        if settings.model.adapter is not None:  # the one it began with
            settings.model.adapter = str(record.adapter)
        if "name" in typed_keys:
            settings.name = config.name
    own, given = settings.evaluation, config.evaluation
    own.baselines = list(given.baselines)
    own.shots = given.shots
    own.metrics = given.metrics or own.metrics
    own.max_rows = config.rows if config.rows is not None else own.max_rows
    return settings, record


def _typed_keys() -> list[str]:
    """Return the settings and groups that the user typed."""
    typed = typed_overrides(HydraConfig.get().overrides.task)
    return [text.split("=")[0].lstrip("+~") for text in typed]


def _refuse_settings_beside_run(keys: Sequence[str]) -> None:
    conflicts = [key for key in keys if key.split(".")[0] in _SETTINGS_OF_RUN]
    if conflicts:
        why, fix = "run=DIR brings its own settings", "leave one of the two out"
        raise ConfigError([Problem(conflicts[0], "...", why, fix)])


def require_prompts(job: "Job", settings: TrainConfig) -> None:
    """Raise ``ConfigError`` for test rows whose prompt cannot be improved."""
    if job.test_set.documents or not all(map(assess.can_be_shown, job.sets.test)):
        why = "the test rows are documents or use tools: they have no prompt that could be improved"
        fix = "give rows of requests and answers"
        raise ConfigError([Problem("data", settings.name, why, fix)])


@dataclass(frozen=True)
class Knowledge:
    """Passages to retrieve from, and those found for each test row."""

    candidates: list[Row]  # training rows that can be shown as examples
    passages: list[Passage]
    library: Library
    retrieved: RetrievedPassages

    @classmethod
    def gather(cls, job: "Job", config: DecideConfig) -> "Knowledge":
        """Read the documents of the settings, or else take the training rows, and search them."""
        shown = [row for row in job.sets.train if not is_canary(row) and assess.can_be_shown(row)]
        candidates = list({row.content_hash: row for row in shown}.values())
        if config.knowledge:
            passages = from_files(Path(config.knowledge), config.passage_words)
        else:
            passages = from_rows(candidates)
        library = Library(passages)
        retrieved = [library.search(request(row), config.passages) for row in job.test_set.rows]
        return cls(candidates, passages, library, retrieved)


@dataclass
class Systems:
    """Asks systems the test rows and keeps their predictions."""

    job: "Job"
    output: Path  # where the predictions are written
    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def generate(
        self, system: str, model: "PreTrainedModel", prompts: Prompts, guide: Guide | None = None
    ) -> None:
        """Ask one system; ``guide`` holds its answers to the schema."""
        start, pad = time.perf_counter(), self.job.tokenizer.pad_token_id
        rows = self.job.test_set.generate(
            model, prompts, title=TITLES[system], pad=pad, guide=guide
        )
        self.predictions[system] = rows
        self.seconds[system] = time.perf_counter() - start
        write_jsonl(self.output / f"predictions_{system}.jsonl", rows)

    def generate_base(self, prompts: dict[str, Prompts], guide: Guide | None) -> None:
        """Ask the base model with every kind of prompt that it can read."""
        for system, own in prompts.items():
            if system == "base" or self.job.test_set.fits(own):
                self.generate(system, self.job.model, own)
            else:
                console.print(
                    f"[yellow]{TITLES[system]} is skipped: its prompts are longer than the model"
                    " reads"
                )
        if guide is not None and "fewshot" in self.predictions:
            self.generate("fewshot_constrained", self.job.model, prompts["fewshot"], guide)

    def generate_tuned(
        self,
        record: RunDirectory,
        prompts: Prompts,
        retrieved: RetrievedPassages,
        guide: Guide | None,
    ) -> None:
        """Ask the fine-tuned model, which takes the place of the base model in memory."""
        from hydratune.adapters import attach

        job, settings = self.job, self.job.config
        job.model = None
        model = attach.load_tuned(
            settings.model, settings.adapter, job.source, record.adapter, job.compute
        )
        self.generate("tuned", model, prompts)
        with_sources = with_passages(job.test_set, prompts, retrieved)
        if job.test_set.fits(with_sources):
            self.generate("tuned_rag", model, with_sources)
        if guide is not None:
            self.generate("tuned_constrained", model, prompts, guide)


def make_guide(job: "Job", config: DecideConfig) -> Guide | None:
    """Return what holds answers to the schema, if that was asked for. Raises ``ConfigError``."""
    return guide_for(job.test_set.schema, job.encoder, job.model) if config.constrained else None


def base_model_prompts(
    job: "Job", knowledge: Knowledge, config: DecideConfig
) -> dict[str, Prompts]:
    """Return system -> prompts of the base model."""
    documents = knowledge.library if config.knowledge else None
    return base_prompts(
        job.test_set, job.examples, knowledge.candidates, knowledge.retrieved, documents
    )


def decide_systems(
    systems: Systems, config: DecideConfig, settings: TrainConfig, record: RunDirectory | None
) -> DecisionResult:
    """Measure the systems and decide. Raises ``ConfigError`` if the metric was not measured."""
    test_set, predictions = systems.job.test_set, systems.predictions
    has_schema = test_set.schema is not None
    measures = {
        system: metrics.measures(rows, test_set.families, has_schema=has_schema)
        for system, rows in predictions.items()
    }
    label_metric = "label_accuracy" if "label" in test_set.families else None
    metric = config.metric or label_metric or _MAIN_METRICS[test_set.task]
    if metric not in measures["base"]:
        measured = ", ".join(name for name in measures["base"] if "/" not in name)
        why = f"not measured here; measured: {measured}"
        fix = "choose one of them, or add its family with evaluation.metrics"
        raise ConfigError([Problem("metric", metric, why, fix)])
    free = {system: own for system, own in measures.items() if not system.endswith(CONSTRAINED)}
    evaluation = settings.evaluation
    decided = decision.decide(free, predictions, metric, config.margin, evaluation)
    if record is not None and _was_still_learning(record):
        reason = (
            "the run was still learning at its end: with more epochs the fine-tuned model may do"
            " better"
        )
        decided = replace(decided, reasons=(*decided.reasons, reason))
    costs = {
        system: cost_of_calls(rows, systems.seconds[system]) for system, rows in predictions.items()
    }
    constrained = decision.constrained(measures, predictions, metric, evaluation)
    return DecisionResult(metric, measures, predictions, costs, decided, constrained)


def _was_still_learning(record: RunDirectory) -> bool:
    if not record.metrics_file.is_file():
        return False
    course = RunMetrics.read(record.metrics_file).course or {}
    return bool(course.get("verdict") == Verdict.learning.value)


def knowledge_line(job: "Job", knowledge: Knowledge, config: DecideConfig) -> str:
    """Return how many rows are asked and where passages are searched."""
    source = config.knowledge or "the training rows"
    return (
        f"{counted(len(job.test_set.rows), 'test row')};"
        f" {counted(len(knowledge.passages), 'passage')} to search in"
        f" ({source})"
    )
