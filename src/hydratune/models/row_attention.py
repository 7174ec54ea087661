"""Exact causal attention of rows laid end to end on a CPU, with or without a prefix that all of
them begin with.

PyTorch's flash kernel is called once per row, and once for all rows against the prefix. Two partial
results are merged by their log-sum-exp, as flash attention merges blocks (arXiv:2205.14135), and
the kernel's own backward takes the merged values, so no mask is built and nothing is copied per
row.
"""

import torch
from torch.autograd.function import once_differentiable

from hydratune.models.autograd import Context

flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _RowContext(
    Context[
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor | None,
        torch.Tensor | None,
        torch.Tensor,
        torch.Tensor,
    ]
):
    lengths: tuple[int, ...]
    scale: float


class RowAttention(torch.autograd.Function):
    """Attention of every token to the prefix, and to the tokens of its own row up to itself.

    query (1, heads, tokens, width), key and value (1, key heads, tokens, width), prefix_key and
    prefix_value (1, key heads, prefix, width) or None -> (1, tokens, heads, width).
    """

    @staticmethod
    def forward(
        ctx: _RowContext,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        prefix_key: torch.Tensor | None,
        prefix_value: torch.Tensor | None,
        lengths: tuple[int, ...],
        scale: float,
    ) -> torch.Tensor:
        heads, tokens, width = query.shape[1:]
        result = query.new_empty(1, tokens, heads, width)
        q, out = (_by_key_head(x, key.shape[1]) for x in (query, result.transpose(1, 2)))
        groups = q.shape[1]
        k, v = _for_group(key, groups), _for_group(value, groups)
        total = torch.empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
        start = 0
        for length in filter(None, lengths):
            row = slice(start, start := start + length)
            out[:, :, row], total[:, :, row] = flash(
                q[:, :, row], k[:, :, row], v[:, :, row], 0.0, True, scale=scale
            )
        if prefix_key is not None and prefix_value is not None:
            own, pair = total, (_for_group(x, groups) for x in (prefix_key, prefix_value))
            seen, other = flash(q, *pair, 0.0, False, scale=scale)
            total = torch.logaddexp(own, other)
            out.mul_((own - total).exp_()[..., None]).add_(
                seen.mul_((other - total).exp_()[..., None])
            )
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, result, total)
        ctx.lengths, ctx.scale = lengths, scale
        return result

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: _RowContext, d_result: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        query, key, value, prefix_key, prefix_value, result, total = ctx.saved_tensors
        heads = key.shape[1]
        q, out, d_out = (
            _by_key_head(x, heads)
            for x in (query, result.transpose(1, 2), d_result.transpose(1, 2))
        )
        groups = q.shape[1]
        k, v = _for_group(key, groups), _for_group(value, groups)
        d_query, d_key, d_value = (_like(x) for x in (query, key, value))
        d_q = _by_key_head(d_query, heads)
        start = 0
        for length in filter(None, ctx.lengths):
            row = slice(start, start := start + length)
            d_q[:, :, row], d_k, d_v = _backward(
                d_out[:, :, row],
                q[:, :, row],
                k[:, :, row],
                v[:, :, row],
                out[:, :, row],
                total[:, :, row],
                0.0,
                True,
                scale=ctx.scale,
            )
            torch.sum(d_k, 1, out=d_key[0, :, row])
            torch.sum(d_v, 1, out=d_value[0, :, row])
        if prefix_key is None or prefix_value is None:
            return d_query, d_key, d_value, None, None, None, None
        k, v = _for_group(prefix_key, groups), _for_group(prefix_value, groups)
        more, d_k, d_v = _backward(d_out, q, k, v, out, total, 0.0, False, scale=ctx.scale)
        d_q.add_(more)
        return d_query, d_key, d_value, d_k.sum(1)[None], d_v.sum(1)[None], None, None


def _by_key_head(x: torch.Tensor, key_heads: int) -> torch.Tensor:
    """Return x (1, heads, tokens, width) as (key heads, heads per key head, tokens, width), in the
    same memory.
    """
    return x[0].unflatten(0, (key_heads, -1))


def _for_group(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Return x (1, key heads, tokens, width) as (key heads, groups, tokens, width), in the same
    memory for every head of a group.
    """
    return x[0][:, None].expand(-1, groups, -1, -1)


def _like(x: torch.Tensor) -> torch.Tensor:
    """Return an empty tensor of the shape of ``x`` (1, heads, tokens, width), in which the heads of
    a token are side by side, as linear layers read them.
    """
    return x.new_empty(1, x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)
