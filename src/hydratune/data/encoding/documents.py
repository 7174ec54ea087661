"""Encode documents: rows of text for continued training, without a chat template.

The text stands between begin-of-text, if the tokenizer adds it, and end-of-text. All of it is
trained but the first token, which nothing predicts. A part of a long document may begin with
context: text of the part before it, which is read and not trained.
"""

from collections.abc import Sequence

from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.errors import Defect, MaskError, first_difference
from hydratune.data.encoding.tokenizing import TextTokenizer
from hydratune.data.rows import Row


def encode_document(tokenizer: TextTokenizer, row: Row, text_ids: Sequence[int]) -> Encoded:
    """Return a document, or a part of one; ``text_ids`` are the tokens of its text.

    Only the last part ends with end-of-text. Raises ``MaskError``.
    """
    end = tokenizer.tokenizer.eos_token_id
    if end is None:
        raise MaskError(
            f"{row.position}: the tokenizer has no end-of-text token to end a text with",
            Defect.turn_end_missing,
        )
    _refuse_lost_text(tokenizer, row, text_ids)
    begin_ids, end_ids = tokenizer.begin_ids, () if row.messages[-1].continues else (end,)
    ids = (*begin_ids, *text_ids, *end_ids)
    first_target = max(1, len(begin_ids) + _count_context_tokens(tokenizer, row))
    return Encoded(ids, (False,) * first_target + (True,) * (len(ids) - first_target))


def _refuse_lost_text(tokenizer: TextTokenizer, row: Row, text_ids: Sequence[int]) -> None:
    """Raise ``MaskError`` if the tokens of a document do not decode to its text.

    White space is not compared, because decoders change it.
    """
    text = "".join(row.text.split())
    decoded = "".join(tokenizer.decode(text_ids).split())
    if text == decoded:
        return
    at = first_difference(text, decoded)
    raise MaskError(
        f"{row.position}: the tokenizer does not reproduce the text"
        f" ({text[at : at + 12]!r} becomes {decoded[at : at + 12]!r}), so the model would learn"
        " another one; replace such characters in the text, or use another model",
        Defect.tokens_differ,
    )


def _count_context_tokens(tokenizer: TextTokenizer, row: Row) -> int:
    """Return how many tokens of a document lie before the text that is trained."""
    context = len(row.text) - len(row.answer)
    return sum(start < context for start, _ in tokenizer.token_offsets(row.text)) if context else 0
