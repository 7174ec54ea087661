"""Rows that begin with the same tokens: their prefix is computed once, with the same gradients."""

import threading
import time
from typing import Any

import pytest
import torch

from hydratune.data.encoding.encoded import Encoded
from hydratune.models.attention import NAME
from hydratune.training import plan
from hydratune.training.losses import HeadLoss
from hydratune.training.objective import Objective
from hydratune.training.packing import pack_rows
from small_models import ARCHITECTURES, build, rows, rows_with_prefix, with_lora


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(
    "name", [n for n, options in ARCHITECTURES.items() if "sliding_window" not in options]
)
def test_a_shared_prefix_changes_neither_loss_nor_gradients(
    name: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_lora(build(name))
    model.get_base_model().set_attn_implementation(NAME)
    examples = [
        *rows_with_prefix([5, 6, 7, 8, 9, 10]),
        *rows_with_prefix([5, 9, 3, 4, 2, 11, 12], seed=4),
        rows(seed=9)[2],
    ]
    assert [g.prefix for g in plan.groups_by_prefix(examples, 20)] == [6, 7, 0]
    expected, expected_gradients = Objective(
        model, micro_tokens=1000, workers=1, share=False
    ).gradients(examples)
    monkeypatch.setattr("hydratune.training.plan.LEAST_SAVED", 20)
    with Objective(model, micro_tokens=40, workers=workers) as objective:
        assert objective.share
        loss, gradients = objective.gradients(examples)
        again, repeated = objective.gradients(examples)
        assert objective.loss(examples).item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.item() == again.item()
    assert all(torch.equal(a, b) for a, b in zip(gradients, repeated, strict=True))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_micro_packs_wait_for_a_slow_micro_pack_that_holds_their_prefix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other micro-packs have read the whole prefix and are done, and a free thread computes the
    end of the micro-pack that holds it.
    """
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    monkeypatch.setattr("hydratune.training.plan.LEAST_SAVED", 20)
    expected_gradients = Objective(model, micro_tokens=40, workers=1).gradients(
        rows_with_prefix([5, 6, 7, 8, 9, 10])
    )[1]
    head = HeadLoss.apply
    late = threading.Event()

    def slow(*args: Any) -> torch.Tensor:
        if not late.is_set():
            late.set()
            time.sleep(0.5)
        result: torch.Tensor = head(*args)
        return result

    monkeypatch.setattr(HeadLoss, "apply", slow)
    with Objective(model, micro_tokens=40, workers=3) as objective:
        for ours, theirs in zip(
            objective.gradients(rows_with_prefix([5, 6, 7, 8, 9, 10]))[1],
            expected_gradients,
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_models_with_windows_do_not_share_a_prefix() -> None:
    model = with_lora(build("Mistral"))
    model.get_base_model().set_attn_implementation(NAME)
    assert not Objective(model, micro_tokens=40, workers=1).share


@pytest.mark.parametrize("number", [0, 3])  # holds the prefix, or reads it
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_one_micro_pack_ends_all_of_them(
    workers: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydratune.training.plan.LEAST_SAVED", 8)
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    calls = iter(range(100))

    def failing(*args: Any, **options: Any) -> Any:
        if next(calls) == number:
            raise ArithmeticError("no more")
        return pack_rows(*args, **options)

    monkeypatch.setattr("hydratune.training.micro_pack_loss.pack_rows", failing)
    with (
        Objective(model, micro_tokens=16, workers=workers) as objective,
        pytest.raises(ArithmeticError, match="no more"),
    ):
        objective.gradients(rows_with_prefix([5, 6, 7, 8]))


def test_a_prefix_is_shared_only_where_it_saves_enough_tokens() -> None:
    def row(*ids: int) -> Encoded:
        return Encoded((*ids, 90, 91), (*[False] * len(ids), True, True))

    two = [row(1, 2, 3), row(1, 2, 4)]
    assert [(g.prefix, len(g.rows)) for g in plan.groups_by_prefix(two, 3)] == [(0, 2)]
    assert [(g.prefix, len(g.rows)) for g in plan.groups_by_prefix(two, 2)] == [(2, 2)]
    four = [row(1, 2, 3, 7), row(1, 5, 6, 7), row(1, 2, 3, 8), row(1, 5, 6, 8)]
    assert [(g.prefix, g.rows) for g in plan.groups_by_prefix(four, 3)] == [
        (3, (four[0], four[2])),
        (3, (four[1], four[3])),
    ]
    # the token that predicts the first trained one is never in a prefix, so a row always has
    # one of its own
    assert plan.groups_by_prefix([row(1, 2, 3), row(1, 2, 3)], 1)[0].prefix == 2
    assert plan.groups_by_prefix([], 1) == []


def test_many_rows_with_one_prefix_are_grouped_without_recursion() -> None:
    many = [Encoded((*range(200), 200 + i), (*[False] * 200, True)) for i in range(1500)]
    (group,) = plan.groups_by_prefix(many)
    assert len(group.rows) == 1500 and group.prefix == 199
