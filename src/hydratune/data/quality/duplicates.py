"""Which texts say the same: exactly, apart from case and punctuation, or nearly, by shared character 5-grams.

Candidates for near pairs come from MinHash signatures in bands (Broder 1997; Leskovec et al., "Mining of Massive Datasets",
3.4); each is verified on the 5-grams themselves. A pair at the very threshold is missed with a probability below 1e-5, a
closer one with less. Texts with little in common are never compared.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

GRAM = 5  # characters
_MARKS = re.compile(r"[\s.,;:!?'\"`´’‘“”„«»…–—()\[\]{}/\\*~$#@_&|^]+")
_ARITHMETIC = re.compile(r"(?<=\d)\s*([*/^])\s*(?=\d)")
_BANDS = 60
_MISSED = 1e-5  # probability, of a pair at the threshold
_MOST_HASHES = 16  # of a band
_NEIGHBOURS = 200  # texts in one bucket that are compared with each other
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
    """Near pairs among ``count`` distinct texts, which ``text(i)`` reads; ``advance`` is told of each text once.

    Holds 240 bytes a text, whatever its length.
    """
    size = _band_size(threshold)
    random = np.random.default_rng(0)
    factors = random.integers(1, 1 << 32, _BANDS * size, dtype=np.uint64).astype(np.uint32) | np.uint32(1)
    mixers = (random.integers(1, 1 << 32, size, dtype=np.uint64).astype(np.uint32) | np.uint32(1))[None, :]
    bands = np.zeros((_BANDS, count), np.uint32)
    for i in range(count):
        hashes = (grams(text(i)) >> np.uint64(32)).astype(np.uint32)
        signature = np.multiply.outer(factors, hashes).min(axis=1).reshape(_BANDS, size)
        bands[:, i] = ((signature ^ (signature >> np.uint32(15))) * mixers).sum(axis=1, dtype=np.uint32)
        advance(1)
    first, second, capped = _candidates(bands)
    read = lru_cache(maxsize=4096)(lambda i: grams(text(i)))
    similar = (jaccard(read(a), read(b)) >= threshold for a, b in zip(first.tolist(), second.tolist(), strict=True))
    keep = np.fromiter(similar, bool, len(first))
    return NearPairs(first[keep], second[keep], capped)


def _band_size(threshold: float) -> int:
    """The most hashes a band may have so that a pair at the threshold is missed by all bands with at most ``_MISSED``."""
    needed = 1 - _MISSED ** (1 / _BANDS)
    return _MOST_HASHES if threshold >= 1 else max(1, min(_MOST_HASHES, math.floor(math.log(needed) / math.log(threshold))))


def _candidates(bands: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Pairs that are equal in some band, each once, in order; and whether a bucket held too many to compare them all."""
    count = bands.shape[1]
    found = np.zeros(0, np.int64)
    capped = False
    for band in bands:
        order = np.argsort(band, kind="stable")
        at, values = np.arange(count), band[order]
        pairs = [found]
        for step in range(1, _NEIGHBOURS + 1):
            at = at[at + step < count]
            at = at[values[at] == values[at + step]]
            if not len(at):
                break
            a, b = order[at], order[at + step]
            pairs.append(np.minimum(a, b) * count + np.maximum(a, b))
        else:
            capped = True
        found = np.unique(np.concatenate(pairs))
    return found // max(1, count), found % max(1, count), capped
