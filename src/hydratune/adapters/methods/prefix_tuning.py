"""Prefix tuning (arXiv:2101.00190): trained keys and values before every row, in every layer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from hydratune.adapters.base import PromptAdapter
from hydratune.errors import Problem
from hydratune.settings.ranges import at_least
from hydratune.settings.registry import variant

if TYPE_CHECKING:
    from peft import PrefixTuningConfig
    from transformers import PreTrainedModel


class PrefixInit(StrEnum):
    """How the trained keys and values start."""

    zero = "zero"  # nearly the untouched model
    random = "random"  # normal distribution: far from the untouched model


@variant("adapter", "prefix_tuning")
@dataclass
class PrefixTuning(PromptAdapter):
    """Trained keys and values before every row, in every layer (arXiv:2101.00190)."""

    peft_type: ClassVar[str] = "PREFIX_TUNING"

    method: str = "prefix_tuning"
    prefix_projection: bool = False  # through a small network while training
    encoder_hidden_size: int | None = None  # its width; null: that of the keys of one layer
    init_weights: PrefixInit = PrefixInit.zero  # where the keys and values of the prefix start

    def own_problems(self) -> Iterator[Problem]:
        width = self.encoder_hidden_size
        yield from at_least("adapter.encoder_hidden_size", width, 1)
        if width is not None and not self.prefix_projection:
            fix = "set adapter.prefix_projection=true, or take it out"
            why = "there is no network to have this width"
            yield Problem("adapter.encoder_hidden_size", width, why, fix)

    def peft_values(self, model: "PreTrainedModel", steps: int) -> dict[str, object]:
        random = self.init_weights is PrefixInit.random
        start = None if random else self.init_weights.value
        return super().peft_values(model, steps) | {"init_weights": start}

    @classmethod
    def saved_values(cls, saved: Mapping[str, object]) -> dict[str, object]:
        """Return the settings of a saved adapter: it holds what the network made of the prefix."""
        return {"num_virtual_tokens": super().saved_values(saved).get("num_virtual_tokens")}

    def restart(self, config: "PrefixTuningConfig") -> None:
        config.prefix_projection, config.init_weights = False, None
