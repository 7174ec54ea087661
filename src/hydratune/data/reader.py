"""What a data set can be checked against without loading any weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Reader:
    """The tokenizer and the limits of the model that reads the rows."""

    tokenizer: "PreTrainedTokenizerBase"
    turn_end_ids: frozenset[int]
    context_window: int  # tokens
    embeddings: int  # rows of the model's input embeddings: token ids are below it
