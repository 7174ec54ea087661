"""Prompt tuning (arXiv:2104.08691): trained embeddings before every row."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from hydratune.adapters.base import PromptAdapter
from hydratune.errors import Problem
from hydratune.settings.registry import variant

if TYPE_CHECKING:
    from peft import PromptTuningConfig
    from transformers import PreTrainedModel


class PromptInit(StrEnum):
    """How the embeddings of virtual tokens start."""

    SAMPLE_VOCAB = "SAMPLE_VOCAB"  # as those of random words
    RANDOM = "RANDOM"  # as random numbers
    TEXT = "TEXT"  # as those of prompt_tuning_init_text


@variant("adapter", "prompt_tuning")
@dataclass
class PromptTuning(PromptAdapter):
    """Trained embeddings before every row (arXiv:2104.08691)."""

    peft_type: ClassVar[str] = "PROMPT_TUNING"

    method: str = "prompt_tuning"
    prompt_tuning_init: PromptInit = PromptInit.SAMPLE_VOCAB  # where the virtual tokens start
    # with TEXT: its tokens are repeated or cut to num_virtual_tokens
    prompt_tuning_init_text: str | None = None

    def own_problems(self) -> Iterator[Problem]:
        key, text = "adapter.prompt_tuning_init_text", self.prompt_tuning_init_text
        if self.prompt_tuning_init is PromptInit.TEXT and not text:
            why = "the virtual tokens are to start as this text"
            yield Problem(key, text, why, "give a sentence")
        if self.prompt_tuning_init is not PromptInit.TEXT and text:
            fix = "set adapter.prompt_tuning_init=TEXT, or take it out"
            yield Problem(key, text, "nothing reads it", fix)

    def peft_values(self, model: "PreTrainedModel", steps: int) -> dict[str, object]:
        has_text = self.prompt_tuning_init is PromptInit.TEXT
        return {
            "num_virtual_tokens": self.num_virtual_tokens,
            "prompt_tuning_init": self.prompt_tuning_init.value,
            "prompt_tuning_init_text": self.prompt_tuning_init_text if has_text else None,
            "tokenizer_name_or_path": model.name_or_path if has_text else None,
        }

    @classmethod
    def saved_values(cls, saved: Mapping[str, object]) -> dict[str, object]:
        """Return the settings of a saved adapter, whose embeddings replace any start."""
        start = {"prompt_tuning_init": PromptInit.RANDOM, "prompt_tuning_init_text": None}
        return super().saved_values(saved) | start

    def restart(self, config: "PromptTuningConfig") -> None:
        config.prompt_tuning_init, config.prompt_tuning_init_text = "RANDOM", None
