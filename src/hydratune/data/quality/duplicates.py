"""Which texts say nearly the same: by shared character 5-grams, and short ones by their words.

Candidates for near pairs come from MinHash signatures in bands (Broder 1997; Leskovec et al.,
"Mining of Massive Datasets",
3.4); each is verified on the 5-grams themselves. A pair at the very threshold is missed with a
  probability below 1e-5, a closer one with less.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

GRAM = 5  # characters
# grams that more of the texts share say nothing about likeness: an instruction before every request
_COMMON = 0.25
_FEW = 5  # texts that may share a gram in any case
_MISSPELLED = 5  # letters a word has at least, so that another spelling is no other word
_BUCKETS = 1 << 22  # of the counts of grams
_BANDS = 60
_MISSED = 1e-5  # probability, of a pair at the threshold
_MOST_HASHES = 16  # of a band
_NEIGHBOURS = 50  # texts in one bucket that are compared with each other
_MOST_PAIRS = (
    20  # for each text, on average: where all texts are alike, all pairs would be too many
)
_FACTORS = (np.uint64(0x9E3779B97F4A7C15) ** np.arange(1, GRAM + 1, dtype=np.uint64)).astype(
    np.uint64
)


def grams(text: str) -> NDArray[np.uint64]:
    """Sorted distinct hashes of the character 5-grams of ``text``; of the whole text if it is
    shorter.
    """
    codes = np.frombuffer(
        text.ljust(GRAM).encode("utf-32-le", errors="surrogatepass"), np.uint32
    ).astype(np.uint64)
    count = len(codes) - GRAM + 1
    hashes = np.zeros(count, np.uint64)
    for i in range(GRAM):
        hashes += codes[i : i + count] * _FACTORS[i]
    hashes ^= hashes >> np.uint64(31)
    hashes.sort()
    return hashes[
        np.concatenate(([True], hashes[1:] != hashes[:-1]))
    ]  # np.unique takes three times as long


def jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """Shared members over all members of two sorted sets."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


@dataclass(frozen=True)
class NearPairs:
    """Pairs of texts with a similarity from ``threshold`` up, ``first < second``, and whether any
    might be missing.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    capped: bool  # so many texts are alike that not all of them were compared

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.first.tolist(), self.second.tolist(), strict=True)


def near_pairs(
    count: int,
    text: Callable[[int], str],
    threshold: float,
    advance: Callable[[int], None] = lambda steps: None,
) -> NearPairs:
    """Near pairs among ``count`` distinct texts, which ``text(i)`` reads; ``advance`` is told of
    each text once.

    Compared are the grams that are not common to very many of the texts, so that an instruction
    which all of them repeat does not make them alike.

    Holds 240 bytes a text, whatever its length.
    """
    common = _common_grams(count, text)

    def telling(i: int) -> NDArray[np.uint64]:
        own = grams(text(i))
        kept = own[~common[_bucket(own)]]
        return kept if len(kept) else own

    bands = np.zeros((_BANDS, count), np.uint32)
    sign = _signer(_band_size(threshold))
    for i in range(count):
        bands[:, i] = sign(telling(i))
        advance(1)
    first, second, capped = _candidates(bands)
    read = lru_cache(maxsize=4096)(telling)
    similar = (
        jaccard(read(a), read(b)) >= threshold
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    )
    keep = np.fromiter(similar, bool, len(first))
    return NearPairs(first[keep], second[keep], capped)


def _bucket(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (hashes & np.uint64(_BUCKETS - 1)).astype(np.int64)


def _common_grams(count: int, text: Callable[[int], str]) -> NDArray[np.bool_]:
    """By bucket, whether more than ``_COMMON`` of the texts have a gram of it; judged on at most
    20,000 of them.
    """
    looked_at = range(0, count, max(1, count // 20_000))
    frequency = np.zeros(_BUCKETS, np.int32)
    for i in looked_at:
        frequency[_bucket(grams(text(i)))] += 1
    return frequency > max(_FEW, _COMMON * len(looked_at))


def _signer(size: int) -> Callable[[NDArray[np.uint64]], NDArray[np.uint32]]:
    """From the grams of a text to one number a band, made of ``size`` MinHashes each."""
    random = np.random.default_rng(0)
    factors = random.integers(1, 1 << 32, _BANDS * size, dtype=np.uint64).astype(
        np.uint32
    ) | np.uint32(1)
    mixers = (random.integers(1, 1 << 32, size, dtype=np.uint64).astype(np.uint32) | np.uint32(1))[
        None, :
    ]

    def sign(own: NDArray[np.uint64]) -> NDArray[np.uint32]:
        hashes = (own >> np.uint64(32)).astype(np.uint32)
        signature = np.multiply.outer(factors, hashes).min(axis=1).reshape(_BANDS, size)
        mixed = (signature ^ (signature >> np.uint32(15))) * mixers
        return np.asarray(mixed.sum(axis=1, dtype=np.uint32))

    return sign


def _band_size(threshold: float) -> int:
    """The most hashes a band may have so that a pair at the threshold is missed by all bands with
    at most ``_MISSED``.
    """
    needed = 1 - _MISSED ** (1 / _BANDS)
    return (
        _MOST_HASHES
        if threshold >= 1
        else max(1, min(_MOST_HASHES, math.floor(math.log(needed) / math.log(threshold))))
    )


def _candidates(bands: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Pairs that are equal in some band, each once, in order; and whether a bucket held too many to
    compare them all.
    """
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
        if len(found) > _MOST_PAIRS * count:
            return found // count, found % count, True
    return found // max(1, count), found % max(1, count), capped


