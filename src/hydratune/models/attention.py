"""Attention over rows laid end to end: each row attends to itself only, with no padding and no mask.

Registered in transformers' attention interface, so every architecture that uses the interface works. The row lengths
travel as a keyword argument of the model's forward, so several threads can use one model at the same time.
"""

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "hydratune"


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    row_lengths: tuple[int, ...] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """(1, heads, tokens, width) -> (1, tokens, heads, width), row by row; without ``row_lengths`` plain SDPA.

    A loop of causal calls is 4.5x faster on a CPU than one call with a block-diagonal mask.
    """
    if row_lengths is None:
        if query.shape[2] == 1 and query.shape[1] != key.shape[1] and not kwargs.get("dropout"):
            return _decode(query, key, value, attention_mask, kwargs.get("scaling")), None
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    scale, dropout, window = kwargs.get("scaling"), kwargs.get("dropout", 0.0), kwargs.get("sliding_window")
    grouped = query.shape[1] != key.shape[1]
    outputs, start = [], 0
    for length in row_lengths:
        rows = slice(start, start + length)
        q, k, v = query[:, :, rows], key[:, :, rows], value[:, :, rows]
        mask = _band(length, window, query.device) if window and length > window else None
        outputs.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scale, enable_gqa=grouped
            )
        )
        start += length
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _decode(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float | None) -> torch.Tensor:
    """One new token per row: the query heads that share a key head are taken as its queries, so no key is copied.

    query (rows, heads, 1, width), key and value (rows, key heads, length, width) -> (rows, 1, heads, width).
    """
    rows, heads, _, width = query.shape
    grouped = query.view(rows, key.shape[1], heads // key.shape[1], width)
    return F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scale).reshape(rows, 1, heads, width)


def _band(length: int, window: int, device: torch.device) -> torch.Tensor:
    """(length, length) mask of sliding-window attention: each token sees itself and ``window - 1`` before it."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def supports_packing(model: PreTrainedModel) -> str | None:
    """None if rows can be laid end to end in ``model``, else why not."""
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} does not use transformers' attention interface"
    if getattr(config, "attn_logit_softcapping", None):
        return "the model caps attention logits, which SDPA cannot do"
    if any(kind not in ("full_attention", "sliding_attention") for kind in getattr(config, "layer_types", None) or ()):
        return "the model has layers other than attention, which would see the neighbouring rows"
    return None
