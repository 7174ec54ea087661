"""The autograd functions of the training step, against numerical gradients and PyTorch's own."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from double_tensors import fixed, leaf
from hydratune.errors import ConfigError
from hydratune.models.row_attention import RowAttention
from hydratune.training import elementwise
from hydratune.training.arithmetic import STANDARD, Arithmetic
from hydratune.training.block_functions import RmsNorm, gated_down
from hydratune.training.elementwise import ACTIVATIONS, EAGER, compiled
from hydratune.training.low_rank import FrozenLinear, LoraShare, apply_lora

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("siblings", [1, 3])
def test_lora_function(siblings: int, bias: bool, dropout: float) -> None:
    sizes, scales = [7, 4, 5][:siblings], (1.7, 0.3, 2.0)[:siblings]
    weights = [fixed(out, 6, seed=i) for i, out in enumerate(sizes)]
    biases = [fixed(out, seed=9) if bias else None for out in sizes]
    linears = [FrozenLinear(lambda w=w: w, b) for w, b in zip(weights, biases, strict=True)]
    pairs = [
        t
        for i, out in enumerate(sizes)
        for t in (leaf(2 + i, 6, seed=10 + i), leaf(out, 2 + i, seed=20 + i))
    ]

    def outputs(x: torch.Tensor, *pairs: torch.Tensor) -> Any:
        share = LoraShare(tuple(range(siblings)), scales, dropout, torch.Generator().manual_seed(3))
        return apply_lora(x, linears, [share], pairs)

    x = leaf(2, 5, 6, seed=30)
    assert torch.autograd.gradcheck(outputs, (x, *pairs))
    if not dropout:
        for y, w, b, scale, a, up in zip(
            outputs(x, *pairs), weights, biases, scales, pairs[::2], pairs[1::2], strict=True
        ):
            torch.testing.assert_close(y, F.linear(x, w, b) + scale * F.linear(F.linear(x, a), up))


def test_lora_function_of_two_adapters_each_on_its_own_rows_and_places() -> None:
    weights = fixed(4, 6, seed=1), fixed(3, 6, seed=2), fixed(2, 6, seed=4)
    linears = [
        FrozenLinear(lambda: weights[0]),
        FrozenLinear(lambda: weights[1], fixed(3, seed=3)),
        FrozenLinear(lambda: weights[2]),
    ]
    shares = (
        LoraShare((0, 2), (1.5, 0.5), span=slice(0, 3)),
        LoraShare((1,), (2.0,), 0.3, span=slice(3, 7)),
    )
    pairs = [
        leaf(2, 6, seed=5),
        leaf(4, 2, seed=6),
        leaf(1, 6, seed=7),
        leaf(2, 1, seed=8),
        leaf(3, 6, seed=9),
        leaf(3, 3, seed=10),
    ]

    def outputs(x: torch.Tensor, *pairs: torch.Tensor) -> Any:
        drawn = [replace(share, generator=torch.Generator().manual_seed(3)) for share in shares]
        return apply_lora(x, linears, drawn, pairs)

    x = leaf(1, 7, 6, seed=30)
    assert torch.autograd.gradcheck(outputs, (x, *pairs))
    first, second, third = outputs(x, *pairs)
    torch.testing.assert_close(first[:, 3:], F.linear(x[:, 3:], weights[0]))
    torch.testing.assert_close(
        third[:, :3], F.linear(x[:, :3], weights[2] + 0.5 * pairs[3] @ pairs[2])
    )
    # of the same shape: fewer rows may round otherwise
    assert torch.equal(second[:, :3], F.linear(x, weights[1], fixed(3, seed=3))[:, :3])


def test_linears_without_any_adapter_keep_nothing_for_the_backward_pass() -> None:
    x = leaf(2, 5, 6)
    (y,) = apply_lora(x, [FrozenLinear(lambda: fixed(4, 6, seed=1), fixed(4, seed=2))])
    assert y.grad_fn.saved_tensors == ()
    assert torch.autograd.gradcheck(
        lambda x: apply_lora(x, [FrozenLinear(lambda: fixed(4, 6, seed=1))]), (x,)
    )


def test_dropout_of_the_lora_function_keeps_the_expectation() -> None:
    x, a, b = torch.ones(1, 400, 50), torch.ones(1, 50), torch.ones(1, 1)
    share = LoraShare((0,), (1.0,), 0.25, torch.Generator().manual_seed(0))
    (y,) = apply_lora(x, [FrozenLinear(lambda: torch.zeros(1, 50))], [share], [a, b])
    assert y.mean().item() == pytest.approx(50, rel=0.02)
    assert y.std().item() == pytest.approx(math.sqrt(50 * 0.25 / 0.75), rel=0.1)


def test_an_unused_sibling_has_no_gradient() -> None:
    linears = [FrozenLinear(lambda: torch.zeros(2, 3, dtype=torch.float64))] * 2
    pairs = [leaf(1, 3), leaf(2, 1), leaf(1, 3), leaf(2, 1)]
    first, _ = apply_lora(leaf(4, 3), linears, [LoraShare((0, 1), (1.0, 1.0))], pairs)
    gradients = torch.autograd.grad(first.sum(), pairs)
    assert gradients[0].abs().sum() > 0
    assert gradients[2].abs().sum() == gradients[3].abs().sum() == 0


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_gated_down(activation: str, dropout: float) -> None:
    weight, bias = fixed(4, 6, seed=1), fixed(4, seed=2)
    inputs = leaf(2, 3, 6, seed=3), leaf(2, 3, 6, seed=4), leaf(2, 6, seed=5), leaf(4, 2, seed=6)

    def output(gate: torch.Tensor, up: torch.Tensor, *pair: torch.Tensor) -> Any:
        share = LoraShare((0,), (1.3,), dropout, torch.Generator().manual_seed(3))
        linear = FrozenLinear(lambda: weight, bias)
        return gated_down(gate, up, activation, linear, [share] if pair else [], pair)

    assert torch.autograd.gradcheck(output, inputs)
    assert torch.autograd.gradcheck(output, inputs[:2])
    gate, up, a, b = inputs
    product = ACTIVATIONS[activation][0](gate) * up
    torch.testing.assert_close(output(gate, up), F.linear(product, weight, bias))
    if not dropout:
        torch.testing.assert_close(
            output(*inputs),
            F.linear(product, weight, bias) + 1.3 * F.linear(F.linear(product, a), b),
        )


def test_rms_norm() -> None:
    weight = fixed(6, seed=1) + 3
    x = leaf(2, 3, 6, seed=2)
    assert torch.autograd.gradcheck(lambda x: RmsNorm.apply(x, weight, 1e-5), (x,))
    torch.testing.assert_close(RmsNorm.apply(x, weight, 1e-5), F.rms_norm(x, (6,), weight, 1e-5))


def test_rms_norm_of_half_precision_is_computed_in_fp32() -> None:
    x = (
        (100 * torch.randn(8, 64, generator=torch.Generator().manual_seed(0)))
        .bfloat16()
        .requires_grad_(True)
    )
    weight = torch.ones(64, dtype=torch.bfloat16)
    exact = x.detach().float().requires_grad_(True)
    y, expected = RmsNorm.apply(x, weight, 1e-6), F.rms_norm(exact, (64,), None, 1e-6)
    torch.testing.assert_close(y.float(), expected, rtol=1e-2, atol=1e-2)
    direction = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    (ours,), (theirs,) = (
        torch.autograd.grad(y, x, direction.bfloat16()),
        torch.autograd.grad(expected, exact, direction),
    )
    assert (ours.float() - theirs).norm() < 0.02 * theirs.norm()


def test_without_a_compiler_the_message_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("No working C++ compiler found\nand a long story")

    monkeypatch.setattr(elementwise, "compiled", broken)
    assert elementwise.elementwise_for(False) is EAGER
    with pytest.raises(
        ConfigError,
        match=(
            r"trainer\.compile = True.*\n.*No working C\+\+ compiler found.*\n.*install a C\+\+"
            r" compiler"
        ),
    ):
        elementwise.elementwise_for(True)


@pytest.mark.slow  # compiling takes half a minute
@pytest.mark.filterwarnings("default")  # the compiler gives warnings
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_pieces_compute_the_same(dtype: torch.dtype) -> None:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler here, which torch.compile needs")
    elementwise = compiled()
    linear = FrozenLinear(lambda: fixed(4, 6, seed=1).to(dtype))
    weight = (fixed(6, seed=1) + 3).to(dtype)

    def both(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
        leaves = [x.detach().to(dtype).requires_grad_(True) for x in inputs]
        expected = function(STANDARD, *leaves)
        computed = function(Arithmetic(elementwise), *leaves)
        close = {} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
        torch.testing.assert_close(computed, expected, **close)
        gradients = (
            torch.autograd.grad(y, leaves, torch.ones_like(y)) for y in (computed, expected)
        )
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, **close)

    for tokens in (1, 3, 40):
        both(
            lambda how, x: RmsNorm.apply(x, weight, 1e-5, how.elementwise), leaf(tokens, 6, seed=3)
        )
        for name in ACTIVATIONS:
            gated = partial(
                lambda name, how, g, u, a, b: gated_down(
                    g, u, name, linear, [LoraShare((0,), (1.3,))], [a, b], how
                ),
                name,
            )
            both(
                gated,
                leaf(tokens, 6, seed=3),
                leaf(tokens, 6, seed=4),
                leaf(2, 6, seed=5),
                leaf(4, 2, seed=6),
            )


@pytest.mark.parametrize("prefix", [0, 4])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_row_attention(key_heads: int, prefix: int) -> None:
    lengths = (3, 1, 5)
    query, key, value = (
        leaf(1, 4, 9, 8, seed=1),
        leaf(1, key_heads, 9, 8, seed=2),
        leaf(1, key_heads, 9, 8, seed=3),
    )
    pair = (
        (leaf(1, key_heads, prefix, 8, seed=4), leaf(1, key_heads, prefix, 8, seed=5))
        if prefix
        else (None, None)
    )

    def ours(*inputs: torch.Tensor) -> torch.Tensor:
        return RowAttention.apply(*inputs[:3], *(inputs[3:] or (None, None)), lengths, 0.3)

    inputs = (query, key, value, *(p for p in pair if p is not None))
    assert torch.autograd.gradcheck(ours, inputs)
    numbers = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    sees = (numbers[:, None] == numbers) & torch.ones(9, 9, dtype=torch.bool).tril()
    sees = torch.cat([torch.ones(9, prefix, dtype=torch.bool), sees], dim=1)
    k, v = (
        torch.cat([own, x], dim=2) if own is not None else x
        for own, x in zip(pair, (key, value), strict=True)
    )
    expected = F.scaled_dot_product_attention(
        query, k, v, attn_mask=sees, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(ours(*inputs), expected.transpose(1, 2))