def spelled_alike(cores: Mapping[int, str]) -> NearPairs:
    """Pairs of short requests (number -> its ``equality.core``) with the same telling words, up to
    one that is spelled otherwise.

    One letter more, less, other or exchanged, in a word of five letters or more and at its
    beginning only exchanged ("erfund"); words may be joined ("topup"). Numbers, values and signs
    are the same: "to Rome" and "to Paris", "at 5" and "at 6" are not alike.
    """
    holders: dict[str, list[int]] = defaultdict(list)
    for number, words in cores.items():
        holders[words.replace(" ", "")].append(number)
    found = {pair for same in holders.values() for pair in _all_pairs(same)}
    like = _misspelled({word for words in cores.values() for word in words.split()})
    for number, core in cores.items():
        words_ = core.split()
        for i, word in enumerate(words_):
            for other in like.get(word, ()):
                same = holders.get("".join((*words_[:i], other, *words_[i + 1 :])), ())
                found.update((min(number, n), max(number, n)) for n in same[:_NEIGHBOURS])
    pairs = np.asarray(sorted(found), np.int64).reshape(-1, 2)
    return NearPairs(
        pairs[:, 0], pairs[:, 1], any(len(same) > _NEIGHBOURS for same in holders.values())
    )


def _all_pairs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Each with those that follow it, as far as ``_NEIGHBOURS``."""
    for i, number in enumerate(numbers):
        for other in numbers[i + 1 : i + 1 + _NEIGHBOURS]:
            yield number, other


def _misspelled(vocabulary: set[str]) -> dict[str, list[str]]:
    """word -> the words one edit away from it (Damerau 1964), by the letters that are left when one
    is taken out.
    """
    shared: dict[str, list[str]] = defaultdict(list)
    for word in vocabulary:
        if len(word) >= _MISSPELLED and word.isalpha():
            # its first letters may be exchanged
            first = min(word[:2], word[1::-1]) + word[2:] + "\0"
            for variant in {word, first, *(word[:i] + word[i + 1 :] for i in range(1, len(word)))}:
                shared[variant].append(word)
    like: dict[str, set[str]] = defaultdict(set)
    for words in shared.values():
        for a in words if len(words) > 1 else ():
            like[a].update(b for b in words if a != b and _one_edit(a, b))
    return {word: sorted(others) for word, others in like.items()}


def _one_edit(a: str, b: str) -> bool:
    """Whether a letter put in, left out, replaced, or two neighbours exchanged make one word of the
    other.
    """
    start = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    if len(a) == len(b):
        return a[start + 1 :] == b[start + 1 :] or (
            a[start : start + 2] == b[start : start + 2][::-1] and a[start + 2 :] == b[start + 2 :]
        )
    return a[start + 1 :] == b[start:] or a[start:] == b[start + 1 :]
