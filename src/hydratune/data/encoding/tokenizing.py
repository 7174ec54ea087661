"""Convert texts to tokens and back, as inference does: special tokens are not added to a text."""

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS_PER_CALL = 256  # tokenised in one call, which uses every core


def adds_begin(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Return whether the tokenizer begins every text with a begin-of-text token.

    The model then saw that token before every text in pre-training.
    """
    begin = tokenizer.bos_token_id
    return begin is not None and list(tokenizer("a").input_ids)[:1] == [begin]


class TextTokenizer:
    """A tokenizer for texts that have all their special tokens already."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of one text."""
        return self.tokenize_batch([text])[0]

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text."""
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return list(encoded.input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special tokens as they are written."""
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(list(ids), **options))

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Return (start, end) in characters of every token of ``text``; of fast tokenizers only."""
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return list(encoded["offset_mapping"])

    @functools.cached_property
    def begin_ids(self) -> tuple[int, ...]:
        """The tokens before the text of a document: begin-of-text, if the tokenizer adds it."""
        return (self.tokenizer.bos_token_id,) if adds_begin(self.tokenizer) else ()

    @functools.cached_property
    def added_tokens(self) -> re.Pattern[str]:
        """Matches the added tokens, which are cut out of every text before anything else is."""
        added = self.tokenizer.added_tokens_decoder.values()
        names = [token.content for token in added if not token.normalized and not token.single_word]
        longest_first = sorted(filter(None, names), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
