"""VeRA (arXiv:2310.11454): random projections shared by all layers, trained scaling vectors."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from hydratune.adapters.base import LayerAdapter, dropout_problems
from hydratune.errors import Problem
from hydratune.settings.adapter import AdapterContext
from hydratune.settings.ranges import at_least
from hydratune.settings.registry import variant


@variant("adapter", "vera")
@dataclass
class VeraAdapter(LayerAdapter):
    """Random projections shared by all layers, and trained scaling vectors for each layer."""

    peft_type: ClassVar[str] = "VERA"
    title: ClassVar[str] = "VeRA"
    size_field: ClassVar[str] = "r"
    supports_quantized_base: ClassVar[bool] = True

    method: str = "vera"
    r: int = 256  # far higher than in LoRA: a rank costs one number per layer
    d_initial: float = 0.1  # where the scaling vectors start
    vera_dropout: float = 0.0  # share of the inputs of VeRA that is dropped in training
    projection_prng_key: int = 0  # seed of the random projections
    # false: a smaller file; the projections are drawn again on loading, perhaps differently
    # on another machine
    save_projection: bool = True

    def problems(self, context: AdapterContext) -> Iterator[Problem]:
        yield from super().problems(context)
        yield from dropout_problems("adapter.vera_dropout", self.vera_dropout)
        yield from at_least("adapter.r", self.r, 1)
