"""How answers end: whether they seem to be cut off in the middle.

What can be decided on one answer is decided by ``is_cut_off``. A missing full stop says something
only where other answers of the same kind have one, so ``classify_ending`` names the kind, and
``EndingStatistics`` compares all rows.
"""

import re
from array import array
from bisect import bisect
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_END_MARK = re.compile(r"[.!?:;…\"'”’)\]}>`*_|。！？」』]\s*\Z")
_SENTENCE_END = re.compile(r"[a-z0-9)\"'][.!?] +[A-Z\"'(]|[。！？].")  # in the middle of a line
_NO_PROSE = re.compile(
    r"\A\s*(?:[-*+|>#$]|\d+[.)]\s)|https?://\S+\s*\Z|[{}=;\\<>$`|]|\s(?:--?[a-zA-Z]|@)"
    r"|(?:\s|/\S*)/|\b[\w.-]+@[\w.-]+\s*\Z"
)
# Words and phrases after which no English sentence ends.
_DANGLING = re.compile(
    r"(?:,|\b(?:an?|the|and|or|but|nor|of|to the|with|from|into|onto|than|because|although|whereas"
    r"|which|whose|while|my|your|our|their|is a|are|was|were|has been|have been|by the|in the"
    r"|on the|for the|at the|if|and then|should|would|could|must|such as|as well as|known as|this"
    r"|these|its|every|between|during|without|within|upon|will be|can be|should be|must be|has to"
    r"|have to|(?:need|needs|want|wants|able|going|order|try|likely|due|according|similar|ought"
    r"|used|trying|has|have) to))\s*\Z",
    re.IGNORECASE,
)
_OPEN_BRACKET = re.compile(r"(?<![:;=\-\\(\[])[(\[]\w[^()\[\]]{2,80}\Z")
_OPEN_CODE = re.compile(r"(?:\A|[\s(])`[^`'\s][^`'\n]{0,80}\Z")
_OPEN_PRICE = re.compile(r"[a-z] [$€£¥]\Z")
_MARKS_AROUND_WORDS = ".,;:!?…()[]\"'“”‘’*_`"
_BRACKETS = {"{": "}", "[": "]"}
_LONGEST_SEARCHED = 90  # characters at the end of a line


class Ending(IntEnum):
    """Kinds of answers that are compared with each other.

    Who writes full stops in answers of one kind need not do so in answers of another.
    """

    none = 0  # JSON, code, a list, a few words: not compared
    label = 1  # a few words more
    line = 2  # one long sentence, or what may be no sentence
    prose = 3  # several sentences


def classify_ending(answer: str) -> tuple[Ending, bool]:
    """Return (the kind of the answer by its last line, whether this line ends without a mark)."""
    line = _last_line(answer)
    words = line.count(" ") + sum("\u3040" <= c <= "\u9fff" for c in line[-60:]) // 2
    if _NO_PROSE.search(line) or words < 3:
        return Ending.none, False
    if _SENTENCE_END.search(line):
        kind = Ending.prose
    else:
        kind = Ending.line if len(answer) > 40 and words > 5 else Ending.label
    return kind, not _END_MARK.search(line[-1:])


def is_cut_off(answer: str) -> bool:
    """Return whether a stripped answer ends in something open, an ellipsis or a dangling word."""
    if answer[:1] in _BRACKETS and not answer.endswith(_BRACKETS[answer[0]]):
        return True
    if answer.count("```") % 2:
        return True
    has_ellipsis = answer.endswith(("...", "…")) and len(answer) > 40
    return has_ellipsis or ends_in_dangling_word(answer) or _ends_in_something_open(answer)


def plain_words(answer: str) -> list[str]:
    """Return the words that consist of letters alone, in order."""
    stripped = (chunk.strip(_MARKS_AROUND_WORDS) for chunk in answer.split())
    return [word for word in stripped if word.isalpha()]


def ends_in_dangling_word(answer: str) -> bool:
    """Return whether prose ends with a word that ends no English sentence ("... in the")."""
    line = _last_line(answer)
    is_dangling = line.count(" ") >= 3 and bool(_DANGLING.search(line[-40:]))
    return is_dangling and not _NO_PROSE.search(line)


def _ends_in_something_open(answer: str) -> bool:
    """Return whether the last line of prose ends in something that is not closed.

    This is an open bracket, open code or a currency symbol.
    """
    line = answer.rpartition("\n")[2]
    if line.count(" ") < 1 or line[-1:] in ".!?;":
        return False
    if _OPEN_CODE.search(line[-_LONGEST_SEARCHED:]) and line.count("`") % 2:
        return True
    if line.count(" ") < 3 or _NO_PROSE.search(line.rstrip("$")):
        return False
    bracket = _OPEN_BRACKET.search(line[-_LONGEST_SEARCHED:])
    return bool(bracket or _OPEN_PRICE.search(line[-3:]))


def _last_line(answer: str) -> str:
    return answer.rstrip().rpartition("\n")[2]


_MOST_WORDS = 300_000  # distinct words that are kept
_RARELY_MISSING = 0.2  # of the answers of a kind: if fewer lack the end mark, these are incomplete


class EndingStatistics:
    """How the answers of all rows end, to judge each by the others."""

    def __init__(self) -> None:
        self._kinds, self._lacks_mark = array("b"), array("b")  # one entry per row
        self._words: set[str] = set()  # of all answers, without the last word of each
        self._last_words: dict[int, str] = {}  # row -> last word of an answer without end mark

    def see(self, answer: str) -> None:
        """Add the answer of one row; empty for an answer that is JSON."""
        number = len(self._kinds)
        kind, lacks_mark = classify_ending(answer)
        self._kinds.append(kind)
        self._lacks_mark.append(lacks_mark)
        if kind is Ending.none:
            return
        words = plain_words(answer)
        if lacks_mark and words and _may_be_cut(words[-1]) and answer.rstrip().endswith(words[-1]):
            self._last_words[number] = words.pop()
        if len(self._words) < _MOST_WORDS:
            self._words.update(words)

    def incomplete(self, is_used: NDArray[np.bool_]) -> dict[int, str]:
        """Return row -> reason for the rows of ``is_used`` whose answer seems incomplete.

        It has no mark at its end though others of its kind have one, or it ends in half a word.
        """
        lacking = is_used & np.asarray(self._lacks_mark, np.int8).astype(bool)
        kinds = np.frombuffer(self._kinds, np.int8)
        reasons: dict[int, str] = {}
        for kind in (Ending.label, Ending.line, Ending.prose):
            of_kind = is_used & (kinds == kind)
            incomplete = lacking & of_kind
            if incomplete.sum() < _RARELY_MISSING * of_kind.sum():
                reasons |= dict.fromkeys(np.flatnonzero(incomplete).tolist(), "no mark at the end")
        vocabulary = sorted(self._words)
        for row, word in self._last_words.items():
            at = bisect(vocabulary, word)
            longer = vocabulary[at] if at < len(vocabulary) else ""
            if is_used[row] and word not in self._words and longer.startswith(word):
                reasons[row] = f"perhaps half a word at the end: {word!r}, others write {longer!r}"
        return reasons


def _may_be_cut(word: str) -> bool:
    """Return whether a word is in lower case, or longer and capitalised: no abbreviation."""
    return word.islower() or (len(word) > 3 and word[1:].islower())
