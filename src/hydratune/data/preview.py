"""Show which tokens of a row are trained: as pieces for any page, and coloured on a terminal."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.rows import Row

_BRACKETS = ("\u27e6", "\u27e7")  # around trained tokens where there are no colours


@dataclass(frozen=True)
class Piece:
    """A stretch of a row whose tokens are all trained or all not, all special or all ordinary.

    Special tokens, such as <|im_end|>, are tokens of their own in the vocabulary; no ordinary text
    is cut into them.
    """

    text: str
    trained: bool
    special: bool

    @property
    def style(self) -> str:
        """The style of the piece, as rich writes styles."""
        if self.special:
            return "bold underline magenta on green" if self.trained else "underline magenta"
        return "bold black on green" if self.trained else "dim"


def pieces(encoder: ChatEncoder, example: Encoded) -> list[Piece]:
    """Return the row's text in order; joined, the pieces are the decoded row.

    A character whose bytes are in two stretches belongs to the one that completes it.
    """
    special = {*encoder.tokenizer.all_special_ids, *encoder.tokenizer.added_tokens_decoder}
    kinds = [
        (is_target, token in special)
        for token, is_target in zip(example.ids, example.loss_mask, strict=True)
    ]
    whole = encoder.decode(example.ids)
    result: list[Piece] = []
    end_token = shown = 0
    for (trained, is_special), run in itertools.groupby(kinds):
        end_token += sum(1 for _ in run)
        if end_token < len(kinds):
            end = _common_length(encoder.decode(example.ids[:end_token]), whole)
        else:
            end = len(whole)
        if end > shown:
            result.append(Piece(whole[shown:end], trained, is_special))
            shown = end
    return result


def _common_length(first: str, second: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def coloured(encoder: ChatEncoder, example: Encoded, *, brackets: bool = False) -> Text:
    """Return the row's text: trained tokens on green, the rest dim, special tokens underlined.

    ``brackets`` puts trained tokens between \u27e6 \u27e7 as well, for a file or a terminal without
    colours.
    """
    text = Text()
    for trained, run in itertools.groupby(pieces(encoder, example), key=lambda p: p.trained):
        opening, closing = _BRACKETS if brackets and trained else ("", "")
        text.append(opening)
        for piece in run:
            text.append(piece.text, style=piece.style)
        text.append(closing)
    return text


def legend(*, brackets: bool = False) -> Text:
    """Return what the colours mean."""
    kinds = [
        Piece("trained", trained=True, special=False),
        Piece("trained, special", trained=True, special=True),
        Piece("not trained", trained=False, special=False),
        Piece("not trained, special", trained=False, special=True),
    ]
    opening, closing = _BRACKETS
    shown = [
        Text(
            f"{opening}{kind.text}{closing}" if brackets and kind.trained else kind.text,
            style=kind.style,
        )
        for kind in kinds
    ]
    return Text("  ").join(shown)


def show(
    console: Console,
    encoder: ChatEncoder,
    rows: Sequence[Row],
    encoded: Sequence[Encoded],
    count: int,
) -> None:
    """Print the first ``count`` rows with a legend."""
    brackets = console.color_system is None
    console.print(legend(brackets=brackets))
    for row, example in itertools.islice(zip(rows, encoded, strict=True), count):
        title = f"{row.id}: {example.supervised} of {len(example.ids)} tokens trained"
        console.rule(Text(title), align="left")
        console.print(coloured(encoder, example, brackets=brackets), soft_wrap=True)
