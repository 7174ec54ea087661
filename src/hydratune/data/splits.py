"""Decide by hashes which split a row is in, so that rows added at the end move no other row.

Rows are placed one after the other. A row goes where its group is; without a group, where a nearly
equal request is, or the same turn with the same answer; otherwise where its hash says. A row that
would belong to two splits (its group in one, a near-duplicate in the other) is dropped: this is the
price of never moving a row that was placed before.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from hydratune.data.answers import NotStrictJson, parse_strict
from hydratune.data.rows import Row, stable_hash

_GOLDEN_RATIO = 0.6180339887498949  # its multiples modulo 1 fill [0, 1) evenly, however many


class Side(IntEnum):
    """The split of a row, or the reason why it is in none."""

    train = 0
    validation = 1
    test = 2
    straddles = 3  # its group or near-duplicates are in two splits
    duplicate = 4  # removed by data.clean.drop_duplicates
    leak = 5  # removed by data.clean.drop_leaks


SPLITS = (Side.train, Side.validation, Side.test)


def place(row: Row) -> float:
    """Return a number in [0, 1) that depends only on the row's group, or on its prompt if it has
    none.
    """
    key = row.group or stable_hash([(m.role, m.content) for m in row.prompt or row.messages])
    return unit_hash(f"split/{key}")


def unit_hash(text: str) -> float:
    """Return a number in [0, 1), uniformly distributed over texts."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:13], 16) / 16**13


@dataclass(frozen=True)
class Candidates:
    """Rows to be split, one entry each, in file order."""

    places: NDArray[np.float64]  # in [0, 1)
    groups: NDArray[np.int64]  # number of the group, -1 without
    texts: NDArray[np.int64]  # number of the request's text
    strata: Sequence[str] | None = None  # what must be equally frequent in all splits
    # row -> numbers of its turns with their answers, as far as other rows have them too
    turns: Mapping[int, Sequence[int]] = field(default_factory=dict)


def split(
    rows: Candidates, near: Mapping[int, Sequence[int]], validation: float, test: float
) -> NDArray[np.int8]:
    """Return the side of each row.

    ``near`` maps the number of a text to those of the nearly equal texts; ``validation`` and
    ``test`` are shares of the rows.
    """
    placement = _Placement(rows, near)
    seen_of_stratum: dict[str, int] = {}
    for i in range(len(rows.places)):
        related = placement.related_rows(i)
        if len({int(placement.sides[r]) for r in related}) > 1:
            placement.sides[i] = Side.straddles
            continue
        if related:
            placement.join(i, related)
        else:
            number = rows.places[i]
            if rows.strata is not None:
                number = _even_place(rows.strata[i], seen_of_stratum)
            placement.sides[i] = _side_at(number, validation, test)
        placement.remember(i)
    for share, side in ((validation, Side.validation), (test, Side.test)):
        if share and not (placement.sides == side).any():
            placement.move_first_to(side)
    return placement.sides


def _side_at(number: float, validation: float, test: float) -> Side:
    if number < validation:
        return Side.validation
    return Side.test if number < validation + test else Side.train


def _even_place(stratum: str, seen: dict[str, int]) -> float:
    """Return numbers in [0, 1) that are evenly spread over the rows of a stratum."""
    count = seen.get(stratum, 0)
    seen[stratum] = count + 1
    return (unit_hash(f"stratum/{stratum}") + count * _GOLDEN_RATIO) % 1


class _Placement:
    """The rows that were placed so far, and which of them must stay together."""

    def __init__(self, rows: Candidates, near: Mapping[int, Sequence[int]]) -> None:
        self.rows, self.near = rows, near
        self.sides = np.zeros(len(rows.places), np.int8)
        # Rows that must stay together have a common root: the row whose hash decided.
        self._parents = np.arange(len(rows.places))
        self._first_of_group: dict[int, int] = {}
        self._first_of_text: dict[int, int] = {}
        self._first_of_turn: dict[int, int] = {}

    def root(self, i: int) -> int:
        """Return the row that stands for all rows that stay together with ``i``."""
        parents = self._parents
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = int(parents[i])
        return i

    def related_rows(self, i: int) -> list[int]:
        """Return rows placed before with which row ``i`` must stay: of its group first."""
        group, text = int(self.rows.groups[i]), int(self.rows.texts[i])
        texts, turns = (text, *self.near.get(text, ())), self.rows.turns.get(i, ())
        return [
            *([self._first_of_group[group]] if group in self._first_of_group else []),
            *(self._first_of_text[t] for t in texts if t in self._first_of_text),
            *(self._first_of_turn[t] for t in turns if t in self._first_of_turn),
        ]

    def join(self, i: int, related: Sequence[int]) -> None:
        """Place row ``i`` with ``related`` rows, which are all on one side."""
        self.sides[i] = self.sides[related[0]]
        for other in related:
            self._parents[self.root(other)] = self.root(i)

    def remember(self, i: int) -> None:
        """Let later rows find row ``i`` by its group, its text and its turns."""
        group = int(self.rows.groups[i])
        self._first_of_text.setdefault(int(self.rows.texts[i]), i)
        for turn in self.rows.turns.get(i, ()):
            self._first_of_turn.setdefault(turn, i)
        if group >= 0:
            self._first_of_group.setdefault(group, i)

    def move_first_to(self, side: Side) -> None:
        """Move training rows to an empty side: those that stay together with the first by hash."""
        training = [i for i in range(len(self.sides)) if self.sides[i] == Side.train]
        if len({self.root(i) for i in training}) < 2:
            return
        chosen = self.root(min(training, key=lambda i: float(self.rows.places[i])))
        for i in training:
            if self.root(i) == chosen:
                self.sides[i] = side


def stratum(row: Row, name: str) -> str | None:
    """Return the value of ``name`` in the row's meta data or JSON answer, None if it has none.

    ``answer`` is the whole answer.
    """
    if name == "answer":
        return row.answer.strip()
    if name in row.meta:
        return str(row.meta[name])
    try:
        value = parse_strict(row.answer).get(name)
    except NotStrictJson:
        return None
    return None if value is None else str(value)
