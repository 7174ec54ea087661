"""Where models come from.

The hub's own code path is run on local folders, which it accepts as names.
"""

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import SMALL
from hydratune.adapters import attach
from hydratune.cache import build_once
from hydratune.models import loading
from hydratune.models.compute import on_cpu
from hydratune.models.sources.tiny import TinyModel
from hydratune.settings.model import Quantization

Command = Callable[..., tuple[int, str]]


def loss(run: Path) -> float:
    return float(json.loads((run / "metrics.json").read_text())["val/loss"])


@pytest.mark.slow
def test_same_weights_by_every_way_give_the_same_run(
    hydratune: Command, tmp_path: Path, tiny: tuple[Any, Any, Any]
) -> None:
    folder = tiny[1].name
    ways = {
        "tiny": ("model=tiny",),
        "hub": ("model=hub", f"model.id={folder}"),
        "local": ("model=local", f"model.path={folder}"),
    }
    for name, way in ways.items():
        code, text = hydratune("train", *SMALL, *way, f"hydra.run.dir={tmp_path / name}")
        assert code == 0, text
    assert loss(tmp_path / "hub") == loss(tmp_path / "local") == loss(tmp_path / "tiny")
    source = json.loads((tmp_path / "hub" / "environment.json").read_text())["model"]
    assert source["identity"] == f"hub:{folder}@main"
    assert hydratune("evaluate", f"run={tmp_path / 'hub'}")[0] == 0


def test_hub_data_set_trains(hydratune: Command, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for split, count in (("train", 12), ("validation", 3), ("test", 3)):
        pairs = [{"question": f"{split} {i}?", "answer": f"It is {i}."} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    environment = (
        "data=hub",
        f"data.id={folder}",
        "data.validation=validation",
        "data.test=test",
        "data.max_train_rows=null",
    )
    code, text = hydratune("train", *SMALL, *environment, f"hydra.run.dir={tmp_path}/run")
    assert code == 0, text
    splits = json.loads((tmp_path / "run" / "data.json").read_text())["splits"]
    assert {name: split["rows"] for name, split in splits.items()} == {
        "train": 12,
        "validation": 3,
        "test": 2,
    }
    code, text = hydratune("train", *SMALL, "data=hub", f"data.id={folder}", "data.train=trian")
    assert code == 2 and "cannot load split 'trian'" in text and "'test'" in text


def test_hub_model_that_cannot_be_reached_is_one_message(hydratune: Command) -> None:
    code, text = hydratune("train", *SMALL, "model=hub", "model.id=nobody/nothing")
    assert code == 2
    assert (
        "model.id = nobody/nothing" in text
        and "HF_TOKEN" in text
        and "model=local" in text
        and "Traceback" not in text
    )


@pytest.mark.parametrize("quantization", [pytest.param("nf4", marks=pytest.mark.slow), "int8"])
def test_quantised_base_trains_and_is_evaluated_again(
    hydratune: Command, tmp_path: Path, quantization: str
) -> None:
    run = tmp_path / "run"
    code, text = hydratune(
        "train",
        *SMALL,
        f"model.quantization={quantization}",
        "optimizer.lr=0.01",
        f"hydra.run.dir={run}",
    )
    assert code == 0, text
    assert json.loads((run / "environment.json").read_text())["base"].endswith(f"+{quantization}")
    code, text = hydratune("evaluate", f"run={run}")
    assert code == 0, text


def test_evaluating_does_not_change_quantised_weights(tiny: tuple[Any, Any, Any]) -> None:
    settings = TinyModel(name="tiny", quantization=Quantization.nf4)
    model = attach.prepare_quantised(
        loading.load_model(settings, tiny[1], on_cpu()), Quantization.nf4
    )
    ids = torch.arange(5, 25)[None]
    model.train()
    before = model(input_ids=ids).logits
    model.eval()
    with torch.inference_mode():
        model(input_ids=ids)
    model.train()
    assert torch.equal(model(input_ids=ids).logits, before)


@pytest.mark.slow
def test_models_of_conv1d_layers_train(
    hydratune: Command, tmp_path: Path, tiny: tuple[Any, Any, Any]
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    folder, tokenizer = tmp_path / "gpt2", tiny[2]
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=2048, **ends
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for targets in ("[all-linear]", "[c_attn]"):
        run = tmp_path / targets.strip("[]")
        code, text = hydratune(
            "train",
            *SMALL,
            "model=local",
            f"model.path={folder}",
            f"adapter.target_modules={targets}",
            f"hydra.run.dir={run}",
        )
        assert code == 0, text
        assert hydratune("evaluate", f"run={run}")[0] == 0
    assert loss(tmp_path / "c_attn") != loss(tmp_path / "all-linear")


def test_damaged_model_files_are_one_message(
    hydratune: Command, tmp_path: Path, tiny: tuple[Any, Any, Any]
) -> None:
    shutil.copytree(tiny[1].name, tmp_path / "cut", ignore=shutil.ignore_patterns("digests.json"))
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    code, text = hydratune("train", *SMALL, "model=local", f"model.path={tmp_path}/cut")
    assert code == 2 and "cannot be loaded" in text and "unexpected" not in text


def test_old_incomplete_cache_entries_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setenv("HYDRATUNE_CACHE", str(tmp_path))
    old, new = (tmp_path / "data" / f".building-{age}" for age in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    assert build_once("data/x", lambda path: path.mkdir()) == tmp_path / "data" / "x"
    assert (old.exists(), new.exists()) == (False, True)


def test_a_cache_entry_that_two_processes_need_is_built_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRATUNE_CACHE", str(tmp_path))
    builds: list[Path] = []

    def build(path: Path) -> None:
        builds.append(path)
        time.sleep(0.3)
        path.mkdir()

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(lambda _: build_once("layers/x", build), range(3))) == {
            tmp_path / "layers" / "x"
        }
    assert len(builds) == 1
