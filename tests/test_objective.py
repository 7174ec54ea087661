"""The training loss and its gradients against a padded batch with full logits."""

import pytest
import torch

from hydratune.data.encoding.encoded import Encoded
from hydratune.models.attention import NAME, supports_packing
from hydratune.training.losses import with_gradients
from hydratune.training.micro_pack_loss import padded_loss
from hydratune.training.objective import Objective
from hydratune.training.packing import pack_rows
from small_models import ARCHITECTURES, build, plain_loss, rows, with_lora


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_packed_loss_and_gradients_equal_a_padded_batch_with_full_logits(name: str) -> None:
    model = with_lora(build(name))
    base = model.get_base_model()
    assert supports_packing(base) is None
    examples = rows()
    expected = plain_loss(base, examples)
    parameters = [p for p in model.parameters() if p.requires_grad]
    expected_gradients = torch.autograd.grad(expected, parameters)
    base.set_attn_implementation(NAME)
    loss, gradients = Objective(model, micro_tokens=1000, workers=1).gradients(examples)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("budget", [16, 40, 1000])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_micro_packs_and_workers_change_nothing(budget: int, workers: int) -> None:
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    expected, expected_gradients = Objective(model, micro_tokens=1000, workers=1).gradients(rows())
    with Objective(model, micro_tokens=budget, workers=workers) as objective:
        loss, gradients = objective.gradients(rows())
        again, _ = objective.gradients(rows())
        assert objective.loss(rows()).item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.item() == again.item()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_row_does_not_see_its_neighbours() -> None:
    model = build("Llama")
    model.set_attn_implementation(NAME)
    objective = Objective(model, micro_tokens=1000, workers=1)
    alone = objective.loss([rows()[0]]).item()
    for seed in range(3):
        others = rows(5, seed=seed + 10)[1:]
        together = objective.loss([rows()[0], *others]).item() - objective.loss(others).item()
        assert together == pytest.approx(alone, rel=1e-4)


def test_model_without_the_attention_interface_is_padded_and_says_why() -> None:
    model = build("Llama")
    type(model)._supports_attention_backend = False
    try:
        objective = Objective(model, micro_tokens=1000, workers=1)
        assert "attention interface" in str(objective.padding_reason)
        assert objective.loss(rows()).item() == pytest.approx(
            plain_loss(model, rows()).item(), rel=1e-5
        )
    finally:
        type(model)._supports_attention_backend = True
    assert padded_loss(model, rows()).item() == pytest.approx(
        plain_loss(model, rows()).item(), rel=1e-5
    )


def test_capped_attention_logits_are_not_packed() -> None:
    model = build("Llama")
    model.config.attn_logit_softcapping = 30.0
    assert "caps attention logits" in str(supports_packing(model))


def test_checkpointing_changes_no_gradient() -> None:
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    expected, expected_gradients = Objective(model, micro_tokens=40, workers=1).gradients(rows())
    objective, calls = (
        Objective(model.train(), micro_tokens=1000, workers=1, checkpointing=True),
        [],
    )
    model.get_base_model().model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    loss, gradients = objective.gradients(rows())
    assert len(calls) == 2  # once more in the backward pass
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_dropout_draws_the_same_for_the_same_seed_on_any_thread() -> None:
    model = with_lora(build("Llama"), lora_dropout=0.3).train()
    model.get_base_model().set_attn_implementation(NAME)
    results = []
    with Objective(model, micro_tokens=40, workers=2) as objective:
        for seed in (1, 1, 2):
            objective.generator.manual_seed(seed)
            results.append(objective.gradients(rows())[0].item())
    assert results[0] == results[1] != results[2]
    model.eval()
    assert objective.gradients(rows())[0].item() == pytest.approx(
        objective.loss(rows()).item(), rel=1e-6
    )


def test_noise_on_the_embeddings_is_bounded_and_only_for_training() -> None:
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    objective = Objective(model, micro_tokens=1000, workers=1, neftune_alpha=5.0)
    plain = Objective(model, micro_tokens=1000, workers=1)
    objective.generator.manual_seed(0)
    noisy = objective.gradients(rows())[0].item()
    objective.generator.manual_seed(0)
    assert objective.gradients(rows())[0].item() == noisy != plain.gradients(rows())[0].item()
    assert objective.loss(rows()).item() == plain.loss(rows()).item()
    packed = pack_rows(rows(2))
    with torch.no_grad():
        difference = (
            objective.micro_pack_loss.noisy_embeddings(packed.input_ids, packed.row_lengths)
            - objective.model.get_input_embeddings()(packed.input_ids)
        )[0]
    for part, length in zip(
        difference.split(list(packed.row_lengths)), packed.row_lengths, strict=True
    ):
        limit = 5.0 / (length * 32) ** 0.5
        assert 0.9 * limit < part.abs().max().item() <= limit * 1.0001


def test_disabled_adapter_gives_the_base_model() -> None:
    model = with_lora(build("Llama"))
    ids = torch.tensor([rows()[3].ids])
    with model.disable_adapter():
        off = model(input_ids=ids).logits
    torch.testing.assert_close(off, build("Llama")(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_precomputed_gradients_are_scaled_in_the_backward_pass() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    loss = with_gradients(torch.tensor(2.0), [torch.tensor([1.0, 2.0, 3.0])], [parameter])
    (loss / 4).backward()
    assert loss.item() == 2.0
    assert parameter.grad is not None and parameter.grad.tolist() == [0.25, 0.5, 0.75]


def test_the_head_is_found_with_adapter_dropout() -> None:
    model = with_lora(build("Llama"), lora_dropout=0.5).train()
    assert Objective(model, micro_tokens=1000, workers=1).micro_pack_loss.head is not None
    assert model.training and all(
        m.training for m in model.modules() if isinstance(m, torch.nn.Dropout)
    )


def test_a_row_of_one_token_adds_nothing() -> None:
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    objective = Objective(model, micro_tokens=1000, workers=1)
    nothing = Encoded((7,), (False,))
    for extra in ([nothing], []):
        loss, _ = objective.gradients([*rows(2), *extra])
        assert loss.item() == pytest.approx(objective.loss(rows(2)).item())
    assert objective.gradients([nothing])[0].item() == 0


@pytest.mark.parametrize("trained", [None, "lm_head"])
def test_fp32_weights_under_autocast(trained: str | None) -> None:
    """Full fine-tuning in bf16-mixed: rotary embeddings hand on fp32 beside bf16."""
    model = build("Llama")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained is None or trained in name)
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = plain_loss(model, rows())
        expected_gradients = torch.autograd.grad(expected, parameters)
        model.set_attn_implementation(NAME)
        loss, gradients = Objective(model, micro_tokens=1000, workers=1).gradients(rows())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        assert (ours - theirs).norm() < 0.05 * theirs.norm()
