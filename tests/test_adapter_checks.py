"""Settings of adapters that are refused: by themselves, and for a model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import SMALL
from hydratune.adapters import attach
from hydratune.adapters.base import LayerAdapter
from hydratune.adapters.methods.adalora import AdaLoraAdapter
from hydratune.adapters.methods.freeze import PartialFinetune
from hydratune.adapters.methods.ia3 import Ia3Adapter
from hydratune.adapters.methods.lora import LoraAdapter, LoraBias
from hydratune.adapters.methods.oft import OftAdapter
from hydratune.adapters.methods.prefix_tuning import PrefixTuning
from hydratune.adapters.methods.vera import VeraAdapter
from hydratune.errors import ConfigError
from hydratune.settings.adapter import AdapterContext
from hydratune.settings.model import Quantization
from hydratune.training.patches import with_lean_layers
from small_models import build
from test_config import problems

Command = Callable[..., tuple[int, str]]


REFUSED = {
    "no such layer": (
        LoraAdapter(target_modules=["query"]),
        "no linear layer called query",
        "q_proj",
    ),
    "not a regular expression": (
        LoraAdapter(target_modules=["q_proj("]),
        "not a regular expression",
        "q_proj(",
    ),
    "layer out of range": (
        LoraAdapter(layers_to_transform=[0, 2]),
        "has 2 layers, with the numbers 0 to 1",
        "[0, 2]",
    ),
    "layers called otherwise": (
        LoraAdapter(layers_to_transform=[0], layers_pattern="blk"),
        "no numbered layers called blk",
        "layers",
    ),
    "nothing left": (
        LoraAdapter(target_modules=["q_proj"], exclude_modules=["q_proj"]),
        "leave no layer",
        "v_proj",
    ),
    "rank above every layer": (
        LoraAdapter(r=65),
        "no target layer is wider than 64",
        "adapter.r=64",
    ),
    "rank of a pattern above its layer": (
        LoraAdapter(rank_pattern={"k_proj": 33}),
        "wider than 32",
        "adapter.rank_pattern.k_proj",
    ),
    "rank above one layer, which PiSSA needs": (
        LoraAdapter(r=33, init_lora_weights="pissa"),
        "only 32 wide",
        "adapter.r=32",
    ),
    "rank_pattern of nothing": (
        LoraAdapter(rank_pattern={"query": 4}),
        "no target layer has this name",
        "q_proj",
    ),
    "alpha_pattern of no target": (
        LoraAdapter(target_modules=["v_proj"], alpha_pattern={"q_proj": 4}),
        "no target layer has this name",
        "v_proj",
    ),
    "no bias": (LoraAdapter(bias=LoraBias.all), "have no bias", "adapter.bias=none"),
    "no module to save": (
        LoraAdapter(modules_to_save=["head"]),
        "no module called head",
        "lm_head",
    ),
    "trained twice": (LoraAdapter(modules_to_save=["q_proj"]), "is, or holds, a target", "q_proj"),
    "tied head": (
        LoraAdapter(target_modules=["all-linear", "lm_head"]),
        "one matrix",
        "leave lm_head out",
    ),
    "tied head, OFT": (OftAdapter(target_modules=["lm_head"]), "one matrix", "leave lm_head out"),
    "tied modules to save": (
        VeraAdapter(modules_to_save=["embed_tokens"]),
        "one matrix",
        "adapter=lora",
    ),
    "unknown extra": (
        LoraAdapter(extra={"nonsense": 1}),
        "LoraConfig has no such field",
        "lora_bias",
    ),
    "extra that is a setting": (
        LoraAdapter(extra={"use_dora": True}),
        "this setting exists outside extra",
        "adapter.use_dora=True",
    ),
    "extra of a wrong type": (LoraAdapter(extra={"lora_bias": 3}), "PEFT wants bool", "lora_bias"),
    "unknown extra of another method": (
        PrefixTuning(extra={"r": 3}),
        "PrefixTuningConfig has no such field",
        "adapter.extra.r",
    ),
    "AdaLoRA's rank": (AdaLoraAdapter(init_r=65, target_r=8), "wider than 64", "adapter.init_r=64"),
    "AdaLoRA's phases": (AdaLoraAdapter(tinit=3, tfinal=3), "6 optimizer steps", "train longer"),
    "OFT's blocks": (OftAdapter(oft_block_size=48), "must divide", "2, 4, 8, 16, 32, 64"),
    "IA3's feed-forward": (
        Ia3Adapter(target_modules=["k_proj"], feedforward_modules=["up_proj"]),
        "none of the target layers",
        "k_proj",
    ),
    "more layers than there are": (
        PartialFinetune(last_layers=3),
        "has 2 layers",
        "adapter.last_layers=2",
    ),
    "nothing to train": (
        PartialFinetune(trainable=["head"]),
        "no module or parameter called head",
        "lm_head",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_settings_that_do_not_fit_the_model_are_refused_with_its_valid_names(
    model: Any, case: str
) -> None:
    adapter, why, shown = REFUSED[case]
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(ConfigError) as refused:
        attach.check(model, adapter, 6)
    assert len(refused.value.problems) == 1
    assert (
        why in str(refused.value)
        and shown in str(refused.value)
        and "adapter." in refused.value.problems[0].key
    )
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_an_architecture_that_peft_does_not_know_needs_names() -> None:
    phi = build("Phi3")
    for adapter, key in (
        (Ia3Adapter(target_modules=None), "adapter.target_modules"),
        (Ia3Adapter(target_modules=["qkv_proj"]), "adapter.feedforward_modules"),
        (LoraAdapter(target_modules=None), "adapter.target_modules"),
    ):
        with pytest.raises(ConfigError, match="'phi3'") as refused:
            attach.check(phi, adapter)
            with_lean_layers(attach.add_adapter(phi, adapter))
        assert refused.value.problems[0].key == key
    named = Ia3Adapter(target_modules=["qkv_proj", "down_proj"], feedforward_modules=["down_proj"])
    attach.check(phi, named)
    model = with_lean_layers(attach.add_adapter(phi, named))
    shapes = {
        name.split(".")[-3]: tuple(p.shape) for name, p in model.named_parameters() if "ia3" in name
    }
    assert shapes["down_proj"] == (1, 64)  # scales the input
    assert shapes["qkv_proj"][1] == 1  # scales the output


@pytest.mark.parametrize(
    ("settings", "key", "why"),
    [
        (["adapter=loftq"], "adapter.init_lora_weights", "model.quantization=none"),
        (
            ["adapter=loftq", "model.quantization=int8"],
            "adapter.init_lora_weights",
            "model.quantization=int8",
        ),
        (["adapter=pissa", "model.quantization=nf4"], "adapter.init_lora_weights", "another base"),
        (["adapter=olora", "model.quantization=int8"], "adapter.init_lora_weights", "another base"),
        (["adapter=freeze", "model.quantization=nf4"], "model.quantization", "frozen codes"),
        (
            ["adapter=loftq", "model.quantization=nf4", "adapter.use_dora=true"],
            "adapter.use_dora",
            "magnitudes",
        ),
        (["adapter.init_lora_weights=eva"], "adapter.init_lora_weights", "no such start"),
        (["adapter.r=15", "adapter.init_lora_weights=orthogonal"], "adapter.r", "even ranks"),
        (["adapter.target_modules=[]"], "adapter.target_modules", "nothing would be trained"),
        (["adapter.layers_pattern=h"], "adapter.layers_pattern", "not set"),
        (["+adapter.rank_pattern.q_proj=0"], "adapter.rank_pattern.q_proj", "at least 1"),
        (["adapter=adalora", "adapter.init_r=8"], "adapter.init_r", "ranks fall"),
        (["adapter=adalora", "adapter.beta1=1"], "adapter.beta1", "(0, 1)"),
        (["adapter=oft", "adapter.oft_block_size=1"], "adapter.oft_block_size", "at least 2"),
        (["adapter=vera", "adapter.vera_dropout=1"], "adapter.vera_dropout", "[0, 1)"),
        (
            ["adapter=prompt_tuning", "adapter.num_virtual_tokens=0"],
            "adapter.num_virtual_tokens",
            "at least 1",
        ),
        (
            ["adapter=prefix_tuning", "model=tiny", "adapter.num_virtual_tokens=2045"],
            "adapter.num_virtual_tokens",
            "nothing is left",
        ),
        (
            ["adapter=prompt_tuning", "adapter.prompt_tuning_init=TEXT"],
            "adapter.prompt_tuning_init_text",
            "start as this text",
        ),
        (
            ["adapter=prompt_tuning", "adapter.prompt_tuning_init_text=Go"],
            "adapter.prompt_tuning_init_text",
            "nothing reads it",
        ),
        (
            ["adapter=prefix_tuning", "adapter.encoder_hidden_size=8"],
            "adapter.encoder_hidden_size",
            "no network",
        ),
        (
            ["adapter=freeze", "adapter.last_layers=0"],
            "adapter.last_layers",
            "nothing would be trained",
        ),
        (["adapter=vera", "adapter.lora_alpha=3"], "adapter.lora_alpha", "adapter=lora"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_at_once(
    settings: list[str], key: str, why: str
) -> None:
    problems_found = problems(*settings)
    assert set(problems_found) == {key} and why in problems_found[key]


def test_virtual_tokens_that_leave_the_rows_no_room_are_refused_before_training(
    hydratune: Command, tmp_path: Path
) -> None:
    code, text = hydratune(
        "train", *SMALL, "adapter=prompt_tuning", "adapter.num_virtual_tokens=1900"
    )
    assert (
        code == 2 and "adapter.num_virtual_tokens = 1900" in text and "the longest row has" in text
    )
    assert not list(tmp_path.glob("outputs/*/*/checkpoints"))


@pytest.mark.parametrize("quantization", [Quantization.nf4, Quantization.int8])
def test_a_layer_adapter_refuses_a_quantised_base_unless_it_says_that_it_supports_it(
    quantization: Quantization,
) -> None:
    class New(LayerAdapter):
        peft_type, title = "LOHA", "LoHa"

    class Supported(New):
        supports_quantized_base = True

    context = AdapterContext(quantization=quantization)
    (problem,) = New().problems(context)
    assert problem.key == "model.quantization" and problem.value == quantization.value
    assert problem.why == "LoHa does not support a quantised base"
    assert not list(New().problems(AdapterContext()))
    for adapter in (Supported(), LoraAdapter(), AdaLoraAdapter(), Ia3Adapter(), OftAdapter()):
        assert not list(adapter.problems(context))
    assert not list(VeraAdapter().problems(context))
