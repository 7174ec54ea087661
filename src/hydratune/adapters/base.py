"""What the methods of PEFT have in common: settings, rules, and the way to PEFT's config.

Needs neither torch nor PEFT until there is a model: settings are checked before they are imported.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from hydratune.errors import Problem
from hydratune.settings.adapter import AdapterConfig, AdapterContext
from hydratune.settings.model import Quantization
from hydratune.settings.ranges import at_least, between
from hydratune.settings.registry import is_own, variants

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel


@dataclass
class PeftAdapter(AdapterConfig):
    """A method of PEFT on a frozen base; field names are PEFT's."""

    peft_type: ClassVar[str] = ""  # PEFT's name of the method, as in adapter_config.json
    title: ClassVar[str] = ""  # the method's name in the list of what is trained
    size_field: ClassVar[str] = ""  # the setting that says how large an adapter is
    runs_in_vllm: ClassVar[bool] = False  # whether vLLM loads the saved adapter as it is

    # any other field of the method's PEFT config, checked against it
    extra: dict[str, Any] = field(default_factory=dict)

    def peft_values(self, model: "PreTrainedModel", steps: int) -> dict[str, object]:
        """Return the fields of PEFT's config that follow from these settings.

        By default those with the same name.
        """
        return {name: getattr(self, name) for name in self.own_fields()}

    def peft_config(self, model: "PreTrainedModel", steps: int) -> "PeftConfig":
        """Return PEFT's config for ``model``, trained for ``steps`` optimizer steps."""
        from hydratune.adapters.peft_rules import config_class

        values = {**self.peft_values(model, steps), **self.extra}
        return config_class(self)(task_type="CAUSAL_LM", **values)

    def own_fields(self) -> list[str]:
        """Return the names of the fields that only this method has."""
        return [f.name for f in fields(self) if f.name not in ("method", "extra")]

    def dropout_fields(self) -> list[str]:
        """Return the names of the dropout settings.

        They are no part of the weights, so they may change when an adapter is trained further.
        """
        return [name for name in self.own_fields() if name.endswith("dropout")]

    def draws_random(self) -> bool:
        own = [getattr(self, name) for name in self.dropout_fields()]
        extra = [value for name, value in self.extra.items() if name.endswith("dropout")]
        return any(bool(value) for value in (*own, *extra))

    def model_problems(self, model: "PreTrainedModel", steps: int | None) -> Iterator[Problem]:
        from hydratune.adapters.peft_rules import refuse_unknown_extra

        refuse_unknown_extra(self)
        yield from ()

    def initialise_weights(self, model: "PeftModel") -> None:
        """Change the first weights of the adapter in ``model`` where PEFT's start is not used."""

    def variant_names(self) -> list[str]:
        """Return the names of the variants of the method that are switched on, such as ``dora``."""
        return []

    @classmethod
    def saved_obstacle(cls, saved: Mapping[str, object]) -> tuple[str, str] | None:
        """Return (why a saved adapter cannot be trained further, what to do), or None.

        ``saved``: the content of its adapter_config.json.
        """
        return None

    @classmethod
    def saved_values(cls, saved: Mapping[str, object]) -> dict[str, object]:
        """Return the settings of a saved adapter, from the content of its adapter_config.json."""
        names = {f.name for f in fields(cls)} - {"method", "extra"}
        values = {name: cls.field_from_peft(name, saved[name]) for name in names & saved.keys()}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def field_from_peft(cls, name: str, value: object) -> object:
        """Return PEFT's value of the setting ``name`` in the type that it has here."""
        return value

    @classmethod
    def before_saving(cls, model: "PeftModel") -> None:
        """Change PEFT's config of ``model`` where it does not fit the weights that are saved."""

    def restart(self, config: "PeftConfig") -> None:
        """Change PEFT's ``config`` of a saved adapter so that its weights can be loaded into it."""


def peft_methods() -> dict[str, type[PeftAdapter]]:
    """Return the adapter methods by PEFT's names of them; of several, the one of this package."""
    kinds = sorted(variants("adapter").values(), key=is_own)
    return {kind.peft_type: kind for kind in kinds if issubclass(kind, PeftAdapter)}


def names_from_peft(names: Any) -> list[str] | None:  # Any: it is read from JSON
    """Return names of modules as a sorted list; PEFT stores a single one, a list or null."""
    return [names] if isinstance(names, str) else sorted(names) if names is not None else None


