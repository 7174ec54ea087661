"""The named parameters are trained and reported before training; names that match something else
are refused.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from adapter_cases import IDS, prepared, train
from conftest import SMALL
from hydratune.adapters import attach, trained
from hydratune.adapters.methods.freeze import PartialFinetune
from hydratune.adapters.methods.full import FullFinetune
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.adapters.methods.oft import OftAdapter
from hydratune.adapters.methods.prefix_tuning import PrefixTuning
from hydratune.adapters.methods.vera import VeraAdapter
from hydratune.adapters.targets import layer_number, matches, without_effect
from hydratune.errors import ConfigError
from hydratune.settings.adapter import AdapterConfig

Command = Callable[..., tuple[int, str]]


def llama(layers: int = 2, tied: bool = False) -> Any:
    """Return a random model with frozen parameters."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=1024, num_hidden_layers=layers, tie_word_embeddings=tied, **sizes)
    )
    return model.requires_grad_(False).eval()


def reported_lines(adapter: AdapterConfig, layers: int = 2, tied: bool = False) -> list[str]:
    model = llama(layers, tied)
    attach.check(model, adapter, 6)
    return trained.lines(attach.add_adapter(model, adapter, 6))


def refused(adapter: AdapterConfig, layers: int = 2, tied: bool = False) -> str:
    with pytest.raises(ConfigError) as error:
        attach.check(llama(layers, tied), adapter, 6)
    assert len(error.value.problems) == 1, error.value
    return str(error.value)


ATTENTION = "k_proj x{0}, o_proj x{0}, q_proj x{0}, v_proj x{0}"
REPORTED: dict[str, tuple[AdapterConfig, list[str]]] = {
    "names": (LoraAdapter(target_modules=["q_proj", "v_proj"]), ["LoRA on q_proj x2, v_proj x2"]),
    "attention of one layer": (
        LoraAdapter(target_modules=[r".*self_attn.*"], layers_to_transform=[1]),
        [f"LoRA on {ATTENTION.format(1)} (layer 1)"],
    ),
    "the output head": (
        LoraAdapter(target_modules=["q_proj", "lm_head"]),
        ["LoRA on lm_head x1, q_proj x2"],
    ),
    "the last norm alone": (
        LoraAdapter(target_modules=["q_proj"], modules_to_save=["norm"]),
        ["LoRA on q_proj x2", "saved in full: model.norm x1"],
    ),
    "one norm of one layer": (
        LoraAdapter(target_modules=["q_proj"], modules_to_save=["layers.1.input_layernorm"]),
        ["LoRA on q_proj x2", "saved in full: input_layernorm x1 (layer 1)"],
    ),
    "norms by an expression": (
        VeraAdapter(target_modules=["q_proj"], modules_to_save=[".*layernorm"]),
        ["VeRA on q_proj x2", "saved in full: input_layernorm x2, post_attention_layernorm x2"],
    ),
    "a module and what is in it": (
        LoraAdapter(target_modules=["q_proj"], modules_to_save=[r".*\.mlp.*"]),
        ["LoRA on q_proj x2", "saved in full: mlp x2"],
    ),
    "single tokens": (
        LoraAdapter(target_modules=["q_proj"], extra={"trainable_token_indices": [5, 6]}),
        ["LoRA on q_proj x2", "single tokens of: model.embed_tokens x1"],
    ),
    "virtual tokens": (PrefixTuning(num_virtual_tokens=3), ["3 virtual tokens (prefix_tuning)"]),
    "the top layer and a norm": (
        PartialFinetune(last_layers=0, trainable=["norm", "layers.1.mlp"]),
        [
            "in full: gate_proj x1 (layer 1), up_proj x1 (layer 1), down_proj x1 (layer 1),"
            " model.norm x1"
        ],
    ),
}


@pytest.mark.parametrize("case", list(REPORTED))
def test_trained_parameters_are_reported_by_name_and_count(case: str) -> None:
    adapter, lines = REPORTED[case]
    assert reported_lines(adapter) == lines


def test_the_report_of_full_fine_tuning_and_of_one_matrix() -> None:
    assert reported_lines(FullFinetune())[0].startswith(
        "every parameter: model.embed_tokens x1, q_proj x2,"
    )
    both = ["LoRA on q_proj x2", "saved in full: lm_head x1, model.embed_tokens x1"]
    for name in ("lm_head", "embed_tokens", "model.embed_tokens"):
        assert (
            reported_lines(
                LoraAdapter(target_modules=["q_proj"], modules_to_save=[name]), tied=True
            )
            == both
        )
    assert trained.ranges([7, 0, 2, 1]) == "0-2, 7"


