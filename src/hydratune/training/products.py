"""Matrix products with frozen weights, by either of the two libraries that PyTorch carries for
CPUs.

PyTorch hands fp32 products to MKL, which on processors not made by Intel reads streamed weights
5-10 % slower than oneDNN does (measured on an AMD EPYC: 95 against 103 GFLOP/s a core; 109 on
weights that are ``laid out``). But oneDNN adds up long sums one by one, and rounds more: where it
also computed the gradients of adapters, sums over all tokens, the worst of a 135M model was 2.4e-5
off; 9.6e-6 where it computes products with frozen weights alone, 7.6e-6 by MKL. So these are its
share in training, and the gradient of the head, a sum over the vocabulary, is not. Answers are
written with oneDNN altogether.

In training no row of a product may depend on what other rows are computed with it: then rows of
several trials can share a product, and every trial's numbers stay what they are alone, to the last
bit. Libraries choose another kernel for a handful of rows, so fewer than ``LEAST`` are never handed
over (``steadily``); ``is_steady`` tries whether that is enough here.
"""

import platform
import threading
from collections.abc import Callable, Iterable, Sequence
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
_LAID_FOR = 640  # rows: what a micro-pack has, about


def _suits_onednn(x: torch.Tensor) -> bool:
    return ONEDNN and x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0


def times_transposed(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    fast: bool = False,
) -> torch.Tensor:
    """Return x W' + b for x (tokens, in), W (out, in); ``fast``: by the faster library."""
    return _onednn(x, weight, bias) if fast and _suits_onednn(x) else F.linear(x, weight, bias)


