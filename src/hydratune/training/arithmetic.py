"""How the operations of one pass are computed: by which library, fused or not, from which copies.

``Arithmetic`` is handed to every autograd function as an argument. None of it changes what is
computed, only how fast, and by what the last digits are rounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hydratune.training.elementwise import EAGER, Elementwise


class CastWeights:
    """Copies of LoRA weights in the dtype of products, all cast by one call.

    Without them every weight is cast where it is used. Valid as long as the weights do not change.
    """

    def __init__(
        self, weights: Sequence[torch.Tensor] = (), dtype: torch.dtype | None = None
    ) -> None:
        """``dtype`` None: nothing is cast."""
        others = [w for w in weights if w.dtype != dtype] if dtype is not None else []
        copies = [torch.empty_like(weight, dtype=dtype) for weight in others]
        if others:
            with torch.no_grad():
                torch._foreach_copy_(copies, others)
        self._copies = {
            id(weight): (weight, copy) for weight, copy in zip(others, copies, strict=True)
        }

    def cast(self, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return ``weight`` in ``dtype``; the same tensor if it has it already."""
        if weight.dtype == dtype:
            return weight
        original, copy = self._copies.get(id(weight), (None, None))
        if original is weight and copy is not None and copy.dtype == dtype:
            return copy
        return weight.to(dtype)


UNCAST = CastWeights()


@dataclass(frozen=True)
class Arithmetic:
    """How one pass computes its operations."""

    elementwise: Elementwise = EAGER  # norms and gated MLPs
    weights: CastWeights = UNCAST  # of LoRA, in the dtype of products
    fast: bool = False  # by the faster library instead of the more exact one; without gradients

    def cast(self, weights: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        """Return ``weights`` in ``dtype``."""
        return [self.weights.cast(weight, dtype) for weight in weights]


STANDARD = Arithmetic()
