"""Find short requests with the same key words except for one that is spelled differently."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from hydratune.data.quality.duplicates import NEIGHBOURS, NearPairs

_SHORTEST_MISSPELLED = 5  # letters; in a shorter word, one edit makes another word


def find_spelling_variants(key_words: Mapping[int, str]) -> NearPairs:
    """Return the pairs of requests whose key words are equal up to the spelling of one word.

    ``key_words`` maps the number of a request to its ``variants.key_words``. In a word of five
    letters or more, one letter may be added, missing, replaced or exchanged with its neighbour; at
    its beginning only exchanged ("erfund"). Words may be joined ("topup"). Numbers, values and
    symbols must be equal: "to Rome" and "to Paris", "at 5" and "at 6" are different requests.
    """
    numbers_of: dict[str, list[int]] = defaultdict(list)  # joined key words -> requests
    for number, text in key_words.items():
        numbers_of[text.replace(" ", "")].append(number)
    pairs = {pair for same in numbers_of.values() for pair in _neighbour_pairs(same)}
    spellings = _find_spellings(word for text in key_words.values() for word in text.split())
    for number, text in key_words.items():
        words = text.split()
        for i, word in enumerate(words):
            for other in spellings.get(word, ()):
                same = numbers_of.get("".join((*words[:i], other, *words[i + 1 :])), ())
                pairs.update((min(number, n), max(number, n)) for n in same[:NEIGHBOURS])
    columns = np.asarray(sorted(pairs), np.int64).reshape(-1, 2)
    capped = any(len(same) > NEIGHBOURS for same in numbers_of.values())
    return NearPairs(columns[:, 0], columns[:, 1], capped)


def _neighbour_pairs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pair each number with up to ``NEIGHBOURS`` of those that follow it."""
    for i, number in enumerate(numbers):
        for other in numbers[i + 1 : i + 1 + NEIGHBOURS]:
            yield number, other


def _find_spellings(words: Iterable[str]) -> dict[str, list[str]]:
    """Return word -> the other words one edit away from it (Damerau 1964).

    Two such words share a form that is left when one letter is deleted.
    """
    words_of: dict[str, list[str]] = defaultdict(list)  # form -> words
    for word in set(words):
        if len(word) >= _SHORTEST_MISSPELLED and word.isalpha():
            for form in _deletion_forms(word):
                words_of[form].append(word)
    spellings: dict[str, set[str]] = defaultdict(set)
    for same_form in words_of.values():
        for word in same_form if len(same_form) > 1 else ():
            spellings[word].update(w for w in same_form if w != word and _is_one_edit(word, w))
    return {word: sorted(others) for word, others in spellings.items()}


def _deletion_forms(word: str) -> set[str]:
    """Return the word, the word without each letter but the first, and one more form.

    That form is the same for the first two letters in either order.
    """
    exchanged_start = min(word[:2], word[1::-1]) + word[2:] + "\0"
    return {word, exchanged_start, *(word[:i] + word[i + 1 :] for i in range(1, len(word)))}


def _is_one_edit(a: str, b: str) -> bool:
    """Return whether one edit turns one word into the other.

    An edit adds, deletes or replaces one letter, or exchanges two neighbours.
    """
    start = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    if len(a) == len(b):
        is_replaced = a[start + 1 :] == b[start + 1 :]
        is_exchanged = a[start : start + 2] == b[start : start + 2][::-1]
        return is_replaced or (is_exchanged and a[start + 2 :] == b[start + 2 :])
    return a[start + 1 :] == b[start:] or a[start:] == b[start + 1 :]
