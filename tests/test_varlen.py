"""The arguments of the GPU kernel for rows of uneven length; a kernel written here replaces it."""

from typing import Any

import pytest
import torch

from hydratune.models import varlen
from hydratune.models.attention import NAME
from hydratune.training.objective import Objective
from hydratune.training.plan import LEAST_SAVED
from small_models import ARCHITECTURES, build, plain_loss, rows


def with_options(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """As documented: (tokens, heads, width); the last query of a row sees its last key."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q == int(cu_seq_q.diff().max())
    assert max_k == int(cu_seq_k.diff().max())
    assert enable_gqa or query.shape[1] == key.shape[1]
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    outputs = []
    for number in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[number] : cu_seq_q[number + 1]]
        k, v = (x[cu_seq_k[number] : cu_seq_k[number + 1]] for x in (key, value))
        distance = torch.arange(len(q))[:, None] + (len(k) - len(q)) - torch.arange(len(k))
        window_left, window_right = window_size
        seen = (distance >= -window_right) & (
            (distance <= window_left)
            if window_left >= 0
            else torch.ones_like(distance, dtype=torch.bool)
        )
        scores = torch.einsum("qhd,khd->hqk", q, k) * (
            scale if scale is not None else q.shape[-1] ** -0.5
        )
        outputs.append(
            torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, float("-inf")).softmax(-1), v)
        )
    return torch.cat(outputs)


def without_gqa(
    *args: Any, scale: float | None = None, window_size: tuple[int, int] = (-1, -1)
) -> torch.Tensor:
    """The kernel without support for query heads that share a key head."""
    return with_options(*args, scale=scale, window_size=window_size)


def first(*args: Any, is_causal: bool = False) -> torch.Tensor:
    """The first version of the kernel: no scale, no window."""
    return with_options(*args, window_size=(-1, 0) if is_causal else (-1, -1))


@pytest.mark.parametrize("kernel", [with_options, without_gqa, first])
@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma3Text", "Qwen3"])
@pytest.mark.parametrize("share", [False, True])
def test_the_kernel_gets_the_keys_that_rows_attend_to(
    monkeypatch: pytest.MonkeyPatch, name: str, kernel: Any, share: bool
) -> None:
    calls = []

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(args)
        return kernel(*args, **kwargs)

    counted.__signature__ = varlen.inspect.signature(kernel)  # type: ignore[attr-defined]
    examples = rows(4)
    if share:  # a common prefix
        examples = [
            type(e)(
                (*range(LEAST_SAVED // 3 + 1), *e.ids),
                (*[False] * (LEAST_SAVED // 3 + 1), *e.loss_mask),
            )
            for e in examples
        ]
    model = build(name)
    expected = plain_loss(model, examples)
    expected_gradients = torch.autograd.grad(expected, list(model.parameters()))
    model.set_attn_implementation(NAME)
    monkeypatch.setattr(varlen, "kernel", counted)
    monkeypatch.setattr(
        varlen,
        "supports",
        lambda query, value, dropout, windowed: not (dropout or (kernel is first and windowed)),
    )
    loss, gradients = Objective(model, micro_tokens=1000, workers=1, share=share).gradients(
        examples
    )
    windowed = "sliding_window" in ARCHITECTURES[name]
    # all its layers have a window
    assert bool(calls) is not (kernel is first and name == "Mistral")
    # more keys than queries
    assert any(int(call[4][-1]) > int(call[3][-1]) for call in calls) is (share and not windowed)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_kernel_is_not_used_where_it_is_unsupported() -> None:
    x = torch.zeros(1, 2, 4, 8, dtype=torch.bfloat16)
    assert not varlen.supports(x, x, 0.0)  # no GPU
    meta = x.to("meta")
    assert not varlen.supports(meta, meta, 0.0)


def test_row_starts_are_computed_once_for_all_layers() -> None:
    varlen._starts.cache_clear()
    varlen._places.cache_clear()
    with torch.inference_mode():  # as in generation; training may reuse the tensors
        first = varlen._starts((3, 4), 0, torch.device("cpu"))
        assert not any(
            part.is_inference() for part in (first, *varlen._places((3, 4), 2, torch.device("cpu")))
        )
    assert first.tolist() == [0, 3, 7] and first.dtype == torch.int32
    assert varlen._starts((3, 4), 0, torch.device("cpu")) is first
    assert varlen._starts((3, 4), 2, torch.device("cpu")).tolist() == [0, 5, 11]