@dataclass
class LayerAdapter(PeftAdapter):
    """A method that adds something to linear layers."""

    # whether embeddings that are the output head as well can be trained beside it
    saves_tied_embeddings: ClassVar[bool] = False
    # whether PEFT adds it to layers of a base in 4 or 8 bits, and keeps these layers frozen
    supports_quantized_base: ClassVar[bool] = False

    # names, regular expressions of whole names, or all-linear (all but the output head); null:
    # PEFT's choice for the architecture
    target_modules: list[str] | None = field(default_factory=lambda: ["all-linear"])
    # names or regular expressions of layers that are not changed after all
    exclude_modules: list[str] = field(default_factory=list)
    layers_to_transform: list[int] | None = None  # numbers of the layers, from 0; null: all
    # what the model calls its list of layers; null: layers, h, block, blocks or layer
    layers_pattern: str | None = None
    # modules that are trained in full and saved with the adapter
    modules_to_save: list[str] = field(default_factory=list)

    def own_fields(self) -> list[str]:
        shared = {f.name for f in fields(LayerAdapter)}
        return [name for name in super().own_fields() if name not in shared]

    def problems(self, context: AdapterContext) -> Iterator[Problem]:
        if self.target_modules == []:
            fix = "set adapter.target_modules=[all-linear], or null for PEFT's choice"
            yield Problem("adapter.target_modules", [], "nothing would be trained", fix)
        if self.layers_pattern is not None and self.layers_to_transform is None:
            why = "it says where adapter.layers_to_transform counts, which is not set"
            fix = "set adapter.layers_to_transform as well"
            yield Problem("adapter.layers_pattern", self.layers_pattern, why, fix)
        if context.quantization is not Quantization.none and not self.supports_quantized_base:
            why = f"{self.title or self.peft_type} does not support a quantised base"
            fix = "set model.quantization=none, or adapter=lora (QLoRA)"
            yield Problem("model.quantization", context.quantization.value, why, fix)

    @classmethod
    def saved_values(cls, saved: Mapping[str, object]) -> dict[str, object]:
        values = super().saved_values(saved)
        if "target_modules" in saved:  # null is PEFT's choice, not the default
            values.setdefault("target_modules", None)
        return values

    @classmethod
    def field_from_peft(cls, name: str, value: object) -> object:
        if name in ("target_modules", "exclude_modules", "modules_to_save"):
            return names_from_peft(value)
        if name == "layers_to_transform":
            return [value] if isinstance(value, int) else value
        if name == "layers_pattern":
            return value[0] if isinstance(value, list) and value else value or None
        return value

    def peft_config(self, model: "PreTrainedModel", steps: int) -> "PeftConfig":
        from hydratune.adapters.peft_rules import config_class, layer_values

        values = {**self.peft_values(model, steps), **layer_values(model, self), **self.extra}
        return config_class(self)(task_type="CAUSAL_LM", **values)

    def model_problems(self, model: "PreTrainedModel", steps: int | None) -> Iterator[Problem]:
        from hydratune.adapters.peft_rules import layer_problems

        yield from super().model_problems(model, steps)
        yield from layer_problems(model, self)


@dataclass
class PromptAdapter(PeftAdapter):
    """Virtual tokens before every row."""

    size_field: ClassVar[str] = "num_virtual_tokens"

    num_virtual_tokens: int = 20  # trained tokens before every row

    def problems(self, context: AdapterContext) -> Iterator[Problem]:
        tokens = self.num_virtual_tokens
        yield from at_least("adapter.num_virtual_tokens", tokens, 1)
        if context.context_window is not None and tokens + 8 > context.context_window:
            limit = context.context_window
            why = f"the model reads {limit} tokens, so nothing is left for the rows"
            yield Problem("adapter.num_virtual_tokens", tokens, why, "usual: 20")
        yield from self.own_problems()
        if context.neftune_alpha > 0:
            why = (
                "it needs rows laid end to end, and this adapter puts virtual tokens before every"
                " row"
            )
            fix = "set trainer.neftune_alpha=0, or adapter=lora"
            yield Problem("trainer.neftune_alpha", context.neftune_alpha, why, fix)

    def own_problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the settings that only this method has."""
        yield from ()

    def model_problems(self, model: "PreTrainedModel", steps: int | None) -> Iterator[Problem]:
        yield from super().model_problems(model, steps)
        window = getattr(model.config.get_text_config(), "sliding_window", None)
        tokens = self.num_virtual_tokens
        if window and tokens >= window:
            why = (
                f"layers of this model see {window} tokens, so the virtual tokens would be out of"
                " sight"
            )
            yield Problem("adapter.num_virtual_tokens", tokens, why, f"set fewer than {window}")

    def virtual_tokens(self) -> int:
        return self.num_virtual_tokens


def dropout_problems(key: str, value: float) -> Iterator[Problem]:
    """Yield a problem if a dropout is not in [0, 1)."""
    yield from between(key, value, 0, 1, open_high=True)
