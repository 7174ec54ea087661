"""Settings of the optimizer and of the learning-rate schedule."""

from dataclasses import dataclass, field
from enum import StrEnum

from hydratune.settings.registry import variant


class Schedule(StrEnum):
    """Learning rate after warm-up. All but ``constant`` end at ``optimizer.min_lr_ratio``."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"
    # warm-up, stable, decay: falls only in the last ``optimizer.decay_ratio`` of the steps
    # (arXiv:2404.06395)
    wsd = "wsd"
    polynomial = "polynomial"  # (1 - share done) ** ``optimizer.power``


class MuonRate(StrEnum):
    """How Muon's learning rate follows a matrix's shape; names are torch's."""

    original = "original"  # lr * sqrt(max(1, rows / columns))
    # lr * 0.2 sqrt(max(rows, columns)): AdamW's lr and weight decay fit (arXiv:2502.16982)
    match_rms_adamw = "match_rms_adamw"


@dataclass
class OptimizerConfig:
    """What every optimizer shares: the learning rate, its schedule, and which parameters get how
    much of it.

    A parameter's learning rate is ``lr`` times the schedule's factor times the factors of
    ``lr_groups``, ``loraplus_lr_ratio`` and ``layer_lr_decay``. Patterns are regular expressions
    looked for anywhere in a parameter's name
    (``model.layers.0.self_attn.q_proj.lora_A.default.weight``); of those that match, the first
    counts.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0  # decoupled: a step takes lr * weight_decay of the weight away
    # also what has one dimension: norms, biases, adapters' scaling vectors
    decay_norms_and_biases: bool = False
    schedule: Schedule = Schedule.cosine
    warmup_ratio: float | None = 0.05  # share of all optimizer steps
    warmup_steps: int | None = None  # optimizer steps, instead of warmup_ratio
    min_lr_ratio: float = 0.0  # the schedule ends at lr * min_lr_ratio
    # of schedule=wsd: share of all optimizer steps, the last ones, in which the rate falls
    # linearly
    decay_ratio: float = 0.2
    power: float = 2.0  # of schedule=polynomial; 1 is linear
    # learning rate of LoRA's B over that of A (LoRA+, arXiv:2402.12354); null: 1
    loraplus_lr_ratio: float | None = None
    # each layer below the top learns at this times the rate of the one above; null: 1
    layer_lr_decay: float | None = None
    lr_groups: dict[str, float] = field(default_factory=dict)  # pattern -> factor of lr
    # pattern -> factor of weight_decay
    weight_decay_groups: dict[str, float] = field(default_factory=dict)


@variant("optimizer", "adamw")
@dataclass
class AdamWOptimizer(OptimizerConfig):
    """AdamW (arXiv:1711.05101), torch's fused kernel where there is one."""

    kind: str = "adamw"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8


@variant("optimizer", "adamw_8bit")
@dataclass
class AdamW8bitOptimizer(AdamWOptimizer):
    """AdamW whose moments are 8-bit codes, in blocks of 256 (arXiv:2110.02861, bitsandbytes): a
    quarter of the memory.
    """

    kind: str = "adamw_8bit"


@variant("optimizer", "paged_adamw")
@dataclass
class PagedAdamWOptimizer(AdamWOptimizer):
    """AdamW whose moments move to the CPU's memory when the GPU's is full (arXiv:2305.14314,
    bitsandbytes).
    """

    kind: str = "paged_adamw"


@variant("optimizer", "paged_adamw_8bit")
@dataclass
class PagedAdamW8bitOptimizer(AdamWOptimizer):
    """Both: 8-bit moments that move to the CPU's memory when the GPU's is full."""

    kind: str = "paged_adamw_8bit"


@variant("optimizer", "adafactor")
@dataclass
class AdafactorOptimizer(OptimizerConfig):
    """Adafactor (arXiv:1804.04235) as transformers has it, with a given learning rate: moments of
    rows and columns only.

    torch's own always scales the step by the size of the weights, which nearly stands still where
    LoRA's B begins: at 0.
    """

    kind: str = "adafactor"
    clip_threshold: float = 1.0  # root mean square of an update
    decay_rate: float = -0.8  # of the second moment, as a power of the step
    beta1: float | None = None  # null: no first moment
    scale_parameter: bool = False  # the step is lr times the size of the weights


@variant("optimizer", "lion")
@dataclass
class LionOptimizer(OptimizerConfig):
    """Lion (arXiv:2302.06675, bitsandbytes): steps by the sign, so it wants 3 to 10 times less lr
    than AdamW.
    """

    kind: str = "lion"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])


@variant("optimizer", "lion_8bit")
@dataclass
class Lion8bitOptimizer(LionOptimizer):
    """Lion with an 8-bit momentum."""

    kind: str = "lion_8bit"


@variant("optimizer", "muon")
@dataclass
class MuonOptimizer(OptimizerConfig):
    """Muon (Jordan et al. 2024) for hidden weight matrices in full fine-tuning; the rest is trained
    by AdamW.
    """

    kind: str = "muon"
    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5  # Newton-Schulz iterations
    adjust_lr_fn: MuonRate = MuonRate.match_rms_adamw
    # of AdamW: embeddings, output head, norms, biases
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8  # likewise


@variant("optimizer", "sgd")
@dataclass
class SgdOptimizer(OptimizerConfig):
    """Stochastic gradient descent with momentum; wants a far higher lr than the others.

    Weight decay goes into the gradient (L2).
    """

    kind: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
