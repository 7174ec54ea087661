"""The rows of a split -> the examples that are trained: one for each row, for each assistant turn,
or for each part of a document.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hydratune.data.masking import TOGETHER, ChatEncoder, Encoded, trained_turns
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.data import DataConfig, Overlength, TrainOn

_TOO_LONG = "longer than data.max_length"
_MOVED = 32  # tokens by which a cut may come earlier, so that it falls between words
_SPACE = re.compile(r"\s")


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
        """Counts one example."""
        self.kept += 1
        self.lengths.append(len(example.ids))
        self.supervised.append(example.supervised)

    @property
    def lost(self) -> int:
        """How many examples were dropped."""
        return sum(map(len, self.dropped.values()))

    def summary(self) -> dict[str, Any]:
        """Plain values for data.json."""
        ordered = sorted(self.lengths)
        quantiles = (
            {
                str(q): ordered[min(len(ordered) - 1, int(q / 100 * len(ordered)))]
                for q in (0, 50, 90, 99, 100)
            }
            if ordered
            else {}
        )
        return {
            "rows": self.rows,
            "kept": self.kept,
            "dropped": {
                reason: {"count": len(ids), "ids": ids[:100]}
                for reason, ids in self.dropped.items()
            },
            "truncated": {"count": len(self.truncated), "ids": self.truncated[:100]},
            "parted": {"rows": len(self.parted), "examples": sum(self.parted.values())},
            "tokens": sum(self.lengths),
            "trained_tokens": sum(self.supervised),
            "length_quantiles": quantiles,
        }

    def statements(self, split: str, data: DataConfig) -> list[str]:
        """What people should know of it, one sentence each."""
        said = []
        if self.parted:
            made = f"{sum(self.parted.values()):,} examples of {len(self.parted):,} {split} rows"
            each = data.train_on is TrainOn.each
            said.append(
                f"{made}:"
                f" {'one for each assistant turn' if each else 'parts of documents longer than data.max_length'}"  # noqa: E501
            )
        if self.dropped:
            said += [
                f"{len(ids)} of {self.kept + self.lost} {split} examples dropped: {reason}"
                for reason, ids in self.dropped.items()
            ]
        if self.truncated:
            said.append(
                f"{len(self.truncated)} of {self.rows} {split} prompts cut to data.max_length"
            )
        return said


def encode_split(
    encoder: ChatEncoder, rows: Sequence[Row], data: DataConfig, split: str
) -> tuple[list[Row], list[Encoded], EncodingReport]:
    """(one row for each example, examples, report).

    Raises ``DataError`` if the policy refuses or nothing is left.
    """
    report = EncodingReport(rows=len(rows))
    kept: list[Row] = []
    encoded: list[Encoded] = []
    too_long: list[tuple[Row, int]] = []
    for row, example in encoded_examples(encoder, rows, data, split):
        if len(example.ids) > data.max_length:
            too_long.append((row, len(example.ids)))
            fitting = shortened(encoder, row, data)
            if fitting is None:
                report.dropped.setdefault(_TOO_LONG, []).append(row.id)
                continue
            row, example = fitting
            report.truncated.append(row.id)
        kept.append(row)
        encoded.append(example)
        report.keep(example)
    report.parted = _parted(rows, kept)
    if too_long and data.overlength is Overlength.error:
        longest, tokens = max(too_long, key=lambda pair: pair[1])
        raise DataError(
            f"{len(too_long)} of {len(rows)} {split} rows are longer than data.max_length ="
            f" {data.max_length} tokens (longest: {longest.where or longest.id}, {tokens}); raise"
            f" it, or set {_other_policies(data, (row for row, _ in too_long))}"
        )
    if not kept:
        raise nothing_fits(data, split, len(rows), too_long)
    return kept, encoded, report


def nothing_fits(
    data: DataConfig, split: str, rows: int, too_long: Sequence[tuple[Row, int]]
) -> DataError:
    """Why no row of a split is left; advises nothing that is in force already."""
    shortest = min(tokens for _, tokens in too_long)
    other = _other_policies(data, (row for row, _ in too_long), drop=False)
    return DataError(
        f"every {split} row was dropped: all {rows} are longer than data.max_length ="
        f" {data.max_length} tokens (shortest: {shortest}); raise"
        f" data.max_length{f', or set {other}' if other else ''}"
    )


def _other_policies(data: DataConfig, rows: Iterable[Row], *, drop: bool = True) -> str:
    """The settings of data.overlength that would do something about these rows, other than the one
    in force.
    """
    kinds = {row.is_text for row in rows}
    policies = [Overlength.drop] if drop else []
    policies += [Overlength.truncate_prompt] if False in kinds else []
    policies += [Overlength.split] if True in kinds else []
    return " or ".join(
        f"data.overlength={policy.value}" for policy in policies if policy is not data.overlength
    )


def encoded_examples(
    encoder: ChatEncoder, rows: Iterable[Row], data: DataConfig, split: str
) -> Iterator[tuple[Row, Encoded]]:
    """Every example of a split, however long it is, with a row that says what it is made of.

    Raises ``MaskError``.
    """
    train_on = TrainOn.last if split == "test" and data.train_on is TrainOn.each else data.train_on
    remaining = iter(rows)
    while part := list(itertools.islice(remaining, TOGETHER)):
        turns = [
            turn for row in part for turn in (each_turn(row) if train_on is TrainOn.each else [row])
        ]
        for row, example in zip(turns, encoder.encode_batch(turns, train_on), strict=True):
            if (
                row.is_text
                and data.overlength is Overlength.split
                and len(example.ids) > data.max_length
            ):
                overlap = data.max_length // 8 if data.split_overlap is None else data.split_overlap
                parts = parts_of(encoder, row, data.max_length, overlap)
                yield from zip(parts, encoder.encode_batch(parts, train_on), strict=True)
            else:
                yield row, example


def each_turn(row: Row) -> list[Row]:
    """One row for every trained assistant turn, which ends with it; the rows of a conversation stay
    one group.
    """
    turns = [] if row.is_text else trained_turns(row, TrainOn.all)
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


def parts_of(encoder: ChatEncoder, row: Row, max_length: int, overlap: int) -> list[Row]:
    """A document in parts of at most ``max_length`` tokens, each but the first after ``overlap``
    tokens of context.

    Every character is trained once. Raises ``DataError`` if the tokenizer does not say where its
    tokens stand.
    """
    where = row.where or row.id
    if not encoder.tokenizer.is_fast:
        raise DataError(
            f"{where}: data.overlength=split needs a fast tokenizer, and this model's is not one;"
            " use data.overlength=drop"
        )
    offsets = encoder.offsets(row.text)
    room = max_length - 2  # without begin and end of text
    while room > 2 * overlap:
        parts = _cut(row, offsets, room, overlap)
        longest = max(len(example.ids) for example in encoder.encode_batch(parts, TrainOn.all))
        if longest <= max_length:
            return parts
        room -= (
            longest - max_length
        )  # a part may have a token or two more than the same text in the whole
    raise DataError(
        f"{where}: parts of {max_length} tokens that repeat {overlap} (data.split_overlap) cannot"
        " be made; lower data.split_overlap, or raise data.max_length"
    )


def _cut(row: Row, offsets: Sequence[tuple[int, int]], room: int, overlap: int) -> list[Row]:
    """Parts of ``room`` tokens, context included, cut where a token begins with white space or
    follows some, if one is near.
    """
    text = row.text
    starts = [start for start, _ in offsets]
    begin, cuts = 0, [0]
    while len(starts) - max(0, begin - overlap) > room:
        end = max(0, begin - overlap) + room
        between = (
            at
            for at in range(end, max(begin, end - _MOVED), -1)
            if _between_words(text, starts[at])
        )
        begin = next(between, end)
        cuts.append(begin)
    edges = [*(starts[cut] if cut else 0 for cut in cuts), len(text)]
    edges = list(dict.fromkeys(edges))  # several tokens of one character begin alike
    parts = []
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        context = text[starts[max(0, cuts[number] - overlap)] : start] if number else ""
        last = stop == len(text)
        messages = [Message("text", context)] if context else []
        messages.append(Message("text", text[start:stop], continues=not last))
        name = f"{row.id}[{number + 1}/{len(edges) - 1}]"
        parts.append(replace(row, id=name, messages=tuple(messages), group=row.group or row.id))
    return parts


def _between_words(text: str, at: int) -> bool:
    return 0 < at < len(text) and (
        _SPACE.match(text[at]) is not None or _SPACE.match(text[at - 1]) is not None
    )


def _parted(rows: Sequence[Row], kept: Sequence[Row]) -> dict[str, int]:
    """The rows of which several examples were made, and how many of these are left."""
    whole = {row.id for row in rows}
    made: dict[str, int] = {}
    for row in kept:
        name = row.id.rpartition("[")[0]
        if row.id not in whole and name in whole:
            made[name] = made.get(name, 0) + 1
    return made


def shortened(encoder: ChatEncoder, row: Row, data: DataConfig) -> tuple[Row, Encoded] | None:
    """Characters cut off the start of the last user turn until the row fits, under
    data.overlength=truncate_prompt.

    None: no cut is enough, there is no prompt, or the policy is another one.
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
