"""Attention of rows laid end to end on a GPU, by PyTorch's flash kernel for rows of uneven length.

The kernel reads half precision only and has no dropout; everything else loops over the rows. Not
run on a GPU so far: the tests compare what the kernel is given with a kernel of their own.
"""

import inspect
import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from hydratune.models.autograd import Context
from hydratune.models.compute import to_device

try:
    from torch.nn.attention.varlen import varlen_attn as kernel
except ImportError:  # it came with PyTorch 2.10
    kernel = None  # type: ignore[assignment]


@lru_cache(maxsize=64)
def _has(kernel: Callable[..., object] | None, *names: str) -> bool:
    return kernel is not None and all(
        name in inspect.signature(kernel).parameters for name in names
    )


def supports(
    query: torch.Tensor, value: torch.Tensor, dropout: float, windowed: bool = False
) -> bool:
    """Return whether the kernel computes attention of these tensors, forward and backward;
    ``windowed``: in a sliding window.
    """
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] == value.shape[-1]
        and supports_heads(query.shape[-1], torch.cuda.get_device_capability(query.device))
        and not dropout
        and (
            _has(kernel, "window_size") or (_has(kernel, "is_causal") and not windowed)
        )  # the latter before PyTorch 2.11
    )


def supports_heads(width: int, capability: tuple[int, int]) -> bool:
    """Return whether flash-attention computes heads of ``width`` on a GPU of this compute
    capability, forward and backward.

    It needs 8.0 (Ampere). The backward pass of widths from 193 to 224 needs more shared memory than
    8.6, 8.9 and 12.x have: PyTorch's own choice of kernels excludes them as well (sdp_utils.cpp).
    """
    small = capability in ((8, 6), (8, 7), (8, 9)) or capability[0] == 12
    return (
        capability >= (8, 0)
        and width % 8 == 0
        and width <= 256
        and not (small and 192 < width <= 224)
    )


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: tuple[int, ...],
    prefix: tuple[torch.Tensor, torch.Tensor] | None,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """Return attention of every token to the prefix, and to its own row up to itself, ``window``
    tokens at most.

    Shapes: query (1, heads, tokens, width), key and value (1, key heads, tokens, width), prefix (1,
    key heads, prefix, width), result (1, tokens, heads, width).
    """
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    extra = 0 if prefix is None else prefix[0].shape[2]
    if prefix is not None:
        # the last query attends to the last key, so a row's keys are the prefix and its own
        k, v = (
            BeforeEach.apply(p[0].transpose(0, 1), x, lengths)  # type: ignore[no-untyped-call]
            for p, x in zip(prefix, (k, v), strict=True)
        )
    grouped = q.shape[1] != k.shape[1]
    options = _options(grouped, scale, window)
    if grouped and "enable_gqa" not in options:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    if scale is not None and "scale" not in options:  # it divides by the root of the width
        q = q * (scale * q.shape[-1] ** 0.5)
    starts, key_starts = (_starts(lengths, more, q.device) for more in (0, extra))
    longest = max(lengths)
    tensors = q.contiguous(), k.contiguous(), v.contiguous(), starts, key_starts
    assert kernel is not None
    attended: Any = kernel(
        *tensors,
        longest,
        longest + extra,
        **options,  # type: ignore[arg-type]  # they depend on its version
    )
    result: torch.Tensor = attended[None]
    return result


def _options(grouped: bool, scale: float | None, window: int | None) -> dict[str, object]:
    """Return the keyword arguments of the kernel, which depend on the version of PyTorch.

    ``grouped``: several query heads share a key head.
    """
    options: dict[str, object] = {}
    if grouped and _has(kernel, "enable_gqa"):
        options["enable_gqa"] = True
    if _has(kernel, "window_size"):
        options["window_size"] = (window - 1 if window is not None else -1, 0)
    else:
        options["is_causal"] = True
    if _has(kernel, "scale"):
        options["scale"] = scale
    return options


class _BeforeEachContext(Context[()]):
    lengths: tuple[int, ...]
    prefix: int  # tokens of the prefix
    dtype: torch.dtype  # of the prefix


class BeforeEach(torch.autograd.Function):
    """A prefix (prefix, heads, width) put before every one of the rows laid end to end in x
    (tokens, heads, width).

    The gradient of the prefix is a sum over rows, taken in fp32 and in a fixed order.
    """

    @staticmethod
    def forward(
        ctx: _BeforeEachContext, prefix: torch.Tensor, x: torch.Tensor, lengths: tuple[int, ...]
    ) -> torch.Tensor:
        ctx.lengths, ctx.prefix, ctx.dtype = lengths, len(prefix), prefix.dtype
        places, _, _ = _places(lengths, len(prefix), x.device)
        return torch.cat([prefix.to(x.dtype), x]).index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: _BeforeEachContext, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        _, of_prefix, of_rows = _places(ctx.lengths, ctx.prefix, gradient.device)
        shares = gradient.index_select(0, of_prefix).unflatten(0, (len(ctx.lengths), ctx.prefix))
        total = shares.sum(0, dtype=torch.promote_types(gradient.dtype, torch.float32))
        return total.to(ctx.dtype), gradient.index_select(0, of_rows), None


@lru_cache(maxsize=16)  # the same for every layer of a micro-pack
def _places(lengths: tuple[int, ...], prefix: int, device: torch.device) -> list[torch.Tensor]:
    """Return three lists of positions for a prefix before every row.

    The first has, for every position of the result, where it is in prefix and x laid end to end.
    The second has the positions of the copies of the prefix in the result, the third those of the
    rows.
    """
    places: list[int] = []
    of_prefix: list[int] = []
    of_rows: list[int] = []
    start = prefix
    for length in lengths:
        of_prefix += range(len(places), len(places) + prefix)
        of_rows += range(len(places) + prefix, len(places) + prefix + length)
        places += [*range(prefix), *range(start, start := start + length)]
    with torch.inference_mode(False):  # answers and training steps may share it
        return to_device([places, of_prefix, of_rows], device)


@lru_cache(maxsize=16)  # the same for every layer of a micro-pack
def _starts(lengths: tuple[int, ...], more: int, device: torch.device) -> torch.Tensor:
    """Return where rows begin that are ``more`` tokens longer than ``lengths``, and where the last
    one ends; int32, as the kernel requires.
    """
    with torch.inference_mode(False):  # answers and training steps may share it
        (starts,) = to_device(
            [[0, *itertools.accumulate(length + more for length in lengths)]], device
        )
        return starts.to(torch.int32)
