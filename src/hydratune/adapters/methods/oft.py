"""OFT (arXiv:2306.07280): orthogonal rotation of the inputs of layers, block by block."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hydratune.adapters.base import LayerAdapter, dropout_problems
from hydratune.errors import Problem
from hydratune.settings.adapter import AdapterContext
from hydratune.settings.ranges import at_least
from hydratune.settings.registry import variant

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@variant("adapter", "oft")
@dataclass
class OftAdapter(LayerAdapter):
    """Orthogonal rotation of the inputs by blocks (OFT, arXiv:2306.07280)."""

    peft_type: ClassVar[str] = "OFT"
    title: ClassVar[str] = "OFT"
    supports_quantized_base: ClassVar[bool] = True

    method: str = "oft"
    oft_block_size: int = 32  # must divide the input width of every target
    module_dropout: float = 0.0  # share of the rotations that is left out in training
    coft: bool = False  # keeps the rotation within eps
    eps: float = 6e-5  # largest deviation from the identity, with coft
    block_share: bool = False  # one block for a whole layer
    # a series instead of a matrix inverse: faster, nearly orthogonal
    use_cayley_neumann: bool = True
    num_cayley_neumann_terms: int = 5  # terms of the series that replaces the inverse

    def problems(self, context: AdapterContext) -> Iterator[Problem]:
        yield from super().problems(context)
        yield from dropout_problems("adapter.module_dropout", self.module_dropout)
        yield from at_least("adapter.oft_block_size", self.oft_block_size, 2)
        yield from at_least("adapter.num_cayley_neumann_terms", self.num_cayley_neumann_terms, 2)
        if not self.eps > 0:
            yield Problem("adapter.eps", self.eps, "must be above 0", "usual: 6e-5")

    def model_problems(self, model: "PreTrainedModel", steps: int | None) -> Iterator[Problem]:
        from hydratune.adapters.targets import targets, width

        yield from super().model_problems(model, steps)
        common = math.gcd(*(width(layer)[0] for layer in targets(model, self).values()))
        if self.oft_block_size > 0 and common % self.oft_block_size:
            sizes = [str(size) for size in range(2, min(common, 512) + 1) if common % size == 0]
            why = "it must divide the input width of every target layer"
            fix = f"one of: {', '.join(sizes) or 'none; choose fewer layers'}"
            yield Problem("adapter.oft_block_size", self.oft_block_size, why, fix)
