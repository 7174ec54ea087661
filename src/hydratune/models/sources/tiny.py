"""A random-weight Llama of a few thousand parameters, for trying the machinery."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydratune.cache import build_once
from hydratune.data.rows import stable_hash
from hydratune.models.base import CachedModel
from hydratune.settings.model import Source
from hydratune.settings.registry import variant

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@variant("model", "tiny")
@dataclass
class TinyModel(CachedModel):
    """A random-weight Llama of a few thousand parameters, for trying the machinery.

    It learns nothing useful.
    """

    source: str = "tiny"
    hidden_size: int = 64  # width of the random model
    layers: int = 2  # of the random model
    seed: int = 0  # of the random weights

    def folder_at_hand(self) -> Path | None:
        return Path(self.locate().name)  # made in a second

    def locate(self) -> Source:
        key = stable_hash([self.hidden_size, self.layers, self.seed, _texts()[:20]])
        folder = build_once(f"models/tiny-{key}", lambda path: _build(self, path))
        return Source(str(folder), None, f"tiny:{key}")


def _texts() -> list[str]:
    """Return the texts of 200 built-in contracts."""
    from hydratune.data.contracts import Difficulty, contract_rows

    rows = contract_rows("train", 200, Difficulty.standard, 0)
    return [message.content for row in rows for message in row.messages]


def _build(model: TinyModel, target: Path) -> None:
    """Write a tokenizer trained on the built-in contracts, and a random Llama for it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _train_tokenizer()
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


def _train_tokenizer() -> "PreTrainedTokenizerFast":
    """Return a byte-pair tokenizer of the built-in contracts, with a template for ChatML turns."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_texts(), trainer)
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
    return tokenizer
