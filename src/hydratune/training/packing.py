"""Rows laid end to end: which begin alike, which are computed together, and the tensors of such a
pack.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hydratune.data.encoding.encoded import Encoded
from hydratune.models.compute import sent

# tokens: reading a prefix on its own costs about as much as these, so sharing must save more
LEAST_SAVED = 128


@dataclass(frozen=True)
class Pack:
    """Rows laid end to end; the last token of a row is only ever a target, never an input."""

    input_ids: torch.Tensor  # (1, tokens)
    position_ids: torch.Tensor  # (1, tokens), in every row from where the prefix ends
    row_lengths: tuple[int, ...]
    predicts: torch.Tensor  # (targets,) positions whose next token is trained
    targets: torch.Tensor  # (targets,)

    def inputs(self) -> dict[str, Any]:
        """Of a transformers model with our attention.

        A 4-D mask is handed through to the attention function untouched, which ignores it: nothing
        is built.
        """
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": torch.zeros(
                1, 1, 1, 1, dtype=torch.bool, device=self.input_ids.device
            ),
            "row_lengths": self.row_lengths,
            "use_cache": False,
        }


def pack(
    rows: Sequence[Encoded],
    device: torch.device | None = None,
    skip: int = 0,
    *,
    prefix: bool = False,
) -> Pack:
    """Lays ``rows`` end to end, without their first ``skip`` tokens, none of which may predict a
    trained one.

    With ``prefix`` these tokens, the same in all rows, stand in front, once.
    """
    ids = list(rows[0].ids[:skip]) if prefix else []
    positions = list(range(len(ids)))
    predicts: list[int] = []
    targets: list[int] = []
    for row in rows:
        start, length = len(ids) - skip, len(row.ids) - 1
        ids += row.ids[skip:-1]
        positions += range(skip, length)
        predicts += [start + i for i in range(skip, length) if row.loss_mask[i + 1]]
        targets += [row.ids[i + 1] for i in range(skip, length) if row.loss_mask[i + 1]]
    input_ids, position_ids, places, wanted = sent([ids, positions, predicts, targets], device)
    lengths = (*([skip] if prefix else []), *(len(row.ids) - 1 - skip for row in rows))
    return Pack(input_ids[None], position_ids[None], lengths, places, wanted)


def micro_packs(
    rows: Sequence[Encoded],
    budget: int,
    at_least: int = 1,
    skip: int = 0,
    *,
    padded: bool = False,
    copied: float = 0.0,
) -> list[list[Encoded]]:
    """Deals ``rows`` into packs of at most ``budget`` tokens (a longer row is a pack of its own),
    evenly by tokens.

    The number of packs is a multiple of ``at_least`` where there are rows enough, so that every
    worker has as many. Of the first ``skip`` tokens, which all rows share, only the first pack
    holds a copy; for each row counts the part ``copied`` of them, which attention copies for it.
    Longest rows are dealt first. ``padded``: rows of a pack will be as long as its longest, which
    the budget then counts.
    """
    if padded:
        return _padded_packs(rows, budget, at_least)
    sizes = {id(row): len(row.ids) - skip + int(skip * copied) for row in rows}
    count = max(1, -(-(skip + sum(sizes[id(row)] for row in rows)) // budget))
    while True:
        count = min(len(rows), -(-count // at_least) * at_least)
        packs: list[list[Encoded]] = [[] for _ in range(count)]
        held = [skip, *[0] * (count - 1)]
        order = sorted(rows, key=lambda row: -len(row.ids))
        if skip:  # a prefix alone would be no pack
            packs[0].append(shortest := order.pop())
            held[0] += sizes[id(shortest)]
        for row in order:
            smallest = held.index(min(held))
            packs[smallest].append(row)
            held[smallest] += sizes[id(row)]
        if count == len(rows) or all(
            size <= budget or len(p) == 1 for size, p in zip(held, packs, strict=True)
        ):
            return packs
        count += 1


def _padded_packs(rows: Sequence[Encoded], budget: int, at_least: int) -> list[list[Encoded]]:
    """Rows of like length together, none in a pack of more than ``budget`` tokens with its padding
    unless it is alone.
    """
    order = sorted(rows, key=lambda row: -len(row.ids))
    most = -(-len(order) // at_least)  # rows in a pack: every worker gets one
    packs: list[list[Encoded]] = []
    for row in order:
        if (
            not packs
            or len(packs[-1]) >= most
            or (len(packs[-1]) + 1) * len(packs[-1][0].ids) > budget
        ):
            packs.append([])
        packs[-1].append(row)
    return packs


@dataclass(frozen=True)
class Alike:
    """Rows that begin with the same ``prefix`` tokens, which are worth computing once for all of
    them (0: they are not).
    """

    rows: tuple[Encoded, ...]
    prefix: int


def alike(rows: Sequence[Encoded], least_saved: int = LEAST_SAVED) -> list[Alike]:
    """Divides ``rows`` by how they begin. No token of a prefix predicts a trained one, so a prefix
    has no loss of its own.

    Rows with several beginnings (system prompts of a mixed data set) make several groups; what
    shares too little is left in one group without a prefix. Order within a group is the order of
    ``rows``.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i].ids)  # neighbours share most
    shared = [_common(rows[a], rows[b]) for a, b in itertools.pairwise(order)]

    groups = _divided(shared, least_saved)
    found = [
        Alike(tuple(rows[i] for i in sorted(order[first : last + 1])), prefix)
        for first, last, prefix in groups
    ]
    taken = {i for first, last, _ in groups for i in order[first : last + 1]}
    rest = tuple(row for i, row in enumerate(rows) if i not in taken)
    return [*found, *([Alike(rest, 0)] if rest else [])]


def _divided(shared: Sequence[int], least_saved: int) -> list[tuple[int, int, int]]:
    """Groups (first, last, prefix) of neighbours that save most tokens, where ``shared[i]`` is what
    i and i + 1 share.

    A span is best as one group, or divided where its neighbours share least: a tree, folded from
    its leaves up. It may be as deep as there are rows, so there is no recursion.
    """
    spans = [(0, len(shared))]
    for first, last in spans:  # grows while it is read: parents before children
        if first < last:
            least = min(range(first, last), key=shared.__getitem__)
            spans += [(first, least), (least + 1, last)]
    best: dict[tuple[int, int], tuple[int, list[tuple[int, int, int]]]] = {}
    for first, last in reversed(spans):
        if first >= last:
            best[first, last] = 0, []
            continue
        least = min(range(first, last), key=shared.__getitem__)
        (left, left_groups), (right, right_groups) = best[first, least], best[least + 1, last]
        together = (last - first) * shared[least]
        alone = together >= max(least_saved, left + right)
        best[first, last] = (
            (together, [(first, last, shared[least])])
            if alone
            else (left + right, left_groups + right_groups)
        )
    return best[0, len(shared)][1]


def _common(a: Encoded, b: Encoded) -> int:
    """Tokens both begin with, up to the one that predicts the first trained token of either."""
    limit = min(row.loss_mask.index(True) - 1 for row in (a, b))
    return next((i for i in range(limit) if a.ids[i] != b.ids[i]), max(0, limit))
