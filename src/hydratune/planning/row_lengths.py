"""The rows of a run as tokens: by the model's tokenizer, or estimated from their characters."""

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.preparation import prepare
from hydratune.data.rows import Message, Row
from hydratune.data.sets import load_sets
from hydratune.evaluation import canaries
from hydratune.experiment import compatibility
from hydratune.models import loading
from hydratune.planning.structure import Structure
from hydratune.settings.commands import TrainConfig

# under the tokenizer of SmolLM2 contracts have 3.3, SNIPS 3.6, MTS-Dialog 4.2
CHARACTERS_PER_TOKEN = 3.6
_TOKENS_OF_A_TURN = 5  # of a chat template, about
_MOST_ROWS = 2_000  # of the training rows that are read as tokens
_QUANTILES = (50, 90, 99, 100)  # percent


@dataclass(frozen=True)
class RowLengths:
    """The rows of a run as tokens."""

    train: tuple[Encoded, ...]  # all of them, or the first ``_MOST_ROWS``
    train_rows: int
    validation_rows: int
    test_rows: int
    longest_prompt: int  # tokens of the longest test prompt
    longest_answer: int
    is_counted: bool  # by the model's own tokenizer; False: estimated from characters
    too_long: int = 0  # training rows beyond data.max_length, which are dropped or cut

    @property
    def tokens(self) -> int:
        """Tokens of all training rows."""
        read = sum(len(row.ids) for row in self.train)
        return round(read * self.train_rows / max(1, len(self.train)))

    @property
    def trained_share(self) -> float:
        """The share of the tokens that are targets of the loss."""
        read = sum(len(row.ids) for row in self.train)
        return sum(row.supervised for row in self.train) / max(1, read)

    @property
    def longest(self) -> int:
        """Tokens of the longest training row."""
        return max((len(row.ids) for row in self.train), default=0)

    def quantiles(self) -> dict[str, int]:
        """Return the lengths of training rows by per cent of the rows that are not longer."""
        ordered = sorted(len(row.ids) for row in self.train)
        last = len(ordered) - 1
        return {str(q): ordered[min(last, int(q / 100 * len(ordered)))] for q in _QUANTILES}


def row_lengths(config: TrainConfig, structure: Structure) -> RowLengths:
    """Read the rows of a run, and return their lengths. Raises ``DataError`` and ``ConfigError``.

    Where the model's tokenizer is on this machine, rows are encoded and checked as ``train`` does.
    """
    sets = load_sets(config.data, config.seed, prepare(config.data))
    sets = canaries.with_canaries(
        sets, config.evaluation.canaries, config.seed, config.data.system_prompt
    )
    counts = len(sets.train), len(sets.validation), len(sets.test)
    sets.train[_MOST_ROWS:] = []
    if structure.folder is None:
        return _estimated(config, sets.train, sets.test, counts)
    reader = loading.load_reader(config.model, structure.folder)
    compatibility.check_model(config, reader)
    encoder = ChatEncoder(reader.tokenizer, reader.turn_end_ids)
    kept, encoded, reports = compatibility.encode(config, encoder, sets)
    splits = {
        name: compatibility.SplitTokens.of(rows, encoded[name]) for name, rows in kept.items()
    }
    compatibility.check_examples(config, reader, splits)
    read = max(1, len(sets.train))
    report = reports["train"]
    share = len(encoded["train"]) / read
    test = encoded["test"]
    return RowLengths(
        tuple(encoded["train"]),
        round(counts[0] * share),
        len(encoded["validation"]),
        len(test),
        max((row.loss_mask.index(True) for row in test), default=0),
        max((row.supervised for row in test), default=0),
        is_counted=True,
        too_long=report.lost + len(report.truncated),
    )


def _estimated(
    config: TrainConfig, train: Sequence[Row], test: Sequence[Row], counts: tuple[int, int, int]
) -> RowLengths:
    """Return lengths from the characters of the rows; rows beyond data.max_length are left out."""
    every = [_from_characters(row) for row in train]
    fitting = [row for row in every if len(row.ids) <= config.data.max_length]
    asked = [_from_characters(row) for row in test]
    return RowLengths(
        tuple(fitting),
        round(counts[0] * len(fitting) / max(1, len(every))),
        counts[1],
        counts[2],
        max((len(row.ids) - row.supervised for row in asked), default=0),
        max((row.supervised for row in asked), default=0),
        is_counted=False,
        too_long=len(every) - len(fitting),
    )


def _from_characters(row: Row) -> Encoded:
    """Return as many made-up tokens as the row has, about; of a conversation the answers are
    trained. Equal beginnings of texts are equal tokens, so that shared prefixes are found.
    """
    ids: list[int] = []
    mask: list[bool] = []
    for message in row.messages:
        trained = message.role in ("assistant", "text") and (
            row.is_text or message is row.messages[-1]
        )
        tokens = _tokens_of(message)
        ids += tokens
        mask += [trained] * len(tokens)
    mask[0], mask[-1] = False, True  # as of every encoded row
    return Encoded(tuple(ids), tuple(mask))


def _tokens_of(message: Message) -> list[int]:
    """Return a number for each stretch of text that is about a token, equal for equal texts."""
    text = f"{message.content}{message.tool_calls or ''}"
    count = max(1, round(len(text) / CHARACTERS_PER_TOKEN))
    edges = [round(i * CHARACTERS_PER_TOKEN) for i in range(count + 1)]
    words = [text[first:last] for first, last in itertools.pairwise(edges)]
    return [*range(-_TOKENS_OF_A_TURN, 0), *(zlib.crc32(word.encode()) for word in words)]
