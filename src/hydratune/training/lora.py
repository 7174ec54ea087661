"""A leaner forward and backward for PEFT's plain LoRA linears; PEFT keeps owning the weights, config and files.

PEFT's own forward leaves seven nodes per layer to autograd, and their intermediates in memory. Here one autograd
function computes ``y = x W' + b + s (x A') B'`` in place and saves only ``x`` and the thin ``x A'``. Layers that are
anything but plain LoRA (DoRA, dropout, several adapters, quantised or mixed-precision weights) keep PEFT's forward.
"""

import types
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as PeftLinear
from torch.autograd.function import once_differentiable


class LoraFunction(torch.autograd.Function):
    """y = x W' + b + s (x A') B' with gradients for x, A and B; W and b are frozen.

    Shapes: x (..., in), W (out, in), b (out), A (r, in), B (out, r).
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, scale: float
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y = F.linear(rows, weight, bias)
        thin = rows @ a.t()
        y.addmm_(thin, b.t(), alpha=scale)
        ctx.save_for_backward(rows, weight, a, b, thin)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, a, b, thin = ctx.saved_tensors
        dy = dy.reshape(-1, dy.shape[-1])
        d_thin = (dy @ b).mul_(ctx.scale)  # (tokens, r)
        d_b = (dy.t() @ thin).mul_(ctx.scale)
        d_a = d_thin.t() @ rows
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ weight
            dx.addmm_(d_thin, a)
            dx = dx.view(ctx.shape)
        return dx, None, None, d_a, d_b, None


def _forward(self: PeftLinear, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    weight = self.base_layer.weight
    if self.disable_adapters or self.merged or x.dtype != weight.dtype or torch.is_autocast_enabled(x.device.type):
        return PeftLinear.forward(self, x, *args, **kwargs)
    (name,) = self.active_adapters
    a, b = self.lora_A[name].weight, self.lora_B[name].weight
    if a.dtype != x.dtype:
        return PeftLinear.forward(self, x, *args, **kwargs)
    result: torch.Tensor = LoraFunction.apply(x, weight, self.base_layer.bias, a, b, self.scaling[name])  # type: ignore[no-untyped-call]
    return result


def _is_plain(layer: PeftLinear) -> bool:
    if type(layer) is not PeftLinear or type(layer.base_layer) is not torch.nn.Linear or len(layer.active_adapters) != 1:
        return False
    name = layer.active_adapters[0]
    variants = getattr(layer, "lora_variant", {})
    has_dropout = not isinstance(layer.lora_dropout[name], torch.nn.Identity)
    return (
        name in layer.lora_A and name not in variants and not has_dropout and layer.lora_B[name].bias is None and not layer.fan_in_fan_out
    ) and not (layer.base_layer.bias is not None and layer.base_layer.bias.requires_grad)


def use_lean_forward(model: torch.nn.Module) -> int:
    """Replaces the forward of every plain LoRA linear in ``model``; returns how many."""
    layers = [m for m in model.modules() if isinstance(m, PeftLinear) and _is_plain(m)]
    for layer in layers:
        layer.forward = types.MethodType(_forward, layer)  # type: ignore[method-assign]
    return len(layers)
