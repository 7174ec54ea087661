"""What is measured of the base model and of the fine-tuned one, each by one probe.

``before`` measures the base model (``job.model`` without an adapter) and keeps what it needs;
``after`` measures the fine-tuned model, writes the probe's own files and returns its metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hydratune.cache import cache_folder
from hydratune.console import console
from hydratune.data.rows import Message, stable_hash
from hydratune.evaluation import assess, canaries, forgetting, memorisation, metrics, panel
from hydratune.experiment.job import Job
from hydratune.records.files import Json, write_jsonl
from hydratune.records.predictions import Prediction, write_predictions
from hydratune.records.run_directory import RunDirectory, RunFile
from hydratune.settings.evaluation import Baseline
from hydratune.settings.registry import plain


@dataclass
class ProbeResult:
    """What a probe measured: metrics and their confidence intervals, by name."""

    values: dict[str, Json] = field(default_factory=dict)
    intervals: dict[str, list[float]] = field(default_factory=dict)


class Probe(Protocol):
    """One measurement of the base model and of the fine-tuned model."""

    def before(self) -> None:
        """Measure the base model."""

    def after(self) -> ProbeResult:
        """Measure the fine-tuned model, and compare."""


class TestRowsProbe:
    """The answers to the test rows: of the base model with each prompt, and fine-tuned."""

    __test__ = False  # no test of pytest's

    def __init__(self, job: Job, record: RunDirectory) -> None:
        self._job, self._record = job, record
        self.predictions: dict[str, list[Prediction]] = {}  # by system: base, fewshot, eval

    def before(self) -> None:
        for baseline in self._job.config.evaluation.baselines:
            if baseline is Baseline.base:
                prompts = self._job.test_set.zero_shot()
                self._answer_or_reuse(baseline, "base model, zero-shot", prompts)
            elif self._job.examples:
                prompts = self._job.test_set.few_shot(self._job.examples)
                title = f"base model, {len(self._job.examples)}-shot"
                self._answer_or_reuse(baseline, title, prompts)

    def after(self) -> ProbeResult:
        prompts = self._job.test_set.zero_shot()
        with self._job.timed("fine-tuned model on the test rows"):
            self._answer("eval", "fine-tuned", prompts)
        measured = ProbeResult()
        has_schema = self._job.test_set.schema is not None
        for system, rows in self.predictions.items():
            values, intervals = metrics.flat_with_clean(
                system, rows, self._job.config.evaluation, has_schema=has_schema
            )
            measured.values |= values
            measured.intervals |= intervals
        return measured

    def _answer_or_reuse(
        self, baseline: Baseline, title: str, prompts: Sequence[Sequence[Message]]
    ) -> None:
        """Take the answers of the base model from the cache, if the same were computed before."""
        job, system = self._job, baseline.value
        key = job.test_set.cache_key(job.source.identity, prompts, job.model)
        file = cache_folder() / "baselines" / f"{key}.jsonl"
        with job.timed(title), job.context.resources.one_at_a_time(key):
            stored = assess.cached(file) if job.config.evaluation.reuse_baselines else None
            if stored is None:
                self._answer(system, title, prompts)
                assess.remember(file, self.predictions[system])
                return
            console.print(
                f"{title}: taken from the cache ({key}); evaluation.reuse_baselines=false computes"
                " it again"
            )
            self.predictions[system] = job.test_set.rescored(stored)
            write_predictions(self._record.predictions_file(system), self.predictions[system])

    def _answer(self, system: str, title: str, prompts: Sequence[Sequence[Message]]) -> None:
        """Let the model in its present state answer the test rows, and write its answers down."""
        job, pool = self._job, self._job.context.compute.pool
        self.predictions[system] = job.test_set.generate(
            job.model, prompts, title=title, pad=job.pad, pool=pool
        )
        write_predictions(self._record.predictions_file(system), self.predictions[system])


class ForgettingProbe:
    """What fine-tuning costs on texts, questions and instructions that have nothing to do with it.

    What is measured of the base model is shared by the runs of a process.
    """

    def __init__(self, job: Job, record: RunDirectory) -> None:
        self._job, self._record = job, record
        self._base: forgetting.PanelScores | None = None

    def before(self) -> None:
        job, config = self._job, self._job.config.evaluation.forgetting
        if not config.measure:
            return
        with job.timed("the panel, before"):
            items = panel.load(config)
            key = stable_hash([items.fingerprint, plain(config), job.test_set.context])
            self._base = job.context.resources.shared(
                f"panel {key}", lambda: self._measure(items, "the panel, before")
            )

    def after(self) -> ProbeResult:
        job, config = self._job, self._job.config.evaluation
        if self._base is None:
            return ProbeResult()
        with job.timed("the panel, after"):
            tuned = self._measure(panel.load(config.forgetting), "the panel, after")
        rows = forgetting.join_records(self._base, tuned)
        write_jsonl(self._record.file(RunFile.forgetting), rows)
        return ProbeResult(
            *forgetting.summary(
                rows, config.forgetting, config.confidence, config.bootstrap_samples
            )
        )

    def _measure(self, items: panel.Panel, title: str) -> forgetting.PanelScores:
        job = self._job
        return forgetting.measure(
            job.model,
            job.encoder,
            items,
            job.config.evaluation.forgetting,
            pad=job.pad,
            window=job.test_set.context,
            title=title,
            pool=job.context.compute.pool,
        )


class MemorisationProbe:
    """How much of its training rows the fine-tuned model has memorised.

    Held-out rows take the place of the base model, so there is nothing to measure before.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def before(self) -> None:
        pass

    def after(self) -> ProbeResult:
        job, config = self._job, self._job.config.evaluation
        if not config.memorisation:
            return ProbeResult()
        with job.timed("memorisation"):
            rows = zip(job.sets.train, job.train, strict=True)
            results = memorisation.measure(
                job.model,
                [tokens for row, tokens in rows if not canaries.is_canary(row)],
                job.validation,
                config.memorisation,
                stop=job.encoder.turn_end_ids,
                batch_size=config.batch_size,
                pad=job.pad,
                pool=job.context.compute.pool,
            )
        return ProbeResult(*memorisation.summary(results, config.confidence))


class CanaryProbe:
    """How far the secrets of the canaries are exposed, trained ones and others.

    What is measured of the base model is shared by the runs of a process.
    """

    def __init__(self, job: Job, record: RunDirectory) -> None:
        self._job, self._record = job, record
        self._base: list[dict[str, Json]] = []

    def before(self) -> None:
        if self._job.config.evaluation.canaries:
            self._base = self._job.context.resources.shared("canaries", self._measure)

    def after(self) -> ProbeResult:
        config = self._job.config.evaluation
        if not config.canaries:
            return ProbeResult()
        rows = canaries.join_records(self._base, self._measure())
        write_jsonl(self._record.file(RunFile.canaries), rows)
        return ProbeResult(*canaries.summary(rows, config.confidence, config.bootstrap_samples))

    def _measure(self) -> list[dict[str, Json]]:
        job, config = self._job, self._job.config
        never_trained = canaries.make_canaries(
            config.evaluation.canaries, config.seed, config.data.system_prompt, trained=False
        )
        with job.timed("canaries"):
            return canaries.measure(
                job.model,
                job.encoder,
                [row for row in job.sets.train if canaries.is_canary(row)],
                never_trained,
                config.seed,
                pad=job.pad,
                pool=job.context.compute.pool,
            )
