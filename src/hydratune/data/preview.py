"""Shows which tokens of a row are trained: as plain pieces for any page, and in colour on the
terminal.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.rows import Row


@dataclass(frozen=True)
class Piece:
    """A stretch of a row whose tokens are all trained or all not, all special or all ordinary."""

    text: str
    trained: bool
    special: (
        bool  # tokens of their own in the vocabulary, such as <|im_end|>, which no text is cut into
    )

    @property
    def style(self) -> str:
        """In rich's words."""
        if self.special:
            return "bold underline magenta on green" if self.trained else "underline magenta"
        return "bold black on green" if self.trained else "dim"


def pieces(encoder: ChatEncoder, example: Encoded) -> list[Piece]:
    """The row's text in order; joined, the texts are the decoded row.

    A character whose bytes lie in two stretches belongs to the one that completes it.
    """
    special = {*encoder.tokenizer.all_special_ids, *encoder.tokenizer.added_tokens_decoder}
    kinds = [
        (is_target, token in special)
        for token, is_target in zip(example.ids, example.loss_mask, strict=True)
    ]
    whole = encoder.decode(example.ids)
    result: list[Piece] = []
    end = shown = 0
    for (trained, is_special), run in itertools.groupby(kinds):
        end += sum(1 for _ in run)
        upto = _common(encoder.decode(example.ids[:end]), whole) if end < len(kinds) else len(whole)
        if upto > shown:
            result.append(Piece(whole[shown:upto], trained, is_special))
            shown = upto
    return result


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return sum(
        1
        for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    )


def coloured(encoder: ChatEncoder, example: Encoded, *, brackets: bool = False) -> Text:
    """The row's text: trained tokens on green, the rest dim, special tokens underlined and in
    magenta.

    ``brackets`` marks trained tokens with \u27e6 \u27e7 as well, for a file or a terminal without
    colours.
    """
    text = Text()
    for trained, run in itertools.groupby(
        pieces(encoder, example), key=lambda piece: piece.trained
    ):
        marks = ("\u27e6", "\u27e7") if brackets and trained else ("", "")
        text.append(marks[0])
        for piece in run:
            text.append(piece.text, style=piece.style)
        text.append(marks[1])
    return text


def legend(*, brackets: bool = False) -> Text:
    """What the colours mean."""
    names = [Piece("trained", True, False), Piece("trained, special", True, True)]
    names += [Piece("not trained", False, False), Piece("not trained, special", False, True)]
    shown = [
        Text(f"\u27e6{p.text}\u27e7" if brackets and p.trained else p.text, style=p.style)
        for p in names
    ]
    return Text("  ").join(shown)


def show(
    console: Console,
    encoder: ChatEncoder,
    rows: Sequence[Row],
    encoded: Sequence[Encoded],
    count: int,
) -> None:
    """Prints ``count`` rows with a legend."""
    brackets = console.color_system is None
    console.print(legend(brackets=brackets))
    for row, example in list(zip(rows, encoded, strict=True))[:count]:
        console.rule(
            Text(f"{row.id}: {example.supervised} of {len(example.ids)} tokens trained"),
            align="left",
        )
        console.print(coloured(encoder, example, brackets=brackets), soft_wrap=True)
