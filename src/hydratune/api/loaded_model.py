"""A model that a program has loaded itself as the base of a run."""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

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

    @classmethod
    def of(cls, model: object, tokenizer: PreTrainedTokenizerBase | None) -> "ModelInMemory":
        """Return a loaded model with its tokenizer, by default that of the folder it is from.

        Raises ``InputError`` for what cannot be the base of a run.
        """
        if _has_adapter(model):
            raise InputError(
                "model: it has an adapter already; call unload() or merge_and_unload() of its"
                " PeftModel, and give what that returns"
            )
        if not isinstance(model, PreTrainedModel):
            raise InputError(
                f"model = a {type(model).__name__}: give a loaded model of transformers, such as"
                " AutoModelForCausalLM.from_pretrained(...); a folder or a hub id is named in the"
                ' settings: "model=hub model.id=ID" or "model=local model.path=FOLDER"'
            )
        return cls(model, tokenizer if tokenizer is not None else _tokenizer_of(model))

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """Leave in the model what a run changes of it: which parameters are trained."""
        before = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        try:
            yield
        finally:
            for parameter, requires_grad in before:
                parameter.requires_grad_(requires_grad)

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


def _has_adapter(model: object) -> bool:
    """Return whether a model has layers of PEFT."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return any(type(module).__module__.startswith("peft.") for module in modules)


def identity_of(model: PreTrainedModel) -> str:
    """Return a hash of names, shapes and contents of all tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(content.numpy().data)
    return f"memory:{digest.hexdigest()}"


def _tokenizer_of(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the folder from which ``model`` was loaded.

    Raises ``InputError`` if there is none.
    """
    folder = Path(str(getattr(model.config, "_name_or_path", "")))
    if not (folder / "tokenizer_config.json").is_file():
        raise InputError("model: give its tokenizer as well, as tokenizer=...")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        str(folder), trust_remote_code=False
    )
    return tokenizer