def times(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x W for x (tokens, out), W (out, in)."""
    return x @ weight


def through(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x W' + b for a frozen W."""
    if not _suits_onednn(x):
        return F.linear(x, weight, bias)
    # of one row, laid-out weights bring nothing but other last digits
    alone = x.numel() == x.shape[-1]
    return _onednn(x, weight if alone else _laid(weight, False), bias)


def back(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x W for a frozen W."""
    return _onednn(x, _laid(weight, True)) if _suits_onednn(x) else x @ weight


def add_back(total: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``total`` + x W for a frozen W; ``total`` may be overwritten."""
    if _suits_onednn(x):
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, total, _laid(weight, True), None, "add"
        )
        return result
    return total.addmm_(x, weight)


def _onednn(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class _Layouts:
    """One frozen weight once more, arranged as oneDNN wants it: what it otherwise does at every
    product. Made when first asked for.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self._of = weight.detach()  # and its memory: nothing else is ever found at its address
        self._made: dict[bool, torch.Tensor] = {}
        self._making = threading.Lock()

    def of(self, weight: torch.Tensor, transposed: bool) -> torch.Tensor:
        """Of W, or of W'."""
        if weight.data_ptr() != self._of.data_ptr():  # it holds other numbers now
            return weight.t() if transposed else weight
        made = self._made.get(transposed)
        if made is None:
            # answers and training share it
            with (
                self._making,
                torch.inference_mode(False),
                torch.no_grad(),
            ):
                made = self._made.get(transposed)
                if made is None:
                    plain = weight.t().contiguous() if transposed else weight
                    made = self._made[transposed] = torch.ops.mkldnn._reorder_linear_weight(
                        plain, _LAID_FOR
                    )
        return made


def _laid(weight: torch.Tensor, transposed: bool) -> torch.Tensor:
    layouts: _Layouts | None = getattr(weight, "hydratune_layouts", None)
    if layouts is not None:
        return layouts.of(weight, transposed)
    return weight.t() if transposed else weight


def lay_out(model: torch.nn.Module, limit: float) -> int:
    """Has products with the weights of frozen linears of ``model`` use laid-out copies from now on;
    returns bytes at most taken.

    The same numbers to the last bit, and a tenth faster; it takes the weights' memory twice more.
    Nothing where that would be more than ``limit`` bytes, where another library computes, or where
    this machine rounds otherwise on them (tried with one of every shape). Weights that are changed
    in place afterwards would not be noticed.
    """
    if not ONEDNN or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return 0
    linears = [
        m.weight
        for m in model.modules()
        if type(m) is torch.nn.Linear and m.weight.device.type == "cpu"
    ]
    every = {
        id(w): w
        for w in linears
        if w.dtype == torch.float32 and not hasattr(w, "hydratune_layouts")
    }
    needed = 2 * sum(w.numel() * w.element_size() for w in every.values())
    if needed > limit or not all(
        _rounds_alike(w) for w in {w.shape: w for w in every.values()}.values()
    ):
        return 0
    for weight in every.values():
        weight.hydratune_layouts = _Layouts(weight)  # type: ignore[attr-defined]
    return needed


def steadily(
    product: Callable[..., torch.Tensor],
    rows: Sequence[torch.Tensor],
    *rest: Any,
    fast: bool = False,
) -> torch.Tensor:
    """Return ``product(*rows, *rest)``, in which a row has the same bits whatever other rows there
    are; ``fast``: without this guarantee.
    """
    count = len(rows[0])
    if count >= LEAST or rows[0].device.type != "cpu" or fast:
        return product(*rows, *rest)
    return product(*(F.pad(x, (0, 0, 0, LEAST - count)) for x in rows), *rest)[:count]


@torch.no_grad()
def _rounds_alike(weight: torch.Tensor) -> bool:
    """Whether products with ``weight`` have the same bits when it is laid out."""
    plain = weight.detach()  # its Python object is another one, without layouts
    generator, layouts = torch.Generator().manual_seed(0), _Layouts(plain)
    for rows in (LEAST, 33, 200):
        outer, inner = (torch.randn(rows, width, generator=generator) for width in weight.shape)
        for x, wanted, transposed in ((inner, plain, False), (outer, plain.t(), True)):
            if not torch.equal(_onednn(x, layouts.of(plain, transposed)), _onednn(x, wanted)):
                return False
        sums = (
            torch.ops.mkldnn._linear_pointwise.binary(outer, inner, w, None, "add")
            for w in (layouts.of(plain, True), plain.t())
        )
        if not torch.equal(*sums):
            return False
    return True


@torch.no_grad()
def is_steady(
    weights: Iterable[torch.Tensor], dtype: torch.dtype, rows: int, *, of_head: bool = False
) -> bool:
    """Whether that is so on this machine for these weights (out, in): tried with one of every
    shape, on up to ``rows`` rows.

    ``of_head``: as an output head is used, else as the layers below are. Not where results are no
    multiple of two of the widest registers wide: what computes their elements one by one has other
    code, which rounds otherwise, for what is left over at the end.
    """
    generator = torch.Generator().manual_seed(0)
    for weight in {weight.shape: weight for weight in weights}.values():
        if weight.device.type != "cpu" or any(
            width % (_REGISTERS // dtype.itemsize) for width in weight.shape
        ):
            return False
        frozen = weight.to(dtype)
        outer, inner = (
            torch.randn(rows, width, generator=generator).to(dtype) for width in weight.shape
        )
        tried: list[tuple[Callable[..., torch.Tensor], Sequence[torch.Tensor], Sequence[Any]]]
        tried = [(through, (inner,), ())]
        if of_head:
            tried += [(times, (outer,), ())]
        else:
            tried += [
                (back, (outer,), ()),
                (through, (inner,), (outer[0],)),
                (add_back, (inner, outer), ()),
            ]
        for product, inputs, rest in tried:
            every = steadily(product, [x.clone() for x in inputs], frozen, *rest)
            for part in (*_FEW, slice(1, rows // 3), slice(rows // 2, rows)):
                if not torch.equal(
                    steadily(product, [x[part].clone() for x in inputs], frozen, *rest), every[part]
                ):
                    return False
    return True


_REGISTERS = 128  # bytes
_FEW = (slice(0, 1), slice(1, 4), slice(2, 9), slice(3, 11), slice(5, 22), slice(7, 40))  # rows


def exact(x: torch.Tensor) -> torch.Tensor:
    """``x`` in at least fp32, in which sums are taken; the same tensor if it is so already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
