"""Every adapter trains, and what is saved loads with plain PEFT on the untouched base."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from adapter_cases import IDS, original, prepared, reloaded, train
from conftest import SMALL
from hydratune.adapters import attach
from hydratune.adapters.methods.adalora import AdaLoraAdapter
from hydratune.adapters.methods.freeze import PartialFinetune
from hydratune.adapters.methods.ia3 import Ia3Adapter
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.adapters.methods.oft import OftAdapter
from hydratune.adapters.methods.prefix_tuning import PrefixInit, PrefixTuning
from hydratune.adapters.methods.prompt_tuning import PromptInit, PromptTuning
from hydratune.adapters.methods.vera import VeraAdapter
from hydratune.composition import CONF
from hydratune.errors import ConfigError
from hydratune.settings.model import Quantization

Command = Callable[..., tuple[int, str]]
# PEFT takes its own file of AdaLoRA's ranks for LoRA's rank_pattern
pytestmark = pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")


SHIPPED = sorted(file.stem for file in (CONF / "adapter").glob("*.yaml"))
# one of each kind; the others are variants of them
FAST = ("adalora", "dora", "ia3", "loftq", "lora", "none", "prefix_tuning")


NEEDED = {
    "loftq": ["model.quantization=nf4"],
    "adalora": ["trainer.max_steps=4", "trainer.max_epochs=2"],
    "freeze": ["adapter.last_layers=1"],
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in SHIPPED]
)
def test_every_shipped_adapter_learns_and_loads_with_plain_peft_on_the_untouched_base(
    hydratune: Command, tmp_path: Path, tiny: Any, name: str
) -> None:
    needed, run = NEEDED.get(name, []), tmp_path / "run"
    code, text = hydratune(
        "train", *SMALL, f"adapter={name}", "optimizer.lr=0.01", f"hydra.run.dir={run}", *needed
    )
    assert code == 0, text
    with (run / "history.csv").open() as stream:
        losses = [float(row["train/loss"]) for row in csv.DictReader(stream)]
    assert len(set(losses)) == len(losses) > 1
    tokenizer = AutoTokenizer.from_pretrained(run / "adapter")
    quantization = Quantization.nf4 if name == "loftq" else Quantization.none
    tuned, base = reloaded(run / "adapter", tiny, quantization), original(tiny, quantization)
    changed = 0.0
    for line in (run / "predictions.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt = tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_dict=False
        )
        target = tokenizer(row["reference"] + "<|im_end|>", add_special_tokens=False).input_ids
        nlls = []
        for model in (tuned, base):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + target])).logits[
                    0, -len(target) - 1 : -1
                ]
            nlls.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(target))))
        assert nlls[0] == pytest.approx(row["nll"] / len(target), abs=1e-5)
        changed += abs(nlls[1] - nlls[0])
    assert changed > 1e-4  # the adapter changes the likelihoods
    recorded = json.loads((run / "metrics.json").read_text())
    code, text = hydratune("evaluate", f"run={run}")
    assert code == 0 and "are reproduced" in text, text
    assert json.loads((run / "evaluation.json").read_text())["eval/nll"] == pytest.approx(
        recorded["eval/nll"], abs=1e-6
    )


FORMS: dict[str, Any] = {
    "names of layers": LoraAdapter(target_modules=["q_proj", "down_proj"]),
    "a regular expression": LoraAdapter(target_modules=[r"model\.layers\.1\.mlp\..*"]),
    "top layer only": LoraAdapter(layers_to_transform=[1]),
    "all but one": LoraAdapter(exclude_modules=["o_proj"]),
    "PEFT's choice": LoraAdapter(target_modules=None),
    "patterns": LoraAdapter(
        rank_pattern={"q_proj": 4, r"layers\.1\.mlp.down_proj": 8}, alpha_pattern={"v_proj": 3.0}
    ),
    "tied embeddings in full": LoraAdapter(modules_to_save=["lm_head"]),
    "gaussian": LoraAdapter(init_lora_weights="gaussian"),
    "orthogonal": LoraAdapter(init_lora_weights="orthogonal"),
    "PiSSA, exact": LoraAdapter(init_lora_weights="pissa"),
    "PiSSA, rsLoRA, patterns": LoraAdapter(
        init_lora_weights="pissa",
        use_rslora=True,
        rank_pattern={"q_proj": 4},
        alpha_pattern={"v_proj": 3.0},
    ),
    "PiSSA, DoRA": LoraAdapter(init_lora_weights="pissa", use_dora=True),
    "OLoRA, norms in full": LoraAdapter(init_lora_weights="olora", modules_to_save=["norm"]),
    "AdaLoRA, top layer": AdaLoraAdapter(layers_to_transform=[1]),
    "AdaLoRA, ranks of zero": AdaLoraAdapter(init_r=4, target_r=1, tinit=0, tfinal=2),
    "IA3, top layer": Ia3Adapter(target_modules=None, layers_to_transform=[1]),
    "IA3, all": Ia3Adapter(feedforward_modules=["gate_proj", "up_proj", "down_proj"]),
    "VeRA, projection drawn again": VeraAdapter(r=16, save_projection=False),
    "OFT, exact": OftAdapter(oft_block_size=16, use_cayley_neumann=False),
    "prompt, random": PromptTuning(prompt_tuning_init=PromptInit.RANDOM),
    "prompt, text": PromptTuning(
        prompt_tuning_init=PromptInit.TEXT, prompt_tuning_init_text="Extract the terms."
    ),
    "prefix, projected": PrefixTuning(prefix_projection=True, encoder_hidden_size=24),
    "prefix, random": PrefixTuning(init_weights=PrefixInit.random),
    "freeze, head and norm": PartialFinetune(
        last_layers=0, trainable=["lm_head", "model.norm", r".*layernorm"]
    ),
}


@pytest.mark.filterwarnings("ignore:Specified to not (save|load) vera_A:UserWarning")
@pytest.mark.parametrize("form", list(FORMS))
def test_saved_adapter_gives_the_logits_of_the_trained_model(
    tiny: Any, tmp_path: Path, form: str
) -> None:
    model = prepared(tiny, FORMS[form])
    losses = train(model, 6)
    assert losses[-1] < losses[0]
    with torch.no_grad():
        logits = model(input_ids=IDS).logits[:, -IDS.shape[1] :]
        untouched = original(tiny)(input_ids=IDS).logits
        attach.save(model, tiny[2], tmp_path / "adapter")
        again = reloaded(tmp_path / "adapter", tiny)(input_ids=IDS).logits[:, -IDS.shape[1] :]
    assert (logits - untouched).abs().max() > 1e-3
    torch.testing.assert_close(again, logits, rtol=0, atol=1e-5)


QUANTISED = [
    LoraAdapter(),
    LoraAdapter(use_dora=True),
    LoraAdapter(init_lora_weights="loftq"),
    AdaLoraAdapter(),
    Ia3Adapter(target_modules=None),
    VeraAdapter(r=16),
    OftAdapter(),
    PromptTuning(),
    PrefixTuning(),
]


@pytest.mark.parametrize(
    "quantization", [Quantization.nf4, pytest.param(Quantization.int8, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "adapter", QUANTISED, ids=lambda a: f"{a.method}{'-dora' * getattr(a, 'use_dora', False)}"
)
def test_quantised_bases_on_a_cpu(
    tiny: Any, tmp_path: Path, adapter: Any, quantization: Quantization
) -> None:
    is_lora = isinstance(adapter, LoraAdapter)
    if quantization is Quantization.int8 and is_lora and adapter.init_lora_weights == "loftq":
        pytest.skip("refused by the settings alone, see below")
    if quantization is Quantization.int8 and is_lora and adapter.use_dora:
        with pytest.raises(ConfigError, match="loses the scales of an 8-bit base"):
            prepared(tiny, adapter, quantization)
        return
    model = prepared(tiny, adapter, quantization)
    losses = train(model, 6)
    assert losses[-1] < losses[0]
    with torch.no_grad():
        logits = model(input_ids=IDS).logits
        attach.save(model, tiny[2], tmp_path / "adapter")
        torch.testing.assert_close(
            reloaded(tmp_path / "adapter", tiny, quantization)(input_ids=IDS).logits,
            logits,
            rtol=0,
            atol=1e-5,
        )


def test_loftq_starts_nearer_to_the_unquantised_model(tiny: Any) -> None:
    with torch.no_grad():
        unquantised = original(tiny)(input_ids=IDS).logits
        plain = prepared(tiny, LoraAdapter(), Quantization.nf4)(input_ids=IDS).logits
        start = prepared(tiny, LoraAdapter(init_lora_weights="loftq"), Quantization.nf4)(
            input_ids=IDS
        ).logits
    assert (start - unquantised).norm() < 0.8 * (plain - unquantised).norm()


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora"])
def test_an_initialisation_that_changes_the_base_does_not_change_the_outputs(
    tiny: Any, start: str
) -> None:
    model = prepared(tiny, LoraAdapter(init_lora_weights=start))
    weight = model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight
    with torch.no_grad():
        assert (weight - original(tiny).model.layers[0].mlp.up_proj.weight).abs().max() > 1e-3
        torch.testing.assert_close(
            model(input_ids=IDS).logits, original(tiny)(input_ids=IDS).logits, rtol=0, atol=1e-5
        )


def test_only_the_chosen_layers_are_trained(tiny: Any) -> None:
    def touched(adapter: Any) -> set[str]:
        return {name for name, p in prepared(tiny, adapter).named_parameters() if p.requires_grad}

    assert all(".layers.1." in name for name in touched(LoraAdapter(layers_to_transform=[1])))
    assert all(
        ".mlp." in name for name in touched(LoraAdapter(target_modules=[r".*\.mlp\..*_proj"]))
    )
    assert not [
        name for name in touched(LoraAdapter(exclude_modules=["o_proj"])) if "o_proj" in name
    ]
    frozen = touched(PartialFinetune(last_layers=1, trainable=["norm"]))
    assert "model.norm.weight" in frozen and all(
        ".layers.1." in name for name in frozen - {"model.norm.weight"}
    )
    # the head is tied to it
    assert touched(PartialFinetune(last_layers=0, trainable=["lm_head"])) == {
        "model.embed_tokens.weight"
    }


def test_parameters_of_a_4_bit_base_are_counted_before_packing(tiny: Any) -> None:
    whole, packed = (
        attach.count_parameters(prepared(tiny, LoraAdapter(), q))
        for q in (Quantization.none, Quantization.nf4)
    )
    assert whole == packed


@pytest.mark.parametrize("name", ["pissa", pytest.param("dora", marks=pytest.mark.slow)])
def test_in_bf16_the_saved_adapter_gives_the_measured_likelihood(
    hydratune: Command, tmp_path: Path, name: str
) -> None:
    """In bf16, PiSSA's trained base and the untouched base differ by more than the conversion,
    because each is rounded separately.
    """
    run = tmp_path / "run"
    settings = (
        f"adapter={name}",
        "trainer.precision=bf16-mixed",
        "optimizer.lr=0.01",
        f"hydra.run.dir={run}",
    )
    assert hydratune("train", *SMALL, *settings)[0] == 0
    code, text = hydratune("evaluate", f"run={run}")
    assert code == 0, text
    nll = [
        json.loads((run / file).read_text())["eval/nll"]
        for file in ("metrics.json", "evaluation.json")
    ]
    assert nll[0] == pytest.approx(nll[1], abs=1e-7)


@pytest.mark.parametrize("quantization", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def test_quantised_base_in_bf16_trains_and_answers(hydratune: Command, quantization: str) -> None:
    code, text = hydratune(
        "train", *SMALL, f"model.quantization={quantization}", "trainer.precision=bf16-mixed"
    )
    assert code == 0, text
