"""How the rows of a batch are divided into micro-packs, and which share a prefix.

Pure functions of token ids and loss masks: no tensor, no model. A plan is a list of ``MicroPack``,
each of which is one forward and backward pass.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from hydratune.data.encoding.encoded import Encoded

# tokens: reading a prefix on its own costs about as much as these, so sharing must save more
LEAST_SAVED = 128


@dataclass(frozen=True)
class PlanOptions:
    """How large micro-packs are, and for how many workers."""

    micro_tokens: int  # of one micro-pack, at most
    workers: int = 1  # the number of micro-packs is a multiple of it where there are rows enough
    padded: bool = False  # rows of a micro-pack are as long as the longest of them
    # the part of a shared prefix that attention copies for each row
    copied: float = 0.0


@dataclass(frozen=True)
class MicroPack:
    """Rows that are computed in one forward and backward pass.

    Micro-packs of one group share the first ``prefix`` tokens. One of them holds the prefix, which
    is computed in front of its rows; the others read its keys and values.
    """

    rows: Sequence[Encoded]
    prefix: int = 0  # tokens; 0: none is shared
    group: int | None = None  # number of the group; None: no prefix is shared
    readers: int = 0  # other micro-packs of the group, where this one holds the prefix
    reader: int | None = None  # the number of this one among them; None: it holds the prefix
    seed: int | None = None  # of the generator that it draws from; None: the process's generator

    @property
    def holds_prefix(self) -> bool:
        return self.group is not None and self.reader is None


def plan(
    rows: Sequence[Encoded], options: PlanOptions, *, share: bool, seed: int | None = None
) -> list[MicroPack]:
    """Divide ``rows`` into micro-packs. Rows without a trained token are dropped.

    ``share``: compute once what several rows begin with. ``seed``: of the first micro-pack; the
    others count upwards from it.
    """
    rows = [row for row in rows if True in row.loss_mask[1:]]  # the others add nothing
    if not rows:
        return []
    micro: list[MicroPack] = []
    groups = groups_by_prefix(rows) if share else [PrefixGroup(tuple(rows), 0)]
    for number, group in enumerate(groups):
        parts = micro_packs(
            group.rows,
            options.micro_tokens,
            options.workers,
            group.prefix,
            padded=options.padded,
            copied=options.copied,
        )
        for place, part in enumerate(parts):
            micro.append(
                MicroPack(
                    part,
                    group.prefix,
                    number if group.prefix else None,
                    readers=len(parts) - 1 if group.prefix and place == 0 else 0,
                    reader=place - 1 if group.prefix and place else None,
                    seed=None if seed is None else seed + len(micro),
                )
            )
    return micro


def micro_packs(
    rows: Sequence[Encoded],
    budget: int,
    at_least: int = 1,
    prefix: int = 0,
    *,
    padded: bool = False,
    copied: float = 0.0,
) -> list[list[Encoded]]:
    """Divide ``rows`` into packs of at most ``budget`` tokens, evenly by tokens.

    A longer row is a pack of its own. The number of packs is a multiple of ``at_least`` where there
    are rows enough, so that every worker has as many. Of the first ``prefix`` tokens, which all
    rows share, only the first pack holds a copy; for each row the part ``copied`` of them counts,
    which attention copies for it. ``padded``: rows of a pack will be as long as its longest, which
    the budget then counts.
    """
    if padded:
        return _padded_packs(rows, budget, at_least)
    sizes = {id(row): len(row.ids) - prefix + int(prefix * copied) for row in rows}
    count = max(1, -(-(prefix + sum(sizes[id(row)] for row in rows)) // budget))
    while True:
        count = min(len(rows), -(-count // at_least) * at_least)
        packs: list[list[Encoded]] = [[] for _ in range(count)]
        held = [prefix, *[0] * (count - 1)]
        order = sorted(rows, key=lambda row: -len(row.ids))
        if prefix:  # a prefix alone would be no pack
            packs[0].append(shortest := order.pop())
            held[0] += sizes[id(shortest)]
        for row in order:  # the longest first, each into the pack with the fewest tokens
            smallest = held.index(min(held))
            packs[smallest].append(row)
            held[smallest] += sizes[id(row)]
        if count == len(rows) or all(
            size <= budget or len(p) == 1 for size, p in zip(held, packs, strict=True)
        ):
            return packs
        count += 1


def _padded_packs(rows: Sequence[Encoded], budget: int, at_least: int) -> list[list[Encoded]]:
    """Put rows of similar length together, none in a pack of more than ``budget`` tokens with its
    padding unless it is alone.
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
class PrefixGroup:
    """Rows that begin with the same ``prefix`` tokens, which are worth computing once for all of
    them; 0: they are not.
    """

    rows: tuple[Encoded, ...]
    prefix: int


def groups_by_prefix(rows: Sequence[Encoded], least_saved: int | None = None) -> list[PrefixGroup]:
    """Group ``rows`` by the tokens they begin with.

    No token of a prefix predicts a trained one, so a prefix has no loss of its own. Rows with
    several beginnings (system prompts of a mixed data set) make several groups; rows that share too
    little are one group without a prefix. Order within a group is the order of ``rows``.
    ``least_saved``: tokens that sharing must save; None: ``LEAST_SAVED``.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i].ids)  # neighbours share most
    shared = [_common(rows[a], rows[b]) for a, b in itertools.pairwise(order)]
    spans = _best_spans(shared, LEAST_SAVED if least_saved is None else least_saved)
    groups = [
        PrefixGroup(tuple(rows[i] for i in sorted(order[first : last + 1])), prefix)
        for first, last, prefix in spans
    ]
    grouped = {i for first, last, _ in spans for i in order[first : last + 1]}
    rest = tuple(row for i, row in enumerate(rows) if i not in grouped)
    return [*groups, *([PrefixGroup(rest, 0)] if rest else [])]


Span = tuple[int, int, int]  # first row, last row, tokens of their prefix


def _best_spans(shared: Sequence[int], least_saved: int) -> list[Span]:
    """Return the groups of neighbours that save most tokens, where ``shared[i]`` is what rows i and
    i + 1 share.

    A span is best as one group, or divided where its neighbours share least: a tree, folded from
    its leaves up. It may be as deep as there are rows, so there is no recursion.
    """
    spans = [(0, len(shared))]
    for first, last in spans:  # grows while it is read: parents before children
        if first < last:
            least = min(range(first, last), key=shared.__getitem__)
            spans += [(first, least), (least + 1, last)]
    best: dict[tuple[int, int], tuple[int, list[Span]]] = {}  # span -> tokens saved, groups
    for first, last in reversed(spans):
        if first >= last:
            best[first, last] = 0, []
            continue
        least = min(range(first, last), key=shared.__getitem__)
        (lower, lower_groups), (upper, upper_groups) = best[first, least], best[least + 1, last]
        as_one = (last - first) * shared[least]
        if as_one >= max(least_saved, lower + upper):
            best[first, last] = as_one, [(first, last, shared[least])]
        else:
            best[first, last] = lower + upper, lower_groups + upper_groups
    return best[0, len(shared)][1]


def _common(a: Encoded, b: Encoded) -> int:
    """Return how many tokens both begin with, up to the one that predicts the first trained token
    of either.
    """
    limit = min(row.loss_mask.index(True) - 1 for row in (a, b))
    return next((i for i in range(limit) if a.ids[i] != b.ids[i]), max(0, limit))
