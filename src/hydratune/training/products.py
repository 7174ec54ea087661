"""Matrix products with frozen weights, by either of the two libraries in PyTorch for CPUs.

By default PyTorch computes fp32 products by MKL, which on processors not made by Intel is 5-10 %
slower than oneDNN (measured on an AMD EPYC: 95 against 103 GFLOP/s per core; 109 on weights in
oneDNN's own layout). But oneDNN adds long sums sequentially and rounds more. The largest error of a
gradient of a 135M model was 7.6e-6 by MKL, 9.6e-6 with oneDNN for products with frozen weights
alone, and 2.4e-5 with oneDNN also for the gradients of adapters, which are sums over all tokens. So
in training oneDNN computes the products with frozen weights, but not the gradient of the head,
which is a sum over the vocabulary. In generation it computes everything.

In training no row of a product may depend on the other rows that are computed with it: then rows of
several trials can share a product, and the numbers of every trial are the same as alone, to the
last bit. The libraries use another kernel for a few rows, so products have at least ``LEAST`` rows
(``row_invariant``); ``is_row_invariant`` tests whether that suffices on this machine.
"""

import platform
import threading
from collections.abc import Callable, Iterable, Sequence
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


LEAST = 8  # rows; MKL uses other kernels below 4, oneDNN below 2
_REORDERED_FOR = 640  # rows for which the layout of weights is chosen: about those of a micro-pack


def _suits_onednn(x: torch.Tensor) -> bool:
    return ONEDNN and x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0


def matmul_transposed(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    fast: bool = False,
) -> torch.Tensor:
    """Return x W' + b for x (tokens, in), W (out, in); ``fast``: by the faster library."""
    return _onednn(x, weight, bias) if fast and _suits_onednn(x) else F.linear(x, weight, bias)


def matmul(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x W for x (tokens, out), W (out, in)."""
    return x @ weight


def frozen_forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return x W' + b for a frozen W."""
    if not _suits_onednn(x):
        return F.linear(x, weight, bias)
    # for one row, the layout only changes the last digits
    one_row = x.numel() == x.shape[-1]
    return _onednn(x, weight if one_row else _reordered(weight, False), bias)


def frozen_backward(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x W for a frozen W."""
    return _onednn(x, _reordered(weight, True)) if _suits_onednn(x) else x @ weight


def add_frozen_backward(total: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return ``total`` + x W for a frozen W; ``total`` may be overwritten."""
    if _suits_onednn(x):
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, total, _reordered(weight, True), None, "add"
        )
        return result
    return total.addmm_(x, weight)


def _onednn(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class _Layouts:
    """Copies of one frozen weight in oneDNN's own layout, which it otherwise makes for every
    product. They are made when they are first used.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self._of = weight.detach()  # keeps its memory: its address is never used for another tensor
        self._copies: dict[bool, torch.Tensor] = {}  # by whether it is transposed
        self._making = threading.Lock()

    def of(self, weight: torch.Tensor, transposed: bool) -> torch.Tensor:
        """Return the copy of W, or of W'."""
        if weight.data_ptr() != self._of.data_ptr():  # it holds other numbers now
            return weight.t() if transposed else weight
        copy = self._copies.get(transposed)
        if copy is None:
            # generation and training share it
            with self._making, torch.inference_mode(False), torch.no_grad():
                copy = self._copies.get(transposed)
                if copy is None:
                    plain = weight.t().contiguous() if transposed else weight
                    copy = torch.ops.mkldnn._reorder_linear_weight(plain, _REORDERED_FOR)
                    self._copies[transposed] = copy
        return copy


def _reordered(weight: torch.Tensor, transposed: bool) -> torch.Tensor:
    layouts: _Layouts | None = getattr(weight, "hydratune_layouts", None)
    if layouts is not None:
        return layouts.of(weight, transposed)
    return weight.t() if transposed else weight


def reorder_weights(model: torch.nn.Module, limit: float) -> int:
    """Have products with the weights of linear layers of ``model`` use copies in oneDNN's layout;
    return how many bytes they take at most.

    The results are the same to the last bit, and come a tenth faster; the copies take twice the
    memory of the weights. Nothing is done where that would be more than ``limit`` bytes, where
    another library computes, or where this machine rounds differently with the copies (tested with
    one weight of every shape). Weights that are changed in place afterwards are not noticed.
    """
    if not ONEDNN or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return 0
    linears = [
        m.weight
        for m in model.modules()
        if type(m) is torch.nn.Linear and m.weight.device.type == "cpu"
    ]
    weights = {
        id(w): w
        for w in linears
        if w.dtype == torch.float32 and not hasattr(w, "hydratune_layouts")
    }
    needed = 2 * sum(w.numel() * w.element_size() for w in weights.values())
    if needed > limit or not all(
        _rounds_the_same(w) for w in {w.shape: w for w in weights.values()}.values()
    ):
        return 0
    for weight in weights.values():
        weight.hydratune_layouts = _Layouts(weight)  # type: ignore[attr-defined]
    return needed


def row_invariant(
    product: Callable[..., torch.Tensor],
    rows: Sequence[torch.Tensor],
    *rest: torch.Tensor | None,
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
def _rounds_the_same(weight: torch.Tensor) -> bool:
    """Return whether products with ``weight`` have the same bits in oneDNN's layout."""
    plain = weight.detach()  # its Python object is another one, without layouts
    generator, layouts = torch.Generator().manual_seed(0), _Layouts(plain)
    for rows in (LEAST, 33, 200):
        outer, inner = (torch.randn(rows, width, generator=generator) for width in weight.shape)
        for x, unchanged, transposed in ((inner, plain, False), (outer, plain.t(), True)):
            if not torch.equal(_onednn(x, layouts.of(plain, transposed)), _onednn(x, unchanged)):
                return False
        sums = (
            torch.ops.mkldnn._linear_pointwise.binary(outer, inner, w, None, "add")
            for w in (layouts.of(plain, True), plain.t())
        )
        if not torch.equal(*sums):
            return False
    return True


@torch.no_grad()
def is_row_invariant(
    weights: Iterable[torch.Tensor], dtype: torch.dtype, rows: int, *, of_head: bool = False
) -> bool:
    """Return whether ``row_invariant`` keeps its promise on this machine for these weights
    (out, in): tested with one of every shape, on up to ``rows`` rows.

    ``of_head``: in the products of an output head, else in those of the layers below. False where
    the width of a result is not a multiple of two of the widest registers: elementwise code treats
    the remaining elements in another way, which rounds differently.
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
        products: list[
            tuple[Callable[..., torch.Tensor], Sequence[torch.Tensor], Sequence[torch.Tensor]]
        ]
        products = [(frozen_forward, (inner,), ())]
        if of_head:
            products += [(matmul, (outer,), ())]
        else:
            products += [
                (frozen_backward, (outer,), ()),
                (frozen_forward, (inner,), (outer[0],)),
                (add_frozen_backward, (inner, outer), ()),
            ]
        for product, inputs, rest in products:
            every = row_invariant(product, [x.clone() for x in inputs], frozen, *rest)
            for part in (*_FEW, slice(1, rows // 3), slice(rows // 2, rows)):
                some = row_invariant(product, [x[part].clone() for x in inputs], frozen, *rest)
                if not torch.equal(some, every[part]):
                    return False
    return True


_REGISTERS = 128  # bytes
_FEW = (slice(0, 1), slice(1, 4), slice(2, 9), slice(3, 11), slice(5, 22), slice(7, 40))  # rows


def at_least_fp32(x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` in at least fp32, in which sums are computed; the same tensor if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
