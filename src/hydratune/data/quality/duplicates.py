"""Which texts say the same: exactly, apart from case and punctuation, or nearly, by shared character 5-grams.

Near pairs are found exactly, not by sampling: two sets with a Jaccard similarity of at least t share a member among the
rarest n - ceil(t n) + 1 of each (prefix filtering: Bayardo et al. 2007, "Scaling up all pairs similarity search"). Only texts
that do are compared, so boilerplate that all texts share costs nothing.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

GRAM = 5  # characters
_MARKS = re.compile(r"[\s.,;:!?'\"`´’‘“”„«»…–—()\[\]{}/\\*~$#@_&|^]+")
_ARITHMETIC = re.compile(r"(?<=\d)\s*([*/^])\s*(?=\d)")
_BUCKETS = 1 << 22  # of the counts that order grams by rarity
_NEIGHBOURS = 400  # texts with a rare gram in common that are compared with each other
_FACTORS = (np.uint64(0x9E3779B97F4A7C15) ** np.arange(1, GRAM + 1, dtype=np.uint64)).astype(np.uint64)


def normalised(text: str) -> str:
    """``text`` without what people vary freely: case, spaces, brackets, quotes and sentence marks. 3 * 4 stays other than 3 / 4."""
    text = _ARITHMETIC.sub(lambda found: f" o{ord(found[1])} ", unicodedata.normalize("NFKC", text).casefold())
    return _MARKS.sub(" ", text).strip()


def grams(text: str) -> NDArray[np.uint64]:
    """Sorted distinct hashes of the character 5-grams of ``text``; of the whole text if it is shorter."""
    codes = np.frombuffer(text.ljust(GRAM).encode("utf-32-le", errors="surrogatepass"), np.uint32).astype(np.uint64)
    count = len(codes) - GRAM + 1
    hashes = np.zeros(count, np.uint64)
    for i in range(GRAM):
        hashes += codes[i : i + count] * _FACTORS[i]
    hashes ^= hashes >> np.uint64(31)
    hashes.sort()
    return hashes[np.concatenate(([True], hashes[1:] != hashes[:-1]))]  # np.unique takes three times as long


def jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """Shared members over all members of two sorted sets."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


@dataclass(frozen=True)
class NearPairs:
    """Pairs of texts with a similarity from ``threshold`` up, ``first < second``, and whether any might be missing."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    capped: bool  # so many texts share their rarest grams that not all of them were compared

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.first.tolist(), self.second.tolist(), strict=True)


def near_pairs(count: int, text: Callable[[int], str], threshold: float, advance: Callable[[int], None] = lambda steps: None) -> NearPairs:
    """All near pairs among ``count`` distinct texts, which ``text(i)`` reads; ``advance`` is told of 2 * count steps.

    Holds 12 bytes for about every fifth gram, whatever the length of the texts.
    """
    frequency = np.zeros(_BUCKETS, np.int64)
    for i in range(count):
        np.add.at(frequency, _bucket(grams(text(i))), 1)
        advance(1)
    rare: list[NDArray[np.uint64]] = []
    sizes = np.zeros(count, np.int64)
    for i in range(count):
        own = grams(text(i))
        sizes[i] = len(own)
        take = len(own) - math.ceil(threshold * len(own) - 1e-9) + 1
        order = np.lexsort((own, frequency[_bucket(own)]))
        rare.append(own[order[:take]])
        advance(1)
    first, second, capped = _candidates(rare, sizes, threshold)
    read = lru_cache(maxsize=4096)(lambda i: grams(text(i)))
    keep = np.fromiter(
        (jaccard(read(a), read(b)) >= threshold for a, b in zip(first.tolist(), second.tolist(), strict=True)), bool, len(first)
    )
    return NearPairs(first[keep], second[keep], capped)


def _bucket(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (hashes & np.uint64(_BUCKETS - 1)).astype(np.int64)


def _candidates(
    rare: Sequence[NDArray[np.uint64]], sizes: NDArray[np.int64], threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Pairs that share a rare gram and whose sizes allow the threshold, without repetition, in order."""
    count = len(sizes)
    if not count:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), False
    owner = np.repeat(np.arange(count, dtype=np.int32), [len(r) for r in rare])
    gram = np.concatenate(rare)
    order = np.lexsort((owner, sizes[owner], gram))
    owner, gram = owner[order], gram[order]
    found = np.zeros(0, np.int64)
    at = np.arange(len(gram))
    for step in range(1, _NEIGHBOURS + 1):
        at = at[at + step < len(gram)]
        at = at[gram[at] == gram[at + step]]
        a, b = owner[at], owner[at + step]
        at = at[sizes[a] >= threshold * sizes[b] - 1e-9]  # sorted by size: whoever is too small now stays so
        if not len(at):
            break
        a, b = owner[at].astype(np.int64), owner[at + step].astype(np.int64)
        found = np.union1d(found, np.minimum(a, b) * count + np.maximum(a, b))
    return found // count, found % count, bool(len(at))
