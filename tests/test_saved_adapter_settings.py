"""Settings that are typed beside a saved adapter: applied, or refused with what to type instead."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from peft import IA3Config, LoraConfig, OFTConfig, PromptTuningConfig, VeraConfig

from conftest import SMALL
from hydratune.adapters import folder
from hydratune.adapters.base import PeftAdapter
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.errors import ConfigError
from hydratune.settings.commands import TrainConfig
from test_config import compose
from test_start_adapters import written_by_peft

pytestmark = pytest.mark.usefixtures("packs_here")

Command = Callable[..., tuple[int, str]]
SAVED: dict[str, Callable[[], Any]] = {
    "lora": lambda: LoraConfig(r=4, target_modules=["q_proj"]),
    "vera": lambda: VeraConfig(r=16, target_modules=["q_proj", "o_proj"]),
    "oft": lambda: OFTConfig(oft_block_size=16, target_modules=["q_proj"]),
    "ia3": lambda: IA3Config(target_modules=["k_proj"], feedforward_modules=[]),
    "prompt_tuning": lambda: PromptTuningConfig(num_virtual_tokens=5),
}
OWN_DROPOUT = {"lora": "lora_dropout", "vera": "vera_dropout", "oft": "module_dropout"}


@pytest.fixture(params=list(SAVED))
def method(request: pytest.FixtureRequest, tiny: Any, tmp_path: Path) -> str:
    """A method whose adapter is saved in tmp_path/start."""
    name = str(request.param)
    written_by_peft(tiny, tmp_path / "start", SAVED[name]())
    return name


def adopted(start: Path, *overrides: str) -> PeftAdapter:
    """The settings of the adapter with which a run begins."""
    config = compose(f"model.adapter={start}", *overrides)
    assert isinstance(config, TrainConfig)
    folder.use_saved_settings(config, overrides)
    assert isinstance(config.adapter, PeftAdapter)
    return config.adapter


@pytest.mark.filterwarnings("ignore:Specified to not (save|load) vera_A:UserWarning")
def test_a_dropout_of_another_name_is_refused_and_its_own_is_applied(
    method: str, tmp_path: Path
) -> None:
    own = OWN_DROPOUT.get(method)
    if own != "lora_dropout":
        with pytest.raises(ConfigError) as refused:
            adopted(tmp_path / "start", "adapter.lora_dropout=0.1")
        message = str(refused.value)
        assert "adapter.lora_dropout = 0.1" in message and f"is {method}, which has no" in message
        advised = f"adapter={method} adapter.{own}=0.1" if own else "leave it out"
        assert f"fix: {'set its own dropout: ' if own else ''}{advised}" in message
    if own:
        options = (f"adapter={method}", f"adapter.{own}=0.1")
        assert getattr(adopted(tmp_path / "start", *options), own) == 0.1


@pytest.mark.filterwarnings("ignore:Specified to not (save|load) vera_A:UserWarning")
def test_every_setting_that_the_method_lacks_is_refused(method: str, tmp_path: Path) -> None:
    start = tmp_path / "start"
    saved = folder.saved_settings(folder.find(str(start)))
    lacking = {f.name for f in fields(LoraAdapter)} - {f.name for f in fields(saved)}
    assert (not lacking) == (method == "lora")
    for name in lacking:
        value = json.dumps(getattr(LoraAdapter(), name))
        typed = f"adapter.{name}={value}" if value != "{}" else f"+adapter.{name}.q_proj=1"
        with pytest.raises(ConfigError, match="which has no such setting"):
            adopted(start, typed)


def test_the_command_refuses_the_dropout_before_anything_is_run(
    hydratune: Command, tmp_path: Path, tiny: Any
) -> None:
    written_by_peft(tiny, tmp_path / "start", SAVED["oft"]())
    start = f"model.adapter={tmp_path}/start"
    code, text = hydratune("train", *SMALL, start, "adapter.lora_dropout=0.1")
    assert code == 2 and "adapter=oft adapter.module_dropout=0.1" in text, text
    code, text = hydratune("train", "-m", *SMALL, start, "adapter.lora_dropout=0.1,0.2")
    assert code == 2 and "adapter=oft adapter.module_dropout=0.1" in text, text
