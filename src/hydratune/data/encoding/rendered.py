"""A trained turn of a row, and the answer that the chat template writes for it."""

from collections.abc import Iterator
from dataclasses import dataclass

from hydratune.data.rows import Message, Row


@dataclass(frozen=True)
class TrainedTurn:
    """An assistant turn of a row that is trained.

    ``history`` and ``message`` are the turns before it and the turn itself as the template takes
    them, with their thoughts where it wants them.
    """

    row: Row
    number: int  # position in the row
    history: tuple[Message, ...]
    message: Message

    @property
    def original(self) -> Message:
        """The turn as the row has it."""
        return self.row.messages[self.number]

    @property
    def where(self) -> str:
        """What messages call the row."""
        return self.row.position


@dataclass(frozen=True)
class RenderedAnswer:
    """One trained turn as the template writes it."""

    turn: TrainedTurn
    prompt: str  # what inference sends
    text: str  # what the template adds to the prompt for the answer
    pieces: tuple[str, ...]  # what the row's turn says: content, reasoning, texts of its calls

    @property
    def written_pieces(self) -> list[str]:
        """The pieces that the template writes as they are."""
        return [piece for piece in self.pieces if piece in self.text]


def iterate_texts(value: object) -> Iterator[str]:
    """Yield all texts in a value of lists and objects, without the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from iterate_texts(item)
