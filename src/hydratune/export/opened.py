"""The fine-tuned model of a run and the test rows on which an export is compared with it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydratune.adapters.base import PromptAdapter
from hydratune.errors import Problem
from hydratune.experiment.finished_run import FinishedRun, load_model
from hydratune.settings.commands import EvaluateConfig
from hydratune.settings.export import ExportForm, ExportSettings
from hydratune.settings.model import ModelConfig, Quantization
from hydratune.settings.registry import variant_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hydratune.evaluation.assess import TestSet
    from hydratune.experiment.job import Job


@dataclass
class OpenedRun:
    """A finished run with its model in memory."""

    finished: FinishedRun
    job: "Job"
    model: "PreTrainedModel"  # the base with the adapter, or the model trained in full
    test_set: "TestSet"  # the rows of the parity check

    @property
    def adapter_folder(self) -> Path:
        """The folder with the trained weights."""
        return self.finished.record.adapter

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer of the run, with its chat template."""
        return self.job.tokenizer

    @property
    def has_quantised_base(self) -> bool:
        """Whether the adapter was trained on a base in 8 or 4 bits."""
        return self.job.config.model.quantization is not Quantization.none

    @property
    def unquantised(self) -> ModelConfig:
        """The settings of the model, for weights that are not to be quantised at loading."""
        return replace(self.job.config.model, quantization=Quantization.none)


def obstacles(finished: FinishedRun, forms: list[ExportForm]) -> Iterator[Problem]:
    """Yield why the fine-tuned model of a run cannot be written in a form."""
    adapter = finished.settings.adapter
    method = variant_name("adapter", adapter)
    for form in forms:
        if form is ExportForm.adapter and adapter.trains_base:
            why = f"the run trained the model itself (adapter={method}): there is no adapter"
            yield Problem("form", form.value, why, "set form=merged")
        elif form is not ExportForm.adapter and isinstance(adapter, PromptAdapter):
            why = (
                f"{method} puts trained vectors before every row, which cannot become part of the"
                " weights"
            )
            yield Problem("form", form.value, why, "set form=adapter, which PEFT loads")


def open_model(finished: FinishedRun, config: ExportSettings) -> OpenedRun:
    """Load the base model with the adapter of a run, and its test rows.

    The weights are in fp32, so that only the export can make a difference. A quantised base is as
    the run had it. Raises ``RunError`` if the data or the base model has changed.
    """
    if finished.settings.model.quantization is Quantization.none:
        finished.settings.trainer.precision = "32-true"
    as_evaluated = EvaluateConfig(
        run=config.run, batch_size=config.batch_size, accelerator=config.accelerator
    )
    job, model = load_model(finished, as_evaluated)
    opened = OpenedRun(finished, job, model, job.test_set.first(config.rows))
    if not opened.has_quantised_base:
        job.model = model  # frees the base without an adapter
    return opened
