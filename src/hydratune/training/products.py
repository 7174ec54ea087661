"""Matrix products with frozen weights, by the faster of the two libraries that PyTorch carries for CPUs.

PyTorch hands fp32 products to MKL, which on processors not made by Intel reads streamed weights 10-20 % slower than
oneDNN does (measured on an AMD EPYC: 84 against 101 GFLOP/s a core). The choice depends on the processor alone, so the
same machine always computes the same numbers.
"""

import platform
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F


def _prefers_onednn() -> bool:
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "GenuineIntel" not in cpuinfo.read_text("utf-8", "replace")


ONEDNN = _prefers_onednn()


def _by_onednn(x: torch.Tensor) -> bool:
    return ONEDNN and x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0


def times_transposed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x W' + b for x (tokens, in), W (out, in)."""
    if _by_onednn(x):
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return result
    return F.linear(x, weight, bias)


def times(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x W for x (tokens, out), W (out, in)."""
    return times_transposed(x, weight.t()) if _by_onednn(x) else x @ weight


def add_times(total: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``total`` + x W; ``total`` may be overwritten."""
    if _by_onednn(x):
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, total, weight.t(), None, "add")
        return result
    return total.addmm_(x, weight)


def _linear(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return times_transposed(x, self.weight, self.bias)


@contextmanager
def faster_linears(model: torch.nn.Module) -> Iterator[None]:
    """Inside, plain linear layers of ``model`` compute by the faster library. Without gradients only."""
    plain = [m for m in model.modules() if type(m) is torch.nn.Linear and "forward" not in vars(m)] if ONEDNN else []
    for module in plain:
        module.forward = types.MethodType(_linear, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in plain:
            del module.forward


def exact(x: torch.Tensor) -> torch.Tensor:
    """``x`` in at least fp32, in which sums are taken; the same tensor if it is so already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
