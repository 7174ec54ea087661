"""The fine-tuned model of a run, loaded to generate."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from transformers import GenerationConfig

from hydratune import digests
from hydratune.adapters import attach
from hydratune.adapters.peft_warnings import hidden_peft_warnings
from hydratune.api.loaded_model import identity_of
from hydratune.errors import InputError, RunError
from hydratune.experiment.finished_run import has_adapter
from hydratune.models import loading
from hydratune.models.compute import Compute, for_answers, on_cpu
from hydratune.records.environment import Environment
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.commands import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(
    record: RunDirectory,
    config: TrainConfig,
    base: "PreTrainedModel | None",
    device: "str | torch.device | None",
) -> "tuple[PeftModel | PreTrainedModel, PreTrainedTokenizerBase]":
    """Return the fine-tuned model of a run in evaluation mode, and its tokenizer."""
    if not has_adapter(record):
        raise RunError(f"{record.adapter} holds no weights (*.safetensors); nothing was trained")
    if base is not None:
        model = _with_adapter(base, record)
    else:
        source = config.model.locate()
        compute = _compute(device)
        model = attach.load_tuned(config.model, config.adapter, source, record.adapter, compute)
        if not config.adapter.trains_base:
            _check_identity(record, loading.identified(source, config.model, model).identity)
    if (record.adapter / "generation_config.json").is_file():  # where an answer ends
        model.generation_config = GenerationConfig.from_pretrained(str(record.adapter))
    tokenizer = loading.tokenizer_in(record.adapter, config.model)
    return model.eval(), tokenizer


def _with_adapter(base: "PreTrainedModel", record: RunDirectory) -> PeftModel:
    """Return a loaded base model with the adapter of a run; the modules of ``base`` stay as they
    are.
    """
    if (damage := digests.damaged(record.adapter)) is not None:
        raise RunError(damage)
    recorded = Environment.read(record.environment_file).base
    if str(recorded).startswith("memory:"):
        _check_identity(record, identity_of(base))
    with hidden_peft_warnings():
        return PeftModel.from_pretrained(loading.with_same_tensors(base), str(record.adapter))


def _check_identity(record: RunDirectory, identity: str) -> None:
    """Raise ``RunError`` if ``identity`` is not that of the base model that was trained."""
    recorded = Environment.read(record.environment_file).base
    if recorded != identity:
        raise RunError(
            f"{record.path}: this is not the base model that was trained: {recorded} then,"
            f" {identity} now"
        )


def _compute(device: "str | torch.device | None") -> Compute:
    """Return the device on which a model generates, with its number format."""
    if device is None:
        return for_answers()
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device = {device}: give cpu, cuda or cuda:NUMBER") from error
    if place.type == "cpu":
        return on_cpu()
    if place.type != "cuda" or not torch.cuda.is_available():
        raise InputError(f"device = {device}: this machine has no such device; give cpu")
    return replace(for_answers(), device=place)
