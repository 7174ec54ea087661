"""The interface of an adapter: what every method of ``hydratune.adapters`` settles for itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hydratune.errors import Problem
from hydratune.settings.model import Quantization

if TYPE_CHECKING:
    from lightning import Callback
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class AdapterContext:
    """The settings outside the group ``adapter`` that the rules of an adapter read."""

    quantization: Quantization = Quantization.none
    context_window: int | None = None  # tokens; None: not known yet
    neftune_alpha: float = 0.0


@dataclass
class AdapterConfig:
    """What is trained: an adapter method, or parameters of the model itself.

    A subclass is one module of ``hydratune.adapters`` with its settings, its rules and its traits.
    It is registered by ``@variant("adapter", NAME)``, and has a field ``method`` with that name.
    """

    # whether parameters of the base model itself are trained, so that it cannot be frozen
    trains_base: ClassVar[bool] = False
    # why a run cannot be resumed from a checkpoint or trained further; empty: it can
    resume_obstacle: ClassVar[str] = ""

    def problems(self, context: AdapterContext) -> Iterator[Problem]:
        """Yield what is wrong with the settings, whatever the model."""
        yield from ()

    def model_problems(self, model: "PreTrainedModel", steps: int | None) -> Iterator[Problem]:
        """Yield what ``model``, or a run of ``steps`` optimizer steps, cannot accept.

        Raises ``ConfigError`` where one mistake hides the others.
        """
        yield from ()

    def check_steps(self, steps: int) -> None:
        """Raise ``ConfigError`` if a run of ``steps`` optimizer steps is too short."""

    def form(self) -> tuple[object, ...]:
        """Return the settings by which the options of ``adapter=`` for one method differ."""
        return ()

    def trained_parameters(self, model: "PreTrainedModel") -> set[str]:
        """Return the names of the parameters of ``model`` itself that are trained."""
        return set()

    def callbacks(self, model: "PeftModel | PreTrainedModel") -> list["Callback"]:
        """Return what Lightning's Trainer calls for this method while ``model`` is trained."""
        return []

    def changes_base(self) -> bool:
        """Return whether the start moves a part of the base's weights into the adapter."""
        return False

    def pack_obstacle(self) -> str | None:
        """Return why a job cannot share its frozen weights with others, or None."""
        return None

    def draws_random(self) -> bool:
        """Return whether training draws random numbers for it, for dropout of any kind."""
        return False

    def virtual_tokens(self) -> int:
        """Return how many tokens are put before every row."""
        return 0
