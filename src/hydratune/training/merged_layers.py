"""The forwards that replace those of the base model's layers where trials share passes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from hydratune.training.lora_layers import frozen_linear
from hydratune.training.low_rank import FrozenLinear
from hydratune.training.step import current_step


@dataclass(eq=False)
class MergedLinears:
    """Linear layers of the base model that read the same input: the first one called computes them
    all.
    """

    names: list[str]
    linears: Sequence[torch.nn.Linear]

    @cached_property
    def frozen(self) -> list[FrozenLinear]:
        return list(map(frozen_linear, self.linears))

    def forward_of(self, place: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the forward of linear layer number ``place``."""
        return partial(self._output, place)

    def _output(self, place: int, x: torch.Tensor) -> torch.Tensor:
        merged = current_step().merged
        if merged is None:
            return torch.nn.Linear.forward(self.linears[place], x)
        read, outputs = merged.held.pop(id(self), (None, {}))
        if read is not x or place not in outputs:
            outputs = dict(enumerate(merged.outputs(x, self.names, self.frozen)))
        output = outputs.pop(place)
        if outputs:
            merged.held[id(self)] = (x, outputs)
        return output


@dataclass(eq=False)
class MergedMlp:
    """A gated MLP of the base model."""

    module: Any  # with gate_proj, up_proj and down_proj
    names: tuple[str, str, str]  # of gate, up, down
    activation: str
    is_last: bool  # computed at the positions alone that are read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output for x (1, tokens, width); in the last layer 0 where it is not read."""
        merged = current_step().merged
        if merged is None:
            output: torch.Tensor = type(self.module).forward(self.module, x)
            return output
        read = x[:, merged.read] if self.is_last else x
        gate_proj, up_proj, down_proj = (
            frozen_linear(getattr(self.module, part))
            for part in ("gate_proj", "up_proj", "down_proj")
        )
        gate, up = merged.outputs(read, self.names[:2], (gate_proj, up_proj), of_last=self.is_last)
        y = merged.down(gate, up, self.activation, self.names[2], down_proj, of_last=self.is_last)
        if not self.is_last:
            return y
        return x.new_zeros(x.shape, dtype=y.dtype).index_copy(1, merged.read, y)
