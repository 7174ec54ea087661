"""Architectures of transformers: how their rows are laid end to end, and what is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import architectures
import tiny_architectures
from conftest import SMALL
from hydratune.adapters import attach, trained
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.data.encoding.encoded import Encoded
from hydratune.evaluation import generation
from hydratune.models import memory_plan, packing_trial, row_mixers
from hydratune.models.row_packing import Level, Reading, row_packing
from hydratune.training.objective import Objective
from small_models import rows

FAMILIES = {
    "qwen3_5_text": "mixers",  # gated delta nets and attention
    "qwen3_next": "mixers",
    "gpt_oss": "mixers",  # sinks, windows
    "llama4_text": "mixers",  # chunks; experts in one parameter
    "lfm2": "mixers",  # short convolutions
    "gemma2": "mixers",  # soft-capping, windows
    "deepseek_v32": "mixers",  # an indexer chooses the tokens that are attended to
    "jamba": "mixers",  # state spaces, and an expert that no token reaches
    "diffllama": "packed",  # two calls of attention in each layer, so no prefix is shared
    "hrm_text": "packed",  # layers that are called again and again
    "mixtral": "packed",
    "qwen3_moe": "shared",
    "deepseek_v3": "shared",
    "gemma3n_text": "packed",  # changes the output of a linear layer in place
    "openai-gpt": "layers",
    "bart": "padded",
    "xlnet": "refused",
}


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_loss_and_gradients_equal_those_of_each_row_alone(kind: str) -> None:
    outcome = architectures.compare(kind)
    assert outcome.status == FAMILIES[kind], outcome
    assert outcome.loss_error < 1e-5 and outcome.gradient_error < 5e-4


@pytest.mark.parametrize("kind", sorted(packing_trial.PROVEN))
def test_architectures_that_are_used_without_a_trial_are_packed(kind: str) -> None:
    outcome = architectures.compare(kind)
    assert outcome.status in ("shared", "packed"), outcome
    assert outcome.loss_error < 1e-5 and outcome.gradient_error < 5e-4


def model_of(kind: str) -> Any:
    model = tiny_architectures.build(kind)
    packing_trial.choose(model)
    return model.eval()


@pytest.mark.parametrize("kind", ["lfm2", "gemma2", "openai-gpt"])
def test_a_row_does_not_see_its_neighbours(kind: str) -> None:
    objective = Objective(model_of(kind), micro_tokens=1000, workers=1)
    alone = objective.loss([rows()[0]]).item()
    others = rows(5, seed=10)[1:]
    together = objective.loss([rows()[0], *others]).item() - objective.loss(others).item()
    assert together == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("kind", ["lfm2", "gemma2", "qwen3_5_text", "openai-gpt"])
@pytest.mark.parametrize("name", ["head_dim", "hidden_size", "intermediate_size"])
def test_as_many_tokens_as_a_width_are_no_mask(kind: str, name: str) -> None:
    """States of (tokens, width) have the shape of a mask then."""
    model = model_of(kind)
    config = model.config.get_text_config()
    head = config.hidden_size // config.num_attention_heads
    tokens = getattr(config, name, None) or {"head_dim": head, "intermediate_size": 128}[name]
    first, second = (
        Encoded(tuple(range(1, length + 2)), (False, *[True] * length))
        for length in (tokens // 2 - 1, tokens - tokens // 2 + 1)
    )
    objective = Objective(model, micro_tokens=1000, workers=1, share=False)
    alone = sum(objective.loss([row]).item() for row in (first, second))
    together = objective.loss([first, second]).item()
    assert together == pytest.approx(alone, rel=1e-4)


def test_the_trial_notices_a_mixer_that_sees_neighbouring_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def whole(self: row_mixers.RowMixer, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("row_lengths", None)
        return self.own(*args, **kwargs)

    monkeypatch.setattr(row_mixers.RowMixer, "forward", whole)
    model = model_of("lfm2")
    assert row_packing(model).level is Level.padded
    assert "computes other logits for rows laid end to end" in str(row_packing(model).reason)
    assert not any("forward" in vars(module) for module in model.modules())
    assert model.config._attn_implementation == "sdpa"


def test_checkpointing_changes_no_gradient_of_layers_that_run_row_by_row() -> None:
    results = []
    for checkpointing in (False, True):
        model = architectures.with_lora(model_of("gpt_oss")).train()
        objective = Objective(model, micro_tokens=1000, workers=1, checkpointing=checkpointing)
        assert objective.padding_reason is None
        results.append(objective.gradients(rows()))
    assert results[0][0].item() == pytest.approx(results[1][0].item(), rel=1e-6)
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_checkpointing_pads_where_row_lengths_do_not_reach_the_layers() -> None:
    model = model_of("bloom")
    assert row_packing(model).level is Level.mixers and not row_packing(model).by_argument
    objective = Objective(model, micro_tokens=1000, workers=1, checkpointing=True)
    assert "does not hand the lengths of rows on" in str(objective.padding_reason)


# ------------------------------------------------------------------------------------- generation
@pytest.mark.parametrize(
    ("kind", "reading"),
    [
        ("qwen3_5_text", Reading.batches),
        ("recurrent_gemma", Reading.rows),
        ("mamba2", Reading.whole_rows),
    ],
)
def test_answers_are_those_of_one_row_computed_again_for_every_token(
    kind: str, reading: Reading
) -> None:
    model = model_of(kind)
    assert row_packing(model).reading is reading
    prompts, references = [[11, 12, 13, 14, 15, 16, 17], [21, 22, 23]], [[31, 32, 33], [41]]
    stop = frozenset({int(model(torch.tensor([prompts[1]])).logits[0, -1].argmax())})
    answers = generation.answer(
        model, prompts, references, pad=0, stop=stop, max_new_tokens=4, batch_size=2, title=""
    )
    for prompt, reference, answer in zip(prompts, references, answers, strict=True):
        ids = list(prompt)
        for token in answer.tokens:
            logits = model(torch.tensor([ids])).logits[0, -1]
            assert token == int(logits.argmax())
            ids.append(token)
        whole = model(torch.tensor([[*prompt, *reference]])).logits[0, len(prompt) - 1 : -1]
        losses = torch.nn.functional.cross_entropy(whole, torch.tensor(reference), reduction="sum")
        assert answer.nll == pytest.approx(losses.item(), rel=1e-4)
    assert len(answers[1].tokens) == 1  # it left the batch


@pytest.mark.parametrize("kind", ["gemma4_text", "mamba2"])
def test_memory_is_planned_for_configs_whose_layers_differ_or_have_no_heads(kind: str) -> None:
    config = tiny_architectures.tiny_config(kind)
    assert memory_plan.bytes_per_generated_token(config, 4) > 4 * 6 * 32
    assert memory_plan.prefix_share(config) > 0


# ---------------------------------------------------------------------------------------- experts
@pytest.mark.parametrize(
    ("kind", "adapted", "experts"),
    [
        ("mixtral", "LoRA on k_proj x4, o_proj x4, q_proj x4, v_proj x4", "down_proj x4"),
        ("qwen3_moe", "LoRA on k_proj x4, o_proj x4, q_proj x4, v_proj x4", "down_proj x4"),
        ("gpt_oss", "LoRA on k_proj x4, o_proj x4, q_proj x4, v_proj x4", "down_proj x4"),
    ],
)
def test_what_is_trained_of_a_model_with_experts_is_printed(
    kind: str, adapted: str, experts: str
) -> None:
    lines = trained.lines(attach.add_adapter(model_of(kind), LoraAdapter(r=2)))
    assert lines[0] == adapted
    assert lines[1].startswith("not trained: the experts'") and experts in lines[1]


def test_a_router_that_is_a_linear_layer_of_its_own_kind_gets_no_adapter() -> None:
    model = attach.add_adapter(model_of("llama4_text"), LoraAdapter(r=2))
    adapted = trained.adapted_layers(model)
    assert any("shared_expert" in name for name in adapted)
    assert not any("router" in name for name in adapted)


# ------------------------------------------------------------------------------------ the command
@pytest.fixture
def folder(tiny: tuple[Any, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a tiny model of an architecture, with the tokenizer of the built-in tiny model."""

    def write(kind: str, **options: Any) -> Path:
        tokenizer = tiny[2]
        sizes = {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 2048,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        for name, value in sizes.items():
            monkeypatch.setitem(tiny_architectures.SIZES, name, value)
        target = tmp_path / kind
        tiny_architectures.build(kind).save_pretrained(target)
        tokenizer.save_pretrained(target)
        config = json.loads((target / "config.json").read_text())
        (target / "config.json").write_text(json.dumps({**config, **options}))
        return target

    return write


Command = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    "kind", [pytest.param("diffllama", marks=pytest.mark.slow), "qwen3_5_text"]
)
def test_a_run_trains_and_evaluates(hydratune: Command, folder: Any, kind: str) -> None:
    code, output = hydratune("train", *SMALL, "model=local", f"model.path={folder(kind)}")
    assert code == 0, output
    assert "rows are padded" not in output


