"""Cut texts into spans for people to look at: where two texts differ, and invisible characters."""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

Stretch = tuple[int, int]  # of a text: (start, end)

# control and format characters, those that turn the direction of the text after them, and halves
# of a character
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_OWN_NAMES = {"\r": r"\r", "\t": r"\t", "\n": "↵\n", " ": "·"}
# words; of Han and kana, each character by itself
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|\s+|.")


@dataclass(frozen=True)
class Span:
    """A stretch of a text that is shown in one style."""

    text: str
    changed: bool = False
    hidden: bool = False  # ``text`` is the name of an invisible character, such as U+200B


def name_of(char: str) -> str:
    """Return the name of a character that cannot be seen."""
    return _OWN_NAMES.get(char, f"U+{ord(char):04X}")


def named(text: str) -> str:
    """Return ``text``, such as an id, with the names of invisible characters in their place."""
    return _HIDDEN.sub(lambda match: name_of(match[0]), text)


def shortened(text: str, most: int) -> str:
    """Return a text, of more than ``most`` characters only beginning and end, with their number."""
    if len(text) <= most:
        return text
    head, tail = 2 * most // 3, most // 3
    return f"{text[:head]} [… {len(text) - head - tail:,} characters …] {text[-tail:]}"


def spans(text: str, changed: Iterable[Stretch] = (), *, spaces: bool = False) -> list[Span]:
    """Return the spans of ``text`` in order.

    White space is named where it alone changed, and with ``spaces`` where the text is nothing else.
    """
    result: list[Span] = []
    end = 0
    for start, stop in changed:
        result += _name_hidden(text[end:start], changed=False)
        stretch = text[start:stop]
        result += _name_hidden(stretch, changed=True, name_all=stretch.isspace())
        end = stop
    return result + _name_hidden(text[end:], changed=False, name_all=spaces and text.isspace())


def _name_hidden(text: str, *, changed: bool, name_all: bool = False) -> list[Span]:
    """Return spans in which invisible characters, or all characters, are named."""
    if name_all:
        return [Span("".join(map(name_of, text)), changed, hidden=True)]
    result: list[Span] = []
    end = 0
    for match in _HIDDEN.finditer(text):
        if match.start() > end:
            result.append(Span(text[end : match.start()], changed))
        result.append(Span(name_of(match[0]), changed, hidden=True))
        end = match.end()
    return [*result, Span(text[end:], changed)] if end < len(text) else result


def word_differences(texts: Sequence[str]) -> list[list[Stretch]]:
    """Return the words of every text that the first one lacks.

    Of the first text, the words that any of the others lacks.
    """
    if not texts:
        return []
    first, *others = (_WORDS.findall(text) for text in texts)
    changed_in_first: set[int] = set()
    result: list[list[Stretch]] = [[]]
    for other in others:
        changed: set[int] = set()
        for tag, a, b, c, d in SequenceMatcher(None, first, other, autojunk=False).get_opcodes():
            if tag != "equal":
                changed_in_first.update(range(a, b))
                changed.update(range(c, d))
        result.append(_stretches(other, changed))
    result[0] = _stretches(first, changed_in_first)
    return result


def character_differences(before: str, after: str) -> tuple[list[Stretch], list[Stretch]]:
    """Return what a repair removed from ``before``, and what it put into ``after``.

    Both texts are cut to one length, so additional characters at the end of ``after`` are no
    change.
    """
    removed: list[Stretch] = []
    added: list[Stretch] = []
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal" or (tag == "insert" and d == len(after)):
            continue
        removed += [(a, b)] if b > a else []
        added += [(c, d)] if d > c else []
    return removed, added


def occurrences(text: str, words: Iterable[str], start: int = 0) -> list[Stretch]:
    """Return where one of ``words`` stands in ``text`` as a whole word, from ``start`` on."""
    longest_first = sorted({word for word in words if word}, key=lambda word: (-len(word), word))
    if not longest_first:
        return []
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
    return [match.span() for match in pattern.finditer(text, start)]


def _stretches(words: Sequence[str], chosen: set[int]) -> list[Stretch]:
    """Return the stretches of chosen words in the text that ``words`` make.

    A space between two chosen words is included.
    """
    flags = [
        i in chosen or (word.isspace() and i - 1 in chosen and i + 1 in chosen)
        for i, word in enumerate(words)
    ]
    result: list[Stretch] = []
    end = 0
    for flag, run in itertools.groupby(zip(flags, words, strict=True), key=lambda pair: pair[0]):
        start, end = end, end + sum(len(word) for _, word in run)
        if flag:
            result.append((start, end))
    return result
