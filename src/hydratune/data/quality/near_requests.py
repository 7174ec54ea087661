"""Which requests of a data set are equal or nearly equal, by number."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hydratune.data.quality.duplicates import NearPairs, find_near_pairs
from hydratune.data.quality.fingerprints import Fingerprints
from hydratune.data.quality.spelling import find_spelling_variants
from hydratune.data.quality.variants import folded, key_words
from hydratune.data.store import RowStore


def merge_requests(prints: Fingerprints) -> NDArray[np.int64]:
    """Return for each strict text the number of its request.

    A request is all texts that differ only in symbols and have the same answer somewhere; its
    number is that of its first text.
    """
    request_of = list(range(len(prints.text_numbers)))

    def root(text: int) -> int:
        while request_of[text] != text:
            request_of[text] = request_of[request_of[text]]
            text = request_of[text]
        return text

    first_text: dict[tuple[int, int], int] = {}  # (words, answer) -> text
    for text, words, answer in zip(prints.texts, prints.words, prints.answer_forms, strict=True):
        other = first_text.setdefault((words, answer), text)
        if other != text:
            a, b = root(other), root(text)
            request_of[max(a, b)] = min(a, b)
    return np.asarray([root(text) for text in range(len(request_of))], np.int64)


def find_near_requests(
    prints: Fingerprints,
    store: RowStore,
    request_of: NDArray[np.int64],
    similarity: float,
    advance: Callable[[int], None],
) -> tuple[dict[int, list[int]], bool]:
    """Return (request -> the requests nearly equal to it, whether some were not compared).

    ``request_of`` comes from ``merge_requests``; ``advance`` is called once per text.
    """
    pairs_of_texts = _find_pairs(prints, store, similarity, advance)
    pairs = {(int(request_of[a]), int(request_of[b])) for some in pairs_of_texts for a, b in some}
    near: dict[int, list[int]] = {}
    for a, b in sorted(pairs):
        if a != b and b not in near.get(a, ()):
            near.setdefault(a, []).append(b)
            near.setdefault(b, []).append(a)
    return near, any(some.capped for some in pairs_of_texts)


def _find_pairs(
    prints: Fingerprints, store: RowStore, similarity: float, advance: Callable[[int], None]
) -> list[NearPairs]:
    """Find near pairs of texts by their 5-grams, and of short ones by their key words."""
    first_row = np.zeros(len(prints.text_numbers), np.int64)  # text -> the first row with it
    backwards = np.arange(len(prints))[::-1]
    first_row[np.frombuffer(prints.texts, np.int64)[::-1]] = backwards
    key_words_of: dict[int, str] = {}

    def read(number: int) -> str:
        text = folded(store.key(int(first_row[number])))
        if number not in key_words_of:
            key_words_of[number] = key_words(text)
        return text

    pairs = [find_near_pairs(len(first_row), read, similarity, advance)]
    if similarity < 1:
        short = {number: kept for number, kept in sorted(key_words_of.items()) if kept}
        pairs.append(find_spelling_variants(short))
    return pairs
