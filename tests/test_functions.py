"""The autograd functions of the training step, in float64 against numerical gradients, and against
PyTorch's own.
"""

import copy
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hydratune.errors import ConfigError
from hydratune.models.row_attention import RowAttention
from hydratune.training import elementwise, products
from hydratune.training.arithmetic import STANDARD, Arithmetic
from hydratune.training.block_functions import RmsNorm, gated_down
from hydratune.training.elementwise import ACTIVATIONS, EAGER, compiled
from hydratune.training.losses import HeadLoss, LogitLoss, LossShape
from hydratune.training.low_rank import FrozenLinear, LoraShare, apply_lora


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices of a few numbers are not worth waiting for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def leaf(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_(True)


def fixed(*shape: int, seed: int = 0) -> torch.Tensor:
    return leaf(*shape, seed=seed).detach()


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


def test_a_row_of_a_product_does_not_depend_on_its_company() -> None:
    """By padding what is short, if the library is steady from there on; one whose last bit depends
    on the number of rows is found out.
    """
    weights = [
        torch.randn(size, generator=torch.Generator().manual_seed(1))
        for size in ((64, 96), (96, 64), (64, 96))
    ]
    x = torch.randn(200, 96, generator=torch.Generator().manual_seed(2))
    if products.is_steady(weights, torch.float32, 160):
        every = products.steadily(products.through, (x,), weights[0])
        for part in (slice(0, 1), slice(7, 10), slice(50, 64)):
            assert torch.equal(
                products.steadily(products.through, (x[part],), weights[0]), every[part]
            )
    few = products.steadily(products.add_back, (torch.ones(2, 64), x[:2]), weights[1])
    torch.testing.assert_close(few, x[:2] @ weights[1] + 1)


def test_products_that_depend_on_the_number_of_rows_are_not_steady(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = [torch.eye(32)]
    monkeypatch.setattr(products, "through", lambda x, w, b=None: F.linear(x, w, b))
    assert products.is_steady(weights, torch.float32, 160)
    monkeypatch.setattr(
        products, "through", lambda x, w, b=None: F.linear(x, w, b) * (1 + 1e-6 * (len(x) > 20))
    )
    assert not products.is_steady(weights, torch.float32, 160)
    assert not products.is_steady([torch.ones(48, 32)], torch.float32, 160)


def test_a_kernel_for_a_few_rows_is_never_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may round otherwise: fewer than ``LEAST`` rows are filled up, on a CPU, unless speed is
    preferred.
    """
    met: list[int] = []

    def product(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        met.append(len(x))
        return F.linear(x, weight, bias) * (1 + 1e-6 * (len(x) < 4))

    monkeypatch.setattr(products, "through", product)
    assert products.is_steady([torch.eye(32)], torch.float32, 160)
    assert min(met) == products.LEAST and products.steadily(
        product, (torch.ones(3, 32),), torch.eye(32)
    ).equal(torch.ones(3, 32))
    few = products.steadily(product, (torch.ones(3, 32),), torch.eye(32), fast=True)
    assert few.shape == (3, 32)
    assert met[-1] == 3


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
    assert elementwise.pieces_for(False) is EAGER
    with pytest.raises(
        ConfigError,
        match=(
            r"trainer\.compile = True.*\n.*No working C\+\+ compiler found.*\n.*install a C\+\+"
            r" compiler"
        ),
    ):
        elementwise.pieces_for(True)


@pytest.mark.slow  # compiling takes half a minute
@pytest.mark.filterwarnings("default")  # of the compiler's own
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_pieces_compute_the_same(dtype: torch.dtype) -> None:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler here, which torch.compile needs")
    pieces = compiled()
    linear = FrozenLinear(lambda: fixed(4, 6, seed=1).to(dtype))
    weight = (fixed(6, seed=1) + 3).to(dtype)

    def both(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
        leaves = [x.detach().to(dtype).requires_grad_(True) for x in inputs]
        expected = function(STANDARD, *leaves)
        found = function(Arithmetic(pieces), *leaves)
        close = {} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
        torch.testing.assert_close(found, expected, **close)
        gradients = (torch.autograd.grad(y, leaves, torch.ones_like(y)) for y in (found, expected))
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, **close)

    for tokens in (1, 3, 40):
        both(lambda how, x: RmsNorm.apply(x, weight, 1e-5, how.pieces), leaf(tokens, 6, seed=3))
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


SHAPES = [LossShape(), LossShape(label_smoothing=0.2), LossShape(z_loss=0.1), LossShape(0.1, 0.05)]


def expected_loss(logits: torch.Tensor, targets: torch.Tensor, shape: LossShape) -> torch.Tensor:
    smoothed = F.cross_entropy(
        logits, targets, reduction="sum", label_smoothing=shape.label_smoothing
    )
    return smoothed + shape.z_loss * logits.logsumexp(1).square().sum()


@pytest.mark.parametrize("shape", SHAPES)
# positions: a chunk ends within a group, or holds all of them
@pytest.mark.parametrize("at_once", [4, 128])
def test_head_loss(shape: LossShape, at_once: int) -> None:
    hidden, weight, targets = leaf(10, 5, seed=1), 3 * fixed(7, 5, seed=2), torch.arange(10) % 7
    counts, shapes = (3, 0, 7), (shape, LossShape(), LossShape(z_loss=0.2))
    assert torch.autograd.gradcheck(
        lambda h: HeadLoss.apply(h, weight, targets, counts, shapes, at_once), (hidden,)
    )
    logits = hidden @ weight.t()
    expected = [
        expected_loss(logits[:3], targets[:3], shape),
        torch.tensor(0.0),
        expected_loss(logits[3:], targets[3:], shapes[2]),
    ]
    losses = HeadLoss.apply(hidden, weight, targets, counts, shapes, at_once)
    torch.testing.assert_close(losses, torch.stack(expected), check_dtype=False)


@pytest.mark.parametrize("shape", SHAPES)
def test_logit_loss(shape: LossShape) -> None:
    logits, targets = leaf(6, 7, seed=1), torch.arange(6) % 7
    assert torch.autograd.gradcheck(lambda x: LogitLoss.apply(x * 1, targets, shape), (logits,))
    torch.testing.assert_close(
        LogitLoss.apply(logits * 1, targets, shape), expected_loss(logits, targets, shape)
    )


def test_losses_of_large_logits_are_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = LogitLoss.apply(logits * 1, torch.tensor([1]), LossShape())
    assert loss.item() == pytest.approx(2e4)
    assert torch.autograd.grad(loss, logits)[0].tolist() == [[1.0, -1.0, 0.0]]


@pytest.mark.parametrize("onednn", [True, False])
def test_products(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if onednn and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(products, "ONEDNN", onednn)
    x, weight, bias = fixed(5, 4).float(), fixed(3, 4, seed=1).float(), fixed(3, seed=2).float()
    dy, total = fixed(5, 3, seed=3).float(), fixed(5, 4, seed=4).float()
    by_onednn = []
    monkeypatch.setattr(
        torch.ops.mkldnn,
        "_linear_pointwise",
        lambda *args: by_onednn.append(args) or x @ weight.t() + bias,
    )
    products.times_transposed(x, weight, bias)
    assert not by_onednn  # sums of training are exact
    products.times_transposed(x, weight, bias, fast=True)
    assert bool(by_onednn) is onednn
    monkeypatch.undo()
    monkeypatch.setattr(products, "ONEDNN", onednn)
    torch.testing.assert_close(
        products.times_transposed(x, weight, bias, fast=True), x @ weight.t() + bias
    )
    torch.testing.assert_close(products.times(dy, weight), dy @ weight)
    torch.testing.assert_close(products.through(x, weight, bias), x @ weight.t() + bias)
    torch.testing.assert_close(products.back(dy, weight), dy @ weight)
    torch.testing.assert_close(products.add_back(total.clone(), dy, weight), total + dy @ weight)


@pytest.fixture
def by_onednn() -> None:
    if not products.ONEDNN or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        pytest.skip("oneDNN computes nothing on this machine")


def test_laid_out_weights_give_the_same_bits(
    by_onednn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(4)
    plain = torch.nn.Linear(96, 64).requires_grad_(False)
    laid = copy.deepcopy(plain)
    assert products.lay_out(laid, 1e9) == 2 * 4 * 96 * 64
    assert products.lay_out(laid, 1e9) == 0  # they are already
    generator = torch.Generator().manual_seed(5)
    inner, outer = (torch.randn(70, width, generator=generator) for width in (96, 64))
    met: list[bool] = []
    inside = products._onednn
    monkeypatch.setattr(
        products,
        "_onednn",
        lambda x, weight, bias=None: met.append(weight.is_mkldnn) or inside(x, weight, bias),
    )
    for rows in (1, 2, 8, 33, 70):
        x, dy, total = inner[:rows], outer[:rows], inner[:rows].clone()
        for product, inputs, rest in (
            (products.through, (x,), ()),
            (products.through, (x,), (plain.bias,)),
            (products.back, (dy,), ()),
            (products.add_back, (total, dy), ()),
        ):
            expected, found = (
                product(*(part.clone() for part in inputs), m.weight, *rest) for m in (plain, laid)
            )
            assert torch.equal(found, expected) or (
                rows == 1 and product is not products.through
            ), (rows, product)
            assert torch.allclose(found, expected, atol=1e-5)
    assert sum(met) == 2 * 4 + 5  # never of one row going forward


def test_weights_that_changed_are_not_taken_for_the_laid_out_ones(by_onednn: None) -> None:
    layer = torch.nn.Linear(64, 32, bias=False).requires_grad_(False)
    products.lay_out(layer, 1e9)
    x = torch.randn(9, 64)
    before = products.through(x, layer.weight)
    layer.weight.data = 2 * layer.weight.data
    torch.testing.assert_close(products.through(x, layer.weight), 2 * before)
    torch.testing.assert_close(products.back(x[:, :32], layer.weight), x[:, :32] @ layer.weight)


def test_weights_are_laid_out_within_a_limit(
    by_onednn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, half = torch.nn.Linear(64, 32), torch.nn.Linear(64, 32).bfloat16()
    assert products.lay_out(half, 1e9) == 0  # oneDNN computes fp32 here
    assert products.lay_out(layer, 2 * 4 * 64 * 32 - 1) == 0 and not hasattr(
        layer.weight, "hydratune_layouts"
    )
    with monkeypatch.context() as patch:
        patch.setattr(products, "ONEDNN", False)
        assert products.lay_out(layer, 1e9) == 0
    assert products.lay_out(layer, 2 * 4 * 64 * 32) == 2 * 4 * 64 * 32


def test_weights_are_not_laid_out_where_that_changes_the_last_digits(
    by_onednn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, inside = torch.nn.Linear(64, 32), products._onednn
    monkeypatch.setattr(
        products,
        "_onednn",
        lambda x, weight, bias=None: inside(x, weight, bias) * (1 + 1e-6 * weight.is_mkldnn),
    )
    assert products.lay_out(layer, 1e9) == 0 and not hasattr(layer.weight, "hydratune_layouts")


def test_answers_and_training_share_laid_out_weights(by_onednn: None) -> None:
    layer = torch.nn.Linear(64, 32, bias=False).requires_grad_(False)
    products.lay_out(layer, 1e9)
    x = torch.randn(9, 64, requires_grad=True)
    with torch.inference_mode():
        answered = products.through(x, layer.weight)
    (trained,) = apply_lora(x, [FrozenLinear(lambda: layer.weight)])
    trained.sum().backward()
    torch.testing.assert_close(trained.detach(), answered)
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(9, -1))
