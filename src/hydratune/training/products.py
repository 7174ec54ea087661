"""Matrix products with frozen weights, by either of the two libraries that PyTorch carries for CPUs.

PyTorch hands fp32 products to MKL, which on processors not made by Intel reads streamed weights 10-20 % slower than
oneDNN does (measured on an AMD EPYC: 84 against 101 GFLOP/s a core). But oneDNN rounds more: gradients of a 135M model
were 8e-6 off the exact ones, 2.4e-6 by MKL. So answers are written with oneDNN, and training computes with MKL.
"""

import platform
import threading
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


_thread = threading.local()  # .fast: whether this thread prefers speed


def _by_onednn(x: torch.Tensor) -> bool:
    return ONEDNN and getattr(_thread, "fast", False) and x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0


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
def fast() -> Iterator[None]:
    """In this thread, the faster library is taken, not the more exact one."""
    _thread.fast = True
    try:
        yield
    finally:
        _thread.fast = False


@contextmanager
def faster_linears(model: torch.nn.Module) -> Iterator[None]:
    """Plain linear layers of ``model`` compute by what their thread prefers. Without gradients only."""
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
