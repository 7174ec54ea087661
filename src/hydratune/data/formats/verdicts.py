"""Names and values that call an answer good or bad, as columns of rows and keys of turns have them.

A name is taken apart into words: ``kto_label``, ``isCorrect`` and ``response_harmful`` are marks by
their words ``label``, ``correct`` and ``harmful``. A false value under a good word, a true one
under a bad word, and words such as "rejected" say that the answer is not to be learned. Names of
the request's own properties (``prompt_harmful``) say nothing of the answer.
"""

import functools
import re
from typing import Any


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A name that is made of words of these four alone is a mark; of the strong ones, one word is
# enough.
_GOOD_STRONG = _set("""
    acceptable accepted approved chosen correct desirable factual faithful harmless helpful liked passed preferred safe successful
    trusted truthful upvote upvoted usable valid
    """)  # noqa: E501
_GOOD = _GOOD_STRONG | _set("""
    accept accurate correctness evaluation feedback good grade include included judgement judgment keep kept label labels learn
    learnable like likes ok okay outcome pass passes preference quality rating ratings relevant reliable reward right safety score
    status success tag target thumb thumbs up upvotes use useful validity verdict verified vote votes
    """)  # noqa: E501
_BAD_STRONG = _set("""
    bad discarded disliked dispreferred downvote downvoted failed flagged hallucinated hallucinates hallucination hallucinations
    harmful inaccurate incorrect invalid misleading offensive reject rejected spam toxic unacceptable undesirable unhelpful unsafe
    untruthful wrong
    """)  # noqa: E501
_BAD = _BAD_STRONG | _set("""
    broken corrupt corrupted deleted discard dislike down drop error errors exclude excluded fail fails failure flag ignore ignored
    mistake mistakes removed skip skipped toxicity
    """)  # noqa: E501
_ANSWERS = _set("answer response completion output reply")
_FILLERS = _ANSWERS | _set("""
    a annotator are as assistant binary contains example final has human is judge kto llm marked message model row sample the turn
    user was
    """)  # noqa: E501
_OF_REQUESTS = _set("""
    context input instruction problem prompt query question request
    """)
_NEGATIONS = _set("not non no never")
# 0 and 1 may be grades, counts or classes under these
_GRADED = _set("""
    correctness errors evaluation grade judgement judgment likes mistakes outcome preference quality rating ratings reward safety
    score status target toxicity upvotes verdict vote votes
    """)  # noqa: E501
_BAD_VALUES = _set(
    "bad wrong incorrect reject rejected undesirable thumbs_down down dislike disliked"
) | {"thumbs down"}
_NEGATIVE_VALUES = _set(
    "negative fail failed poor no n invalid unsafe harmful unhelpful downvote downvoted -1"
) | {"not correct"}
# what is classified has such values too: of sentiment, or of yes and no
_CLASSES = _set("label labels tag target status")


@functools.cache
def words(name: str) -> tuple[str, ...]:
    """isGood, is-good and is_good -> is, good."""
    return tuple(
        word
        for word in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
        if word
    )


@functools.cache
def _meaning(name: str) -> tuple[bool, bool] | None:
    """Of a name that may be a mark: whether true is good, and whether the name is nothing but a
    mark. None: it is no mark.
    """
    said = words(name)
    if not _OF_REQUESTS.isdisjoint(said) and _ANSWERS.isdisjoint(said):
        return None
    own = [word for word in said if word not in _FILLERS and word not in _NEGATIONS]
    whole = bool(own) and all(word in _GOOD | _BAD for word in own)
    marks = own if whole else [word for word in own if word in _GOOD_STRONG | _BAD_STRONG]
    if not marks:
        return None
    true_is_good = _BAD.isdisjoint(marks) != (not _NEGATIONS.isdisjoint(said))
    # correct_answer, best_response
    holds_an_answer = said[-1] in _ANSWERS and said[0] not in (
        "is",
        "was",
    )
    return true_is_good, whole and not holds_an_answer


def is_mark(name: str) -> bool:
    """Whether a name is nothing but a mark."""
    meaning = _meaning(name)
    return meaning is not None and meaning[1]


def is_bad(name: str, value: Any) -> bool:
    """Whether ``value`` under ``name`` says that an answer is not to be learned."""
    if value is None or value != value or (meaning := _meaning(name)) is None:
        return False
    true_is_good, whole = meaning
    said = words(name)
    numbers = whole and _GRADED.isdisjoint(said)
    if isinstance(value, list):  # a mark of each turn
        return whole and any(
            isinstance(item, bool) or (numbers and item in (0, 1)) for item in value
        )
    if whole and isinstance(value, str):
        text = value.strip().lower()
        if true_is_good and (
            text in _BAD_VALUES or (text in _NEGATIVE_VALUES and _CLASSES.isdisjoint(said))
        ):
            return True
        if not true_is_good and text in ("yes", "y"):
            return True
    if (
        whole
        and true_is_good
        and isinstance(value, int | float)
        and value == -1
        and "score" not in said
    ):
        return True
    truth = truth_of(value, numbers=numbers)
    return truth is not None and truth is not true_is_good


def truth_of(value: Any, *, numbers: bool = True) -> bool | None:
    """True or false, also as CSV files have them, and with ``numbers`` as 0 and 1; None for other
    values.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = value.strip().lower()
        return {"true": True, "false": False, **({"1": True, "0": False} if numbers else {})}.get(
            text
        )
    return bool(value) if numbers and isinstance(value, int | float) and value in (0, 1) else None


def good_value(value: Any) -> str:
    """What data.keep is to be set to, so that rows with the opposite of a bad ``value`` are kept."""  # noqa: E501
    truth = truth_of(value)
    return "VALUE" if truth is None else str(not truth).lower()