REFUSED: dict[str, tuple[AdapterConfig, str, str]] = {
    "the end of a name": (
        LoraAdapter(modules_to_save=["layernorm"]),
        "PEFT would train the 4 modules",
        "input_layernorm, post_attention",
    ),
    "the beginning of a name": (
        LoraAdapter(modules_to_save=["embed"]),
        "no module called embed",
        "similar: embed_tokens",
    ),
    "the end of layers": (
        LoraAdapter(target_modules=["proj"]),
        "no linear layer called proj",
        "similar: down_proj",
    ),
    "a head among numbered layers": (
        LoraAdapter(target_modules=["q_proj", "lm_head"], layers_to_transform=[0]),
        "leaves lm_head out",
        "adapter.target_modules=[q_proj]",
    ),
    "a target that is excluded": (
        LoraAdapter(target_modules=["q_proj", "v_proj"], exclude_modules=["v_proj"]),
        "leaves no layer of v_proj",
        "adapter.target_modules=[q_proj]",
    ),
    "a word for targets": (
        LoraAdapter(exclude_modules=["all-linear"]),
        "understood as a target only",
        "q_proj",
    ),
    "a pattern behind another": (
        LoraAdapter(rank_pattern={"q_proj": 4, "layers.1.self_attn.q_proj": 2}),
        "from the earlier q_proj",
        "before q_proj",
    ),
    "an alpha behind another": (
        LoraAdapter(alpha_pattern={".*": 4.0, "q_proj": 2.0}),
        "from the earlier .*",
        "before .*",
    ),
    "no such parameter": (
        LoraAdapter(extra={"target_parameters": ["experts.up"]}),
        "no parameter called experts.up",
        "leave it out",
    ),
    "a token that is not there": (
        LoraAdapter(extra={"trainable_token_indices": [5, 1024]}),
        "1024 is no row",
        "from 0 to 1023",
    ),
    "no token": (
        LoraAdapter(extra={"trainable_token_indices": []}),
        "no token is named",
        "from 0 to 1023",
    ),
    "tokens of another layer": (
        LoraAdapter(extra={"trainable_token_indices": {"wte": [1]}}),
        "no module called wte",
        "model.embed_tokens",
    ),
    "no expression": (
        LoraAdapter(modules_to_save=["norm("]),
        "not a regular expression",
        "mend the expression",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_names_that_match_nothing_or_something_else_are_refused(case: str) -> None:
    adapter, why, fix = REFUSED[case]
    text = refused(adapter)
    assert why in text and fix in text.split("fix:")[1]


@pytest.mark.parametrize(
    "adapter",
    [
        LoraAdapter(target_modules=["model.layers.1.*"]),
        LoraAdapter(exclude_modules=["model.layers.1.*"]),
        LoraAdapter(rank_pattern={"layers.1.*": 4}),
        LoraAdapter(target_modules=["q_proj"], modules_to_save=["model.layers.1.*norm"]),
        PartialFinetune(last_layers=0, trainable=["model.layers.1.*"]),
    ],
)
def test_an_expression_for_one_layer_that_matches_eleven_is_refused_with_two_fixes(
    adapter: Any,
) -> None:
    text = refused(adapter, layers=12)
    assert "takes model.layers.10." in text
    narrow, wide = re.findall(r'"([^"]+)"', text.split("fix:")[1])
    names = [name for name, _ in llama(12).named_modules()]
    for expression, numbers in ((narrow, {1}), (wide, {1, 10, 11})):
        assert {
            layer_number(name, None)
            for name in names
            if matches(name, expression) or matches(name, f"model.{expression}")
        } == numbers
    reported_lines(
        LoraAdapter(target_modules=["model.layers.1.*"])
    )  # with two layers the expression is unambiguous


def test_saved_weights_loaded_by_plain_peft_are_the_named_ones(tiny: Any, tmp_path: Path) -> None:
    untouched = AutoModelForCausalLM.from_pretrained(tiny[1].name).state_dict()
    for adapter in (
        LoraAdapter(modules_to_save=["norm"]),
        LoraAdapter(extra={"trainable_token_indices": [5, 6]}),
    ):
        model = prepared(tiny, adapter)
        train(model, 3)
        attach.save(model, tiny[2], tmp_path / "adapter")
        again = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tiny[1].name), str(tmp_path / "adapter")
        ).eval()
        with torch.no_grad():
            torch.testing.assert_close(
                again(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=0, atol=1e-5
            )
        merged = again.merge_and_unload().state_dict()
        changed = {
            name
            for name in untouched
            if not torch.equal(untouched[name], merged[name]) and "proj" not in name
        }
        assert changed == (
            {"model.norm.weight"}
            if adapter.modules_to_save
            else {"model.embed_tokens.weight", "lm_head.weight"}
        )


def test_a_run_reports_what_it_trains_and_exclusions_without_effect(hydratune: Command) -> None:
    settings = (
        "adapter.target_modules=[q_proj]",
        "adapter.exclude_modules=[v_proj]",
        "adapter.modules_to_save=[norm]",
    )
    code, text = hydratune("train", *SMALL, *settings)
    assert code == 0, text
    before = text.split("parameters (")[0]
    assert "LoRA on q_proj x2\nsaved in full: model.norm x1\n" in before
    assert "adapter.exclude_modules: v_proj is no target anyway" in before
    assert without_effect(llama(), LoraAdapter(exclude_modules=["lm_head", "q_proj"])) == [
        "lm_head"
    ]


def test_what_peft_refuses_is_refused_before_anything_is_trained() -> None:
    adapter = LoraAdapter(use_dora=True, extra={"megatron_config": {"a": 1}})
    with pytest.raises(ConfigError, match="PEFT refuses it: DoRA does not support megatron"):
        attach.check(llama(2, tied=False), adapter, 6)


@pytest.mark.parametrize(
    ("adapter", "draws"),
    [
        (LoraAdapter(), False),
        (LoraAdapter(lora_dropout=0.1), True),
        (VeraAdapter(vera_dropout=0.1), True),
        (OftAdapter(module_dropout=0.1), True),
        (LoraAdapter(extra={"rank_dropout": 0.1}), True),
        (FullFinetune(), False),
    ],
)
def test_dropout_under_any_name_draws_random_numbers(adapter: AdapterConfig, draws: bool) -> None:
    assert adapter.draws_random() is draws
