import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import SMALL
from hydratune.adapters import attach
from hydratune.adapters.methods.adalora import AdaLoraAdapter
from hydratune.adapters.methods.freeze import PartialFinetune
from hydratune.adapters.methods.ia3 import Ia3Adapter
from hydratune.adapters.methods.lora import LoraAdapter, LoraBias
from hydratune.adapters.methods.oft import OftAdapter
from hydratune.adapters.methods.prefix_tuning import PrefixInit, PrefixTuning
from hydratune.adapters.methods.prompt_tuning import PromptInit, PromptTuning
from hydratune.adapters.methods.vera import VeraAdapter
from hydratune.composition import CONF
from hydratune.data.encoding.encoded import Encoded
from hydratune.errors import ConfigError
from hydratune.evaluation.generation import answer
from hydratune.models import loading
from hydratune.models.attention import NAME
from hydratune.models.compute import on_cpu
from hydratune.models.sources.tiny import TinyModel
from hydratune.settings.model import Quantization
from hydratune.training.adalora import RankAllocation, orthogonality
from hydratune.training.objective import Objective
from hydratune.training.patches import with_lean_layers
from small_models import build
from test_config import problems

Command = Callable[..., tuple[int, str]]
SHIPPED = sorted(file.stem for file in (CONF / "adapter").glob("*.yaml"))
NEEDED = {
    "loftq": ["model.quantization=nf4"],
    "adalora": ["trainer.max_steps=4", "trainer.max_epochs=2"],
    "freeze": ["adapter.last_layers=1"],
}
# PEFT takes its own file of AdaLoRA's ranks for LoRA's rank_pattern
pytestmark = pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")


def original(tiny: Any, quantization: Quantization = Quantization.none) -> Any:
    """The untouched base, by plain transformers."""
    from transformers import BitsAndBytesConfig

    options: dict[str, Any] = {"dtype": torch.float32}
    if quantization is Quantization.nf4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    if quantization is Quantization.int8:
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(tiny[1].name, **options)
    for module in model.modules():
        # bitsandbytes would round the scales of 4-bit weights
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model.eval()


def reloaded(folder: Path, tiny: Any, quantization: Quantization = Quantization.none) -> Any:
    """The tuned model, as somebody without this package loads it."""
    if not (folder / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    return PeftModel.from_pretrained(original(tiny, quantization), str(folder)).eval()


@pytest.mark.parametrize("name", SHIPPED)
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
        found = []
        for model in (tuned, base):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + target])).logits[
                    0, -len(target) - 1 : -1
                ]
            found.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(target))))
        assert found[0] == pytest.approx(row["nll"] / len(target), abs=1e-5)
        changed += abs(found[1] - found[0])
    assert changed > 1e-4  # the adapter did something
    recorded = json.loads((run / "metrics.json").read_text())
    code, text = hydratune("evaluate", f"run={run}")
    assert code == 0 and "are reproduced" in text, text
    assert json.loads((run / "evaluation.json").read_text())["eval/nll"] == pytest.approx(
        recorded["eval/nll"], abs=1e-6
    )


