"""A model that a program has loaded itself as the base of a run."""

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hydratune.adapters.attach import prepare_quantised
from hydratune.errors import ConfigError, InputError, Problem
from hydratune.experiment.context import LoadedBase
from hydratune.models import loading
from hydratune.models.compute import Compute
from hydratune.models.router_loss import refuse_router_loss
from hydratune.models.sources.loaded import LoadedModel
from hydratune.settings.commands import TrainConfig
from hydratune.settings.model import ModelConfig, Quantization, Source, name_without_path

_DTYPES = {torch.float32: "32-true or bf16-mixed", torch.bfloat16: "bf16-true"}


@dataclass(frozen=True)
class ModelInMemory:
    """A loaded model and its tokenizer. A run changes neither of them."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        """Raise ``InputError`` for a model that cannot be the base of a run."""
        if not isinstance(self.model, PreTrainedModel):
            what = f"model = a {type(self.model).__name__}"
            hint = (
                "; call its merge_and_unload() or unload() first"
                if _has_adapter(self.model)
                else ""
            )
            raise InputError(
                f"{what}: give a model of transformers, such as"
                f" AutoModelForCausalLM.from_pretrained(...){hint}"
            )
        if _has_adapter(self.model):
            raise InputError("model: it has an adapter already; call unload() of its PeftModel")

    def settings(self, given: ModelConfig) -> LoadedModel:
        """Return the settings of the model; ``given``: those of the user."""
        quantization = Quantization.none
        if getattr(self.model, "is_loaded_in_4bit", False):
            quantization = Quantization.nf4
        elif getattr(self.model, "is_loaded_in_8bit", False):
            quantization = Quantization.int8
        name = str(getattr(self.model.config, "_name_or_path", "") or type(self.model).__name__)
        return LoadedModel(
            name=name_without_path(name),
            chat_template=given.chat_template,
            quantization=quantization,
            identity=identity_of(self.model),
        )

    def load(self, config: TrainConfig, compute: Compute) -> LoadedBase:
        """Return the base of a run: a copy of the modules, with the same tensors.

        Raises ``ConfigError`` if the weights are not where, or not of the type, that the run needs.
        """
        _check_place(self.model, compute)
        assert isinstance(config.model, LoadedModel)
        model = loading.with_same_tensors(self.model)
        model = loading.prepare_model(model, config.model, compute)
        refuse_router_loss(config.model, model.config)
        model = prepare_quantised(model, config.model.quantization)
        tokenizer = loading.prepare_tokenizer(copy.deepcopy(self.tokenizer), config.model)
        name = str(getattr(self.model.config, "_name_or_path", "") or config.model.name)
        source = Source(name, None, config.model.identity)
        return LoadedBase(source, tokenizer, model)


def _check_place(model: PreTrainedModel, compute: Compute) -> None:
    if model.device != compute.device and model.device.type != compute.device.type:
        accelerator = {"cuda": "gpu"}.get(model.device.type, model.device.type)
        why = f"the run computes on {compute.device}"
        fix = f'trainer.accelerator={accelerator}, or model.to("{compute.device}")'
        raise ConfigError([Problem("model.device", model.device, why, fix)])
    is_quantised = getattr(model, "is_quantized", False)
    if model.dtype != compute.weights and not is_quantised:
        why = f"trainer.precision={compute.precision} needs weights in {compute.weights}"
        fix = f"model.to({compute.weights})"
        if (precision := _DTYPES.get(model.dtype)) is not None:
            fix += f", or trainer.precision={precision}"
        raise ConfigError([Problem("model.dtype", model.dtype, why, fix)])


def _has_adapter(model: nn.Module) -> bool:
    """Return whether a model has layers of PEFT."""
    named = getattr(model, "named_modules", None)
    return named is not None and any(type(m).__module__.startswith("peft.") for _, m in named())


def identity_of(model: PreTrainedModel) -> str:
    """Return a hash of names, shapes and contents of all tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(content.numpy().data)
    return f"memory:{digest.hexdigest()}"


def tokenizer_of(model: object) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the folder or hub id from which ``model`` was loaded.

    Raises ``InputError`` if there is none.
    """
    from transformers import AutoTokenizer

    name = str(getattr(getattr(model, "config", None), "_name_or_path", ""))
    if not Path(name).is_dir():
        raise InputError("model: give its tokenizer as well, as tokenizer=...")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    return tokenizer
