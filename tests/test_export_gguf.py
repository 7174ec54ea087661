"""GGUF files: read back they are the model; what cannot be written is refused."""

import json
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from hydratune.errors import InputError, RunError
from hydratune.export import gguf_file, gguf_form, ollama
from hydratune.export.gguf_tokenizer import _LLAMA3, _QWEN2, pre_tokenizer_name
from hydratune.settings.export import ExportSettings, GgufType
from small_models import build

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.fixture
def tokenizer(tiny: Any) -> Any:
    return tiny[2]


def written(model: Any, tokenizer: Any, folder: Path, kind: GgufType = GgufType.f32) -> Path:
    file = folder / "model.gguf"
    gguf_file.write_file(model, tokenizer, file, name="a model", licence="mit", ends=[2], kind=kind)
    return file


def reloaded(file: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, **options
    ).eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=torch.arange(5, 45)[None]).logits[0]


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_architecture_comes_back(
    name: str, tied: bool, tokenizer: Any, tmp_path: Path
) -> None:
    own = {"sliding_window": None} if name == "Mistral" else {}
    model = build(name, tie_word_embeddings=tied, **own).eval()
    model.resize_token_embeddings(len(tokenizer))
    for parameter in model.parameters():  # biases and norms, too, are not what they start as
        parameter.data += 0.05 * torch.randn_like(parameter)
    # transformers 5.23 takes 128 for the size of a head of Qwen 3, whatever the file says
    options = {"config": model.config} if name == "Qwen3" else {}
    back = reloaded(written(model, tokenizer, tmp_path), **options)
    assert torch.allclose(logits(back), logits(model), atol=1e-4)


@pytest.mark.parametrize(("kind", "difference"), [("f16", 1e-2), ("bf16", 5e-2), ("q8_0", 5e-2)])
def test_rounded_types_are_near(
    kind: str, difference: float, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    file = written(model, tokenizer, tmp_path, GgufType(kind))
    apart = (logits(reloaded(file)) - logits(model)).abs().max()
    assert 0 < apart < difference
    size = file.stat().st_size
    assert size < written(model, tokenizer, tmp_path).stat().st_size


def test_the_file_has_the_tokenizer(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    file = written(model, tokenizer, tmp_path)
    fields = GGUFReader(file).fields
    assert fields["general.architecture"].contents() == "llama"
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2
    assert fields["general.license"].contents() == "mit"
    types = fields["tokenizer.ggml.token_type"].contents()
    assert types[:4] == [3, 3, 3, 1]  # control tokens, then words
    back = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    text = "<|im_start|>user\nIt's 1,234.50 EUR, naïve\t café\n\n<|im_end|>\n"
    assert back(text).input_ids == tokenizer(text).input_ids
    turns = [{"role": "user", "content": "a"}]
    assert back.apply_chat_template(turns) == tokenizer.apply_chat_template(turns)


def test_scaled_positions_of_llama_3_are_those_of_transformers(tokenizer: Any) -> None:
    model = build("Llama", rope_parameters=LLAMA3)
    config = model.config
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    size = gguf_file.head_dim(config)
    plain = 1.0 / 10_000.0 ** (torch.arange(0, size, 2) / size)
    expected = (plain / scaled).numpy()
    assert np.allclose(gguf_file._llama3_factors(config), expected, rtol=1e-4)
    assert "rope_freqs.weight" in dict(gguf_file.tensors(model, config))


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("GPTNeoX", {}, "models of the type gpt_neox"),
        ("Gemma3Text", {}, "models of the type gemma3_text"),
        ("Mistral", {}, "see a window"),
        ("Llama", {"hidden_act": "gelu"}, "activation"),
        (
            "Llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "dynamic",
        ),
    ],
)
def test_other_models_are_refused(
    name: str, options: dict[str, Any], why: str, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=f"{why}.*llama_cpp=FOLDER"):
        written(build(name, **options), tokenizer, tmp_path)