def examples(count: int = 4) -> list[Encoded]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(count):
        length = 9 + 5 * i
        ids = torch.randint(1, 900, (length,), generator=generator).tolist()
        rows.append(Encoded(tuple(ids), tuple(j > length // 2 for j in range(length))))
    return rows


def prepared(
    tiny: Any, adapter: Any, quantization: Quantization = Quantization.none, steps: int = 6
) -> Any:
    """The tiny model with ``adapter``, not yet trained."""
    settings = TinyModel(name="tiny", context_window=2048, quantization=quantization)
    model = attach.prepare_quantised(loading.load_model(settings, tiny[1], on_cpu()), quantization)
    attach.check(model, adapter, steps)
    torch.manual_seed(0)
    return with_lean_layers(attach.add_adapter(model, adapter, steps))


def train(model: Any, steps: int) -> list[float]:
    """Losses of ``steps`` steps of Adam."""
    objective = Objective(model, micro_tokens=1000, workers=1)
    parameters = objective.parameters()
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    allocation = (
        RankAllocation(model)
        if "AdaLora" in type(getattr(model, "base_model", None)).__name__
        else None
    )
    losses = []
    model.train()
    for step in range(1, steps + 1):
        loss, gradients = objective.gradients(examples())
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if allocation:
            allocation.on_before_optimizer_step()
        optimizer.step()
        if allocation:
            model.base_model.update_and_allocate(step)
        losses.append(loss.item())
    model.eval()
    return losses


IDS = torch.arange(5, 40)[None]
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
        wanted = original(tiny)(input_ids=IDS).logits
        plain = prepared(tiny, LoraAdapter(), Quantization.nf4)(input_ids=IDS).logits
        start = prepared(tiny, LoraAdapter(init_lora_weights="loftq"), Quantization.nf4)(
            input_ids=IDS
        ).logits
    assert (start - wanted).norm() < 0.8 * (plain - wanted).norm()


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora"])
def test_a_start_that_changes_the_base_leaves_the_model_as_it_was(tiny: Any, start: str) -> None:
    model = prepared(tiny, LoraAdapter(init_lora_weights=start))
    weight = model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight
    with torch.no_grad():
        assert (weight - original(tiny).model.layers[0].mlp.up_proj.weight).abs().max() > 1e-3
        torch.testing.assert_close(
            model(input_ids=IDS).logits, original(tiny)(input_ids=IDS).logits, rtol=0, atol=1e-5
        )


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
    """Goes on training AdaLoRA at the given step numbers; returns how many."""
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


def by_hand(model: Any, prompt: list[int], limit: int) -> list[int]:
    ids = list(prompt)
    for _ in range(limit):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", ["Llama", "Gemma3Text"])
@pytest.mark.parametrize("attention", [NAME, "sdpa"])
@pytest.mark.parametrize(
    "prompts",
    [[[1, 2, 3, 9, 8], [1, 2, 3, 4]], [[7, 1, 2], [1, 2, 3, 5, 5, 6]]],
    ids=["shared", "not shared"],
)
@pytest.mark.parametrize(
    "adapter",
    [
        PromptTuning(num_virtual_tokens=3),
        PrefixTuning(num_virtual_tokens=3, init_weights=PrefixInit.random),
    ],
)
def test_answers_and_likelihoods_see_the_virtual_tokens(
    adapter: Any, prompts: list[list[int]], attention: str, kind: str
) -> None:
    base = build(kind)
    base.set_attn_implementation(attention)
    model = with_lean_layers(
        attach.add_adapter(attach.prepare_quantised(base, Quantization.none), adapter)
    ).eval()
    torch.manual_seed(1)
    for parameter in model.prompt_encoder.parameters():
        parameter.data.normal_()
    references = [[11, 12, 2], [13, 2]]
    found = answer(
        model,
        prompts,
        references,
        stop=frozenset(),
        pad=0,
        max_new_tokens=5,
        batch_size=2,
        title="",
        quiet=True,
    )
    for row, prompt, reference in zip(found, prompts, references, strict=True):
        assert list(row.tokens) == by_hand(model, prompt, 5)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + reference])).logits[
                0, -len(reference) - 1 : -1
            ]
        nll = float(
            torch.nn.functional.cross_entropy(logits, torch.tensor(reference), reduction="sum")
        )
        assert row.nll == pytest.approx(nll, rel=1e-4)
        plain = base(input_ids=torch.tensor([prompt + reference])).logits[
            0, -len(reference) - 1 : -1
        ]
        assert (
            abs(
                float(
                    torch.nn.functional.cross_entropy(
                        plain, torch.tensor(reference), reduction="sum"
                    )
                )
                - nll
            )
            > 1e-3
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
    # one matrix
    assert touched(PartialFinetune(last_layers=0, trainable=["lm_head"])) == {
        "model.embed_tokens.weight"
    }


def test_parameters_of_a_4_bit_base_are_counted_as_those_it_stands_for(tiny: Any) -> None:
    whole, packed = (
        attach.count_parameters(prepared(tiny, LoraAdapter(), q))
        for q in (Quantization.none, Quantization.nf4)
    )
    assert whole == packed


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
        "a setting of its own",
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
def test_what_a_model_cannot_take_is_refused_with_the_names_it_has(model: Any, case: str) -> None:
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
    assert shapes["down_proj"] == (1, 64)  # its input is scaled
    assert shapes["qkv_proj"][1] == 1  # its output is


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
    found = problems(*settings)
    assert set(found) == {key} and why in found[key]


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


@pytest.mark.parametrize("name", ["pissa", pytest.param("dora", marks=pytest.mark.slow)])
def test_in_bf16_the_saved_adapter_is_what_was_measured(
    hydratune: Command, tmp_path: Path, name: str
) -> None:
    """PiSSA's trained base and the untouched one differ by more than the conversion says: each is
    rounded for itself.
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
