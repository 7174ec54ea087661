"""Tiny random models of every architecture that transformers maps to a causal language model.

A config is made by filling in small values for the names that the architecture's default config
has; what an architecture needs beside them is in ``OWN``. Windows, chunks and the tokens that
sparse attention keeps are smaller than the rows on which models are compared, so that a mistake in
them changes the loss.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

ARCHITECTURES: Mapping[str, str] = {
    kind: name if isinstance(name, str) else name[0]
    for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
}
MOST_PARAMETERS = 20_000_000
VOCABULARY = 128

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "decoder_vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size": 32,
    "hidden_size_global": 32,
    "d_model": 32,
    "n_embd": 32,
    "embedding_size": 32,
    "word_embed_proj_dim": 32,
    "intermediate_size": 48,
    "intermediate_size_mlp": 48,
    "ffn_dim": 48,
    "n_inner": 48,
    "ffn_hidden_size": 48,
    "decoder_ffn_dim": 48,
    "encoder_ffn_dim": 48,
    "moe_intermediate_size": 24,
    "expert_ffn_hidden_size": 24,
    "shared_expert_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 24,
    "shared_intermediate_size": 24,
    "num_hidden_layers": 4,
    "n_layer": 4,
    "n_layers": 4,
    "num_layers": 4,
    "decoder_layers": 2,
    "encoder_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "attention_head_dim": 8,
    "kv_channels": 8,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "n_ctx": 128,
    "max_seq_len": 128,
    "max_target_positions": 128,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "sep_token_id": 2,
    # windows
    "sliding_window": 5,
    "sliding_window_size": 5,
    "window_size": 5,
    "attention_window_size": 5,
    "attention_chunk_size": 6,
    "index_topk": 4,
    "index_topk_blocks": 2,
    "index_block_size": 4,
    "index_local_blocks": 1,
    "index_head_dim": 16,
    "index_n_heads": 16,  # with few, many scores are 0 and which are kept is arbitrary
    # experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "num_expert_group": 1,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    # multi-head latent attention
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "qk_head_dim": 16,
    # linear attention and state spaces
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
    "mamba_dt_rank": 4,
    "state_size": 8,
    "time_step_rank": 4,
    "chunk_size": 8,
    "image_token_id": 120,
    "video_token_id": 121,
    "audio_token_id": 122,
    "image_token_index": 120,
    "image_size": 16,
    "patch_size": 8,
    "is_decoder": True,
}
# what the config of an architecture cannot be made without
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma4_assistant": {
        "text_config": {
            "model_type": "gemma4_text",
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
        }
    },
}
# values of one architecture; None: the value of ``SIZES`` is not set
OWN: dict[str, dict[str, Any]] = {
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
    },
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "cohere_compass": {"layer_types": None},
    "cohere_compass_text": {"layer_types": None},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {
            "ffn_hidden_size": 48,
            "moe_num_experts": 4,
            "moe_top_k": 2,
            "hidden_size": 32,
        },
    },
    "dots3_note": {"text_config": {"num_key_value_heads": 4, "per_layer_config": {}}},
    "dots3_note_text": {"num_key_value_heads": 4, "per_layer_config": {}},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "qwen4_exp_text": {
        "indexer_n_heads": 16,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16]},
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
    "bamba": {"attn_layer_indices": [1]},
    "falcon_h1": {"mamba_d_ssm": 64},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "mamba2": {"num_heads": 8},
    "zamba": {"num_hidden_layers": 8, "attn_layer_period": 4, "attn_layer_offset": 1},
    "xmod": {"default_language": "en_XX"},
}


# why no tiny model is built of an architecture
UNTRIED = {
    "cohere_compass_text": "its default config has none of the rotary parameters that it needs",
    "dots3_note": "its config lists layers by number, and no small list passes its checks",
    "dots3_note_text": "its config lists layers by number, and no small list passes its checks",
    "gemma3n": "its vision part needs the package timm",
    "gemma4_assistant": "it drafts tokens for another model, whose states it reads",
    "gemma4_unified_assistant": "it drafts tokens for another model, whose states it reads",
    "musicgen": "it predicts audio codes, and its config has no part for text",
    "musicgen_melody": "it predicts audio codes, and its config has no part for text",
}


def tiny_config(kind: str) -> PretrainedConfig:
    """Return a config of the architecture ``kind`` (the ``model_type``) with tiny sizes."""
    return _tiny(CONFIG_MAPPING[kind], OWN.get(kind, {}))


def _tiny(cls: type[PretrainedConfig], own: Mapping[str, Any]) -> PretrainedConfig:
    default = _default(cls)
    given = default.to_dict()
    names = set(given) | set(getattr(cls, "attribute_map", {}))
    values = {name: value for name, value in SIZES.items() if name in names}
    for name, value in given.items():
        if ("drop" in name or "jitter" in name) and isinstance(value, float):
            values[name] = 0.0
    if "decoder_layers" in names:  # another name for the number of layers of an encoder
        values.pop("num_hidden_layers", None)
    if "kv_lora_rank" in names:  # keys are made for every head
        values["num_key_value_heads"] = 4
    fixed = isinstance(inspect.getattr_static(cls, "layer_types", None), property)
    mapped = "layer_types" in getattr(cls, "attribute_map", {})
    if not fixed and not mapped and isinstance(given.get("layer_types"), list):
        kinds = list(dict.fromkeys(given["layer_types"]))
        values["layer_types"] = (kinds * 4)[:4]
    subs = [name for name in names if isinstance(vars(default).get(name), PretrainedConfig)]
    for name in subs:
        sub = type(vars(default)[name])
        values[name] = _tiny(sub, own.get(name, OWN.get(sub.model_type, {}))).to_dict()
    values |= {name: v for name, v in own.items() if v is not None and name not in subs}
    for name in [name for name, value in own.items() if value is None]:
        values.pop(name, None)
    return cls(**values)


def _default(cls: type[PretrainedConfig]) -> PretrainedConfig:
    return cls(**DEFAULTS.get(cls.model_type, {}))


def build(kind: str, seed: int = 0) -> PreTrainedModel:
    """Return a random model, in training mode, without dropout, in fp32.

    Noise is added to all weights: some are initialised with 0 or 1, with which a mistake may change
    nothing. Raises ``ValueError`` if it is not tiny.
    """
    config = tiny_config(kind)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size / 1e6:.0f} million parameters")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(kind), dtype=torch.float32)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.nan_to_num_().add_(torch.randn_like(parameter) * 0.1)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    result: PreTrainedModel = model.train()
    return result