def of(pre_tokenizer: Any, model: Any = None) -> PreTrainedTokenizerFast:
    raw = Tokenizer(model or models.BPE())
    if pre_tokenizer is not None:
        raw.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=raw)


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern: str) -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), BYTES])


@pytest.mark.parametrize(
    ("pre_tokenizer", "name"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=False), "gpt-2"),
        (split(_QWEN2), "qwen2"),
        (split(_LLAMA3), "llama-bpe"),
        (
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            ),
            "smollm",
        ),
    ],
)
def test_the_way_of_cutting_has_llama_cpps_name(pre_tokenizer: Any, name: str) -> None:
    assert pre_tokenizer_name(of(pre_tokenizer)) == name


@pytest.mark.parametrize(
    ("tokenizer", "why"),
    [
        (of(split(r"\w+")), "no name of llama.cpp"),
        (of(None), "no byte-level BPE"),
        (of(pre_tokenizers.ByteLevel(), models.WordLevel({"a": 0}, "a")), "no byte-level BPE"),
    ],
)
def test_another_tokenizer_is_refused(tokenizer: Any, why: str) -> None:
    with pytest.raises(RunError, match=why):
        pre_tokenizer_name(tokenizer)


# --------------------------------------------------------------------------- llama.cpp's converter
def test_llama_cpps_converter_is_used_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("")
    assert gguf_form._converter(ExportSettings(run="r", llama_cpp=str(tmp_path))) == script
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    assert gguf_form._converter(ExportSettings(run="r")) == script
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="LLAMA_CPP"):
        gguf_form._converter(ExportSettings(run="r"))
    problems = list(ExportSettings(run="r", llama_cpp=str(tmp_path / "no")).own_problems())
    assert [p.key for p in problems] == ["llama_cpp"]


@pytest.mark.parametrize("fails", [False, True])
def test_the_converter_is_given_the_merged_model(
    fails: bool, model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with the command line of llama.cpp's script writes down what it was given."""
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "if FAILS: print('Model Foo is not supported', file=sys.stderr); sys.exit(1)\n"
        "folder, out = sys.argv[1], sys.argv[sys.argv.index('--outfile') + 1]\n"
        "names = sorted(p.name for p in pathlib.Path(folder).iterdir())\n"
        "pathlib.Path(out).write_text(json.dumps([names, sys.argv[-1]]))\n".replace(
            "FAILS", str(fails)
        )
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    from types import SimpleNamespace

    opened: Any = SimpleNamespace(tokenizer=tokenizer, job=SimpleNamespace(answer_ends=[2]))
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "model-q8_0.gguf"
    if fails:
        with pytest.raises(RunError, match="Model Foo is not supported"):
            gguf_form._convert(opened, model, script, GgufType.q8_0, file)
    else:
        gguf_form._convert(opened, model, script, GgufType.q8_0, file)
        names, kind = json.loads(file.read_text())
        assert kind == "q8_0" and {"config.json", "model.safetensors", "tokenizer.json"} <= {*names}
    assert not list(tmp_path.glob(".whole-*")) and sys.executable


# ------------------------------------------------------------------------------------------- Ollama
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}"
    "{% endif %}" + CHATML
)
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] +"
    " '<|end_header_id|>\n\n' + m['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "begins", "system"),
    [
        (CHATML, "{{- range .Messages }}<|im_start|>", ""),
        (DEFAULT_SYSTEM, "{{- range .Messages }}<|im_start|>", "Be kind."),
        (LLAMA3_TEMPLATE, "{{- range .Messages }}<|start_header_id|>", ""),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", None, ""),
        ("{{ raise_exception('no') }}", None, ""),
    ],
)
def test_ollama_is_given_the_template_of_a_known_family(
    template: str, begins: str | None, system: str, tiny: Any
) -> None:
    import copy

    tokenizer = copy.deepcopy(tiny[2])
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = template
    found, added = ollama.family(tokenizer)
    assert added == system
    assert (found is None) if begins is None else str(found).startswith(begins)
