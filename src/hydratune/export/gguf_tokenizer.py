"""The tokenizer of a model as the metadata of a GGUF file: byte-level BPE only.

llama.cpp does not read the regular expression by which a tokenizer cuts a text into words: the file
names one that llama.cpp knows (``tokenizer.ggml.pre``).
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydratune.errors import RunError

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
# regular expression of the tokenizer -> llama.cpp's name of it (src/llama-vocab.cpp)
_NAMES = {_QWEN2: "qwen2", _LLAMA3: "llama-bpe"}
ADVICE = "set llama_cpp=FOLDER, a copy of llama.cpp's repository, whose converter knows more models"


def pre_tokenizer_name(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return llama.cpp's name of the way in which a tokenizer cuts a text.

    Raises ``RunError`` for a tokenizer that is no byte-level BPE, or that cuts in another way.
    """
    content = serialised(tokenizer)
    parts = _parts(content.get("pre_tokenizer"))
    kinds = [part["type"] for part in parts]
    if content["model"].get("type") != "BPE" or "ByteLevel" not in kinds:
        raise RunError(
            f"the tokenizer is no byte-level BPE, which alone can be written here; {ADVICE}"
        )
    normaliser = (content.get("normalizer") or {}).get("type")
    if normaliser in (None, "NFC"):
        if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
            name = _NAMES.get(str(parts[0].get("pattern", {}).get("Regex")))
            if name is not None:
                return name
    raise RunError(
        f"the tokenizer cuts texts in a way ({' and '.join(kinds)}) for which no name of llama.cpp"
        f" is known here; {ADVICE}"
    )


def serialised(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Return the content of tokenizer.json."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise RunError(f"the tokenizer is not one of the library tokenizers; {ADVICE}")
    content: dict[str, Any] = json.loads(backend.to_str())
    return content


def _parts(pre_tokenizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return []
    parts: Sequence[Mapping[str, Any]] = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return list(parts)


def add_tokenizer(
    writer: "GGUFWriter",
    tokenizer: "PreTrainedTokenizerBase",
    vocabulary: int,
    ends: Sequence[int],
) -> None:
    """Write vocabulary, merges, special tokens and chat template.

    ``vocabulary``: rows of the embeddings. ``ends``: tokens that end an answer; the first is what
    llama.cpp stops at.
    """
    tokens, types = token_list(tokenizer, vocabulary)
    merges = serialised(tokenizer)["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_name(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    for token, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (ends[0] if ends else tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if token is not None:
            add(int(token))
    if ends:
        writer.add_eot_token_id(int(ends[0]))
    probe = tokenizer("a").input_ids  # templates write the first token themselves
    writer.add_add_bos_token(bool(probe) and probe[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(False)
    writer.add_chat_template(str(tokenizer.chat_template))


def token_list(
    tokenizer: "PreTrainedTokenizerBase", vocabulary: int
) -> tuple[list[str], list[int]]:
    """Return the text and llama.cpp's type of every token, in the order of their numbers."""
    from gguf import TokenType

    names = {number: name for name, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    if names and max(names) >= vocabulary:
        raise RunError(
            f"the tokenizer has {max(names) + 1:,} tokens and the model embeddings for"
            f" {vocabulary:,}; {ADVICE}"
        )
    texts, types = [], []
    for number in range(vocabulary):
        kind = TokenType.NORMAL
        if number not in names:
            kind = TokenType.UNUSED
        elif number in added:
            kind = TokenType.CONTROL if added[number].special else TokenType.USER_DEFINED
        texts.append(names.get(number, f"[PAD{number}]"))
        types.append(int(kind))
    return texts, types
