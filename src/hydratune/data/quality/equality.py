"""When two texts are equal: one rule in three strengths, each used where its errors do no harm.

``exact_form`` is for claims of conflict ("one request, different answers"): nearly every character
counts.

``normalised`` is the strict strength. It ignores case, white space, quotes, dashes and hyphens
between words, and the marks that end a word. Symbols count wherever they may have a meaning: "sort
in C++" and "sort in C#", "5 < 7" and "5 > 7", "-5" and "5", "1.5" and "15", ".net" and "net", "5!"
and "5", "f(x)" and "f x" stay different. Duplicates are removed by this rule.

``words`` is the loose strength: only letters (with their marks) and digits count. Leaks and
duplicates are found by it where the answers are equal too, because then the ignored symbols made no
difference to the answer.

``variants`` has the further rules for requests that are nearly equal.
"""

import re
import unicodedata
from functools import lru_cache

_QUOTES = "\"'`´‘’‚‛“”„‟«»‹›"
_END_MARKS = ".,;:!?…"
_END_MARKS_BUT_FACTORIAL = ".,;:?"  # the marks that may follow 5! or n!
_WIDE_MARKS = str.maketrans(
    {**dict.fromkeys("、。，．！？；：「」『』《》〈〉【】・،؛؟।॥¿¡", " "), "´": "'"}
)
_RAISED_DIGITS = re.compile("([⁰¹²³⁴-⁹₀-₉]+)")  # 5² is not 52
_DASH = re.compile("[‐‑‒–—―−﹣－]")
_BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_]{2})-+(?=[^\W\d_]{2})")
_QUOTED_SYMBOLS = re.compile(rf"(?<!\S)[{_QUOTES}]([^\w\s{_QUOTES}]+)[{_QUOTES}](?![\w])")
# Stands around symbols that were quoted, so that they are not taken for the end of a sentence.
_QUOTED = "\ue000"
FACTORIAL = re.compile(r"(?:\A|[\W\d_])[^\W_]!\Z|\d!\Z")
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_CJK_GAP = re.compile(f"(?<=[{_CJK}]) (?=[{_CJK}])")

# -------------------------------------------------------------------------------------------- exact
_STRAIGHT_QUOTES = str.maketrans({**dict.fromkeys("‘’‛´", "'"), **dict.fromkeys("“”‟", '"')})
WORD = r"[^\W\d_]{2,}"
_WORD_END = r"(?:'(?:s|t|m|re|ve|ll|d))?(?=[,;:.?!]*(?!\S))"
# The pattern begins with a set of letters because the search is then fast.
_CAPITALISED = re.compile(r"[A-Z](?<!\S[A-Z])[a-z]+" + _WORD_END)
_ANY_WORD = re.compile(rf"(?<!\S){WORD}{_WORD_END}")
_FIRST_PERSON = re.compile(
    r"I(?<!\SI)(?:'(?:m|ve|ll|d)(?!\S)|(?= (?!in |is |to |and |or |mean|stand)[a-z]{2,} ))"
)
# Beginnings of words in requests about patterns and about names (save!, empty?): there a mark at
# the end may belong to the pattern or the name.
_PATTERN_TOPICS = tuple(
    f" {word}"
    for word in (
        *("expression", "glob", "operator", "pattern", "regex", "string", "suffix", "symbol"),
        "syntax",
    )
)
_NAME_TOPICS = tuple(
    f" {word}"
    for word in (
        *("call", "command", "defin", "difference", "echo", "explain", "function", "macro"),
        *("mean", "method", "name", "predicate", "print", "rails", "ruby", "rust", "scheme"),
        *("type", "use", "write"),
    )
)


def exact_form(text: str) -> str:
    """Return ``text`` as it is compared where conflicts are claimed.

    Ignored are white space, curly quotes, full-width forms, the case of capitalised words of
    letters ("Paris", not "-D", "A" or "PATH"; of all words if the whole request is in capitals),
    and one mark after the last word ("List files!", not "git add ." or "a?"), unless the text is
    about names or patterns ("explain save!").
    """
    if not text.isascii():
        text = text.translate(_STRAIGHT_QUOTES)
        text = unicodedata.normalize("NFKC", _RAISED_DIGITS.sub(r"^\1", text))
    text = " ".join(text.split())
    if text.isupper() and len(re.findall(WORD, text)) > 2:
        text = _ANY_WORD.sub(lambda word: word[0].lower(), text)
    elif not text.islower():
        text = _FIRST_PERSON.sub(lambda pronoun: pronoun[0].lower(), text)
        pattern = _CAPITALISED if text.isascii() else _ANY_WORD
        text = pattern.sub(_lower_capitalised, text)
    return text[:-1] if _ends_in_free_mark(text) else text


