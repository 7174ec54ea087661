"""Full fine-tuning: no adapter, every parameter is trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hydratune.errors import Problem
from hydratune.settings.adapter import AdapterConfig
from hydratune.settings.registry import variant

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@variant("adapter", "none")
@dataclass
class FullFinetune(AdapterConfig):
    """No adapter: every parameter is trained."""

    trains_base: ClassVar[bool] = True

    method: str = "none"

    def model_problems(self, model: "PreTrainedModel", steps: int | None) -> Iterator[Problem]:
        self.trained_parameters(model)  # raises for names that the model does not have
        yield from ()

    def trained_parameters(self, model: "PreTrainedModel") -> set[str]:
        """Return the names of the parameters that are trained."""
        return {name for name, _ in model.named_parameters(remove_duplicate=False)}

    def pack_obstacle(self) -> str | None:
        return "it trains the base model's own weights"
