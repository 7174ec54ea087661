"""Texts cut into spans for people to look at: where two texts differ, and characters that nobody
would see otherwise.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

Stretch = tuple[int, int]  # of a text: from, up to

# control and format characters, and those that turn the direction of the text after them; halves of
# a character
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_OWN_NAMES = {"\r": r"\r", "\t": r"\t", "\n": "↵\n", " ": "·"}
# Han and kana: each by itself
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|\s+|.")


@dataclass(frozen=True)
class Span:
    """A stretch of a text that looks alike."""

    text: str
    changed: bool = False
    hidden: bool = False  # ``text`` is the name of what stands there, such as U+200B


def name_of(char: str) -> str:
    """Of a character that cannot be seen."""
    return _OWN_NAMES.get(char, f"U+{ord(char):04X}")


def named(text: str) -> str:
    """``text`` with hidden characters replaced by their names: for what is shown whole, such as an
    id.
    """
    return _HIDDEN.sub(lambda hit: name_of(hit[0]), text)


def shortened(text: str, most: int) -> str:
    """Beginning and end of a text of more than ``most`` characters, and how many are left out
    between them.
    """
    if len(text) <= most:
        return text
    head, tail = 2 * most // 3, most // 3
    return f"{text[:head]} [… {len(text) - head - tail:,} characters …] {text[-tail:]}"


def spans(text: str, changed: Iterable[Stretch] = (), *, spaces: bool = False) -> list[Span]:
    """``text`` in order.

    White space is named where it alone is what changed, and with ``spaces`` where there is nothing
    else.
    """
    result: list[Span] = []
    end = 0
    for start, stop in changed:
        result += _named_spans(text[end:start], False, False)
        result += _named_spans(text[start:stop], True, text[start:stop].isspace())
        end = stop
    return result + _named_spans(text[end:], False, spaces and text.isspace())


def _named_spans(text: str, changed: bool, whole: bool) -> list[Span]:
    if whole:
        return [Span("".join(map(name_of, text)), changed, hidden=True)]
    result: list[Span] = []
    end = 0
    for hit in _HIDDEN.finditer(text):
        if hit.start() > end:
            result.append(Span(text[end : hit.start()], changed))
        result.append(Span(name_of(hit[0]), changed, hidden=True))
        end = hit.end()
    return [*result, Span(text[end:], changed)] if end < len(text) else result


def word_differences(texts: Sequence[str]) -> list[list[Stretch]]:
    """For every text the words that the first one lacks; for the first, those that any of the
    others lacks.
    """
    if not texts:
        return []
    first, *others = (_WORDS.findall(text) for text in texts)
    mine: set[int] = set()
    result: list[list[Stretch]] = [[]]
    for other in others:
        theirs: set[int] = set()
        for tag, a, b, c, d in SequenceMatcher(None, first, other, autojunk=False).get_opcodes():
            if tag != "equal":
                mine.update(range(a, b))
                theirs.update(range(c, d))
        result.append(_stretches(other, theirs))
    result[0] = _stretches(first, mine)
    return result


def character_differences(before: str, after: str) -> tuple[list[Stretch], list[Stretch]]:
    """What a repair took away and what it put there.

    Both texts are cut to one length, so what ``after`` has more of at its end is no change.
    """
    old: list[Stretch] = []
    new: list[Stretch] = []
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal" or (tag == "insert" and d == len(after)):
            continue
        old += [(a, b)] if b > a else []
        new += [(c, d)] if d > c else []
    return old, new


def occurrences(text: str, wanted: Iterable[str], start: int = 0) -> list[Stretch]:
    """Where one of ``wanted`` stands in ``text`` as whole words, from ``start`` on."""
    longest_first = sorted({w for w in wanted if w}, key=lambda w: (-len(w), w))
    if not longest_first:
        return []
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
    return [hit.span() for hit in pattern.finditer(text, start)]


def _stretches(words: Sequence[str], chosen: set[int]) -> list[Stretch]:
    """Of the text that ``words`` make; a space between two chosen words is taken in."""
    flags = [
        i in chosen or (w.isspace() and i - 1 in chosen and i + 1 in chosen)
        for i, w in enumerate(words)
    ]
    result: list[Stretch] = []
    end = 0
    for flag, run in itertools.groupby(zip(flags, words, strict=True), key=lambda pair: pair[0]):
        start, end = end, end + sum(len(word) for _, word in run)
        if flag:
            result.append((start, end))
    return result
