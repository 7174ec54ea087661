"""Attention of rows laid end to end on a GPU, by PyTorch's flash kernel for rows of uneven length.

The kernel reads half precision only and has no dropout; everything else loops over the rows. Not run on a GPU so far:
the tests compare what is handed to the kernel against a kernel of their own.
"""

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import torch

try:
    from torch.nn.attention.varlen import varlen_attn as kernel
except ImportError:  # it came with PyTorch 2.10
    kernel = None  # type: ignore[assignment]


def _has(kernel: Callable[..., object] | None, *names: str) -> bool:
    return kernel is not None and all(name in inspect.signature(kernel).parameters for name in names)


def can_take(query: torch.Tensor, value: torch.Tensor, dropout: float) -> bool:
    """Whether the kernel computes attention of these tensors."""
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] == value.shape[-1] <= 256
        and query.shape[-1] % 8 == 0
        and not dropout
        and _has(kernel, "scale", "window_size")
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
    """Every token sees the prefix, and its own row up to itself, ``window`` tokens at most.

    query (1, heads, tokens, width), key and value (1, key heads, tokens, width), prefix (1, key heads, prefix, width)
    -> (1, tokens, heads, width).
    """
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    extra = 0
    if prefix is not None:  # the last query sees the last key, so a row's keys are the prefix and its own
        extra = prefix[0].shape[2]
        k, v = (_before_each(p[0].transpose(0, 1), x, lengths) for p, x in zip(prefix, (k, v), strict=True))
    options: dict[str, object] = {}
    if q.shape[1] != k.shape[1]:
        if _has(kernel, "enable_gqa"):
            options["enable_gqa"] = True
        else:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    starts, key_starts = (_starts([n + more for n in lengths], q.device) for more in (0, extra))
    longest = max(lengths)
    left = window - 1 if window is not None else -1
    assert kernel is not None
    attended: Any = kernel(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        starts,
        key_starts,
        longest,
        longest + extra,
        scale=scale,
        window_size=(left, 0),
        **options,  # type: ignore[arg-type]
    )
    result: torch.Tensor = attended[None]
    return result


def _before_each(prefix: torch.Tensor, x: torch.Tensor, lengths: tuple[int, ...]) -> torch.Tensor:
    """(prefix, heads, width) and rows end to end (tokens, heads, width) -> the prefix stands before every row."""
    return torch.cat([part for row in x.split(lengths) for part in (prefix, row)])


def _starts(lengths: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
