"""Which rows of one split are in another: by the same request, by one nearly like it, or by the
same turn and answer.

A test row is sought in training and validation, a validation row in training. Splits are bits: 1
train, 2 validation, 4 test.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from hydratune.data.splits import SPLITS, Side

Bits = NDArray[np.int8]  # of each row


class Leak(StrEnum):
    """In what way a row is in another split; the names of the checks."""

    exact = "exact_leaks"
    # exact ones, those nearly like it, and those asked in the middle of a trained conversation
    near = "near_leaks"
    # the last user turn and the answer, under another system prompt or after other turns
    turn = "turn_leaks"


class Keys:
    """Hashes of something that rows hold, with the number of the row.

    A row may hold several, or none.
    """

    def __init__(self) -> None:
        self.rows, self.hashes = array("q"), array("Q")
        self._numbers: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, row: int, key: int) -> None:
        self.rows.append(row)
        self.hashes.append(key)

    def numbers(self) -> NDArray[np.int64]:
        """The number of each hash among the different ones."""
        if len(self._numbers) != len(self.hashes):
            self._numbers = np.unique(np.frombuffer(self.hashes, np.uint64), return_inverse=True)[
                1
            ].astype(np.int64)
        return self._numbers

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        return np.frombuffer(self.rows, np.int64), np.frombuffer(self.hashes, np.uint64)


@dataclass(frozen=True)
class Held:
    """What all rows hold.

    ``requests``: the number of each row's request; ``near`` names the requests nearly like one.
    """

    requests: NDArray[np.int64]
    count: int  # of different requests
    near: Mapping[int, Sequence[int]]
    own: Keys  # the request of each row, and its forms
    inner: Keys  # the same of requests in the middle of a conversation whose answer is trained
    turns: Keys  # last user turn and answer of each row
    inner_turns: Keys  # the same in the middle of a conversation


def found_in(held: Held, sides: NDArray[np.int8], kind: Leak) -> Bits:
    """Of each row the earlier splits that hold it: train and validation of a test row, train of a
    validation row.
    """
    earlier = np.zeros(len(sides), np.int8)
    earlier[sides == Side.validation], earlier[sides == Side.test] = 1, 3
    bits = _there(held, sides, kind) & earlier
    if kind is Leak.turn:
        said = _there(held, sides, Leak.exact) | _meeting(held.own, held.own, sides)
        bits[(said & earlier) > 0] = 0  # said already
    return bits


def removed(held: Held, sides: NDArray[np.int8]) -> NDArray[np.bool_]:
    """The rows without which nothing leaks: validation rows that are in test, then training rows
    that are in validation or test.
    """
    left, gone = sides.copy(), np.zeros(len(sides), bool)
    for side, later in ((Side.validation, 4), (Side.train, 6)):
        bits = _there(held, left, Leak.near) | _asked(held.own, held.inner, left)
        bits |= _there(held, left, Leak.turn) | _asked(held.turns, held.inner_turns, left)
        leaking = (left == side) & (bits & later > 0)
        gone |= leaking
        left[leaking] = Side.leak
    return gone


def holders(held: Held, sides: NDArray[np.int8], kind: Leak, row: int) -> list[int]:
    """One row of an earlier split that holds ``row``, to be shown beside it; none, if it lies
    inside a conversation.
    """
    earlier = sides < sides[row]
    request = int(held.requests[row])
    for candidate in (request, *(held.near.get(request, ()) if kind is Leak.near else ())):
        same = np.flatnonzero((held.requests == candidate) & earlier)
        if len(same):
            return [int(same[0])]
    mine, other = (held.turns, held.inner_turns) if kind is Leak.turn else (held.own, held.inner)
    for keys in (mine, other):
        rows, hashes = keys.arrays()
        asked = mine.arrays()[1][mine.arrays()[0] == row]
        same = rows[np.isin(hashes, asked) & earlier[rows]]
        if len(same):
            return [int(same[0])]
    return []


def _there(held: Held, sides: NDArray[np.int8], kind: Leak) -> Bits:
    """Of each row the splits that hold it in this way, its own among them."""
    if kind is Leak.turn:
        return _meeting(held.turns, held.turns, sides) | _meeting(
            held.turns, held.inner_turns, sides
        )
    of_requests = np.zeros(held.count, np.int8)
    for side in SPLITS:
        of_requests[held.requests[sides == side]] |= np.int8(1 << side)
    if kind is Leak.exact:
        return of_requests[held.requests]
    nearly = of_requests.copy()
    for request, others in held.near.items():
        for other in others:
            nearly[request] |= of_requests[other]
    return (
        nearly[held.requests]
        | _meeting(held.own, held.own, sides)
        | _meeting(held.own, held.inner, sides)
    )


def _meeting(asked: Keys, offered: Keys, sides: NDArray[np.int8]) -> Bits:
    """Of each row that asks, the splits of the rows that offer the same."""
    bits = np.zeros(len(sides), np.int8)
    if asked is offered:
        rows, number = asked.arrays()[0], asked.numbers()
        held = np.zeros(len(rows), np.int8)
        for side in SPLITS:
            held[number[sides[rows] == side]] |= np.int8(1 << side)
        np.bitwise_or.at(bits, rows, held[number])
        return bits
    (rows, hashes), (there, theirs) = asked.arrays(), offered.arrays()
    for side in SPLITS if len(theirs) else ():
        bits[rows[np.isin(hashes, theirs[sides[there] == side])]] |= np.int8(1 << side)
    return bits


def _asked(asked: Keys, inner: Keys, sides: NDArray[np.int8]) -> Bits:
    """Of each row the splits of the rows that ask what it says in the middle of its conversation."""  # noqa: E501
    return _meeting(inner, asked, sides)
