"""Rows laid end to end: which begin alike, which are computed together, and the tensors of such a pack."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hydratune.data.masking import Encoded

LEAST_SAVED = 128  # tokens: reading a prefix on its own costs about as much as these, so sharing must save more


@dataclass(frozen=True)
class Pack:
    """Rows laid end to end; the last token of a row is only ever a target, never an input."""

    input_ids: torch.Tensor  # (1, tokens)
    position_ids: torch.Tensor  # (1, tokens), in every row from where the prefix ends
    row_lengths: tuple[int, ...]
    predicts: torch.Tensor  # (targets,) positions whose next token is trained
    targets: torch.Tensor  # (targets,)


def pack(rows: Sequence[Encoded], device: torch.device | None = None, skip: int = 0, *, prefix: bool = False) -> Pack:
    """Lays ``rows`` end to end, without their first ``skip`` tokens, none of which may predict a trained one.

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
        predicts += [start + i for i in range(skip, length) if row.trained[i + 1]]
        targets += [row.ids[i + 1] for i in range(skip, length) if row.trained[i + 1]]
    return Pack(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        (*([skip] if prefix else []), *(len(row.ids) - 1 - skip for row in rows)),
        torch.tensor(predicts, device=device),
        torch.tensor(targets, device=device),
    )


def micro_packs(rows: Sequence[Encoded], budget: int, at_least: int = 1, skip: int = 0) -> list[list[Encoded]]:
    """Deals ``rows`` into packs of at most ``budget`` tokens (a longer row is a pack of its own), evenly by tokens.

    The number of packs is a multiple of ``at_least`` where there are rows enough, so that every worker has as many.
    Of the first ``skip`` tokens, which all rows share, only the first pack holds a copy. Longest rows are dealt first.
    """
    sizes = {id(row): len(row.ids) - skip for row in rows}
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
        if count == len(rows) or all(size <= budget or len(p) == 1 for size, p in zip(held, packs, strict=True)):
            return packs
        count += 1


@dataclass(frozen=True)
class Alike:
    """Rows that begin with the same ``prefix`` tokens, which are worth computing once for all of them (0: they are not)."""

    rows: tuple[Encoded, ...]
    prefix: int


def alike(rows: Sequence[Encoded], least_saved: int = LEAST_SAVED) -> list[Alike]:
    """Divides ``rows`` by how they begin. No token of a prefix predicts a trained one, so a prefix has no loss of its own.

    Rows with several beginnings (system prompts of a mixed data set) make several groups; what shares too little is left
    in one group without a prefix. Order within a group is the order of ``rows``.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i].ids)  # neighbours share most
    shared = [_common(rows[a], rows[b]) for a, b in itertools.pairwise(order)]

    def best(first: int, last: int) -> tuple[int, list[tuple[int, int, int]]]:
        """(tokens saved, groups as (first, last, prefix)) of the best division of ``order[first : last + 1]``."""
        if first == last:
            return 0, []
        least = min(range(first, last), key=lambda i: shared[i])
        left, right = best(first, least), best(least + 1, last)
        divided = left[0] + right[0], left[1] + right[1]
        together = (last - first) * shared[least]
        return (together, [(first, last, shared[least])]) if together >= max(least_saved, divided[0]) else divided

    _, groups = best(0, len(rows) - 1) if rows else (0, [])
    found = [Alike(tuple(rows[i] for i in sorted(order[first : last + 1])), prefix) for first, last, prefix in groups]
    taken = {i for first, last, _ in groups for i in order[first : last + 1]}
    rest = tuple(row for i, row in enumerate(rows) if i not in taken)
    return [*found, *([Alike(rest, 0)] if rest else [])]


def _common(a: Encoded, b: Encoded) -> int:
    """Tokens both begin with, up to the one that predicts the first trained token of either."""
    limit = min(row.trained.index(True) - 1 for row in (a, b))
    return next((i for i in range(limit) if a.ids[i] != b.ids[i]), max(0, limit))
