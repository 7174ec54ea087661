import gc
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from hydratune.adapters import attach
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.data.encoding.encoded import Encoded
from hydratune.models.attention import NAME, supports_packing
from hydratune.settings.model import Quantization
from hydratune.training import plan
from hydratune.training.frozen import frozen_layers
from hydratune.training.losses import HeadLoss, with_gradients
from hydratune.training.objective import Objective
from hydratune.training.pack_loss import padded_loss
from hydratune.training.packing import pack
from hydratune.training.patches import with_lean_layers
from hydratune.training.plan import micro_packs

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
ARCHITECTURES = {
    "Llama": {"num_key_value_heads": 2},
    "Mistral": {"num_key_value_heads": 2, "sliding_window": 7},
    "Qwen2": {"num_key_value_heads": 2},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "Gemma3Text": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 7,
        "layer_types": ["sliding_attention", "full_attention"],
    },
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
        loss_mask = [j > length // 2 or (i == 1 and j in (2, 3)) for j in range(length)]
        result.append(Encoded(tuple(ids), tuple(loss_mask)))
    return result


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, **ARCHITECTURES[name], **options)
    kind = "Gemma3ForCausalLM" if name == "Gemma3Text" else f"{name}ForCausalLM"
    model = getattr(transformers, kind)._from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    return model.eval()


def plain_loss(model: Any, examples: list[Encoded]) -> torch.Tensor:
    """What everybody computes: padded batch, full logits, shifted labels, -100 for what is not
    trained; summed.
    """
    longest = max(len(e.ids) for e in examples)
    ids = torch.tensor([[*e.ids, *[0] * (longest - len(e.ids))] for e in examples])
    mask = torch.tensor([[1] * len(e.ids) + [0] * (longest - len(e.ids)) for e in examples])
    labels = torch.tensor(
        [
            [t if m else -100 for t, m in zip(e.ids, e.loss_mask, strict=True)]
            + [-100] * (longest - len(e.ids))
            for e in examples
        ]
    )
    logits = model(input_ids=ids, attention_mask=mask).logits
    return F.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]),
        labels[:, 1:].reshape(-1),
        ignore_index=-100,
        reduction="sum",
    )


def with_lora(model: Any, **options: Any) -> Any:
    model = with_lean_layers(
        attach.add_adapter(
            attach.prepare_quantised(model, Quantization.none),
            LoraAdapter(r=4, lora_alpha=8, **options),
        )
    )
    torch.manual_seed(1)
    for (
        name,
        parameter,
    ) in model.named_parameters():  # B starts at zero, which would hide a wrong gradient of A
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
    with Objective(model, micro_tokens=budget, workers=workers) as objective:
        loss, gradients = objective.gradients(rows())
        again, _ = objective.gradients(rows())
        assert objective.loss(rows()).item() == pytest.approx(expected.item(), rel=1e-5)
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


