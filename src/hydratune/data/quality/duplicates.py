"""Find texts that are nearly equal by the character 5-grams that they share.

Candidate pairs come from MinHash signatures in bands (Broder 1997; Leskovec et al., "Mining of
Massive Datasets", 3.4). Each candidate is verified on the 5-grams themselves. A pair at the
similarity threshold is missed with a probability below 1e-5, a closer pair with less.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

GRAM = 5  # characters
# Grams of a larger share of the texts do not count, such as an instruction before every request.
_COMMON = 0.25
_ALWAYS_COUNTED = 5  # texts that may share a gram in any case
_SAMPLED_TEXTS = 20_000  # on which common grams are counted
_BUCKETS = 1 << 22  # of the counts of grams
_BANDS = 60
_MISS_PROBABILITY = 1e-5  # of a pair at the threshold
_MOST_HASHES = 16  # per band
NEIGHBOURS = 50  # texts in one bucket that are compared with each other
_MOST_PAIRS = 20  # per text, on average; if all texts are similar, all pairs would be too many
_FACTORS = (np.uint64(0x9E3779B97F4A7C15) ** np.arange(1, GRAM + 1, dtype=np.uint64)).astype(
    np.uint64
)


def grams(text: str) -> NDArray[np.uint64]:
    """Return the sorted distinct hashes of the character 5-grams of ``text``.

    A shorter text is padded with blanks to one 5-gram.
    """
    encoded = text.ljust(GRAM).encode("utf-32-le", errors="surrogatepass")
    codes = np.frombuffer(encoded, np.uint32).astype(np.uint64)
    count = len(codes) - GRAM + 1
    hashes = np.zeros(count, np.uint64)
    for i in range(GRAM):
        hashes += codes[i : i + count] * _FACTORS[i]
    hashes ^= hashes >> np.uint64(31)
    hashes.sort()
    is_first = np.concatenate(([True], hashes[1:] != hashes[:-1]))
    return hashes[is_first]  # np.unique takes three times as long


def jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """Return the shared members of two sorted sets as a share of all their members."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


@dataclass(frozen=True)
class NearPairs:
    """Pairs of similar texts, each with ``first < second``."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    capped: bool  # pairs may be missing, because so many texts are similar

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.first.tolist(), self.second.tolist(), strict=True)


def find_near_pairs(
    count: int,
    text: Callable[[int], str],
    threshold: float,
    advance: Callable[[int], None] = lambda steps: None,
) -> NearPairs:
    """Return the pairs with at least ``threshold`` Jaccard similarity among ``count`` texts.

    The texts are distinct, and ``text(i)`` reads one. ``advance`` is called once per text. Grams
    that very many of the texts share are not compared, so that an instruction which all of them
    repeat does not make them similar.

    Memory: 240 bytes per text, whatever its length.
    """
    common = _find_common_grams(count, text)

    def counted_grams(i: int) -> NDArray[np.uint64]:
        own = grams(text(i))
        rare = own[~common[_bucket(own)]]
        return rare if len(rare) else own

    bands = np.zeros((_BANDS, count), np.uint32)
    sign = _make_signer(_band_size(threshold))
    for i in range(count):
        bands[:, i] = sign(counted_grams(i))
        advance(1)
    first, second, capped = _find_candidates(bands)
    read = lru_cache(maxsize=4096)(counted_grams)
    candidates = zip(first.tolist(), second.tolist(), strict=True)
    is_similar = (jaccard(read(a), read(b)) >= threshold for a, b in candidates)
    kept = np.fromiter(is_similar, bool, len(first))
    return NearPairs(first[kept], second[kept], capped)


def _bucket(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (hashes & np.uint64(_BUCKETS - 1)).astype(np.int64)


def _find_common_grams(count: int, text: Callable[[int], str]) -> NDArray[np.bool_]:
    """Return for each bucket whether more than ``_COMMON`` of the texts have a gram in it."""
    sample = range(0, count, max(1, count // _SAMPLED_TEXTS))
    frequency = np.zeros(_BUCKETS, np.int32)
    for i in sample:
        frequency[_bucket(grams(text(i)))] += 1
    return frequency > max(_ALWAYS_COUNTED, _COMMON * len(sample))


def _make_signer(size: int) -> Callable[[NDArray[np.uint64]], NDArray[np.uint32]]:
    """Return a function from the grams of a text to one number per band, of ``size`` MinHashes."""
    random = np.random.default_rng(0)

    def odd_numbers(count: int) -> NDArray[np.uint32]:
        drawn = random.integers(1, 1 << 32, count, dtype=np.uint64)
        return drawn.astype(np.uint32) | np.uint32(1)

    factors = odd_numbers(_BANDS * size)
    mixers = odd_numbers(size)[None, :]

    def sign(own: NDArray[np.uint64]) -> NDArray[np.uint32]:
        hashes = (own >> np.uint64(32)).astype(np.uint32)
        signature = np.multiply.outer(factors, hashes).min(axis=1).reshape(_BANDS, size)
        mixed = (signature ^ (signature >> np.uint32(15))) * mixers
        return np.asarray(mixed.sum(axis=1, dtype=np.uint32))

    return sign


def _band_size(threshold: float) -> int:
    """Return the most hashes a band may have.

    All bands together may miss a pair at the threshold with ``_MISS_PROBABILITY`` at most.
    """
    if threshold >= 1:
        return _MOST_HASHES
    needed = 1 - _MISS_PROBABILITY ** (1 / _BANDS)
    size = math.floor(math.log(needed) / math.log(threshold))
    return max(1, min(_MOST_HASHES, size))


def _find_candidates(
    bands: NDArray[np.uint32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Return the pairs that are equal in some band, in order, and whether some were not compared.

    ``bands`` has the shape (bands, texts).
    """
    count = bands.shape[1]
    pairs = np.zeros(0, np.int64)  # a pair (a, b) is the number a * count + b
    capped = False
    for band in bands:
        order = np.argsort(band, kind="stable")
        at, values = np.arange(count), band[order]
        of_band = [pairs]
        for step in range(1, NEIGHBOURS + 1):
            at = at[at + step < count]
            at = at[values[at] == values[at + step]]
            if not len(at):
                break
            a, b = order[at], order[at + step]
            of_band.append(np.minimum(a, b) * count + np.maximum(a, b))
        else:
            capped = True
        pairs = np.unique(np.concatenate(of_band))
        if len(pairs) > _MOST_PAIRS * count:
            return pairs // count, pairs % count, True
    return pairs // max(1, count), pairs % max(1, count), capped
