"""Products of matrices: equal bits for any number of rows, and weights laid out for oneDNN."""

import copy

import pytest
import torch
import torch.nn.functional as F

from double_tensors import fixed
from hydratune.training import products
from hydratune.training.low_rank import FrozenLinear, apply_lora

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_row_of_a_product_does_not_depend_on_the_other_rows() -> None:
    """Short inputs are padded to a size from which the library computes a row equally in any number
    of rows; ``is_row_invariant`` says whether it does.
    """
    weights = [
        torch.randn(size, generator=torch.Generator().manual_seed(1))
        for size in ((64, 96), (96, 64), (64, 96))
    ]
    x = torch.randn(200, 96, generator=torch.Generator().manual_seed(2))
    if products.is_row_invariant(weights, torch.float32, 160):
        every = products.row_invariant(products.frozen_forward, (x,), weights[0])
        for part in (slice(0, 1), slice(7, 10), slice(50, 64)):
            assert torch.equal(
                products.row_invariant(products.frozen_forward, (x[part],), weights[0]), every[part]
            )
    few = products.row_invariant(
        products.add_frozen_backward, (torch.ones(2, 64), x[:2]), weights[1]
    )
    torch.testing.assert_close(few, x[:2] @ weights[1] + 1)


def test_products_that_depend_on_the_number_of_rows_are_not_steady(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = [torch.eye(32)]
    monkeypatch.setattr(products, "frozen_forward", lambda x, w, b=None: F.linear(x, w, b))
    assert products.is_row_invariant(weights, torch.float32, 160)
    monkeypatch.setattr(
        products,
        "frozen_forward",
        lambda x, w, b=None: F.linear(x, w, b) * (1 + 1e-6 * (len(x) > 20)),
    )
    assert not products.is_row_invariant(weights, torch.float32, 160)
    assert not products.is_row_invariant([torch.ones(48, 32)], torch.float32, 160)


def test_kernels_for_few_rows_are_avoided_by_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may round otherwise: on a CPU, fewer than ``LEAST`` rows are padded unless ``fast``."""
    row_counts: list[int] = []

    def product(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        row_counts.append(len(x))
        return F.linear(x, weight, bias) * (1 + 1e-6 * (len(x) < 4))

    monkeypatch.setattr(products, "frozen_forward", product)
    assert products.is_row_invariant([torch.eye(32)], torch.float32, 160)
    assert min(row_counts) == products.LEAST and products.row_invariant(
        product, (torch.ones(3, 32),), torch.eye(32)
    ).equal(torch.ones(3, 32))
    few = products.row_invariant(product, (torch.ones(3, 32),), torch.eye(32), fast=True)
    assert few.shape == (3, 32)
    assert row_counts[-1] == 3


@pytest.mark.parametrize("onednn", [True, False])
def test_products(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if onednn and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(products, "ONEDNN", onednn)
    x, weight, bias = fixed(5, 4).float(), fixed(3, 4, seed=1).float(), fixed(3, seed=2).float()
    dy, total = fixed(5, 3, seed=3).float(), fixed(5, 4, seed=4).float()
    onednn_calls = []
    monkeypatch.setattr(
        torch.ops.mkldnn,
        "_linear_pointwise",
        lambda *args: onednn_calls.append(args) or x @ weight.t() + bias,
    )
    products.matmul_transposed(x, weight, bias)
    assert not onednn_calls  # sums of training are exact
    products.matmul_transposed(x, weight, bias, fast=True)
    assert bool(onednn_calls) is onednn
    monkeypatch.undo()
    monkeypatch.setattr(products, "ONEDNN", onednn)
    torch.testing.assert_close(
        products.matmul_transposed(x, weight, bias, fast=True), x @ weight.t() + bias
    )
    torch.testing.assert_close(products.matmul(dy, weight), dy @ weight)
    torch.testing.assert_close(products.frozen_forward(x, weight, bias), x @ weight.t() + bias)
    torch.testing.assert_close(products.frozen_backward(dy, weight), dy @ weight)
    torch.testing.assert_close(
        products.add_frozen_backward(total.clone(), dy, weight), total + dy @ weight
    )


@pytest.fixture
def with_onednn() -> None:
    if not products.ONEDNN or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        pytest.skip("oneDNN computes nothing on this machine")


def test_laid_out_weights_give_the_same_bits(
    with_onednn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(4)
    plain = torch.nn.Linear(96, 64).requires_grad_(False)
    laid_out = copy.deepcopy(plain)
    assert products.reorder_weights(laid_out, 1e9) == 2 * 4 * 96 * 64
    assert products.reorder_weights(laid_out, 1e9) == 0  # they are laid out already
    generator = torch.Generator().manual_seed(5)
    inner, outer = (torch.randn(70, width, generator=generator) for width in (96, 64))
    is_laid_out: list[bool] = []
    onednn_product = products._onednn
    monkeypatch.setattr(
        products,
        "_onednn",
        lambda x, weight, bias=None: (
            is_laid_out.append(weight.is_mkldnn) or onednn_product(x, weight, bias)
        ),
    )
    for rows in (1, 2, 8, 33, 70):
        x, dy, total = inner[:rows], outer[:rows], inner[:rows].clone()
        for product, inputs, rest in (
            (products.frozen_forward, (x,), ()),
            (products.frozen_forward, (x,), (plain.bias,)),
            (products.frozen_backward, (dy,), ()),
            (products.add_frozen_backward, (total, dy), ()),
        ):
            expected, computed = (
                product(*(part.clone() for part in inputs), m.weight, *rest)
                for m in (plain, laid_out)
            )
            assert torch.equal(computed, expected) or (
                rows == 1 and product is not products.frozen_forward
            ), (rows, product)
            assert torch.allclose(computed, expected, atol=1e-5)
    assert sum(is_laid_out) == 2 * 4 + 5  # one row going forward uses the plain layout


def test_changed_weights_do_not_use_their_old_layout(with_onednn: None) -> None:
    layer = torch.nn.Linear(64, 32, bias=False).requires_grad_(False)
    products.reorder_weights(layer, 1e9)
    x = torch.randn(9, 64)
    before = products.frozen_forward(x, layer.weight)
    layer.weight.data = 2 * layer.weight.data
    torch.testing.assert_close(products.frozen_forward(x, layer.weight), 2 * before)
    torch.testing.assert_close(
        products.frozen_backward(x[:, :32], layer.weight), x[:, :32] @ layer.weight
    )


def test_weights_are_laid_out_within_a_limit(
    with_onednn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, half = torch.nn.Linear(64, 32), torch.nn.Linear(64, 32).bfloat16()
    assert products.reorder_weights(half, 1e9) == 0  # oneDNN computes fp32 here
    assert products.reorder_weights(layer, 2 * 4 * 64 * 32 - 1) == 0 and not hasattr(
        layer.weight, "hydratune_layouts"
    )
    with monkeypatch.context() as patch:
        patch.setattr(products, "ONEDNN", False)
        assert products.reorder_weights(layer, 1e9) == 0
    assert products.reorder_weights(layer, 2 * 4 * 64 * 32) == 2 * 4 * 64 * 32


def test_weights_are_not_laid_out_where_that_changes_the_last_digits(
    with_onednn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, onednn_product = torch.nn.Linear(64, 32), products._onednn
    monkeypatch.setattr(
        products,
        "_onednn",
        lambda x, weight, bias=None: (
            onednn_product(x, weight, bias) * (1 + 1e-6 * weight.is_mkldnn)
        ),
    )
    assert products.reorder_weights(layer, 1e9) == 0 and not hasattr(
        layer.weight, "hydratune_layouts"
    )


def test_answers_and_training_share_laid_out_weights(with_onednn: None) -> None:
    layer = torch.nn.Linear(64, 32, bias=False).requires_grad_(False)
    products.reorder_weights(layer, 1e9)
    x = torch.randn(9, 64, requires_grad=True)
    with torch.inference_mode():
        answered = products.frozen_forward(x, layer.weight)
    (trained,) = apply_lora(x, [FrozenLinear(lambda: layer.weight)])
    trained.sum().backward()
    torch.testing.assert_close(trained.detach(), answered)
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(9, -1))
