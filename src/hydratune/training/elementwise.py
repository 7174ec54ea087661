"""What norms and gated MLPs compute element by element, eagerly or fused by ``torch.compile``.

Eagerly every operation reads and writes whole tensors; compiled, one pass does all. The formulas
are the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from hydratune.errors import ConfigError, Problem
from hydratune.training.products import at_least_fp32

_Derivative = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
ACTIVATIONS: dict[
    str, tuple[Callable[[torch.Tensor], torch.Tensor], _Derivative]
] = {  # name -> (f(x), dy, x -> dx)
    "silu": (F.silu, torch.ops.aten.silu_backward),
    "gelu": (F.gelu, torch.ops.aten.gelu_backward),
    "gelu_tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda dy, x: torch.ops.aten.gelu_backward(dy, x, approximate="tanh"),
    ),
}


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    precise = at_least_fp32(x)
    inverse = (
        torch.linalg.vector_norm(precise, dim=-1, keepdim=True)
        .square_()
        .mul_(1 / x.shape[-1])
        .add_(eps)
        .rsqrt_()
    )
    return (precise * inverse).to(x.dtype).mul_(weight), inverse


def _norm_gradient(
    dy: torch.Tensor, kept: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor, from_y: bool
) -> torch.Tensor:
    d_scaled = at_least_fp32(dy) * weight
    if from_y:  # x / sqrt(...) = y / w
        scaled = kept / weight
        mean = (dy * kept).mean(-1, keepdim=True)
    else:
        scaled = at_least_fp32(kept) * inverse
        mean = (d_scaled * scaled).mean(-1, keepdim=True)
    return d_scaled.sub_(scaled.mul_(mean)).mul_(inverse).to(dy.dtype)


def _gated(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    return ACTIVATIONS[activation][0](gate).mul_(up)


def _gated_gradient(
    d_rows: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    function, derivative = ACTIVATIONS[activation]
    activated = function(gate)
    rows = activated * up
    d_up = activated.mul_(d_rows)
    return rows, derivative(d_rows.mul_(up), gate), d_up


def _pure_norm_gradient(
    dy: torch.Tensor, kept: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor, from_y: bool
) -> torch.Tensor:
    scaled = at_least_fp32(kept) / weight if from_y else at_least_fp32(kept) * inverse
    d_scaled = at_least_fp32(dy) * weight
    return ((d_scaled - scaled * (d_scaled * scaled).mean(-1, keepdim=True)) * inverse).to(dy.dtype)


def _pure_gated_gradient(
    d_rows: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    function, derivative = ACTIVATIONS[activation]
    activated = function(gate)
    return activated * up, derivative(d_rows * up, gate), activated * d_rows


@dataclass(frozen=True)
class Elementwise:
    """The four functions."""

    norm: Callable[[torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]
    """x, weight, eps -> (w x / sqrt(mean(x^2) + eps), 1 / that square root); in fp32 at least."""
    norm_gradient: Callable[
        [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, bool], torch.Tensor
    ]
    """dy, y (if the last argument is true) or x, weight, inverse -> dx."""
    gated: Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor]
    """gate, up, activation -> f(gate) * up."""
    gated_gradient: Callable[
        [torch.Tensor, torch.Tensor, torch.Tensor, str],
        tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ]
    """Gradient of f(gate) * up (overwritten), gate, up, activation
    -> (f(gate) * up, d gate, d up)."""
    is_compiled: bool = False

    def warm_up(self, dtype: torch.dtype) -> None:
        """Compile the functions for the intra-op threads of this thread, if they are to be."""
        if self.is_compiled:
            with torch.no_grad():
                x = torch.ones(3, 4, dtype=dtype)
                y, inverse = self.norm(x, x[0], 1e-5)
                self.norm_gradient(x, y, x[0], inverse, True)
                self.gated(x, x, "silu")
                self.gated_gradient(x.clone(), x, x, "silu")


EAGER = Elementwise(_norm, _norm_gradient, _gated, _gated_gradient)


@cache
def compiled() -> Elementwise:
    """Return the functions fused by ``torch.compile``, for any number of tokens.

    Raises whatever the compiler raises if it does not work here.
    """

    functions: tuple[Any, ...] = (
        _norm,
        _pure_norm_gradient,
        _gated,
        _pure_gated_gradient,
    )
    norm, norm_gradient, gated, gated_gradient = (
        torch.compile(function, dynamic=True) for function in functions
    )
    elementwise = Elementwise(norm, norm_gradient, gated, gated_gradient, is_compiled=True)
    elementwise.gated(torch.zeros(2, 3), torch.zeros(2, 3), "silu")
    return elementwise


def elementwise_for(compile: bool) -> Elementwise:
    """Return the functions, compiled or not. Raises ``ConfigError`` if they cannot be compiled."""
    if not compile:
        return EAGER
    try:
        return compiled()
    except Exception as error:  # no compiler, a broken one, no Triton: each has its own exception
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        why = f"torch.compile does not work here: {first_line}"
        fix = "install a C++ compiler (on a GPU, Triton), or leave it at false"
        raise ConfigError([Problem("trainer.compile", True, why, fix)]) from error
