"""Count, without a GPU, what a training step of LoRA keeps per token (docs/howto/gpu.md).

    python benchmarks/memory.py

One and two layers of each shape are trained for one step in bf16 on meta tensors, which have shapes
and no memory; every tensor that autograd keeps for the backward pass is counted once. The
difference is a layer. A GPU needs more than that: what is computed and forgotten again, fragments,
the CUDA context. ``hydratune train`` measures all of it on the card.
"""

import argparse
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fresh import markdown
from hydratune.adapters import attach
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.data.encoding.encoded import Encoded
from hydratune.models import memory_plan, varlen
from hydratune.models.attention import NAME
from hydratune.settings.model import Quantization
from hydratune.training.objective import Objective
from hydratune.training.patches import with_lean_layers

SHAPES = {
    "Llama 3.2 1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "layers": 16,
        "heads": 32,
        "key_heads": 8,
        "tied": True,
    },
    "Llama 3.1 8B": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "layers": 32,
        "heads": 32,
        "key_heads": 8,
        "tied": False,
    },
}
VOCABULARY = 128_256
CARDS = (24, 48, 80)  # GB
NF4 = (
    4 + 8 / 64 + 32 / (64 * 256)
) / 8  # bytes of a weight: 4 bits, and the scales of blocks, quantised once more (arXiv:2305.14314)
TOKENS = 2048


def config_of(shape: dict[str, Any], layers: int, vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=layers,
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["key_heads"],
        max_position_embeddings=2 * TOKENS,
        tie_word_embeddings=vocabulary == VOCABULARY and shape["tied"],
    )


def kept(shape: dict[str, Any], layers: int) -> int:
    """Bytes that autograd keeps in a step of ``TOKENS`` tokens, a quarter of them trained, weights
    not counted.
    """
    model: Any = LlamaForCausalLM(config_of(shape, layers, 64)).to(torch.bfloat16)
    model.set_attn_implementation(NAME)
    tuned = with_lean_layers(
        attach.add_adapter(
            attach.prepare_quantised(model, Quantization.none), LoraAdapter(r=16, lora_alpha=32)
        )
    )
    objective = Objective(tuned.to(torch.bfloat16), micro_tokens=2 * TOKENS, workers=1)
    tuned.to("meta").train()
    objective._head, objective._parameters = model.lm_head.weight, None
    objective._lora_weights = objective.parameters()
    storages: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type == "meta":
            storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    parameters = {p.untyped_storage()._cdata for p in tuned.parameters()}
    length = TOKENS // 4
    loss_mask = tuple(i > 3 * length // 4 for i in range(length + 1))
    # that begin differently
    rows = [
        Encoded(tuple((first + i) % 64 for i in range(length + 1)), loss_mask) for first in range(4)
    ]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        objective.gradients(rows)
    return sum(storage.nbytes() for key, storage in storages.items() if key not in parameters)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    enabled = torch.is_autocast_enabled
    torch.is_autocast_enabled = (  # type: ignore[assignment]
        lambda kind="cuda": kind != "meta" and enabled(kind)
    )
    varlen.supports = lambda *_: True  # type: ignore[assignment]
    table = []
    for name, shape in SHAPES.items():
        one, two = kept(shape, 1), kept(shape, 2)
        per_token = (one - (two - one) + shape["layers"] * (two - one)) / TOKENS
        config = config_of(shape, shape["layers"], VOCABULARY)
        with torch.device("meta"):
            count = sum(p.numel() for p in LlamaForCausalLM(config).parameters())
        ends = VOCABULARY * shape["hidden_size"] * (1 if shape["tied"] else 2)  # stay in bf16
        generated = memory_plan.bytes_per_generated_token(config, 2)
        for form, weights in (("", 2.0 * count), (", nf4", 2 * ends + NF4 * (count - ends))):
            cells = [
                f"{name}{form}",
                f"{weights / 2**30:.1f}",
                f"{per_token / 2**20:.2f}",
                f"{generated / 2**10:.0f}",
            ]
            for card in CARDS:
                free = (card * 1e9 - 1e9 - weights) * 0.8
                size = memory_plan.power_of_two_below(free / per_token) if free > 0 else 0
                cells.append(f"{min(16384, size):,}" if size >= 256 else "-")
            table.append(cells)
    head = [
        "shape, LoRA r=16 on all linears",
        "weights, GiB",
        "MiB per token kept",
        "KiB per token generated",
    ]
    print(markdown([*head, *(f"micro-pack on {card} GB" for card in CARDS)], table))


if __name__ == "__main__":
    main()