def opening(common: list[int], seed: int = 0) -> list[Encoded]:
    """Five rows that begin with the same tokens."""
    return [
        Encoded((*common, *row.ids), (*[False] * len(common), *row.loss_mask))
        for row in rows(seed=seed)
    ]


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
        *opening([5, 6, 7, 8, 9, 10]),
        *opening([5, 9, 3, 4, 2, 11, 12], seed=4),
        rows(seed=9)[2],
    ]
    assert [g.prefix for g in plan.groups_by_prefix(examples, 20)] == [6, 7, 0]
    expected, wanted = Objective(model, micro_tokens=1000, workers=1, share=False).gradients(
        examples
    )
    monkeypatch.setattr("hydratune.training.plan.LEAST_SAVED", 20)
    with Objective(model, micro_tokens=40, workers=workers) as objective:
        assert objective.share
        loss, gradients = objective.gradients(examples)
        again, repeated = objective.gradients(examples)
        assert objective.loss(examples).item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.item() == again.item()
    assert all(torch.equal(a, b) for a, b in zip(gradients, repeated, strict=True))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_whoever_holds_a_prefix_is_waited_for_while_its_head_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others have read all of the prefix and are done, and a free thread takes the end of the
    micro-pack that holds it.
    """
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    monkeypatch.setattr("hydratune.training.plan.LEAST_SAVED", 20)
    wanted = Objective(model, micro_tokens=40, workers=1).gradients(opening([5, 6, 7, 8, 9, 10]))[1]
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
            objective.gradients(opening([5, 6, 7, 8, 9, 10]))[1], wanted, strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_models_with_windows_do_not_share_a_prefix() -> None:
    model = with_lora(build("Mistral"))
    model.get_base_model().set_attn_implementation(NAME)
    assert not Objective(model, micro_tokens=40, workers=1).share


@pytest.mark.parametrize("number", [0, 3])  # the one that holds the prefix, or one that reads it
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
        return pack(*args, **options)

    monkeypatch.setattr("hydratune.training.pack_loss.pack", failing)
    with (
        Objective(model, micro_tokens=16, workers=workers) as objective,
        pytest.raises(ArithmeticError, match="no more"),
    ):
        objective.gradients(opening([5, 6, 7, 8]))


def test_only_what_pays_is_shared() -> None:
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


def test_checkpointing_changes_no_gradient() -> None:
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    expected, wanted = Objective(model, micro_tokens=40, workers=1).gradients(rows())
    objective, calls = (
        Objective(model.train(), micro_tokens=1000, workers=1, checkpointing=True),
        [],
    )
    model.get_base_model().model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    loss, gradients = objective.gradients(rows())
    assert len(calls) == 2  # once more in the backward pass
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(gradients, wanted, strict=True):
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
    packed = pack(rows(2))
    with torch.no_grad():
        difference = (
            objective.pack_loss.noisy_embeddings(packed.input_ids, packed.row_lengths)
            - objective.model.get_input_embeddings()(packed.input_ids)
        )[0]
    for part, length in zip(
        difference.split(list(packed.row_lengths)), packed.row_lengths, strict=True
    ):
        limit = 5.0 / (length * 32) ** 0.5
        assert 0.9 * limit < part.abs().max().item() <= limit * 1.0001


def without_lean_forwards(model: Any) -> Any:
    """The modules compute as transformers and PEFT wrote them."""
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
    own = plain_loss(without_lean_forwards(model), rows())
    assert loss.item() == pytest.approx(own.item(), rel=1e-6)
    for ours, theirs in zip(gradients, torch.autograd.grad(own, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-5)


def test_lean_forwards_follow_autocast_as_pefts_own_do() -> None:
    model = with_lora(build("Llama"))
    for (
        name,
        parameter,
    ) in model.named_parameters():  # as adapters are trained under mixed precision
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    parameters = [p for p in model.parameters() if p.requires_grad]
    results = []
    for prepare in (lambda m: m, without_lean_forwards):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = plain_loss(prepare(model), rows())
        results.append((loss.item(), torch.autograd.grad(loss, parameters)))
    (loss, ours), (own, theirs) = results
    assert loss == pytest.approx(own, rel=5e-3)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() <= 0.05 * b.norm() + 1e-4


@pytest.mark.skipif(
    not Path("/proc/self/maps").is_file(), reason="only Linux says what is mapped into memory"
)
def test_a_quantised_base_lets_go_of_its_file(tmp_path: Path) -> None:
    build("Llama").save_pretrained(tmp_path)
    quantization = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    base = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantization, dtype=torch.float32
    )
    model = attach.prepare_quantised(base, Quantization.nf4)
    gc.collect()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert all(not p.requires_grad for p in model.parameters())


def test_a_4_bit_base_takes_the_lean_path(tmp_path: Any) -> None:
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
    own = plain_loss(without_lean_forwards(model), rows())
    assert loss.item() == pytest.approx(own.item(), rel=1e-6)
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(own, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-5)


def test_a_variant_of_lora_keeps_pefts_forward() -> None:
    model = with_lora(build("Llama"), extra={"use_dora": True})
    assert not [m for m in model.modules() if hasattr(m, "lora_A") and "forward" in m.__dict__]


def test_disabled_adapter_gives_the_base_model() -> None:
    model = with_lora(build("Llama"))
    ids = torch.tensor([rows()[3].ids])
    with model.disable_adapter():
        off = model(input_ids=ids).logits
    torch.testing.assert_close(off, build("Llama")(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_handover_delivers_scaled_gradients() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    loss = with_gradients(torch.tensor(2.0), [torch.tensor([1.0, 2.0, 3.0])], [parameter])
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


def test_a_prefix_stands_once_in_front_of_a_pack() -> None:
    examples = opening([5, 6, 7, 8])[:2]
    packed = pack(examples, skip=4, prefix=True)
    assert packed.input_ids[0, :4].tolist() == [5, 6, 7, 8]
    assert packed.row_lengths == (4, 8, 13)
    assert packed.position_ids[0].tolist() == [*range(4), *range(4, 12), *range(4, 17)]
    behind = pack(examples, skip=4)
    assert behind.row_lengths == (8, 13)
    assert torch.equal(packed.predicts, behind.predicts + 4)
    assert torch.equal(packed.targets, behind.targets)


def test_every_pack_has_a_row_even_beside_a_long_prefix() -> None:
    packs = micro_packs(opening(list(range(60)))[:3], 70, at_least=2, prefix=60)
    assert all(packs)
    assert sorted(len(r.ids) for p in packs for r in p) == [69, 74, 79]


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma3Text", "Phi3"])
def test_frozen_layers_are_computed_once_and_change_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("HYDRATUNE_CACHE", str(tmp_path))
    monkeypatch.setattr("hydratune.training.plan.LEAST_SAVED", 8)
    model = with_lora(build(name), layers_to_transform=[1])
    model.get_base_model().set_attn_implementation(NAME)
    examples = [*opening([5, 6, 7]), rows(seed=8)[4]]
    expected, wanted = Objective(model, micro_tokens=40, workers=1).gradients(examples)
    shown: list[Any] = []
    calls: list[int] = []
    for _ in range(2):  # written, and found again
        objective = Objective(model, micro_tokens=40, workers=2)
        calls.clear()
        shown.clear()
        hook = (
            model.get_base_model()
            .base_model.layers[0]
            .self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
        )
        assert objective.keep_bottom(examples, "base", 1e9, lambda *step: shown.append(step)) == 1
        assert bool(calls) == bool(shown)
        calls.clear()
        with objective:
            loss, gradients = objective.gradients(examples)
            assert objective.loss(examples).item() == pytest.approx(expected.item(), rel=1e-6)
        assert not calls
        hook.remove()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        for ours, theirs in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not shown
    # rows it does not know are computed from the bottom
    assert objective.loss(rows(seed=5)).item() > 0


@pytest.mark.parametrize(("limit", "options"), [(1e9, {}), (100.0, {"layers_to_transform": [1]})])
def test_layers_are_not_kept_where_all_are_trained_or_the_disk_is_too_small(
    limit: float, options: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HYDRATUNE_CACHE", str(tmp_path))
    model = with_lora(build("Llama"), **options)
    model.get_base_model().set_attn_implementation(NAME)
    objective = Objective(model, micro_tokens=40, workers=1)
    assert objective.keep_bottom(rows(), "base", limit, lambda *step: None) == 0
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


def test_the_head_is_found_while_an_adapter_drops() -> None:
    model = with_lora(build("Llama"), lora_dropout=0.5).train()
    assert Objective(model, micro_tokens=1000, workers=1).pack_loss.head is not None
    assert model.training and all(
        m.training for m in model.modules() if isinstance(m, torch.nn.Dropout)
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_padded_packs_count_their_padding(workers: int) -> None:
    long = Encoded(tuple(range(200)), (False, *[True] * 199))
    short = [
        Encoded(tuple(range(4 + i % 3)), (*[False] * 3, *[True] * (1 + i % 3))) for i in range(40)
    ]
    packs = micro_packs([*short, long], 64, workers, padded=True)
    assert sorted(id(row) for part in packs for row in part) == sorted(map(id, [*short, long]))
    assert all(
        len(part) == 1 or len(part) * max(len(row.ids) for row in part) <= 64 for part in packs
    )
    assert len(packs) >= workers
    assert len(micro_packs(short, 10_000, workers, padded=True)) == workers


def test_a_thousand_rows_that_begin_alike_are_divided_without_recursion() -> None:
    many = [Encoded((*range(200), 200 + i), (*[False] * 200, True)) for i in range(1500)]
    (group,) = plan.groups_by_prefix(many)
    assert len(group.rows) == 1500 and group.prefix == 199


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
        wanted = torch.autograd.grad(expected, parameters)
        model.set_attn_implementation(NAME)
        loss, gradients = Objective(model, micro_tokens=1000, workers=1).gradients(rows())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        assert (ours - theirs).norm() < 0.05 * theirs.norm()
