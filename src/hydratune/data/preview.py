"""Shows on the terminal which tokens of a row are trained."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from hydratune.data.masking import ChatEncoder, Encoded
from hydratune.data.rows import Row


def coloured(encoder: ChatEncoder, example: Encoded, *, brackets: bool = False) -> Text:
    """The row's text: trained tokens on green, the rest dim, special tokens as they are written.

    ``brackets`` marks trained tokens with \u27e6 \u27e7 as well, for a file or a terminal without colours.
    """
    text = Text()
    pieces: list[tuple[list[int], bool]] = []
    for token, is_target in zip(example.ids, example.trained, strict=True):
        if not pieces or pieces[-1][1] != is_target:
            pieces.append(([], is_target))
        pieces[-1][0].append(token)
    for ids, is_target in pieces:
        written = encoder.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        written = f"\u27e6{written}\u27e7" if brackets and is_target else written
        text.append(written, style="bold black on green" if is_target else "dim")
    return text


def show(console: Console, encoder: ChatEncoder, rows: Sequence[Row], encoded: Sequence[Encoded], count: int) -> None:
    """Prints ``count`` rows with a legend."""
    brackets = console.color_system is None
    legend = Text("\u27e6trained\u27e7" if brackets else "trained", style="bold black on green") + Text("  not trained", style="dim")
    console.print(legend)
    for row, example in list(zip(rows, encoded, strict=True))[:count]:
        console.rule(Text(f"{row.id}: {example.supervised} of {len(example.ids)} tokens trained"), align="left")
        console.print(coloured(encoder, example, brackets=brackets), soft_wrap=True)