def test_a_model_that_is_padded_says_why(hydratune: Command, folder: Any) -> None:
    code, output = hydratune("train", *SMALL, "model=local", f"model.path={folder('bart')}")
    assert code == 0, output
    assert "rows are padded, not packed: BartForCausalLM computes other logits" in output


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("xlnet", {}, "XLNetLMHeadModel reads the tokens that it has to predict"),
        ("reformer", {}, "ReformerModelWithLMHead computes no logits from tokens alone"),
        ("bert", {"is_decoder": False}, "encoders need is_decoder=true in their config.json"),
        (
            "mixtral",
            {"output_router_logits": True},
            "output_router_logits is true, router_aux_loss_coef is 0.001",
        ),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_before_anything_is_computed(
    hydratune: Command, folder: Any, kind: str, options: dict[str, Any], words: str
) -> None:
    path = folder(kind, **options)
    code, output = hydratune("train", *SMALL, "model=local", f"model.path={path}")
    assert code == 2 and words in " ".join(output.split()), output
    assert "nothing was run" in output and f"model.path = {path}" in output
    assert not list(Path().glob("runs/**/status.json"))


# -------------------------------------------------------------------------------------- the table
@pytest.mark.slow
def test_the_table_of_the_docs_is_what_a_fresh_run_finds() -> None:
    outcomes = [architectures.outcome_of(kind) for kind in sorted(tiny_architectures.ARCHITECTURES)]
    assert not [outcome for outcome in outcomes if outcome.status == "wrong"]
    assert architectures.document(outcomes) == architectures.DOCS.read_text("utf-8")


def test_the_table_of_the_docs_names_every_architecture() -> None:
    table = architectures.DOCS.read_text("utf-8").partition(architectures.BEGIN)[2]
    for kind in tiny_architectures.ARCHITECTURES:
        assert f"| `{kind}` |" in table, "run: python benchmarks/architectures.py --write"
    for kind, status in FAMILIES.items():
        name = tiny_architectures.ARCHITECTURES[kind]
        assert f"| `{kind}` | {name} | {architectures.STATUS[status]} |" in table
