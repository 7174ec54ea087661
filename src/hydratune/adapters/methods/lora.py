"""LoRA (arXiv:2106.09685), rsLoRA, DoRA, and the starts that depend on the base's weights."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from hydratune.adapters.base import LayerAdapter, dropout_problems
from hydratune.errors import Problem
from hydratune.settings.adapter import AdapterContext
from hydratune.settings.model import Quantization
from hydratune.settings.ranges import at_least
from hydratune.settings.registry import variant

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

_STARTS = r"(?i:true)|gaussian|orthogonal|pissa(_niter_\d+)?|olora|loftq"
# PEFT's starts after which the base of the weights is not the untouched one
BASE_CHANGING_STARTS = ("pissa", "olora", "corda", "lora_ga")
NAMED_STARTS = ("pissa", "olora", "loftq")  # those that are options of adapter=


class LoraBias(StrEnum):
    """Which biases of the base are trained beside LoRA."""

    none = "none"  # no bias
    all = "all"  # every bias of the model
    lora_only = "lora_only"  # those of the layers that get an adapter


@variant("adapter", "lora")
@dataclass
class LoraAdapter(LayerAdapter):
    """Low-rank adaptation (arXiv:2106.09685) and relatives with another scale, form or start."""

    peft_type: ClassVar[str] = "LORA"
    title: ClassVar[str] = "LoRA"
    size_field: ClassVar[str] = "r"
    runs_in_vllm: ClassVar[bool] = True
    supports_quantized_base: ClassVar[bool] = True
    saves_tied_embeddings: ClassVar[bool] = True

    method: str = "lora"
    r: int = 16  # rank of the change of a layer
    lora_alpha: float = 32  # the change is multiplied by lora_alpha / r
    lora_dropout: float = 0.0  # share of the inputs of LoRA that is dropped in training
    # scaled by alpha / sqrt(r) instead of alpha / r (rsLoRA, arXiv:2312.03732)
    use_rslora: bool = False
    use_dora: bool = False  # direction by LoRA, magnitude on its own (DoRA, arXiv:2402.09353)
    # true, gaussian, orthogonal, pissa, pissa_niter_N, olora or loftq
    init_lora_weights: str = "true"
    # names or regular expressions of layers -> their own r
    rank_pattern: dict[str, int] = field(default_factory=dict)
    # names or regular expressions of layers -> their own lora_alpha
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    bias: LoraBias = LoraBias.none  # which biases of the base are trained as well

    def problems(self, context: AdapterContext) -> Iterator[Problem]:
        yield from super().problems(context)
        yield from dropout_problems("adapter.lora_dropout", self.lora_dropout)
        if not self.lora_alpha > 0:
            fix = "usual: 2 * adapter.r"
            yield Problem("adapter.lora_alpha", self.lora_alpha, "must be above 0", fix)
        yield from at_least("adapter.r", self.r, 1)
        for pattern, r in self.rank_pattern.items():
            low = at_least(f"adapter.rank_pattern.{pattern}", r, 1)
            yield from (replace(problem, fix="set it to 1 or more") for problem in low)
        yield from self._unreadable_patterns()
        yield from self._start_problems(context.quantization)

    def _unreadable_patterns(self) -> Iterator[Problem]:
        for name in ("rank_pattern", "alpha_pattern"):
            for pattern in getattr(self, name):
                try:
                    re.compile(pattern)
                except re.error as error:
                    why = f"not a regular expression ({error})"
                    fix = "give the name of a layer, or mend the expression"
                    yield Problem(f"adapter.{name}", pattern, why, fix)

    def _start_problems(self, quantization: Quantization) -> Iterator[Problem]:
        """Yield what does not fit ``init_lora_weights``."""
        key, start = "adapter.init_lora_weights", self.init_lora_weights
        if not re.fullmatch(_STARTS, start):
            fix = "one of: true, gaussian, orthogonal, pissa, pissa_niter_16, olora, loftq"
            yield Problem(key, start, "no such start", fix)
        if start == "orthogonal":
            yield from self._odd_ranks()
        if start == "loftq" and quantization is not Quantization.nf4:
            why = (
                "it makes up for what 4-bit quantisation loses, and"
                f" model.quantization={quantization.value}"
            )
            yield Problem(key, start, why, "set model.quantization=nf4, or adapter=lora")
        if self.changes_base() and quantization is not Quantization.none:
            why = (
                "it takes a part out of the base's weights; quantised, the rest would be another"
                " base than the one the adapter is saved for"
            )
            loftq = "adapter.init_lora_weights=loftq"
            if quantization is not Quantization.nf4:
                loftq += f" model.quantization={Quantization.nf4.value}"
            fix = f"set {loftq}, or adapter.init_lora_weights=true, or model.quantization=none"
            yield Problem(key, start, why, fix)
        if start == "loftq" and self.use_dora:
            why = "DoRA's magnitudes would not fit LoftQ's start"
            yield Problem(
                "adapter.use_dora", True, why, "leave out adapter.use_dora, or set adapter=dora"
            )

    def _odd_ranks(self) -> Iterator[Problem]:
        """Yield the ranks with which an orthogonal start is impossible."""
        why = "an orthogonal start needs even ranks"
        if self.r % 2:
            yield Problem("adapter.r", self.r, why, f"set adapter.r={self.r + 1}")
        for pattern, r in self.rank_pattern.items():
            if r % 2:
                yield Problem(f"adapter.rank_pattern.{pattern}", r, why, f"set it to {r + 1}")

    def model_problems(self, model: "PreTrainedModel", steps: int | None) -> Iterator[Problem]:
        from hydratune.adapters.lora_rules import lora_problems

        yield from super().model_problems(model, steps)
        yield from lora_problems(model, self)

    def peft_values(self, model: "PreTrainedModel", steps: int) -> dict[str, object]:
        start = self.init_lora_weights
        return super().peft_values(model, steps) | {
            # LoftQ's start is computed afterwards, from the weights before quantisation
            "init_lora_weights": True if start.lower() in ("true", "loftq") else start,
            "rank_pattern": dict(self.rank_pattern),
            "alpha_pattern": dict(self.alpha_pattern),
            "bias": self.bias.value,
        }

    def form(self) -> tuple[object, ...]:
        start = self.init_lora_weights.lower()
        named_start = start if start.startswith(NAMED_STARTS) else ""
        return self.use_dora, self.use_rslora, named_start

    def variant_names(self) -> list[str]:
        variants = {"dora": self.use_dora, "rslora": self.use_rslora}
        return [name for name, is_on in variants.items() if is_on]

    @classmethod
    def saved_obstacle(cls, saved: Mapping[str, object]) -> tuple[str, str] | None:
        """Return why the weights do not fit the base: their start took a part out of it."""
        start = str(saved.get("init_lora_weights", "")).lower()
        if not start.startswith(BASE_CHANGING_STARTS):
            return None
        why = (
            f"init_lora_weights={start} took a part out of the base: its weights do not fit the"
            " untouched model"
        )
        fix = (
            "PeftModel.save_pretrained(FOLDER, path_initial_model_for_weight_conversion=START)"
            " writes one that does"
        )
        return why, fix

    @classmethod
    def field_from_peft(cls, name: str, value: object) -> object:
        if name == "init_lora_weights":
            return "true"  # the saved weights replace any start
        return super().field_from_peft(name, value)

    def restart(self, config: "LoraConfig") -> None:
        config.init_lora_weights = True

    def changes_base(self) -> bool:
        return self.init_lora_weights.startswith(BASE_CHANGING_STARTS)

    def initialise_weights(self, model: "PeftModel") -> None:
        """Give the adapter LoftQ's start, which PEFT itself computes on a GPU only."""
        if self.init_lora_weights == "loftq":
            from hydratune.adapters.initialisation import loftq

            loftq(model)

    def pack_obstacle(self) -> str | None:
        start = self.init_lora_weights
        if start.startswith((*BASE_CHANGING_STARTS, "loftq")):
            return f"adapter.init_lora_weights={start} changes the base model's weights"
        if self.bias is not LoraBias.none:
            return f"adapter.bias={self.bias.value} trains biases of the base model"
        return None