def _lower_capitalised(word: re.Match[str]) -> str:
    return word[0].lower() if word[0][1:].islower() else word[0]


def _ends_in_free_mark(text: str) -> bool:
    """Whether the mark at the end of a request belongs to the sentence and not to a name in it."""
    before, _, last = text.rpartition(" ")
    if not before or last[-1] not in ".?!" or len(last) < 3 or not last[:-1].isalpha():
        return False
    lowered = f" {text.lower()}"
    topics = _PATTERN_TOPICS if last[-1] == "." else (*_PATTERN_TOPICS, *_NAME_TOPICS)
    return not any(topic in lowered for topic in topics)


# --------------------------------------------------------------------------------------- normalised
def normalised(text: str) -> str:
    """Return ``text`` by the strict rule: without what people vary freely, with its symbols."""
    if not text.isascii():
        text = _RAISED_DIGITS.sub(r"^\1", text.translate(_WIDE_MARKS))
        text = unicodedata.normalize("NFKC", _DASH.sub("-", text))
    text = text.casefold()
    if '"' in text or "'" in text or "`" in text or not text.isascii():
        text = _QUOTED_SYMBOLS.sub(rf"{_QUOTED}\1{_QUOTED}", text)
    kept = [piece for line in text.splitlines() for piece in _normalised_pieces(line.split())]
    return " ".join(kept) or " ".join(text.replace(_QUOTED, "").split())


def _normalised_pieces(chunks: list[str]) -> list[str]:
    """Normalise the pieces between the blanks of one line; drop those of marks alone."""
    pieces: list[str] = []
    last = len(chunks) - 1
    for i, chunk in enumerate(chunks):
        if chunk.isalnum():
            pieces.append(chunk)
        elif chunk[0] == _QUOTED:
            pieces.append(chunk.split(_QUOTED)[1])
        elif bare := _bare(chunk):
            is_dash = bare == "-" and 0 < i < last
            if not (is_dash and _is_word(chunks[i - 1]) and _is_word(chunks[i + 1])):
                pieces.append(bare)
        elif i < last and chunk.strip(_QUOTES):
            # A mark that stands alone may be what the text is about.
            pieces.append(chunk.strip(_QUOTES))
    return pieces


def _is_word(chunk: str) -> bool:
    letters = chunk.strip(_QUOTES + _END_MARKS)
    return len(letters) > 1 and letters.isalpha()


@lru_cache(maxsize=1 << 16)
def _bare(chunk: str) -> str:
    """A piece between blanks without its quotes and the marks at its end.

    Empty if the piece is nothing else.
    """
    while True:
        bare = chunk.strip(_QUOTES)
        is_factorial = FACTORIAL.search(bare.rstrip(_END_MARKS_BUT_FACTORIAL))
        bare = bare.rstrip(_END_MARKS_BUT_FACTORIAL if is_factorial else _END_MARKS)
        if bare.startswith(("...", "…")):
            bare = bare.lstrip(".…")
        if bare == chunk:
            break
        chunk = bare
    if chunk.isalnum():
        return chunk
    chunk = _BETWEEN_WORDS.sub(" ", chunk)
    return " ".join("".join(" " if c in _QUOTES else c for c in chunk).split())


# -------------------------------------------------------------------------------------------- words
class _LetterTable(dict[int, int]):
    """A table for ``str.translate``: letters, their marks and digits stay, the rest is a blank."""

    def __missing__(self, code: int) -> int:
        is_letter = unicodedata.category(chr(code))[0] in "LNM"
        is_emoji_mark = 0xFE00 <= code <= 0xFE0F or code == 0x20E3  # variation selectors, keycap
        self[code] = code if is_letter and not is_emoji_mark else ord(" ")
        return self[code]


_LETTERS = _LetterTable()
REPEATED_SYMBOL = re.compile(r"([^\w\s\x00-\x7f])[\ufe0f\u200d]?(?:\1[\ufe0f\u200d]?)+")  # 🚀🚀


def words(text: str) -> str:
    """Return ``text``, already normalised, by the loose rule: its words alone.

    A text of symbols alone (emoji, "?") stays as it is, but repeated emoji become one.
    """
    loose = " ".join(text.translate(_LETTERS).split())
    if not loose.isascii():
        loose = _CJK_GAP.sub("", loose)
    return loose or (text if text.isascii() else REPEATED_SYMBOL.sub(r"\1", text))
