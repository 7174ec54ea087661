"""A fine-tuned model written for other programs is the model of the run, or it is refused."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import hydratune as package
from conftest import SMALL
from hydratune import digests
from hydratune.adapters.peft_warnings import hidden_peft_warnings
from hydratune.errors import InputError, RunError
from hydratune.settings.export import ExportSettings

Command = Callable[..., tuple[int, str]]
TRAINED = (*SMALL, "optimizer.lr=0.05", "tracking=disabled")  # far from the base
QUICK = ("rows=2",)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def trained(runs: Path, command_line: Command) -> Callable[..., Path]:
    """Train the tiny model with some settings, once for all tests."""

    def train(name: str, *settings: str) -> Path:
        folder = runs / name
        if not (folder / "metrics.json").is_file():
            code, text = command_line("train", *TRAINED, *settings, f"hydra.run.dir={folder}")
            assert code == 0, text
        return folder

    return train


@pytest.fixture
def run(trained: Callable[..., Path]) -> Path:
    return trained("lora")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tuned(run: Path, base: Any = None) -> Any:
    """Return the run's model as PEFT loads it, without this package."""
    if base is None:
        base = AutoModelForCausalLM.from_pretrained(base_folder(run), dtype=torch.float32)
    with hidden_peft_warnings():
        return PeftModel.from_pretrained(base, run / "adapter").eval()


def base_folder(run: Path) -> str:
    return str(json.loads((run / "environment.json").read_text())["model"]["source"])


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=torch.arange(40)[None] + 300).logits[0]


def parity(folder: Path, form: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "parity.json").read_text())["forms"][form]
    return content


