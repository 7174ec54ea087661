"""model.adapter: an adapter in a folder is the start of another run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adapter_cases import IDS, original, prepared, train
from conftest import SMALL, edited
from hydratune.adapters import attach, folder
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.adapters.methods.prefix_tuning import PrefixTuning
from hydratune.training.patches import with_lean_layers
from run_files import history

pytestmark = pytest.mark.usefixtures("packs_here")

Command = Callable[..., tuple[int, str]]
WEIGHTS = "adapter_model.safetensors"


BY_PEFT: dict[str, Callable[[], Any]] = {
    "LoRA": lambda: LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1),
    "LoRA by an expression": lambda: LoraConfig(
        r=4, target_modules=r".*\.mlp\..*_proj", rank_pattern={"up_proj": 2}, use_rslora=True
    ),
    "LoRA, norms and head in full": lambda: LoraConfig(
        r=4, target_modules="all-linear", modules_to_save=["norm"]
    ),
    "DoRA": lambda: LoraConfig(
        r=4, target_modules="all-linear", use_dora=True, init_lora_weights="gaussian"
    ),
    "single tokens": lambda: LoraConfig(
        r=4, target_modules=["q_proj"], trainable_token_indices=[5, 6]
    ),
    "IA3": lambda: IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "VeRA": lambda: VeraConfig(r=16, target_modules=["q_proj", "o_proj"]),
    "VeRA, projection drawn again": lambda: VeraConfig(
        r=16, target_modules=["q_proj", "o_proj"], save_projection=False
    ),
    "OFT": lambda: OFTConfig(oft_block_size=16, target_modules=["q_proj"]),
    "prompt": lambda: PromptTuningConfig(num_virtual_tokens=5),
    "prefix": lambda: PrefixTuningConfig(num_virtual_tokens=5),
    "prefix, projected": lambda: PrefixTuningConfig(
        num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=24
    ),
}


def written_by_peft(tiny: Any, folder: Path, config: Any) -> Any:
    """Write an adapter with random weights; return it as plain PEFT loads it."""
    import copy

    torch.manual_seed(3)
    config = copy.deepcopy(config)
    config.task_type = "CAUSAL_LM"
    model = get_peft_model(original(tiny), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return PeftModel.from_pretrained(original(tiny), str(folder)).eval()


@pytest.mark.filterwarnings(
    "ignore:Specified to not (save|load) vera_A:UserWarning",
    "ignore:Model has `tie_word_embeddings",
)
@pytest.mark.parametrize("kind", list(BY_PEFT))
def test_an_adapter_that_peft_wrote_begins_with_its_weights_and_learns(
    tiny: Any, tmp_path: Path, model: Any, kind: str
) -> None:
    theirs = written_by_peft(tiny, tmp_path / "start", BY_PEFT[kind]())
    start = folder.find(str(tmp_path / "start"))
    settings = folder.saved_settings(start)
    before = {name: p.clone() for name, p in model.named_parameters()}
    attach.check(model, settings, start=start)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    model.requires_grad_(False)
    ours = with_lean_layers(attach.add_adapter(model, settings, 4, start)).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            ours(input_ids=IDS).logits, theirs(input_ids=IDS).logits, rtol=0, atol=1e-5
        )
    attach.save(ours, tiny[2], tmp_path / "again")
    before_training, saved_again = (
        load_file(tmp_path / name / WEIGHTS) for name in ("start", "again")
    )
    assert before_training.keys() == saved_again.keys() and all(
        before_training[name].equal(saved_again[name]) for name in before_training
    )
    losses = train(ours, 4)
    assert losses[-1] < losses[0]
    attach.save(ours, tiny[2], tmp_path / "trained")
    assert any(
        not before_training[name].equal(tensor)
        for name, tensor in load_file(tmp_path / "trained" / WEIGHTS).items()
    )


@pytest.mark.slow
def test_a_run_starts_from_the_adapter_of_another_in_a_pack_and_alone(
    hydratune: Command, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    assert (
        hydratune("train", *SMALL, "adapter.r=4", "optimizer.lr=0.01", f"hydra.run.dir={first}")[0]
        == 0
    )
    options = (*SMALL, "optimizer.lr=0.001")
    code, text = hydratune(
        "train", *options, f"model.adapter={first}", f"hydra.run.dir={tmp_path}/second"
    )
    assert (
        code == 0
        and "starts from the adapter in" in text
        and "(lora, r=4)" in text
        and "the baselines are the base model without" in text
    )
    facts = json.loads((tmp_path / "second" / "environment.json").read_text())
    assert facts["start"]["adapter"] == f"{first}/adapter" and len(facts["start"]["sha256"]) == 64
    losses = [
        float(row["train/loss"]) for run in ("first", "second") for row in history(tmp_path / run)
    ]
    assert losses[2] < losses[0] - 0.01  # training starts where the first run ended
    shutil.move(first, tmp_path / "moved")
    code, text = hydratune("evaluate", f"run={tmp_path}/second")
    assert code == 0 and "are reproduced" in text, text
    sweep = (
        "-m",
        *SMALL,
        "optimizer.lr=0.001,0.002",
        f"model.adapter={tmp_path}/moved/adapter",
        f"hydra.sweep.dir={tmp_path}/sweep",
    )
    code, text = hydratune("train", *sweep)
    assert code == 0, text
    assert [row["train/loss"] for row in history(tmp_path / "sweep" / "0")] == [
        row["train/loss"] for row in history(tmp_path / "second")
    ]


@pytest.mark.slow
def test_settings_that_contradict_the_saved_adapter_are_refused(
    hydratune: Command, tmp_path: Path, tiny: Any
) -> None:
    written_by_peft(tiny, tmp_path / "start", LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    start = f"model.adapter={tmp_path}/start"
    for typed, message in (
        ("adapter.r=8", "it is 4 in the adapter"),
        ("adapter=dora", "is lora"),
        ("adapter=pissa", "is lora"),
        ("adapter=ia3", "is lora"),
        ("adapter=none", "trains the model itself"),
        ("adapter.target_modules=[q_proj]", "it is ['q_proj', 'v_proj'] in the adapter"),
        ("adapter.rank_pattern.q_proj=2", "it is {} in the adapter"),
    ):
        code, text = hydratune("train", *SMALL, start, typed)
        assert code == 2 and message in text and "leave" in text.split("fix:")[1], text
        code, text = hydratune("prepare", "model=tiny", start, typed)
        assert code == 2 and message in text, text
    code, text = hydratune("train", "-m", *SMALL, start, "adapter.r=4,8")
    assert code == 2 and "it is 4 in the adapter" in text, text
    same = (
        "adapter=lora",
        "adapter.r=4",
        "adapter.target_modules=[v_proj,q_proj]",
        "adapter.lora_dropout=0.1",
    )
    code, text = hydratune("train", *SMALL, start, *same, f"hydra.run.dir={tmp_path}/run")
    assert code == 0, text
    assert (
        json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())[
            "lora_dropout"
        ]
        == 0.1
    )


def refusal(hydratune: Command, start: Path, *options: str) -> str:
    code, text = hydratune("train", *SMALL, f"model.adapter={start}", *options)
    assert code == 2 and "model.adapter" in text, text
    return " ".join(text.split())


@pytest.mark.slow
def test_folders_without_an_adapter_for_this_model_are_refused(
    hydratune: Command, tmp_path: Path, tiny: Any
) -> None:
    start = tmp_path / "start"
    assert "no such folder" in refusal(hydratune, start)
    start.mkdir()
    assert "no adapter_config.json" in refusal(hydratune, start)
    written_by_peft(tiny, start / "default", LoraConfig(r=4, target_modules=["q_proj"]))
    assert f"set model.adapter={start}/default" in refusal(hydratune, start)
    start = start / "default"
    another_size = refusal(hydratune, start, "model.hidden_size=32")
    assert "set model=local model.path=" in another_size
    config, weights = (
        json.loads((start / "adapter_config.json").read_text()),
        load_file(start / WEIGHTS),
    )

    def changed(**values: Any) -> None:
        (start / "adapter_config.json").write_text(json.dumps({**config, **values}))

    for values, message in (
        ({"peft_type": "ADALORA"}, "cannot be trained further"),
        ({"peft_type": "LOHA"}, "its method is LOHA"),
        ({"task_type": "SEQ_CLS"}, "made for SEQ_CLS"),
        ({"init_lora_weights": "pissa"}, "path_initial_model_for_weight_conversion"),
        ({"r": 8}, "has the shape (4, 64) there and would have (8, 64)"),
        ({"r": "many"}, "adapter_config.json:"),
        ({"target_modules": ["query"]}, "PEFT cannot put it on this model"),
        ({"target_modules": ["q_proj", "v_proj"]}, "tensors are missing"),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [0]},
            "is no part of such an adapter",
        ),
        ({"a_field_of_tomorrow": 3}, "PEFT cannot put it on this model"),
    ):
        changed(**values)
        assert message in refusal(hydratune, start), values
    (start / "adapter_config.json").write_text("[]")
    assert "holds no object" in refusal(hydratune, start)
    (start / "adapter_config.json").write_text("{")
    assert "cannot be read" in refusal(hydratune, start)
    changed()
    broken = {name: tensor.clone() for name, tensor in weights.items()}
    next(iter(broken.values()))[0, 0] = float("nan")
    save_file(broken, start / WEIGHTS)
    assert "holds NaN or infinite numbers" in refusal(hydratune, start)
    (start / WEIGHTS).write_bytes((start / WEIGHTS).read_bytes()[:200])
    assert "cannot be read" in refusal(hydratune, start)
    (start / WEIGHTS).unlink()
    assert "has no weights" in refusal(hydratune, start)


@pytest.mark.slow
def test_another_base_is_refused_with_the_right_setting_and_a_copy_is_accepted(
    hydratune: Command, tmp_path: Path, tiny: Any
) -> None:
    base, copy, other = tmp_path / "base", tmp_path / "copy", tmp_path / "other"
    shutil.copytree(tiny[1].name, base, ignore=shutil.ignore_patterns("digests.json"))
    shutil.copytree(base, copy)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.model.norm.weight.data.add_(1.0)
    shutil.copytree(base, other)
    model.save_pretrained(other)
    options = [s for s in SMALL if not s.startswith("debug")]
    options += [
        "tracking=disabled",
        "data.train_rows=20",
        "data.validation_rows=6",
        "data.test_rows=6",
        "model=local",
    ]

    def train_on(path: Path, name: str, *more: str) -> tuple[int, str]:
        code, text = hydratune(
            "train", *options, f"model.path={path}", *more, f"hydra.run.dir={tmp_path}/{name}"
        )
        return code, " ".join(text.split())

    assert train_on(base, "first")[0] == 0
    shutil.copytree(tmp_path / "first" / "adapter", tmp_path / "loose")
    # the run knows the path; a loose folder the name, which is in the current directory
    for start, named in (("first", base), ("loose", "base")):
        code, text = train_on(other, "wrong", f"model.adapter={tmp_path}/{start}")
        assert (
            code == 2
            and "it was trained on" in text
            and f"set model=local model.path={named};" in text
        ), text
        code, text = train_on(copy, f"second-{start}", f"model.adapter={tmp_path}/{start}")
        assert code == 0, text
    code, text = train_on(
        base, "quantised", f"model.adapter={tmp_path}/first", "model.quantization=nf4"
    )
    assert code == 2 and "model.quantization=none" in text, text
    config = json.loads((tmp_path / "loose" / "adapter_config.json").read_text())
    edited(
        tmp_path / "loose" / "adapter_config.json",
        json.dumps({**config, "base_model_name_or_path": "somebody/else"}),
    )
    code, text = train_on(base, "unsure", f"model.adapter={tmp_path}/loose")
    assert code == 0 and "the adapter names somebody/else as its base model" in text


def test_a_saved_projected_prefix_is_described_without_its_projection(
    tiny: Any, tmp_path: Path
) -> None:
    written_by_peft(tiny, tmp_path / "start", BY_PEFT["prefix, projected"]())
    assert folder.saved_settings(folder.find(str(tmp_path / "start"))) == PrefixTuning(
        num_virtual_tokens=5
    )


def test_a_saved_pissa_adapter_is_plain_lora(tiny: Any, tmp_path: Path) -> None:
    model = prepared(tiny, LoraAdapter(r=4, init_lora_weights="pissa"))
    train(model, 2)
    attach.save(model, tiny[2], tmp_path / "start")
    saved = folder.find(str(tmp_path / "start"))
    settings = folder.saved_settings(saved)
    assert isinstance(settings, LoraAdapter) and (settings.r, settings.init_lora_weights) == (
        8,
        "true",
    )
    again = with_lean_layers(
        attach.add_adapter(original(tiny).requires_grad_(False), settings, 2, saved)
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            again(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=0, atol=1e-5
        )


def test_methods_that_are_not_trained_here_are_named(tiny: Any, tmp_path: Path) -> None:
    for config in (
        LoHaConfig(target_modules=["q_proj"]),
        AdaLoraConfig(target_modules=["q_proj"], total_step=10),
    ):
        saved = tmp_path / str(config.peft_type)
        get_peft_model(original(tiny), config).save_pretrained(saved)
        with pytest.raises(Exception, match="trained"):
            folder.saved_settings(folder.find(str(saved)))
