"""AdaLoRA: ranks, and PEFT's orthogonal regularisation."""

from pathlib import Path
from typing import Any

import pytest
import torch

from adapter_cases import IDS, examples, prepared, reloaded, train
from hydratune.adapters import attach
from hydratune.adapters.methods.adalora import AdaLoraAdapter
from hydratune.training.adalora import orthogonality
from hydratune.training.objective import Objective

# PEFT takes its own file of AdaLoRA's ranks for LoRA's rank_pattern
pytestmark = pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")


def test_adalora_prunes_to_its_target_and_saves_the_ranks_of_the_weights_it_saves(
    tiny: Any, tmp_path: Path
) -> None:
    """The best checkpoint may be older than the last allocation."""
    model = prepared(tiny, AdaLoraAdapter(init_r=6, target_r=2, tinit=1, tfinal=2), steps=8)
    values = {name: p for name, p in model.named_parameters() if "lora_E" in name}
    train(model, 3)
    early = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        logits = model(input_ids=IDS).logits
    before = sum(int((p != 0).sum()) for p in values.values())
    objective_steps = train_on(model, range(4, 9))
    assert objective_steps == 5
    kept = sum(int((p != 0).sum()) for p in values.values())
    assert kept == 2 * len(values) < before
    model.load_state_dict(early, strict=False)
    attach.save(model, tiny[2], tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(
            reloaded(tmp_path / "adapter", tiny)(input_ids=IDS).logits, logits, rtol=0, atol=1e-5
        )


def train_on(model: Any, steps: range) -> int:
    """Continue training AdaLoRA at the given step numbers; return their count."""
    objective = Objective(model, micro_tokens=1000, workers=1)
    parameters = objective.parameters()
    optimizer = torch.optim.SGD(parameters, lr=1e-3)
    for step in steps:
        _, gradients = objective.gradients(examples())
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        model.base_model.update_and_allocate(step)
    return len(steps)


def test_orthogonal_regularisation_is_pefts(tiny: Any) -> None:
    """PEFT adds it to a loss that transformers computes."""
    model = prepared(tiny, AdaLoraAdapter(orth_reg_weight=0.3))
    factors = [
        p if "lora_A" in n else p.t()
        for n, p in model.named_parameters()
        if "lora_A" in n or "lora_B" in n
    ]
    with torch.no_grad():
        with_it = model(input_ids=IDS, labels=IDS).loss
        without = model.get_base_model()(input_ids=IDS, labels=IDS).loss
    assert (with_it - without).item() == pytest.approx(
        0.3 * orthogonality(factors).item(), rel=1e-4
    )
