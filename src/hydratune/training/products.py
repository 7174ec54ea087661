"""Matrix products with frozen weights, by either of the two libraries that PyTorch carries for CPUs.

PyTorch hands fp32 products to MKL, which on processors not made by Intel reads streamed weights 10-20 % slower than
oneDNN does (measured on an AMD EPYC: 84 against 101 GFLOP/s a core). But oneDNN rounds more: gradients of a 135M model
were 8e-6 off the exact ones, 2.4e-6 by MKL. So answers are written with oneDNN, and training computes with MKL.

In training no row of a product may depend on what other rows are computed with it: then rows of several trials can share a
product, and every trial's numbers stay what they are alone, to the last bit. Libraries choose another kernel for a handful
of rows, so fewer than ``LEAST`` are never handed over (``steadily``); ``is_steady`` tries whether that is enough here.
"""

import platform
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


LEAST = 8  # rows; MKL takes other kernels below 4, oneDNN below 2

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


def steadily(product: Callable[..., torch.Tensor], rows: Sequence[torch.Tensor], *rest: Any) -> torch.Tensor:
    """``product(*rows, *rest)``, in which a row of the result has the same bits whatever other rows there are."""
    count = len(rows[0])
    if count >= LEAST or rows[0].device.type != "cpu" or getattr(_thread, "fast", False):
        return product(*rows, *rest)
    return product(*(F.pad(x, (0, 0, 0, LEAST - count)) for x in rows), *rest)[:count]


@torch.no_grad()
def is_steady(weights: Iterable[torch.Tensor], dtype: torch.dtype, rows: int, *, adding: bool = True) -> bool:
    """Whether that is so on this machine for these weights (out, in): tried with one of every shape, on up to ``rows`` rows.

    ``adding``: also in sums, and with biases. Not where results are no multiple of two of the widest registers wide: what
    computes their elements one by one has other code, which rounds otherwise, for what is left over at the end.
    """
    generator = torch.Generator().manual_seed(0)
    for weight in {weight.shape: weight for weight in weights}.values():
        if weight.device.type != "cpu" or any(width % (_REGISTERS // dtype.itemsize) for width in weight.shape):
            return False
        frozen = weight.to(dtype)
        outer, inner = (torch.randn(rows, width, generator=generator).to(dtype) for width in weight.shape)
        tried: list[tuple[Callable[..., torch.Tensor], Sequence[torch.Tensor], Sequence[Any]]]
        tried = [(times_transposed, (inner,), ()), (times, (outer,), ())]
        tried += [(times_transposed, (inner,), (outer[0],)), (add_times, (inner, outer), ())] if adding else []
        for product, inputs, rest in tried:
            every = steadily(product, [x.clone() for x in inputs], frozen, *rest)
            for part in (*_FEW, slice(1, rows // 3), slice(rows // 2, rows)):
                if not torch.equal(steadily(product, [x[part].clone() for x in inputs], frozen, *rest), every[part]):
                    return False
    return True


_REGISTERS = 128  # bytes
_FEW = (slice(0, 1), slice(1, 4), slice(2, 9), slice(3, 11), slice(5, 22), slice(7, 40))  # rows


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
