"""Split documents that are longer than data.max_length into parts."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace

from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.data import TrainOn

_MAX_SHIFT = 32  # tokens by which a cut may come earlier, so that it falls between words
_SPACE = re.compile(r"\s")


def split_document(encoder: ChatEncoder, row: Row, max_length: int, overlap: int) -> list[Row]:
    """Return a document in parts of at most ``max_length`` tokens.

    Each part but the first begins with ``overlap`` tokens of context. Every character is trained
    once. Raises ``DataError`` if the tokenizer does not say where its tokens are in the text, or
    the overlap leaves no room.
    """
    if not encoder.tokenizer.is_fast:
        raise DataError(
            f"{row.position}: data.overlength=split needs a fast tokenizer, and this model's is not"
            " one; use data.overlength=drop"
        )
    offsets = encoder.token_offsets(row.text)
    room = max_length - 2  # without begin and end of text
    while room > 2 * overlap:
        parts = _cut(row, offsets, room, overlap)
        longest = max(len(example.ids) for example in encoder.encode_batch(parts, TrainOn.all))
        if longest <= max_length:
            return parts
        room -= longest - max_length  # a part alone may have a token more than within the whole
    raise DataError(
        f"{row.position}: parts of {max_length} tokens that repeat {overlap} (data.split_overlap)"
        " cannot be made; lower data.split_overlap, or raise data.max_length"
    )


def _cut(row: Row, offsets: Sequence[tuple[int, int]], room: int, overlap: int) -> list[Row]:
    """Return parts of ``room`` tokens, context included.

    ``offsets`` are (start, end) in characters of every token.
    """
    text = row.text
    starts = [start for start, _ in offsets]
    cuts = _token_cuts(text, starts, room, overlap)
    edges = [*(starts[cut] if cut else 0 for cut in cuts), len(text)]
    edges = list(dict.fromkeys(edges))  # several tokens of one character have the same start
    parts = []
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        context = text[starts[max(0, cuts[number] - overlap)] : start] if number else ""
        messages = [Message("text", context)] if context else []
        messages.append(Message("text", text[start:stop], continues=stop < len(text)))
        name = f"{row.id}[{number + 1}/{len(edges) - 1}]"
        parts.append(replace(row, id=name, messages=tuple(messages), group=row.group or row.id))
    return parts


def _token_cuts(text: str, starts: Sequence[int], room: int, overlap: int) -> list[int]:
    """Return the numbers of the tokens at which parts begin.

    A cut is moved to a token that begins with white space or follows some, if one is near.
    """
    begin, cuts = 0, [0]
    while len(starts) - max(0, begin - overlap) > room:
        end = max(0, begin - overlap) + room
        candidates = range(end, max(begin, end - _MAX_SHIFT), -1)
        begin = next((at for at in candidates if _is_between_words(text, starts[at])), end)
        cuts.append(begin)
    return cuts


def _is_between_words(text: str, at: int) -> bool:
    if not 0 < at < len(text):
        return False
    return _SPACE.match(text[at]) is not None or _SPACE.match(text[at - 1]) is not None
