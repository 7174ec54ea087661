"""Encode the rows of a split as the examples that are trained.

Of a row comes one example, or one for each assistant turn (``data.train_on=each``), or one for each
part of a document (``data.overlength=split``).
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from hydratune.data.encoding.document_parts import split_document
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.tokenizing import ROWS_PER_CALL
from hydratune.data.rows import Row
from hydratune.errors import DataError
from hydratune.settings.data import DataConfig, Overlength, TrainOn
from hydratune.wording import counted, noun_for

_TOO_LONG = "longer than data.max_length"
_MOST_IDS = 100  # of rows, in data.json
_QUANTILES = (0, 50, 90, 99, 100)  # percent


@dataclass
class EncodingReport:
    """What happened to the rows of one split on their way to tokens."""

    rows: int = 0
    kept: int = 0  # examples
    dropped: dict[str, list[str]] = field(default_factory=dict)  # reason -> row ids
    truncated: list[str] = field(default_factory=list)  # row ids
    # row id -> how many examples were made of it
    parted: dict[str, int] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)  # tokens of kept rows
    supervised: list[int] = field(default_factory=list)  # trained tokens of kept rows

    def keep(self, example: Encoded) -> None:
        """Count one example."""
        self.kept += 1
        self.lengths.append(len(example.ids))
        self.supervised.append(example.supervised)

    @property
    def lost(self) -> int:
        """How many examples were dropped."""
        return sum(map(len, self.dropped.values()))

    def summary(self) -> dict[str, object]:
        """Return plain values for data.json."""
        ordered = sorted(self.lengths)
        last = len(ordered) - 1
        quantiles = {
            str(q): ordered[min(last, int(q / 100 * len(ordered)))] for q in _QUANTILES if ordered
        }
        return {
            "rows": self.rows,
            "kept": self.kept,
            "dropped": {reason: _counted_ids(ids) for reason, ids in self.dropped.items()},
            "truncated": _counted_ids(self.truncated),
            "parted": {"rows": len(self.parted), "examples": sum(self.parted.values())},
            "tokens": sum(self.lengths),
            "trained_tokens": sum(self.supervised),
            "length_quantiles": quantiles,
        }

    def statements(self, split: str, data: DataConfig) -> list[str]:
        """Return what users should know about the split, one sentence each."""
        statements = []
        if self.parted:
            kind = (
                "one for each assistant turn"
                if data.train_on is TrainOn.each
                else "parts of documents longer than data.max_length"
            )
            count = sum(self.parted.values())
            rows = counted(len(self.parted), f"{split} row")
            statements.append(f"{counted(count, 'example')} of {rows}: {kind}")
        total = self.kept + self.lost
        statements += [
            f"{len(ids)} of {total} {split} examples dropped: {reason}"
            for reason, ids in self.dropped.items()
        ]
        if self.truncated:
            count = len(self.truncated)
            statements.append(f"{count} of {self.rows} {split} prompts cut to data.max_length")
        return statements


def _counted_ids(ids: Sequence[str]) -> dict[str, object]:
    return {"count": len(ids), "ids": ids[:_MOST_IDS]}


def encode_split(
    encoder: ChatEncoder, rows: Sequence[Row], data: DataConfig, split: str
) -> tuple[list[Row], list[Encoded], EncodingReport]:
    """Return (one row for each example, examples, report).

    Raises ``DataError`` if data.overlength refuses a long row or no example fits.
    """
    report = EncodingReport(rows=len(rows))
    kept: list[Row] = []
    encoded: list[Encoded] = []
    too_long: list[tuple[Row, int]] = []
    for row, example in encode_examples(encoder, rows, data, split):
        if len(example.ids) > data.max_length:
            too_long.append((row, len(example.ids)))
            shortened = shorten_prompt(encoder, row, data)
            if shortened is None:
                report.dropped.setdefault(_TOO_LONG, []).append(row.id)
                continue
            row, example = shortened
            report.truncated.append(row.id)
        kept.append(row)
        encoded.append(example)
        report.keep(example)
    report.parted = _count_parts(rows, kept)
    if too_long and data.overlength is Overlength.error:
        raise _too_long_error(data, split, len(rows), too_long)
    if not kept:
        raise nothing_fits_error(data, split, len(rows), too_long)
    return kept, encoded, report


def encode_examples(
    encoder: ChatEncoder, rows: Iterable[Row], data: DataConfig, split: str
) -> Iterator[tuple[Row, Encoded]]:
    """Yield every example of a split, however long it is, with the row that it encodes.

    Raises ``MaskError``.
    """
    train_on = TrainOn.last if split == "test" and data.train_on is TrainOn.each else data.train_on
    overlap = data.max_length // 8 if data.split_overlap is None else data.split_overlap
    remaining = iter(rows)
    while batch := list(itertools.islice(remaining, ROWS_PER_CALL)):
        if train_on is TrainOn.each:
            batch = [part for row in batch for part in split_turns(row)]
        for row, example in zip(batch, encoder.encode_batch(batch, train_on), strict=True):
            is_long = len(example.ids) > data.max_length
            if row.is_text and data.overlength is Overlength.split and is_long:
                parts = split_document(encoder, row, data.max_length, overlap)
                yield from zip(parts, encoder.encode_batch(parts, train_on), strict=True)
            else:
                yield row, example


def split_turns(row: Row) -> list[Row]:
    """Return one row for every trained assistant turn, which ends with that turn.

    The rows of a conversation are one group. A row with fewer than two such turns stays as it is.
    """
    turns = [] if row.is_text else row.trained_turns
    if len(turns) < 2:
        return [row]
    return [
        replace(
            row,
            id=f"{row.id}[{turn + 1}]",
            messages=row.messages[: turn + 1],
            group=row.group or row.id,
        )
        for turn in turns
    ]


def _count_parts(rows: Sequence[Row], kept: Sequence[Row]) -> dict[str, int]:
    """Return, for every row of which several examples were made, how many of these were kept."""
    whole = {row.id for row in rows}
    parts: dict[str, int] = {}
    for row in kept:
        name = row.id.rpartition("[")[0]
        if row.id not in whole and name in whole:
            parts[name] = parts.get(name, 0) + 1
    return parts


def shorten_prompt(encoder: ChatEncoder, row: Row, data: DataConfig) -> tuple[Row, Encoded] | None:
    """Cut characters off the start of the last user turn until the row fits.

    This is data.overlength=truncate_prompt. None: no cut is enough, there is no prompt, or another
    policy is set.
    """
    if row.is_text or data.overlength is not Overlength.truncate_prompt:
        return None
    index = max(i for i, m in enumerate(row.messages) if m.role == "user")
    text = row.messages[index].content
    low, high = 1, len(text)  # the smallest cut that fits, by bisection
    best: tuple[Row, Encoded] | None = None
    while low <= high:
        cut = (low + high) // 2
        messages = list(row.messages)
        messages[index] = replace(messages[index], content=text[cut:])
        candidate = replace(row, messages=tuple(messages))
        example = encoder.encode(candidate, data.train_on)
        if len(example.ids) <= data.max_length:
            best, high = (candidate, example), cut - 1
        else:
            low = cut + 1
    return best


# ------------------------------------------------------------------------------------------- errors
def _too_long_error(
    data: DataConfig, split: str, rows: int, too_long: Sequence[tuple[Row, int]]
) -> DataError:
    longest, tokens = max(too_long, key=lambda pair: pair[1])
    return DataError(
        f"{len(too_long)} of {counted(rows, f'{split} row')}"
        f" {noun_for(len(too_long), 'is', 'are')} longer than data.max_length ="
        f" {data.max_length} tokens (longest: {longest.position}, {tokens}); raise it, or set"
        f" {_other_policies(data, (row for row, _ in too_long))}"
    )


def nothing_fits_error(
    data: DataConfig, split: str, rows: int, too_long: Sequence[tuple[Row, int]]
) -> DataError:
    """Return the error for a split whose rows are all too long; it advises no policy in force."""
    shortest = min(tokens for _, tokens in too_long)
    others = _other_policies(data, (row for row, _ in too_long), drop=False)
    return DataError(
        f"every {split} row was dropped: all {rows} are longer than data.max_length ="
        f" {data.max_length} tokens (shortest: {shortest}); raise"
        f" data.max_length{f', or set {others}' if others else ''}"
    )


def _other_policies(data: DataConfig, rows: Iterable[Row], *, drop: bool = True) -> str:
    """Return the values of data.overlength that would change these rows, without the set one."""
    kinds = {row.is_text for row in rows}
    policies = [Overlength.drop] if drop else []
    policies += [Overlength.truncate_prompt] if False in kinds else []
    policies += [Overlength.split] if True in kinds else []
    return " or ".join(
        f"data.overlength={policy.value}" for policy in policies if policy is not data.overlength
    )
