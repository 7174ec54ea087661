"""Frozen layers below the first trained layer: their outputs are computed once and stored."""

from typing import Any

import pytest
import torch

from hydratune.models.attention import NAME
from hydratune.training.frozen import frozen_layers
from hydratune.training.objective import Objective
from small_models import build, rows, rows_with_prefix, with_lora


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma3Text", "Phi3"])
def test_frozen_layers_are_computed_once_with_equal_results(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("HYDRATUNE_CACHE", str(tmp_path))
    monkeypatch.setattr("hydratune.training.plan.LEAST_SAVED", 8)
    model = with_lora(build(name), layers_to_transform=[1])
    model.get_base_model().set_attn_implementation(NAME)
    examples = [*rows_with_prefix([5, 6, 7]), rows(seed=8)[4]]
    expected, expected_gradients = Objective(model, micro_tokens=40, workers=1).gradients(examples)
    shown: list[Any] = []
    calls: list[int] = []
    for _ in range(2):  # stored at first, then read
        objective = Objective(model, micro_tokens=40, workers=2)
        calls.clear()
        shown.clear()
        hook = (
            model.get_base_model()
            .base_model.layers[0]
            .self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
        )
        assert (
            objective.store_frozen_layers(examples, "base", 1e9, lambda *step: shown.append(step))
            == 1
        )
        assert bool(calls) == bool(shown)
        calls.clear()
        with objective:
            loss, gradients = objective.gradients(examples)
            assert objective.loss(examples).item() == pytest.approx(expected.item(), rel=1e-6)
        assert not calls
        hook.remove()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        for ours, theirs in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not shown
    # rows without stored outputs are computed from the first layer
    assert objective.loss(rows(seed=5)).item() > 0


@pytest.mark.parametrize(("limit", "options"), [(1e9, {}), (100.0, {"layers_to_transform": [1]})])
def test_layer_outputs_are_not_stored_if_all_layers_are_trained_or_the_disk_is_too_small(
    limit: float, options: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HYDRATUNE_CACHE", str(tmp_path))
    model = with_lora(build("Llama"), **options)
    model.get_base_model().set_attn_implementation(NAME)
    objective = Objective(model, micro_tokens=40, workers=1)
    assert objective.store_frozen_layers(rows(), "base", limit, lambda *step: None) == 0
    assert not list(tmp_path.rglob("*.bin"))


def test_dropout_of_attention_shares_no_prefix_and_no_layers() -> None:
    model = build("Llama", attention_dropout=0.3)
    model.set_attn_implementation(NAME)
    objective = Objective(model, micro_tokens=1000, workers=1)
    assert objective.share
    assert not objective.draws()  # in evaluation nothing is drawn
    model.train()
    assert objective.draws()
    top = with_lora(build("Llama", attention_dropout=0.3), layers_to_transform=[1])
    assert frozen_layers(top.get_base_model()) == 0
    assert frozen_layers(with_lora(build("Llama"), layers_to_transform=[1]).get_base_model()) == 1
