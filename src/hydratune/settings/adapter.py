"""Settings of what is trained: the adapter methods, or the model itself."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hydratune.settings.registry import variant


class LoraBias(StrEnum):
    """Which biases of the base are trained beside LoRA."""

    none = "none"
    all = "all"
    lora_only = "lora_only"  # those of the target layers


class PromptInit(StrEnum):
    """How virtual tokens begin."""

    SAMPLE_VOCAB = "SAMPLE_VOCAB"  # as embeddings of random words
    RANDOM = "RANDOM"
    TEXT = "TEXT"  # as the embeddings of prompt_tuning_init_text


class PrefixInit(StrEnum):
    """How trained keys and values begin."""

    zero = "zero"  # the model nearly as it was
    random = "random"  # normal distribution: far from the model as it was


@dataclass
class AdapterConfig:
    """What is trained."""


@dataclass
class PeftAdapter(AdapterConfig):
    """A method of PEFT on a frozen base; field names are PEFT's."""

    # any other field of the method's PEFT config, checked against it
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class LayerAdapter(PeftAdapter):
    """A method that adds something to linear layers."""

    target_modules: list[str] | None = field(default_factory=lambda: ["all-linear"])
    # names, regular expressions of whole names, or all-linear (all but the output head); null:
    # PEFT's choice for the architecture
    # names or regular expressions of what is no target after all
    exclude_modules: list[str] = field(default_factory=list)
    layers_to_transform: list[int] | None = None  # numbers of the layers, from 0; null: all
    # what the model calls its list of layers; null: layers, h, block, blocks or layer
    layers_pattern: str | None = None
    # modules that are trained in full and saved with the adapter
    modules_to_save: list[str] = field(default_factory=list)


@variant("adapter", "lora")
@dataclass
class LoraAdapter(LayerAdapter):
    """Low-rank adaptation (arXiv:2106.09685) and its relatives, which differ in scale, form and
    start.
    """

    method: str = "lora"
    r: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.0
    # scaled by alpha / sqrt(r) instead of alpha / r (rsLoRA, arXiv:2312.03732)
    use_rslora: bool = False
    use_dora: bool = False  # direction by LoRA, magnitude on its own (DoRA, arXiv:2402.09353)
    # true, gaussian, orthogonal, pissa, pissa_niter_N, olora or loftq
    init_lora_weights: str = "true"
    # names or regular expressions of layers -> their own r
    rank_pattern: dict[str, int] = field(default_factory=dict)
    # likewise -> their own lora_alpha
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    bias: LoraBias = LoraBias.none


@variant("adapter", "adalora")
@dataclass
class AdaLoraAdapter(LayerAdapter):
    """LoRA whose ranks are dealt out during training by importance (AdaLoRA, arXiv:2303.10512)."""

    method: str = "adalora"
    init_r: int = 12  # rank of every layer at the start
    target_r: int = 8  # mean rank at the end
    lora_alpha: float = 32
    lora_dropout: float = 0.0
    tinit: int | None = None  # optimizer steps before ranks begin to fall; null: a tenth of the run
    # optimizer steps at the end with ranks fixed; null: a fifth of the run
    tfinal: int | None = None
    deltaT: int = 1  # optimizer steps between two allocations
    beta1: float = 0.85  # smoothing of a weight's importance
    beta2: float = 0.85  # smoothing of its uncertainty
    # weight of the orthogonal regularisation, which is added to the loss
    orth_reg_weight: float = 0.5


@variant("adapter", "ia3")
@dataclass
class Ia3Adapter(LayerAdapter):
    """Learned factors on keys, values and feed-forward activations ((IA)^3, arXiv:2205.05638)."""

    method: str = "ia3"
    # targets whose input is scaled instead of the output; null: PEFT's choice
    feedforward_modules: list[str] | None = None


@variant("adapter", "vera")
@dataclass
class VeraAdapter(LayerAdapter):
    """Random projections shared by all layers, trained scaling vectors for each (VeRA,
    arXiv:2310.11454).
    """

    method: str = "vera"
    r: int = 256  # far higher than in LoRA: a rank costs one number per layer
    d_initial: float = 0.1
    vera_dropout: float = 0.0
    projection_prng_key: int = 0  # of the random projections
    # false: a smaller file, drawn again on loading, perhaps differently elsewhere
    save_projection: bool = True


@variant("adapter", "oft")
@dataclass
class OftAdapter(LayerAdapter):
    """Orthogonal rotation of the inputs by blocks (OFT, arXiv:2306.07280)."""

    method: str = "oft"
    oft_block_size: int = 32  # must divide the input width of every target
    module_dropout: float = 0.0
    coft: bool = False  # keeps the rotation within eps
    eps: float = 6e-5
    block_share: bool = False  # one block for a whole layer
    # a series instead of a matrix inverse: faster, nearly orthogonal
    use_cayley_neumann: bool = True
    num_cayley_neumann_terms: int = 5


@dataclass
class PromptAdapter(PeftAdapter):
    """Virtual tokens before every row."""

    num_virtual_tokens: int = 20


@variant("adapter", "prompt_tuning")
@dataclass
class PromptTuning(PromptAdapter):
    """Trained embeddings before every row (arXiv:2104.08691)."""

    method: str = "prompt_tuning"
    prompt_tuning_init: PromptInit = PromptInit.SAMPLE_VOCAB
    # with TEXT: its tokens are repeated or cut to num_virtual_tokens
    prompt_tuning_init_text: str | None = None


@variant("adapter", "prefix_tuning")
@dataclass
class PrefixTuning(PromptAdapter):
    """Trained keys and values before every row, in every layer (arXiv:2101.00190)."""

    method: str = "prefix_tuning"
    prefix_projection: bool = False  # through a small network while training
    encoder_hidden_size: int | None = None  # its width; null: that of the keys of one layer
    init_weights: PrefixInit = PrefixInit.zero


@variant("adapter", "none")
@dataclass
class FullFinetune(AdapterConfig):
    """No adapter: every parameter is trained."""

    method: str = "none"


@variant("adapter", "freeze")
@dataclass
class PartialFinetune(FullFinetune):
    """No adapter: chosen parameters are trained in full, all others stay frozen."""

    method: str = "freeze"
    last_layers: int = 2  # the top layers that are trained
    # further modules or parameters: names or regular expressions of whole names
    trainable: list[str] = field(default_factory=list)
