from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from hydratune.config import LoraAdapter, Quantization
from hydratune.data.masking import Encoded
from hydratune.models import adapters
from hydratune.models.attention import NAME, supports_packing
from hydratune.training.lora import LoraFunction
from hydratune.training.objective import Handover, Objective, SummedCrossEntropy, micro_packs, pack, padded_loss

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
ARCHITECTURES = {
    "Llama": {"num_key_value_heads": 2},
    "Mistral": {"num_key_value_heads": 2, "sliding_window": 7},
    "Qwen2": {"num_key_value_heads": 2},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "Gemma3Text": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]},
    "Phi3": {"num_key_value_heads": 2, "pad_token_id": 0},
    "GPTNeoX": {},
}


def rows(count: int = 5, seed: int = 0) -> list[Encoded]:
    """Rows of uneven length; the second half of each is trained, one row in two turns."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for i in range(count):
        length = 9 + 5 * i
        ids = torch.randint(1, 96, (length,), generator=generator).tolist()
        trained = [j > length // 2 or (i == 1 and j in (2, 3)) for j in range(length)]
        result.append(Encoded(tuple(ids), tuple(trained)))
    return result


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, **ARCHITECTURES[name], **options)
    kind = "Gemma3ForCausalLM" if name == "Gemma3Text" else f"{name}ForCausalLM"
    model = getattr(transformers, kind)._from_config(config, attn_implementation="eager", dtype=torch.float32)
    return model.eval()


def plain_loss(model: Any, examples: list[Encoded]) -> torch.Tensor:
    """What everybody computes: padded batch, full logits, shifted labels, -100 for what is not trained; summed."""
    longest = max(len(e.ids) for e in examples)
    ids = torch.tensor([[*e.ids, *[0] * (longest - len(e.ids))] for e in examples])
    mask = torch.tensor([[1] * len(e.ids) + [0] * (longest - len(e.ids)) for e in examples])
    labels = torch.tensor(
        [[t if m else -100 for t, m in zip(e.ids, e.trained, strict=True)] + [-100] * (longest - len(e.ids)) for e in examples]
    )
    logits = model(input_ids=ids, attention_mask=mask).logits
    return F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100, reduction="sum")


def with_lora(model: Any, **options: Any) -> Any:
    model = adapters.add_adapter(adapters.prepare_quantised(model, Quantization.none), LoraAdapter(r=4, lora_alpha=8, **options))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():  # B starts at zero, which would hide a wrong gradient of A
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return model


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_packed_loss_and_gradients_equal_a_padded_batch_with_full_logits(name: str) -> None:
    model = with_lora(build(name))
    base = model.get_base_model()
    assert supports_packing(base) is None
    examples = rows()
    expected = plain_loss(base, examples)
    parameters = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(expected, parameters)
    base.set_attn_implementation(NAME)
    loss, gradients = Objective(model, micro_tokens=1000, workers=1).gradients(examples)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("budget", [16, 40, 1000])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_micro_packs_and_workers_change_nothing(budget: int, workers: int) -> None:
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    expected, wanted = Objective(model, micro_tokens=1000, workers=1).gradients(rows())
    threads = torch.get_num_threads()
    try:
        with Objective(model, micro_tokens=budget, workers=workers) as objective:
            loss, gradients = objective.gradients(rows())
            again, _ = objective.gradients(rows())
            assert objective.loss(rows()).item() == pytest.approx(expected.item(), rel=1e-5)
    finally:
        torch.set_num_threads(threads)
    assert loss.item() == again.item()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(gradients, wanted, strict=True):
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
        assert "attention interface" in str(objective.unpackable)
        assert objective.loss(rows()).item() == pytest.approx(plain_loss(model, rows()).item(), rel=1e-5)
    finally:
        type(model)._supports_attention_backend = True
    assert padded_loss(model, rows()).item() == pytest.approx(plain_loss(model, rows()).item(), rel=1e-5)


def test_capped_attention_logits_are_not_packed() -> None:
    model = build("Llama")
    model.config.attn_logit_softcapping = 30.0
    assert "caps attention logits" in str(supports_packing(model))


@pytest.mark.parametrize("bias", [True, False])
def test_lora_function_has_exact_gradients(bias: bool) -> None:
    torch.manual_seed(0)
    shapes = {"x": (2, 5, 6), "weight": (7, 6), "a": (3, 6), "b": (7, 3)}
    t = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    offset = torch.randn(7, dtype=torch.float64) if bias else None
    for name in ("x", "a", "b"):
        t[name].requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x, a, b: LoraFunction.apply(x, t["weight"], offset, a, b, 1.7), (t["x"], t["a"], t["b"]))


def test_cross_entropy_has_the_gradient_of_the_standard_one() -> None:
    torch.manual_seed(0)
    logits = 20 * torch.randn(6, 11, dtype=torch.float64)
    targets = torch.randint(11, (6,))
    reference = logits.clone().float().requires_grad_(True)
    expected = F.cross_entropy(reference, targets, reduction="sum")
    (wanted,) = torch.autograd.grad(expected, reference)
    leaf = logits.clone().float().requires_grad_(True)
    loss = SummedCrossEntropy.apply(leaf * 1, targets)
    (gradient,) = torch.autograd.grad(3 * loss, leaf)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, 3 * wanted, rtol=1e-5, atol=1e-6)


def test_lean_forward_equals_pefts_own() -> None:
    model = with_lora(build("Llama"))
    ids = torch.tensor([rows()[3].ids])
    lean = model(input_ids=ids).logits
    for module in model.modules():
        module.__dict__.pop("forward", None)
    torch.testing.assert_close(lean, model(input_ids=ids).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"extra": {"use_dora": True}}])
def test_anything_but_plain_lora_keeps_pefts_forward(options: dict[str, Any]) -> None:
    model = with_lora(build("Llama"), **options)
    assert not [m for m in model.modules() if "forward" in m.__dict__]


def test_disabled_adapter_gives_the_base_model() -> None:
    model = with_lora(build("Llama"))
    ids = torch.tensor([rows()[3].ids])
    with model.disable_adapter():
        off = model(input_ids=ids).logits
    torch.testing.assert_close(off, build("Llama")(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_handover_delivers_scaled_gradients() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    loss = Handover.apply(torch.tensor(2.0), [torch.tensor([1.0, 2.0, 3.0])], parameter)
    (loss / 4).backward()
    assert loss.item() == 2.0
    assert parameter.grad is not None and parameter.grad.tolist() == [0.25, 0.5, 0.75]


def test_micro_packs_keep_every_row_within_the_budget() -> None:
    examples = rows(8)
    packs = micro_packs(examples, 50, at_least=2)
    assert sorted(len(r.ids) for p in packs for r in p) == sorted(len(r.ids) for r in examples)
    assert all(sum(len(r.ids) for r in p) <= 50 or len(p) == 1 for p in packs)
    assert micro_packs([], 50) == []


def test_pack_positions_restart_and_last_tokens_are_only_targets() -> None:
    packed = pack(rows(2))
    assert packed.row_lengths == (8, 13)
    assert packed.position_ids[0].tolist() == [*range(8), *range(13)]
    assert len(packed.targets) == sum(r.supervised for r in rows(2))
