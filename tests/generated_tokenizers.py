"""Tokenizers of several kinds, trained on a few made-up texts."""

import json
import random
from collections.abc import Callable
from typing import Any

WORDS = [
    "the",
    "kettle",
    "lantern",
    "bicycle",
    "left",
    "in",
    "attic",
    "harbour",
    "garage",
    "Oskar",
    "Marta",
    "where",
    "did",
    "it",
    "go",
    "back",
    "again",
    "number",
    "one",
    "two",
    "three",
]
UNICODE = [
    "Zürich",
    "naïve café",
    "日本語のテキスト",
    "🙂🙃",
    "Привет мир",
    "عربي",
    "e\u0301le\u0300ve",
    "½ ≈ 0.5",
    "a\u00a0b",
    "한국어",
]
CODE = [
    "def f(x):\n    return x + 1",
    'print("hi")\n\n# done',
    "SELECT *\nFROM t;",
    '{"a": [1, 2, {"b": null}]}',
    "a\tb\n\tc",
    "x  =  3",
]
END, BEGIN = "<|end|>", "<|begin|>"
SPECIAL = [BEGIN, END, "<|user|>", "<|system|>", "<|assistant|>", "<|tool|>", "<think>", "</think>"]


def corpus() -> list[str]:
    """Return the texts that tokenizers are trained on."""
    rng = random.Random(0)
    lines = [
        " ".join(rng.choices(WORDS, k=8)) + rng.choice([".", "?", "!\n", "\n\n"])
        for _ in range(400)
    ]
    return lines + UNICODE * 5 + CODE * 5


def byte_level(regex: str | None = None) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None)
    split = [pre_tokenizers.Split(Regex(regex), "isolated")] if regex else []
    raw.pre_tokenizer = pre_tokenizers.Sequence([*split, plain])
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return raw


def sentencepiece(scheme: str) -> Any:
    """Return a tokenizer as it is converted from SentencePiece.

    Metaspace prepends by the ``scheme`` ``first`` or ``always``; ``legacy`` is Prepend and Replace.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="\u2581", prepend_scheme="first", split=True
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", *SPECIAL, *fallback], show_progress=False
    )
    raw.train_from_iterator([text.replace("\n", " ") for text in corpus()], trainer)
    state = json.loads(raw.to_str())
    state["added_tokens"] = [
        token for token in state["added_tokens"] if token["content"] not in fallback
    ]
    if scheme == "legacy":
        state["pre_tokenizer"] = None
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
        state["normalizer"] = {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace],
        }
    else:
        state["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": scheme,
            "split": False,
        }
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    words = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    state["decoder"] = {
        "type": "Sequence",
        "decoders": [words, {"type": "ByteFallback"}, {"type": "Fuse"}, strip],
    }
    return Tokenizer.from_str(json.dumps(state))


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte level": byte_level,
    "byte level, Llama 3": lambda: byte_level(LLAMA3),
    "SentencePiece, first": lambda: sentencepiece("first"),
    "SentencePiece, always": lambda: sentencepiece("always"),
    "SentencePiece, legacy": lambda: sentencepiece("legacy"),
}


def tokenizer(kind: str, *, adds_begin: bool) -> Any:
    """Return a tokenizer without a chat template."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    raw = TOKENIZERS[kind]()
    if adds_begin:
        raw.post_processor = TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, raw.token_to_id(BEGIN))]
        )
    names = {"bos_token": BEGIN, "eos_token": END, "pad_token": BEGIN}
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, clean_up_tokenization_spaces=False, **names
    )
