"""A model without memory: its parameters, and what of it an adapter trains."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from hydratune.adapters import attach
from hydratune.errors import ConfigError, Problem
from hydratune.models import loading
from hydratune.models.catalogue.entries import ModelFacts, model_of, models
from hydratune.models.catalogue.structures import structures
from hydratune.settings.adapter import AdapterConfig
from hydratune.settings.model import ModelConfig, Quantization, Source
from hydratune.training.frozen import decoder_layers, frozen_layers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Structure:
    """The sizes of a model, as far as they are known."""

    config: "PretrainedConfig"
    parameters: int
    in_linears: int  # parameters of the linear layers that a quantised base stores as codes
    outside: int  # parameters outside of the language model, for images or sound
    source: str  # where the sizes are from
    facts: ModelFacts | None  # of the catalogue
    folder: Source | None  # where config and tokenizer are on this machine
    # the model of the catalogue of similar size whose config stands in for an unknown one
    stand_in: str | None = None


@dataclass(frozen=True)
class Trained:
    """What is trained of a model."""

    parameters: int
    added: int  # of them, those that the adapter adds
    largest: int  # parameters of the largest trained tensor
    frozen_layers: int  # layers at the bottom that are computed once
    layers: int
    trains_head: bool  # the output head is trained, so that all its logits exist at the same time


def find_structure(model: ModelConfig) -> Structure:
    """Return the sizes of a model: from its own config, or from the catalogue.

    A config on the hub is downloaded only if the catalogue lacks the model. Raises ``InputError``
    if nothing is known of it.
    """
    folder, name = model.folder_at_hand(), model.hub_name()
    facts = model_of(name) if name is not None else None
    if folder is not None:
        source = Source(str(folder), None, "")
        config = loading.load_config(model, source)
        return _of_config(config, f"the model's own config ({folder.name})", facts, source)
    known = structures().get(facts.name) if facts is not None else None
    if facts is not None and known is not None:
        said = f"the catalogue, from {known.source}, read on {known.checked}"
        found = _of_config(known.config(facts.context_window), said, facts, None)
        if known.is_whole:
            return found
        outside = max(0, facts.parameters - found.parameters)
        return replace(found, parameters=found.parameters + outside, outside=outside)
    if facts is not None:
        return _similar(facts)
    if model.hub_name() is None:
        key, value = model.own_name()
        why = "its sizes are not known before it is loaded"
        raise ConfigError(
            [Problem(key, value, why, "save it, and plan model=local model.path=DIR")]
        )
    config = loading.load_config(model, loading.locate(model))
    return _of_config(config, "the model's own config, from the hub", None, None)


def _similar(facts: ModelFacts) -> Structure:
    """Return the sizes of a model of which only the number of parameters is known.

    The config is that of the model of the catalogue with the nearest number of parameters.
    """
    name = min(structures(), key=lambda n: abs(math.log(models()[n].parameters / facts.parameters)))
    other = _of_config(structures()[name].config(facts.context_window), "", None, None)
    said = (
        "only the number of parameters is known, from the catalogue; everything else is estimated"
        f" with the sizes of model={name}"
    )
    in_linears = round(other.in_linears * facts.parameters / other.parameters)
    return Structure(other.config, facts.parameters, in_linears, 0, said, facts, None, name)


def _of_config(
    config: "PretrainedConfig", said: str, facts: ModelFacts | None, folder: Source | None
) -> Structure:
    model = without_memory(config)
    head = model.get_output_embeddings()
    linears = (m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
    in_linears = sum(m.weight.numel() for m in linears)
    total = sum(p.numel() for p in model.parameters())
    return Structure(config, total, in_linears, 0, said, facts, folder)


def without_memory(config: "PretrainedConfig") -> "PreTrainedModel":
    """Return the model of a config on the meta device: tensors with shapes and no memory."""
    with torch.device("meta"), no_init_weights():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return attach.prepare_quantised(model, Quantization.none)


def trained_part(structure: Structure, adapter: AdapterConfig, steps: int) -> Trained:
    """Return what ``adapter`` trains of a model.

    It is attached to the model without memory, so that the count is exact. Raises ``ConfigError``
    if it cannot be attached.
    """
    model = without_memory(structure.config)
    before = {id(parameter) for parameter in model.parameters()}
    plain = plain_start(adapter)
    attach.check(model, plain, steps)
    head = model.get_output_embeddings()
    with torch.device("meta"):  # PEFT would draw the first weights on the CPU
        tuned = attach.add_adapter(model, plain, steps)
    trained = [p for p in tuned.parameters() if p.requires_grad]
    layers = decoder_layers(model)
    return Trained(
        sum(p.numel() for p in trained),
        sum(p.numel() for p in trained if id(p) not in before),
        max((p.numel() for p in trained), default=0),
        frozen_layers(tuned),
        len(layers)
        if layers is not None
        else int(structure.config.get_text_config().num_hidden_layers),
        head is None or any(p.requires_grad for p in head.parameters()),
    )


def plain_start(adapter: AdapterConfig) -> AdapterConfig:
    """Return ``adapter`` with a start that needs no weights; its sizes stay."""
    if hasattr(adapter, "init_lora_weights"):
        return replace(adapter, init_lora_weights="true")  # type: ignore[call-arg]  # LoRA's
    return adapter
