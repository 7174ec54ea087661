"""A model as a GGUF file, written with the package gguf for architectures of the Llama family.

Names of tensors are those of gguf's own table. llama.cpp turns neighbouring numbers of a head where
transformers turns numbers half a head apart: the rows of the query and key projections of ``llama``
are sorted for that, as llama.cpp's convert_hf_to_gguf.py does.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hydratune.errors import RunError
from hydratune.export.gguf_tokenizer import ADVICE, add_tokenizer
from hydratune.settings.export import GgufType

if TYPE_CHECKING:
    import gguf
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# model_type of transformers -> architecture of llama.cpp
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_ROPES = ("default", "linear", "llama3")


def obstacle(config: "PretrainedConfig") -> str | None:
    """Return why a model cannot be written by the package gguf, or None."""
    if config.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        return f"models of the type {config.model_type} are not written here (only {known})"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "its layers see a window of the text, for which this architecture has no entry"
    if rope_type(config) not in _ROPES:
        return f"its positions are scaled by {rope_type(config)}"
    if getattr(config, "hidden_act", "silu") != "silu":
        return f"its activation is {config.hidden_act}"
    return None


def rope_type(config: "PretrainedConfig") -> str:
    """Return how positions are scaled: default, linear, llama3 ..."""
    return str(_rope(config).get("rope_type", "default"))


def _rope(config: "PretrainedConfig") -> dict[str, Any]:
    parameters = getattr(config, "rope_parameters", None) or {}
    return dict(parameters)


def write_file(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    file: Path,
    *,
    name: str,
    licence: str | None,
    ends: Sequence[int],
    kind: GgufType,
) -> None:
    """Write ``file``. Raises ``RunError`` for a model that cannot be written here."""
    import gguf

    config = model.config.get_text_config()
    if (why := obstacle(config)) is not None:
        raise RunError(f"no GGUF file can be written of this model: {why}; {ADVICE}")
    writer = gguf.GGUFWriter(str(file), ARCHITECTURES[config.model_type])
    try:
        _add_metadata(writer, config, name, licence, kind)
        vocabulary = int(model.get_input_embeddings().weight.shape[0])
        add_tokenizer(writer, tokenizer, vocabulary, ends)
        for tensor_name, values in tensors(model, config):
            _add_tensor(writer, tensor_name, values, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_metadata(
    writer: "gguf.GGUFWriter",
    config: "PretrainedConfig",
    name: str,
    licence: str | None,
    kind: GgufType,
) -> None:
    import gguf

    head = head_dim(config)
    writer.add_type("model")
    writer.add_name(name)
    if licence is not None:
        writer.add_license(licence)
    writer.add_file_type(_file_type(kind))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = _rope(config)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    if rope_type(config) == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def _file_type(kind: GgufType) -> int:
    import gguf

    types = {
        GgufType.f32: gguf.LlamaFileType.ALL_F32,
        GgufType.f16: gguf.LlamaFileType.MOSTLY_F16,
        GgufType.bf16: gguf.LlamaFileType.MOSTLY_BF16,
        GgufType.q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
    }
    return int(types[kind])


def head_dim(config: "PretrainedConfig") -> int:
    """Return the size of an attention head."""
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def tensors(
    model: "PreTrainedModel", config: "PretrainedConfig"
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name in the file and the fp32 values of every tensor.

    Raises ``RunError`` for a tensor for which gguf's table has no name.
    """
    import gguf

    architecture = ARCHITECTURES[config.model_type]
    number = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise RunError(f"the tensor {name} has no name in a GGUF file; {ADVICE}")
        values = tensor.detach().float().cpu()
        if architecture == "llama" and ".self_attn.q_proj." in name:
            values = _for_neighbours(values, config.num_attention_heads)
        elif architecture == "llama" and ".self_attn.k_proj." in name:
            values = _for_neighbours(values, config.num_key_value_heads)
        yield target, values.numpy()
    if rope_type(config) == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config)


def _for_neighbours(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Return rows (heads * 2 halves * dim/2, ...) sorted so that rotated pairs are neighbours."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape).contiguous()


def _llama3_factors(config: "PretrainedConfig") -> np.ndarray:
    """Return by what each frequency of the positions is divided (Llama 3.1's scaling)."""
    rope, size = _rope(config), head_dim(config)
    factor, low, high = (
        float(rope[name]) for name in ("factor", "low_freq_factor", "high_freq_factor")
    )
    context = float(rope["original_max_position_embeddings"])
    factors = []
    for number in range(0, size, 2):
        wavelength = 2 * math.pi * float(rope["rope_theta"]) ** (number / size)
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def _add_tensor(writer: "gguf.GGUFWriter", name: str, values: np.ndarray, kind: GgufType) -> None:
    """Add a tensor: vectors in f32, matrices as ``kind`` where their rows can be divided so."""
    import gguf

    quantised = {"bf16": "BF16", "q8_0": "Q8_0"}
    if values.ndim < 2 or kind is GgufType.f32:
        writer.add_tensor(name, values)
    elif kind is GgufType.f16 or (kind is GgufType.q8_0 and values.shape[-1] % 32):
        writer.add_tensor(name, _as_f16(name, values))
    else:
        to = gguf.GGMLQuantizationType[quantised[kind.value]]
        data = gguf.quants.quantize(values, to)
        writer.add_tensor(name, data, raw_dtype=to)


def _as_f16(name: str, values: np.ndarray) -> np.ndarray:
    largest = float(np.abs(values).max(initial=0.0))
    if largest > np.finfo(np.float16).max:
        raise RunError(
            f"{name} has numbers up to {largest:.3g}, which f16 cannot hold; set gguf_type=bf16"
        )
    return values.astype(np.float16)
