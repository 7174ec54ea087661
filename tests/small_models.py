"""Models of every supported architecture with two small layers, rows for them, and the loss of a
padded batch.
"""

from typing import Any

import torch
import torch.nn.functional as F
import transformers

from hydratune.adapters import attach
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.data.encoding.encoded import Encoded
from hydratune.settings.model import Quantization
from hydratune.training.patches import with_lean_layers

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


ARCHITECTURES = {
    "Llama": {"num_key_value_heads": 2},
    "Mistral": {"num_key_value_heads": 2, "sliding_window": 7},
    "Qwen2": {"num_key_value_heads": 2},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "Gemma3Text": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 7,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "Phi3": {"num_key_value_heads": 2, "pad_token_id": 0},
    "GPTNeoX": {},
}


def rows(count: int = 5, seed: int = 0) -> list[Encoded]:
    """Return rows of uneven length; the second half of each is trained, and one row has two trained
    turns.
    """
    generator = torch.Generator().manual_seed(seed)
    result = []
    for i in range(count):
        length = 9 + 5 * i
        ids = torch.randint(1, 96, (length,), generator=generator).tolist()
        loss_mask = [j > length // 2 or (i == 1 and j in (2, 3)) for j in range(length)]
        result.append(Encoded(tuple(ids), tuple(loss_mask)))
    return result


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, **{**ARCHITECTURES[name], **options})
    kind = "Gemma3ForCausalLM" if name == "Gemma3Text" else f"{name}ForCausalLM"
    model = getattr(transformers, kind)._from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    return model.eval()


def plain_loss(model: Any, examples: list[Encoded]) -> torch.Tensor:
    """Return the standard loss: padded batch, full logits, shifted labels, -100 where the loss mask
    is false; summed over tokens.
    """
    longest = max(len(e.ids) for e in examples)
    ids = torch.tensor([[*e.ids, *[0] * (longest - len(e.ids))] for e in examples])
    mask = torch.tensor([[1] * len(e.ids) + [0] * (longest - len(e.ids)) for e in examples])
    labels = torch.tensor(
        [
            [t if m else -100 for t, m in zip(e.ids, e.loss_mask, strict=True)]
            + [-100] * (longest - len(e.ids))
            for e in examples
        ]
    )
    logits = model(input_ids=ids, attention_mask=mask).logits
    return F.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]),
        labels[:, 1:].reshape(-1),
        ignore_index=-100,
        reduction="sum",
    )


def with_lora(model: Any, **options: Any) -> Any:
    torch.manual_seed(0)  # PEFT draws A
    model = with_lean_layers(
        attach.add_adapter(
            attach.prepare_quantised(model, Quantization.none),
            LoraAdapter(r=4, lora_alpha=8, **options),
        )
    )
    torch.manual_seed(1)
    for (
        name,
        parameter,
    ) in model.named_parameters():  # B is zero at first, which would hide a wrong gradient of A
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return model


def rows_with_prefix(common: list[int], seed: int = 0) -> list[Encoded]:
    """Return five rows that begin with the same tokens."""
    return [
        Encoded((*common, *row.ids), (*[False] * len(common), *row.loss_mask))
        for row in rows(seed=seed)
    ]
