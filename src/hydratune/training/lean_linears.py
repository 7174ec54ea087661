"""The forward that replaces that of plain LoRA layers, and of frozen linear layers beside them.

All layers that read the same input are computed by one ``LoraFunction``. A layer whose present
state the function does not cover computes by its own forward.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from peft.tuners.lora import LoraLayer

from hydratune.training.lora_layers import (
    LinearLayer,
    as_computed,
    factors_of,
    frozen_linear,
    no_autocast,
    share_of,
    supports,
)
from hydratune.training.low_rank import LoraShare, apply_lora
from hydratune.training.step import StepContext, current_step


@dataclass
class _Held:
    """Outputs that were computed together with that of a sibling."""

    x: torch.Tensor
    recorded: bool  # with gradients
    outputs: dict[int, torch.Tensor]  # by ``id`` of the layer


@dataclass(eq=False)
class Siblings:
    """Layers that read the same input: the first one called computes them all, the others only
    collect their part.
    """

    layers: Sequence[LinearLayer]
    held: dict[int, _Held] = field(default_factory=dict)  # by thread

    def output(self, layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Return the output of ``layer``, one of ``layers``, for ``x``."""
        thread, recorded = threading.get_ident(), torch.is_grad_enabled()
        held = self.held.pop(thread, None)
        if (
            held is None
            or held.x is not x
            or held.recorded != recorded
            or id(layer) not in held.outputs
        ):
            results = lora_outputs(x, self.layers)
            held = _Held(x, recorded, dict(zip(map(id, self.layers), results, strict=True)))
        output = held.outputs.pop(id(layer))
        if held.outputs:
            self.held[thread] = held
        return output


@dataclass(eq=False)
class LeanLinear:
    """Holds the forward of one linear layer and its siblings."""

    layer: LinearLayer
    siblings: Siblings

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """Return the output of the layer for x (..., in)."""
        if args or kwargs or not all(supports(layer, x) for layer in self.siblings.layers):
            output: torch.Tensor = type(self.layer).forward(self.layer, x, *args, **kwargs)
            return output
        return self.siblings.output(self.layer, x)


def is_lean(layer: torch.nn.Module) -> bool:
    """Return whether the forward of ``layer`` is that of a ``LeanLinear``."""
    return isinstance(getattr(vars(layer).get("forward"), "__self__", None), LeanLinear)


def lora_outputs(x: torch.Tensor, layers: Sequence[LinearLayer]) -> tuple[torch.Tensor, ...]:
    """Return the outputs of ``layers`` for one ``x``, recorded where gradients are."""
    step = current_step()
    shares, flat = own_share(layers, step)
    computed = as_computed(x)
    with no_autocast(x.device.type):
        return apply_lora(
            computed, [frozen_linear(layer) for layer in layers], shares, flat, step.arithmetic
        )


def own_share(
    layers: Sequence[LinearLayer], step: StepContext
) -> tuple[list[LoraShare], list[torch.Tensor]]:
    """Return what a model's own adapter adds to ``layers`` on all rows: one share and its weights,
    or none.
    """
    with_lora = [
        (place, layer) for place, layer in enumerate(layers) if isinstance(layer, LoraLayer)
    ]
    if not with_lora:
        return [], []
    flat = [weight for _, layer in with_lora for weight in factors_of(layer)]
    return [share_of(with_lora, step.generator)], flat


def lora_weights(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return A and B of every LoRA layer of ``model`` whose forward is replaced."""
    layers = [m for m in model.modules() if is_lean(m) and isinstance(m, LoraLayer)]
    return [weight for layer in layers for weight in factors_of(layer)]
