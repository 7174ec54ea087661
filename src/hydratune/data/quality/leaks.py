"""Which rows of one split are in another: by the same request, by a nearly equal one, or by the
same last user turn and answer.

Test rows are searched for in training and validation, validation rows in training. Sets of splits
are bits: 1 train, 2 validation, 4 test.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from hydratune.data.splits import SPLITS, Side

SplitBits = NDArray[np.int8]  # (rows,): a set of splits for each row
_TRAIN, _VALIDATION, _TEST = (np.int8(1 << side) for side in SPLITS)


class Leak(StrEnum):
    """In what way a row is in another split; the values are the names of the checks."""

    exact = "exact_leaks"
    # Exact leaks, nearly equal requests, and requests in the middle of a trained conversation.
    near = "near_leaks"
    # The last user turn and the answer, under another system prompt or after other turns.
    turn = "turn_leaks"


class RowKeys:
    """Hashes of some property of rows, each with the position of its row.

    A row may have several hashes, or none.
    """

    def __init__(self) -> None:
        self.rows, self.hashes = array("q"), array("Q")
        self._numbers: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, row: int, key: int) -> None:
        """Add one hash of the row at position ``row``."""
        self.rows.append(row)
        self.hashes.append(key)

    def numbers(self) -> NDArray[np.int64]:
        """Number the distinct hashes, and return the number of each hash."""
        if len(self._numbers) != len(self.hashes):
            hashes = np.frombuffer(self.hashes, np.uint64)
            self._numbers = np.unique(hashes, return_inverse=True)[1].astype(np.int64)
        return self._numbers

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Return (positions, hashes), one entry per hash."""
        return np.frombuffer(self.rows, np.int64), np.frombuffer(self.hashes, np.uint64)


@dataclass(frozen=True)
class RowContents:
    """What is compared between rows: their requests, and hashes of their turns."""

    requests: NDArray[np.int64]  # (rows,): the number of each row's request
    request_count: int  # distinct requests
    near: Mapping[int, Sequence[int]]  # request -> the requests nearly equal to it
    own: RowKeys  # the request of each row, in the forms in which it is compared
    inner: RowKeys  # the same for requests inside a conversation whose answers are trained
    turns: RowKeys  # last user turn and answer of each row
    inner_turns: RowKeys  # the same for turns inside a conversation


def find_leaks(contents: RowContents, sides: NDArray[np.int8], kind: Leak) -> SplitBits:
    """Return for each row the earlier splits that contain it.

    These are training and validation for a test row, and training for a validation row.
    """
    earlier = np.zeros(len(sides), np.int8)
    earlier[sides == Side.validation] = _TRAIN
    earlier[sides == Side.test] = _TRAIN | _VALIDATION
    bits = _splits_with(contents, sides, kind) & earlier
    if kind is Leak.turn:
        as_request = _splits_with(contents, sides, Leak.exact)
        as_request |= _shared_splits(contents.own, contents.own, sides)
        bits[(as_request & earlier) > 0] = 0  # reported by the other two checks
    return bits


def rows_to_remove(contents: RowContents, sides: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Return for each row whether it must be removed so that nothing leaks.

    Removed are validation rows that are in test, then training rows that are in validation or test.
    """
    remaining, unwanted = sides.copy(), np.zeros(len(sides), bool)
    for side, later in ((Side.validation, _TEST), (Side.train, _VALIDATION | _TEST)):
        bits = _splits_with(contents, remaining, Leak.near)
        bits |= _shared_splits(contents.inner, contents.own, remaining)
        bits |= _splits_with(contents, remaining, Leak.turn)
        bits |= _shared_splits(contents.inner_turns, contents.turns, remaining)
        leaking = (remaining == side) & (bits & later > 0)
        unwanted |= leaking
        remaining[leaking] = Side.leak
    return unwanted


def find_holder(contents: RowContents, sides: NDArray[np.int8], kind: Leak, row: int) -> int | None:
    """Return a row of an earlier split that contains ``row``, to be shown beside it.

    None if there is none, because ``row`` is inside a conversation.
    """
    earlier = sides < sides[row]
    request = int(contents.requests[row])
    near = contents.near.get(request, ()) if kind is Leak.near else ()
    for candidate in (request, *near):
        same = np.flatnonzero((contents.requests == candidate) & earlier)
        if len(same):
            return int(same[0])
    is_turn = kind is Leak.turn
    own = contents.turns if is_turn else contents.own
    inner = contents.inner_turns if is_turn else contents.inner
    own_rows, own_hashes = own.arrays()
    for keys in (own, inner):
        rows, hashes = keys.arrays()
        same = rows[np.isin(hashes, own_hashes[own_rows == row]) & earlier[rows]]
        if len(same):
            return int(same[0])
    return None


def _splits_with(contents: RowContents, sides: NDArray[np.int8], kind: Leak) -> SplitBits:
    """Return for each row the splits that contain it in this way, its own among them."""
    turns = contents.turns
    if kind is Leak.turn:
        bits = _shared_splits(turns, turns, sides)
        return bits | _shared_splits(turns, contents.inner_turns, sides)
    of_request = np.zeros(contents.request_count, np.int8)
    for side in SPLITS:
        of_request[contents.requests[sides == side]] |= np.int8(1 << side)
    if kind is Leak.exact:
        return of_request[contents.requests]
    of_near_request = of_request.copy()
    for request, others in contents.near.items():
        for other in others:
            of_near_request[request] |= of_request[other]
    bits = of_near_request[contents.requests] | _shared_splits(contents.own, contents.own, sides)
    return bits | _shared_splits(contents.own, contents.inner, sides)


def _shared_splits(keys: RowKeys, others: RowKeys, sides: NDArray[np.int8]) -> SplitBits:
    """Return for each row the splits of the rows that have one of its ``keys`` in ``others``."""
    bits = np.zeros(len(sides), np.int8)
    rows, hashes = keys.arrays()
    if keys is others:
        number = keys.numbers()
        of_number = np.zeros(len(rows), np.int8)
        for side in SPLITS:
            of_number[number[sides[rows] == side]] |= np.int8(1 << side)
        np.bitwise_or.at(bits, rows, of_number[number])
        return bits
    other_rows, other_hashes = others.arrays()
    for side in SPLITS if len(other_hashes) else ():
        shared = np.isin(hashes, other_hashes[sides[other_rows] == side])
        bits[rows[shared]] |= np.int8(1 << side)
    return bits
