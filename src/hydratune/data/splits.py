"""Which side of the split a row is on: decided by hashes, so that rows added at the end move no
other row.

Rows are placed one after the other. A row goes where its group is, else where a request nearly like
its own is, or the same turn with the same answer, else where its hash says. A row that belongs to
two sides at once (its group here, its near-duplicate there) is left out: that is the price of never
moving a row that was placed before.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from hydratune.data.rows import Row, stable_hash

_GOLDEN = 0.6180339887498949  # multiples of it fill [0, 1) evenly, whenever one stops


class Side(IntEnum):
    """Of a row: its split, or why it is in none."""

    train = 0
    validation = 1
    test = 2
    straddles = 3  # its group or near-duplicates are on two sides
    duplicate = 4  # removed by data.clean.drop_duplicates
    leak = 5  # removed by data.clean.drop_leaks


SPLITS = (Side.train, Side.validation, Side.test)


def place(row: Row) -> float:
    """A number in [0, 1) that depends only on the row's group, or on its prompt where it has none."""  # noqa: E501
    key = row.group or stable_hash([(m.role, m.content) for m in row.prompt or row.messages])
    return unit_hash(f"split/{key}")


def unit_hash(text: str) -> float:
    """A number in [0, 1), evenly spread over texts."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:13], 16) / 16**13


@dataclass(frozen=True)
class Candidates:
    """Rows to be split, one entry each, in file order."""

    places: NDArray[np.float64]  # in [0, 1)
    groups: NDArray[np.int64]  # number of the group, -1 without
    texts: NDArray[np.int64]  # number of the request's text
    strata: Sequence[str] | None = None  # what is to be equally frequent on all sides
    # entry -> numbers of turns with their answers that others have too
    turns: Mapping[int, Sequence[int]] = field(default_factory=dict)


def split(
    rows: Candidates, near: Mapping[int, Sequence[int]], validation: float, test: float
) -> NDArray[np.int8]:
    """The side of each row.

    ``near`` maps the number of a text to those of the texts nearly like it; shares are fractions.
    """
    count = len(rows.places)
    sides = np.zeros(count, np.int8)
    roots = np.arange(count)  # the row whose hash decided; rows that must stay together share it

    def root(i: int) -> int:
        while roots[i] != i:
            roots[i] = roots[roots[i]]
            i = int(roots[i])
        return i

    first_of_group: dict[int, int] = {}
    first_of_text: dict[int, int] = {}
    first_of_turn: dict[int, int] = {}
    seen_of_stratum: dict[str, int] = {}
    for i in range(count):
        group, text = int(rows.groups[i]), int(rows.texts[i])
        related = [first_of_text[t] for t in (text, *near.get(text, ())) if t in first_of_text]
        turns = rows.turns.get(i, ())
        related += [first_of_turn[t] for t in turns if t in first_of_turn]
        if group in first_of_group:
            related.insert(0, first_of_group[group])
        if len({int(sides[r]) for r in related}) > 1:
            sides[i] = Side.straddles
            continue
        if related:
            sides[i] = sides[related[0]]
            for r in related:
                roots[root(r)] = root(i)
        else:
            at = rows.places[i]
            if rows.strata is not None:
                stratum = rows.strata[i]
                number = seen_of_stratum.get(stratum, 0)
                seen_of_stratum[stratum] = number + 1
                at = (unit_hash(f"stratum/{stratum}") + number * _GOLDEN) % 1
            sides[i] = (
                Side.validation
                if at < validation
                else Side.test
                if at < validation + test
                else Side.train
            )
        first_of_text.setdefault(text, i)
        for turn in turns:
            first_of_turn.setdefault(turn, i)
        if group >= 0:
            first_of_group.setdefault(group, i)
    for share, side in ((validation, Side.validation), (test, Side.test)):
        if share and not (sides == side).any():
            _give_one(sides, rows.places, [root(i) for i in range(count)], side)
    return sides


def _give_one(
    sides: NDArray[np.int8], places: NDArray[np.float64], roots: Sequence[int], side: Side
) -> None:
    """A small set may leave a side empty: the training rows that belong together and come first by
    hash go there.
    """
    training = [i for i in range(len(sides)) if sides[i] == Side.train]
    if len({roots[i] for i in training}) < 2:
        return
    chosen = roots[min(training, key=lambda i: float(places[i]))]
    for i in training:
        if roots[i] == chosen:
            sides[i] = side


def stratum(row: Row, name: str) -> str | None:
    """The value of ``name`` in the row's meta data or JSON answer; ``answer`` is the whole answer.

    None: it is not there.
    """
    if name == "answer":
        return row.answer.strip()
    if name in row.meta:
        return str(row.meta[name])
    from hydratune.data.answers import NotStrictJson, parse_strict

    try:
        value = parse_strict(row.answer).get(name)
    except NotStrictJson:
        return None
    return None if value is None else str(value)