def test_the_merged_model_is_a_whole_one_that_needs_no_peft(
    run: Path, command_line: Command
) -> None:
    code, text = command_line("export", f"run={run}", "output=out", *QUICK)
    assert code == 0, text
    out = Path("out")
    assert not (out / "adapter_config.json").exists()
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    assert type(model).__name__ == "LlamaForCausalLM"
    assert torch.allclose(logits(model), logits(tuned(run)), atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(base_folder(run), dtype=torch.float32).eval()
    assert not torch.allclose(logits(model), logits(base), atol=0.1)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(run / "adapter").chat_template
    ends = GenerationConfig.from_pretrained(run / "adapter").eos_token_id
    assert GenerationConfig.from_pretrained(out).eos_token_id == ends
    measured = parity(out, "merged")
    assert measured["passed"] and measured["mean_kl"] < 1e-6 and measured["agreement"] == 1
    assert measured["metric"] == "field_f1"
    assert digests.damaged(out) is None
    assert not list(Path().glob(".out*"))


def test_a_rounded_model_is_half_as_large(run: Path, command_line: Command) -> None:
    """Embeddings that are the output head as well are stored once."""
    code, text = command_line("export", f"run={run}", "output=out", "dtype=bfloat16", *QUICK)
    assert code == 0, text
    with safe_open("out/model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
        assert file.get_tensor("model.norm.weight").dtype is torch.bfloat16
    assert json.loads(Path("out/config.json").read_text())["dtype"] == "bfloat16"


def test_the_card_says_what_the_run_knew(run: Path, command_line: Command) -> None:
    command_line("export", f"run={run}", "output=out", *QUICK)
    card = Path("out/README.md").read_text()
    assert "library_name: transformers" in card and "base_model:finetune:" in card
    assert "optimizer.lr: 0.05" in card  # of the run, not of a default
    fingerprint = json.loads((run / "data.json").read_text())["fingerprint"]
    assert fingerprint in card and "mean KL" in card and "field F1" in card
    assert "that the request does not contain (ungrounded) | warn |" in card
    assert " training rows (size) | warn |" in card
    assert "PeftModel" not in card and str(Path.home()) not in card


def double_scaling(model: Any) -> None:
    """Make the mistake of a merge that multiplies by alpha twice as large."""
    for module in model.modules():
        if hasattr(module, "scaling") and isinstance(module.scaling, dict):
            module.scaling = {name: 2 * value for name, value in module.scaling.items()}


@pytest.fixture
def wrong_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merge every adapter with a scale that is wrong by a factor of 2."""
    from hydratune.export import merging

    right = merging.merge

    def merge(opened: Any) -> Any:
        double_scaling(opened.model)
        return right(opened)

    monkeypatch.setattr(merging, "merge", merge)


@pytest.mark.usefixtures("wrong_merge")
@pytest.mark.parametrize("form", ["merged", "gguf"])
def test_a_merge_with_a_wrong_scale_is_rejected(
    run: Path, command_line: Command, form: str
) -> None:
    settings = (f"form={form}", "gguf_type=f32", *QUICK)
    code, text = command_line("export", f"run={run}", "output=out", *settings)
    assert code == 1
    assert "is not the model of the run" in text and f"{form}: mean KL" in text
    assert not Path("out").exists()
    rejected = Path("out.rejected")
    assert not parity(rejected, form)["passed"]
    assert "Do not use this export" in (rejected / "README.md").read_text()
    code, text = command_line("serve", f"export={rejected}", "dry_run=true")
    assert code == 2 and "rejected" in text
    code, _ = command_line("export", f"run={run}", "output=out", *QUICK)
    assert code == 1 and Path("out.rejected-2").is_dir()  # the first one is kept


def test_a_setting_of_another_form_is_said_to_have_no_effect(
    run: Path, command_line: Command
) -> None:
    words = ("quantization=nf4", "gguf_type=q8_0", "system=hello")
    code, text = command_line("export", f"run={run}", "output=out", *words, *QUICK)
    assert code == 0
    assert "quantization=nf4 has no effect: it is for form=quantised, not form=merged" in text
    assert (
        "it is for form=gguf and form=ollama, not" in text and "system=hello has no effect" in text
    )
    assert "dtype" not in text
    settings = ExportSettings(run=str(run), form=["gguf", "quantised"], push="me/model")
    assert set(settings.without_effect()) == {"system", "temperature"}


@pytest.mark.usefixtures("wrong_merge")
def test_a_rejected_form_is_not_served_and_good_ones_beside_it_are_kept(
    run: Path, command_line: Command
) -> None:
    forms = "form=[merged,adapter]"
    code, text = command_line("export", f"run={run}", "output=out", forms, *QUICK)
    assert code == 1
    assert "merged: rounding does not explain this" in text
    said = " ".join(text.split())
    assert "out.rejected: merged within the limits" in said and "out: adapter merged:" in said
    code, text = command_line("serve", "export=out.rejected/merged", "dry_run=true")
    assert code == 2 and "this export was rejected" in text
    assert sorted(p.name for p in Path("out").iterdir() if p.is_dir()) == ["adapter"]
    assert parity(Path("out"), "adapter")["passed"] and digests.damaged(Path("out")) is None
    assert digests.damaged(Path("out/adapter")) is None
    assert "Do not use" not in Path("out/adapter/README.md").read_text()
    for folder in ("out", "out/adapter"):  # a common mistake: there is no run in it
        code, text = command_line("chat", f"run={folder}")
        assert code == 2 and f"hydratune serve export={folder} answers with the export" in text
    assert not list(Path().glob(".out*"))


def test_a_limit_of_the_settings_decides(run: Path, command_line: Command) -> None:
    code, text = command_line(
        "export", f"run={run}", "output=out", *QUICK, "limits.mean_kl=0", "limits.max_kl=0"
    )
    assert code == 1 and "limits.mean_kl" in text


METHODS = {
    "dora": ("adapter=dora",),
    "ia3": ("adapter=ia3",),
    "vera": ("adapter=vera",),
    "oft": ("adapter=oft",),
    "adalora": ("adapter=adalora", "adapter.tinit=0", "adapter.tfinal=0"),
    "pissa": ("adapter=pissa",),
    "rslora": ("adapter=rslora",),
    "freeze": ("adapter=freeze", "adapter.last_layers=1"),
    "full": ("adapter=none",),
    "embeddings": ("adapter.modules_to_save=[embed_tokens]",),
}


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.slow) if m != "full" else m for m in METHODS]
)
def test_every_method_that_can_be_merged_is(
    method: str, trained: Callable[..., Path], command_line: Command
) -> None:
    run = trained(method, *METHODS[method])
    code, text = command_line("export", f"run={run}", "output=out", *QUICK)
    assert code == 0, text
    whole = AutoModelForCausalLM.from_pretrained("out", dtype=torch.float32).eval()
    if (run / "adapter" / "adapter_config.json").is_file():
        expected = tuned(run)
    else:
        expected = AutoModelForCausalLM.from_pretrained(run / "adapter").eval()
    assert torch.allclose(logits(whole), logits(expected), atol=1e-3)


def test_virtual_tokens_are_refused_and_the_advice_works(
    trained: Callable[..., Path], command_line: Command
) -> None:
    run = trained("prompt", "adapter=prompt_tuning", "adapter.num_virtual_tokens=4")
    code, text = command_line("export", f"run={run}", "output=out", "form=gguf")
    assert code == 2 and "cannot become part of the weights" in text and "form=adapter" in text
    code, text = command_line("export", f"run={run}", "output=out", "form=adapter", *QUICK)
    assert code == 0, text
    assert "vLLM cannot load adapters of this method (prompt_tuning)" in " ".join(text.split())
    assert parity(Path("out"), "adapter")["mean_kl"] < 1e-9


def test_a_model_trained_in_full_has_no_adapter(
    trained: Callable[..., Path], command_line: Command
) -> None:
    run = trained("full", *METHODS["full"])
    code, text = command_line("export", f"run={run}", "output=out", "form=adapter")
    assert code == 2 and "there is no adapter" in text and "form=merged" in text


@pytest.mark.parametrize("quantization", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def test_an_adapter_on_a_quantised_base_is_merged_into_the_weights_it_saw(
    quantization: str, trained: Callable[..., Path], command_line: Command
) -> None:
    pytest.importorskip("bitsandbytes")
    run = trained(quantization, f"model.quantization={quantization}")
    code, text = command_line("export", f"run={run}", "output=out", "dtype=float32", *QUICK)
    assert code == 0, text
    whole = AutoModelForCausalLM.from_pretrained("out").eval()
    assert not hasattr(whole.config, "quantization_config")
    on_original = tuned(run).merge_and_unload()  # what a naive merge would write
    layer = "model.layers.0.mlp.down_proj.weight"
    difference = whole.state_dict()[layer] - on_original.state_dict()[layer]
    # the rounding of the base is in it, and no more than that
    spread = on_original.state_dict()[layer].std()
    assert 1e-4 * spread < difference.abs().max() < 0.6 * spread


def test_several_forms_have_a_folder_each(run: Path, command_line: Command) -> None:
    code, text = command_line(
        "export", f"run={run}", "output=out", "form=[merged,adapter,ollama]", *QUICK
    )
    assert code == 0, text
    assert sorted(p.name for p in Path("out").iterdir() if p.is_dir()) == [
        "adapter",
        "merged",
        "ollama",
    ]
    assert set(json.loads(Path("out/parity.json").read_text())["forms"]) == {
        *("merged", "adapter", "ollama")
    }
    modelfile = Path("out/ollama/Modelfile").read_text()
    assert modelfile.startswith("FROM ./model-f16.gguf\nTEMPLATE")
    assert 'SYSTEM """Extract the terms' in modelfile and 'stop "<|im_end|>"' in modelfile
    code, text = command_line("serve", "export=out", "dry_run=true")
    assert code == 2 and "export=out/merged" in text


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_export_is_smaller_and_loads_as_such(
    quantization: str, run: Path, command_line: Command
) -> None:
    pytest.importorskip("bitsandbytes")
    code, text = command_line(
        *("export", f"run={run}", "output=out", "form=quantised"),
        *(f"quantization={quantization}", *QUICK),
    )
    assert code == 0, text
    config = json.loads(Path("out/config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "bitsandbytes"
    assert parity(Path("out"), "quantised")["mean_kl"] > 1e-9  # it was rounded


# ------------------------------------------------------------------------------- the output folder
def test_an_export_replaces_nothing(run: Path, command_line: Command) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    code, text = command_line("export", f"run={run}", "output=out", *QUICK)
    assert code == 2 and "not empty" in text and "out-2" in text
    Path("file").write_text("")
    code, text = command_line("export", f"run={run}", "output=file")
    assert code == 2 and "file" in text
    code, text = command_line("export", f"run={run}", "output=file/below")
    assert code == 2 and "is a file" in text
    assert Path("out/mine.txt").read_text() == "mine"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, RuntimeError])
def test_what_ends_an_export_leaves_nothing_behind(
    interrupt: type[BaseException],
    run: Path,
    command_line: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hydratune.export import merged

    def load(*_: object) -> None:
        raise interrupt

    monkeypatch.setattr(merged, "load", load)  # everything is written by then
    code, _ = command_line("export", f"run={run}", "output=out", *QUICK)
    assert code == (130 if interrupt is KeyboardInterrupt else 1)
    assert list(Path().iterdir()) == []


def test_a_full_disk_is_noticed_before_anything_is_written(
    run: Path, command_line: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    code, text = command_line("export", f"run={run}", "output=out", *QUICK)
    assert code == 2 and "free some space" in text and not Path("out").exists()


def test_a_run_without_weights_or_metrics_is_refused(
    run: Path, command_line: Command, tmp_path: Path
) -> None:
    shutil.copytree(run, "copy")
    shutil.rmtree("copy/adapter")
    code, text = command_line("export", "run=copy", "output=out")
    assert code == 1 and "no weights" in text
    Path("copy/metrics.json").unlink()
    code, text = command_line("export", "run=copy", "output=out")
    assert code == 1 and "metrics.json" in text
    code, text = command_line("export", "run=copy", "output=out", "form=merge", "rows=0")
    assert code == 2 and "one of: merged, adapter" in text and "rows=1 or more" in text


# ------------------------------------------------------------------------------------------ the hub
@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """A stand-in for the hub's client; what it was asked."""
    import huggingface_hub

    asked: list[tuple[str, dict[str, Any]]] = []

    class Client:
        def create_repo(self, name: str, **options: Any) -> str:
            asked.append((name, options))
            if name.startswith("nobody/"):
                raise OSError("401 for hf_abcdefghijklmnopqrstuvwxyz")
            return f"https://hub.invalid/{name}"

        def upload_folder(self, **options: Any) -> None:
            asked.append(("upload", options))

    monkeypatch.setattr(huggingface_hub, "HfApi", Client)
    yield asked


def test_an_export_is_uploaded_only_if_that_is_asked_for(
    run: Path, command_line: Command, hub: list[Any]
) -> None:
    code, text = command_line("export", f"run={run}", "output=out", *QUICK)
    assert code == 0 and hub == []
    code, text = command_line("export", f"run={run}", "output=two", *QUICK, "push=me/model")
    assert code == 0, text
    assert "https://hub.invalid/me/model" in text
    assert hub[0] == ("me/model", {"private": True, "exist_ok": True})
    assert hub[1][1]["repo_id"] == "me/model" and Path(hub[1][1]["folder_path"]).name == "two"


def test_a_failed_upload_keeps_the_folder_and_hides_the_token(
    run: Path, command_line: Command, hub: list[Any]
) -> None:
    code, text = command_line("export", f"run={run}", "output=out", *QUICK, "push=nobody/model")
    assert code == 1 and "was written, but not uploaded" in text and "hf_abc" not in text
    assert Path("out/model.safetensors").is_file()


def test_a_rejected_export_is_not_uploaded(
    run: Path, command_line: Command, hub: list[Any], wrong_merge: None
) -> None:
    code, _ = command_line("export", f"run={run}", "output=out", *QUICK, "push=me/model")
    assert code == 1 and hub == []


# ------------------------------------------------------------------------------------- from Python
def test_a_run_exports_itself(run: Path) -> None:
    folder = package.Run(run).export("out", form="gguf", gguf_type="f32", rows=2)
    assert folder == Path("out").absolute() and (folder / "model-f32.gguf").is_file()
    with pytest.raises(InputError, match="one of: merged"):
        package.Run(run).export("other", form="onnx")
    with pytest.raises(InputError, match="gguf_typ"):
        package.Run(run).export("other", gguf_typ="f32")
    with pytest.raises(RunError, match="no such directory"):
        package.Run("nowhere").export("other")
