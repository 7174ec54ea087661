"""Forwards that replace those of transformers and PEFT compute the same."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from hydratune.adapters import attach
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.settings.model import Quantization
from hydratune.training.patches import with_lean_layers
from small_models import ARCHITECTURES, build, plain_loss, rows, with_lora


def without_lean_forwards(model: Any) -> Any:
    """Restore the forwards of transformers and PEFT."""
    for module in model.modules():
        module.__dict__.pop("forward", None)
    return model


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_lean_forwards_equal_those_of_transformers_and_peft(name: str) -> None:
    model = with_lora(build(name))
    replaced = [m for m in model.modules() if "forward" in m.__dict__]
    assert len({type(m).__name__ for m in replaced}) >= {"GPTNeoX": 1, "Phi3": 2}.get(name, 3)
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = plain_loss(model, rows())
    gradients = torch.autograd.grad(loss, parameters)
    original_loss = plain_loss(without_lean_forwards(model), rows())
    assert loss.item() == pytest.approx(original_loss.item(), rel=1e-6)
    for ours, theirs in zip(gradients, torch.autograd.grad(original_loss, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-5)


def test_lean_forwards_follow_autocast_as_pefts_own_do() -> None:
    model = with_lora(build("Llama"))
    for (
        name,
        parameter,
    ) in model.named_parameters():  # as in mixed precision
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    parameters = [p for p in model.parameters() if p.requires_grad]
    results = []
    for prepare in (lambda m: m, without_lean_forwards):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = plain_loss(prepare(model), rows())
        results.append((loss.item(), torch.autograd.grad(loss, parameters)))
    (loss, ours), (original_loss, theirs) = results
    assert loss == pytest.approx(original_loss, rel=5e-3)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() <= 0.05 * b.norm() + 1e-4


@pytest.mark.skipif(
    not Path("/proc/self/maps").is_file(), reason="only Linux says what is mapped into memory"
)
def test_the_file_of_a_quantised_base_is_unmapped(tmp_path: Path) -> None:
    build("Llama").save_pretrained(tmp_path)
    quantization = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    base = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantization, dtype=torch.float32
    )
    model = attach.prepare_quantised(base, Quantization.nf4)
    gc.collect()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert all(not p.requires_grad for p in model.parameters())


def test_a_4_bit_base_uses_lean_forwards(tmp_path: Any) -> None:
    build("Llama").save_pretrained(tmp_path)
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    base = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantization, dtype=torch.float32
    )
    model = with_lean_layers(
        attach.add_adapter(
            attach.prepare_quantised(base, Quantization.nf4), LoraAdapter(r=4, lora_alpha=8)
        )
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    assert sum("forward" in m.__dict__ for m in model.modules() if hasattr(m, "lora_A")) == 14
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = plain_loss(model, rows())
    original_loss = plain_loss(without_lean_forwards(model), rows())
    assert loss.item() == pytest.approx(original_loss.item(), rel=1e-6)
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters),
        torch.autograd.grad(original_loss, parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-5)


def test_a_variant_of_lora_keeps_pefts_forward() -> None:
    model = with_lora(build("Llama"), extra={"use_dora": True})
    assert not [m for m in model.modules() if hasattr(m, "lora_A") and "forward" in m.__dict__]
