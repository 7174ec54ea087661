"""(IA)^3 (arXiv:2205.05638): learned factors on keys, values and feed-forward activations."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hydratune.adapters.base import LayerAdapter, names_from_peft
from hydratune.errors import ConfigError, Problem
from hydratune.settings.registry import variant

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_KEY = "adapter.feedforward_modules"


@variant("adapter", "ia3")
@dataclass
class Ia3Adapter(LayerAdapter):
    """Learned factors on keys, values and feed-forward activations (arXiv:2205.05638)."""

    peft_type: ClassVar[str] = "IA3"
    title: ClassVar[str] = "(IA)3"
    supports_quantized_base: ClassVar[bool] = True

    method: str = "ia3"
    # targets whose input is scaled instead of the output; null: PEFT's choice
    feedforward_modules: list[str] | None = None

    @classmethod
    def field_from_peft(cls, name: str, value: object) -> object:
        if name == "feedforward_modules":
            return names_from_peft(value)
        return super().field_from_peft(name, value)

    def model_problems(self, model: "PreTrainedModel", steps: int | None) -> Iterator[Problem]:
        from hydratune.adapters.targets import matches, short_names, targets

        yield from super().model_problems(model, steps)
        patterns = self._feedforward(model)  # raises where PEFT has no choice
        chosen = targets(model, self)
        for pattern in patterns if self.feedforward_modules else ():
            if not any(matches(name, pattern) for name in chosen):
                why = f"{pattern} is none of the target layers"
                fix = f"some of: {short_names(list(chosen))}"
                yield Problem(_KEY, self.feedforward_modules, why, fix)

    def peft_values(self, model: "PreTrainedModel", steps: int) -> dict[str, object]:
        """Return PEFT's ``feedforward_modules``: some of target_modules, in the same form."""
        from hydratune.adapters.targets import for_peft, matches, targets

        patterns, targets_for_peft = self._feedforward(model), for_peft(model, self)
        names = [
            name
            for name in targets(model, self)
            if any(matches(name, pattern) for pattern in patterns)
        ]
        if not isinstance(targets_for_peft, str) and not set(targets_for_peft) >= set(names):
            names = [
                short
                for short in targets_for_peft
                if any(name == short or name.endswith(f".{short}") for name in names)
            ]
        return {"feedforward_modules": names}

    def _feedforward(self, model: "PreTrainedModel") -> list[str]:
        """Return the names of the targets whose input is scaled.

        Raises ``ConfigError`` where PEFT has no choice for the architecture.
        """
        from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as CHOICES

        if self.feedforward_modules is not None:
            return list(self.feedforward_modules)
        architecture = model.config.model_type
        if architecture not in CHOICES:
            why = f"PEFT does not know the feed-forward layers of the architecture {architecture!r}"
            fix = (
                "name those among adapter.target_modules: adapter.feedforward_modules=[...], or []"
                " if there are none"
            )
            raise ConfigError([Problem(_KEY, None, why, fix)])
        return list(CHOICES[architecture])
