"""The forwards that replace those of frozen RMS norms and of gated MLPs, and what qualifies for it.

A module qualifies by what it computes, not by its name: its own forward is compared with the
formula on random numbers before anything is replaced, so an architecture with another formula keeps
its own code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hydratune.training.block_functions import RmsNorm, gated_down
from hydratune.training.elementwise import ACTIVATIONS
from hydratune.training.lean_linears import lora_outputs, own_share
from hydratune.training.lora_layers import compute_dtype, frozen_linear, no_autocast, supports
from hydratune.training.step import StepContext, current_step


# ------------------------------------------------------------------------------------------- norms
@dataclass(eq=False)
class LeanNorm:
    """Holds the forward of a frozen RMS norm."""

    module: Any  # with a weight
    eps: float
    adds_one: bool  # it scales by 1 + its weight, as Gemma does

    def forward(self, x: torch.Tensor, *others: object, **options: object) -> torch.Tensor:
        """Return the norm of x (..., width); with a gate or in groups as the module has it."""
        if (
            others
            or options
            or x.shape[-1] != len(self.module.weight)
            or not torch.is_grad_enabled()
            or not x.requires_grad
            or torch.is_autocast_enabled(x.device.type)
        ):
            output: torch.Tensor = type(self.module).forward(self.module, x, *others, **options)
            return output
        weight = self.module.weight + 1 if self.adds_one else self.module.weight
        elementwise = current_step().arithmetic.elementwise
        normed: torch.Tensor = RmsNorm.apply(  # type: ignore[no-untyped-call]
            x, weight, self.eps, elementwise
        )
        return normed


def lean_norm(module: torch.nn.Module) -> LeanNorm | None:
    """Return the replacement for ``module``; None if it is no frozen RMS norm."""
    weight, eps = getattr(module, "weight", None), _eps(module)
    if (
        "rmsnorm" not in type(module).__name__.lower()
        or not isinstance(weight, torch.Tensor)
        or weight.dim() != 1
        or eps is None
        or weight.requires_grad
        or weight.is_meta
        or "forward" in vars(module)
        or getattr(module, "bias", None) is not None
        or isinstance(module, torch.nn.LayerNorm)
    ):
        return None
    x = torch.randn(2, len(weight), generator=torch.Generator().manual_seed(0)).to(
        weight.device, weight.dtype
    )
    for adds_one in (False, True):
        scale = weight + 1 if adds_one else weight
        if bool((scale == 0).any()):
            continue
        with torch.no_grad():
            try:
                expected = module(x)
                normed = RmsNorm.apply(x, scale, eps)  # type: ignore[no-untyped-call]
                same = torch.allclose(expected, normed, rtol=1e-3, atol=1e-4)
            except (RuntimeError, TypeError, AttributeError):
                return None
        if same:
            return LeanNorm(module, eps, adds_one)
    return None


def _eps(module: torch.nn.Module) -> float | None:
    value = next(
        (getattr(module, name) for name in ("variance_epsilon", "eps") if hasattr(module, name)),
        None,
    )
    return value if isinstance(value, float) else None


# -------------------------------------------------------------------------------------- gated MLPs
@dataclass(eq=False)
class LeanMlp:
    """Holds the forward of a gated MLP."""

    module: Any  # with gate_proj, up_proj and down_proj
    activation: str
    is_last: bool  # of the last layer: no other layer reads what it writes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output for x (1, tokens, width).

        In the last layer it is 0 at the positions that are not needed, see ``StepContext``.
        """
        module, step = self.module, current_step()
        linears = (module.gate_proj, module.up_proj, module.down_proj)
        if not all(supports(layer, x) for layer in linears):
            output: torch.Tensor = type(module).forward(module, x)
            return output
        needed = step.needed if self.is_last else None
        if needed is None:
            return self._compute(x, step)
        everywhere = x.new_zeros(x.shape)
        if not len(needed):
            return everywhere
        return everywhere.index_copy(1, needed, self._compute(x[:, needed], step))

    def _compute(self, x: torch.Tensor, step: StepContext) -> torch.Tensor:
        module = self.module
        gate, up = lora_outputs(x, (module.gate_proj, module.up_proj))
        shares, flat = own_share([module.down_proj], step)
        down = frozen_linear(module.down_proj)
        with no_autocast(x.device.type):
            return gated_down(gate, up, self.activation, down, shares, flat, step.arithmetic)


def _activation(module: torch.nn.Module) -> str | None:
    """Return the name of the known function that ``module`` computes, if it is one."""
    x = torch.linspace(-4, 4, 33)
    try:
        y = module(x)
    except (RuntimeError, TypeError):
        return None
    return next(
        (
            name
            for name, (function, _) in ACTIVATIONS.items()
            if torch.allclose(y, function(x), rtol=1e-5, atol=1e-6)
        ),
        None,
    )


def gated_activation(
    module: torch.nn.Module, qualifies: Callable[[torch.nn.Module], bool]
) -> str | None:
    """Return the activation's name if ``module`` is down(f(gate(x)) * up(x)), all three linear
    layers qualify, and its forward is not replaced.
    """
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    function = getattr(module, "act_fn", None)
    if not all(
        isinstance(part, torch.nn.Module) and qualifies(part) for part in parts
    ) or not isinstance(function, torch.nn.Module):
        return None
    name = _activation(function)
    if name is None or "forward" in vars(module):
        return None
    gate, up, down = parts
    assert gate is not None and up is not None and down is not None
    x = torch.randn(1, 2, gate.in_features, generator=torch.Generator().manual_seed(0)).to(
        gate.weight.device, compute_dtype(gate)
    )
    with torch.no_grad():
        try:
            expected = down(ACTIVATIONS[name][0](gate(x)) * up(x))
            same = torch.allclose(module(x), expected, rtol=1e-3, atol=1e-4)
        except (RuntimeError, TypeError):
            return None
    return name if same else None


def last_mlps(model: torch.nn.Module) -> set[int]:
    """Return the ``id`` of the MLP in the last layer."""
    return {
        id(layers[-1].mlp)
        for m in model.modules()
        if (layers := getattr(m, "layers", None)) and hasattr(layers[-1], "mlp")
    }
