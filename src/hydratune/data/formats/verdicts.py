"""Recognise names and values that call an answer good or bad, in columns and in keys of turns.

A name is taken apart into words: ``kto_label``, ``isCorrect`` and ``response_harmful`` are marks by
their words ``label``, ``correct`` and ``harmful``. A false value under a good word, a true value
under a bad word, and words such as "rejected" say that the answer is not to be learned. Names of
the request's own properties (``prompt_harmful``) say nothing about the answer.
"""

import functools
import re
from dataclasses import dataclass


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A name made of words of these four sets alone is a mark; a single strong one is enough.
_GOOD_STRONG = _set("""
    acceptable accepted approved chosen correct desirable factual faithful harmless helpful liked
    passed preferred safe successful trusted truthful upvote upvoted usable valid
    """)
_GOOD = _GOOD_STRONG | _set("""
    accept accurate correctness evaluation feedback good grade include included judgement judgment
    keep kept label labels learn learnable like likes ok okay outcome pass passes preference quality
    rating ratings relevant reliable reward right safety score status success tag target thumb
    thumbs up upvotes use useful validity verdict verified vote votes
    """)
_BAD_STRONG = _set("""
    bad discarded disliked dispreferred downvote downvoted failed flagged hallucinated hallucinates
    hallucination hallucinations harmful inaccurate incorrect invalid misleading offensive reject
    rejected spam toxic unacceptable undesirable unhelpful unsafe untruthful wrong
    """)
_BAD = _BAD_STRONG | _set("""
    broken corrupt corrupted deleted discard dislike down drop error errors exclude excluded fail
    fails failure flag ignore ignored mistake mistakes removed skip skipped toxicity
    """)
_ANSWERS = _set("answer response completion output reply")
_FILLERS = _ANSWERS | _set("""
    a annotator are as assistant binary contains example final has human is judge kto llm marked
    message model row sample the turn user was
    """)
_OF_REQUESTS = _set("context input instruction problem prompt query question request")
_NEGATIONS = _set("not non no never")
# under these, 0 and 1 may be grades, counts or classes
_GRADED = _set("""
    correctness errors evaluation grade judgement judgment likes mistakes outcome preference quality
    rating ratings reward safety score status target toxicity upvotes verdict vote votes
    """)
_BAD_VALUES = _set(
    "bad wrong incorrect reject rejected undesirable thumbs_down down dislike disliked"
) | {"thumbs down"}
_NEGATIVE_VALUES = _set(
    "negative fail failed poor no n invalid unsafe harmful unhelpful downvote downvoted -1"
) | {"not correct"}
# under these, a negative value may be a class: of sentiment, or of yes and no
_CLASSES = _set("label labels tag target status")
_TRUTHS = {"true": True, "false": False}
_NUMBERS = {"1": True, "0": False}


@dataclass(frozen=True)
class _Mark:
    """What a name that may be a mark says."""

    true_is_good: bool
    is_only_mark: bool  # the name is nothing but a mark


@functools.cache
def split_words(name: str) -> tuple[str, ...]:
    """Return the lower-case words of a name: isGood, is-good and is_good -> is, good."""
    snake_case = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return tuple(word for word in re.split(r"[^a-z0-9]+", snake_case) if word)


@functools.cache
def _read_name(name: str) -> _Mark | None:
    """Return what a name says as a mark of an answer; None: it is no mark."""
    words = split_words(name)
    if not _OF_REQUESTS.isdisjoint(words) and _ANSWERS.isdisjoint(words):
        return None
    own = [word for word in words if word not in _FILLERS and word not in _NEGATIONS]
    whole = bool(own) and all(word in _GOOD | _BAD for word in own)
    marks = own if whole else [word for word in own if word in _GOOD_STRONG | _BAD_STRONG]
    if not marks:
        return None
    true_is_good = _BAD.isdisjoint(marks) != (not _NEGATIONS.isdisjoint(words))
    # correct_answer, best_response
    holds_an_answer = words[-1] in _ANSWERS and words[0] not in ("is", "was")
    return _Mark(true_is_good, whole and not holds_an_answer)


def is_mark(name: str) -> bool:
    """Return whether a name is nothing but a mark."""
    mark = _read_name(name)
    return mark is not None and mark.is_only_mark


def is_bad(name: str, value: object) -> bool:
    """Return whether ``value`` under ``name`` says that an answer is not to be learned."""
    mark = _read_name(name)
    if value is None or value != value or mark is None:
        return False
    words = split_words(name)
    numbers = mark.is_only_mark and _GRADED.isdisjoint(words)
    if isinstance(value, list):  # a mark of each turn
        return mark.is_only_mark and any(
            isinstance(item, bool) or (numbers and item in (0, 1)) for item in value
        )
    if mark.is_only_mark and _is_bad_word_or_minus_one(value, words, mark.true_is_good):
        return True
    truth = truth_of(value, numbers=numbers)
    return truth is not None and truth is not mark.true_is_good


def _is_bad_word_or_minus_one(value: object, words: tuple[str, ...], true_is_good: bool) -> bool:
    if isinstance(value, str):
        text = value.strip().lower()
        if not true_is_good:
            return text in ("yes", "y")
        return text in _BAD_VALUES or (text in _NEGATIVE_VALUES and _CLASSES.isdisjoint(words))
    return true_is_good and isinstance(value, int | float) and value == -1 and "score" not in words


def truth_of(value: object, *, numbers: bool = True) -> bool | None:
    """Return true or false for a value that means one of them, also as a CSV file writes it.

    With ``numbers``, 0 and 1 are truth values too. None for all other values.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return (_TRUTHS | _NUMBERS if numbers else _TRUTHS).get(value.strip().lower())
    return bool(value) if numbers and isinstance(value, int | float) and value in (0, 1) else None


def good_value(value: object) -> str:
    """Return the data.keep value that keeps the rows with the opposite of a bad ``value``."""
    truth = truth_of(value)
    return "VALUE" if truth is None else str(not truth).lower()
