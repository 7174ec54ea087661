"""What a training step takes for each token: measured on a small model of the same kind.

The activations of a layer are tensors of (tokens, some width), so their bytes grow with the widths.
The real training step (``training.objective``) runs on this CPU with one and with two layers whose
widths are divided by a factor, and every tensor that lives is counted; the difference is a layer,
and times the factor it is a layer of the real model. Nothing of the real size is allocated.
"""

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from hydratune.adapters import attach
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.rows import stable_hash
from hydratune.errors import InputError
from hydratune.models.compute import as_trained, on_cpu
from hydratune.models.loading import prepare_model
from hydratune.planning.live_memory import LiveMemory
from hydratune.planning.structure import Trained, plain_start
from hydratune.settings.adapter import AdapterConfig
from hydratune.settings.commands import TrainConfig
from hydratune.settings.model import Quantization
from hydratune.settings.registry import plain
from hydratune.training.objective import Objective
from hydratune.training.patches import with_lean_layers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_FEW, _MANY = 128, 256  # tokens of the two measured steps
_STEPS = 100  # of a run, as AdaLoRA wants to know
_VOCABULARY = 64
_LARGEST_FACTOR = 8
_LEAST_HEAD = 32  # width of a head that is not divided further
_WIDTHS = ("hidden_size", "intermediate_size", "moe_intermediate_size")
_HEADS = ("num_attention_heads", "num_key_value_heads")


@dataclass(frozen=True)
class StepCost:
    """The bytes that a training step takes for a token, at its peak."""

    per_token: float
    of_a_layer: float  # of them, for each layer


def step_cost(config: TrainConfig, model: "PretrainedConfig", trained: Trained) -> StepCost:
    """Return what a token of a training step takes in fp32; in bf16 it is about half of it.

    Layers below the first trained one keep nothing. Raises ``InputError`` if a small model of this
    kind cannot be made.
    """
    text = copy.deepcopy(model.get_text_config())
    factor = _factor(text)
    adapter = _smaller(config.adapter, factor)
    checkpointing = config.trainer.gradient_checkpointing
    one, two = (measured(Small(text, factor, layers, adapter, checkpointing)) for layers in (1, 2))
    of_a_layer = max(0.0, two - one) * factor
    rest = max(0.0, one * factor - of_a_layer)
    layers = trained.layers - trained.frozen_layers
    return StepCost(rest + layers * of_a_layer, of_a_layer)


@dataclass(frozen=True)
class Small:
    """A small model of the same kind, and how it is trained."""

    config: "PretrainedConfig"
    factor: int  # by which its widths are divided
    layers: int
    adapter: AdapterConfig
    checkpointing: bool

    def build(self) -> "PreTrainedModel":
        from transformers import AutoModelForCausalLM

        config = copy.deepcopy(self.config)
        kv = _divided_heads(config)
        for name in _WIDTHS:
            width = getattr(config, name, None)
            if isinstance(width, int):
                setattr(config, name, max(8, -(-width // self.factor)))
        head = _head_width(self.config)
        for name in _HEADS:
            if isinstance(getattr(config, name, None), int):
                setattr(config, name, getattr(config, name) // kv)
        if isinstance(getattr(config, "head_dim", None), int):
            config.head_dim = head * kv // self.factor
        config.num_hidden_layers, config.vocab_size = self.layers, _VOCABULARY
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: self.layers]
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, name, None)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        return model


_MEASURED: dict[str, float] = {}  # trials of a sweep share what was measured


def measured(small: Small) -> float:
    """Return the bytes of a token in a training step of a small model, at its peak.

    Raises ``InputError`` if the model cannot be made.
    """
    content = [small.config.to_dict(), small.factor, small.layers, plain(small.adapter)]
    key = stable_hash([content, small.checkpointing])
    if key not in _MEASURED:
        _MEASURED[key] = _measured(small)
    return _MEASURED[key]


def _measured(small: Small) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = small.build()
            base = attach.prepare_quantised(model, Quantization.none)
            adapter = _on_all_layers(small.adapter, small.layers)
            tuned = with_lean_layers(attach.add_adapter(_ready(base), adapter, _STEPS))
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            kind = type(small.config).__name__
            raise InputError(f"no small {kind} can be made to measure a step: {error}") from error
        tuned.train()
        objective = Objective(
            tuned,
            micro_tokens=2 * _MANY,
            workers=1,
            share=False,
            checkpointing=small.checkpointing,
        )
        peaks = []
        for tokens in (_FEW, _MANY):
            with as_trained(tuned), LiveMemory(list(tuned.parameters())) as memory:
                objective.gradients(_rows(tokens))
            peaks.append(memory.peak)
    # the difference leaves out what does not grow with the tokens: gradients of weights
    return max(0.0, peaks[1] - peaks[0]) / (_MANY - _FEW)


def _on_all_layers(adapter: AdapterConfig, layers: int) -> AdapterConfig:
    """Return ``adapter``; one that trains chosen layers in full trains all of a small model."""
    if hasattr(adapter, "last_layers"):
        return replace(adapter, last_layers=layers, trainable=[])  # type: ignore[call-arg]
    return adapter


def _ready(model: "PreTrainedModel") -> "PreTrainedModel":
    """Return ``model`` as ``load_model`` would: in evaluation mode, its packing chosen."""
    from hydratune.models.sources.hub import HubModel

    return prepare_model(model, HubModel(name="small", id="small/model"), on_cpu())


def _rows(tokens: int) -> list[Encoded]:
    """Return two rows that begin differently, a third of whose tokens are trained."""
    length = tokens // 2
    mask = tuple(i > 2 * length // 3 for i in range(length + 1))
    return [
        Encoded(tuple((first + i) % _VOCABULARY for i in range(length + 1)), mask)
        for first in range(2)
    ]


def _head_width(config: "PretrainedConfig") -> int:
    own = getattr(config, "head_dim", None)
    return own if isinstance(own, int) else config.hidden_size // config.num_attention_heads


def _divided_heads(config: "PretrainedConfig") -> int:
    """Return the largest divisor, up to 8, of the heads of keys: by so much heads are divided."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    fitting = [n for n in range(1, _LARGEST_FACTOR + 1) if heads % n == 0]
    return max(fitting)


def _factor(config: "PretrainedConfig") -> int:
    """Return by how much all widths are divided: the heads, and where few are, their width."""
    heads, head = _divided_heads(config), _head_width(config)
    has_own_width = isinstance(getattr(config, "head_dim", None), int)
    factor = heads
    while (
        has_own_width
        and factor * 2 <= _LARGEST_FACTOR
        and head % 2 == 0
        and head // 2 >= _LEAST_HEAD
    ):
        factor, head = factor * 2, head // 2
    return factor


def _smaller(adapter: AdapterConfig, factor: int) -> AdapterConfig:
    """Return ``adapter`` with a rank divided by ``factor``, for all layers of the small model."""
    changed: dict[str, object] = {}
    if isinstance(r := getattr(adapter, "r", None), int) and r > 0:
        changed["r"] = max(1, round(r / factor))
    unset: dict[str, object] = {
        "layers_to_transform": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    changed |= {name: value for name, value in unset.items() if hasattr(adapter, name)}
    return replace(plain_start(adapter), **changed)  # type: ignore[arg-type]
