"""Forms of requests and answers in which their variants are equal.

``key_words`` is for requests of a few words that are nearly equal: "What is my balance?" and
"what's my balance".

``folded``, ``leak_form`` and ``answer_form`` are for leaks alone: they also ignore accents, vowel
points, tags, entities and blanks between words, and answers may differ in case or in the mark at
their end.
"""

import html
import re
import unicodedata
from functools import lru_cache

from hydratune.data.quality.equality import FACTORIAL, REPEATED_SYMBOL, WORD, words

# ---------------------------------------------------------------------------------------- key words
_LONGEST_SHORT_REQUEST = 90  # characters; in longer requests, 5-grams find what is nearly equal
_FEWEST_LETTERS = 8  # of all key words together
_QUESTION_WORDS = ("what", "where", "who", "how", "when", "there", "that")
_PRONOUNS = ("i", "you", "we", "they", "he", "she")
_AUXILIARIES = ("do", "does", "did", "is", "are", "was", "were", "has", "have")
_MODALS = ("could", "would", "should")
_CONTRACTIONS = {
    **{f"{w}s": f"{w} is" for w in _QUESTION_WORDS},
    **{f"{w} s": f"{w} is" for w in (*_QUESTION_WORDS, "it", "he", "she", "here", "why")},
    **{f"{w} re": f"{w} are" for w in ("you", "we", "they", "what", "where")},
    **{f"{w} ve": f"{w} have" for w in _PRONOUNS[:4]},
    **{f"{w} ll": f"{w} will" for w in (*_PRONOUNS, "it")},
    **{f"{w} d": f"{w} would" for w in _PRONOUNS},
    **{f"{w}n t": f"{w} not" for w in (*_AUXILIARIES, "had", *_MODALS)},
    **{f"{w}nt": f"{w} not" for w in (*_AUXILIARIES, *_MODALS)},
    "can t": "can not",
    "cant": "can not",
    "cannot": "can not",
    "won t": "will not",
    "wont": "will not",
    "i m": "i",
    "im": "i",
    "i am": "i",
    "ive": "i have",
    "let s": "let us",
    "lets": "let us",
}
_CONTRACTION = re.compile(
    rf"(?<!\S)(?:{'|'.join(sorted(_CONTRACTIONS, key=len, reverse=True))})(?!\S)"
)
_FILLERS = frozenset(
    "a an the is are be please pls plz kindly just hi hello hey me s".split()  # noqa: SIM905
)
# At the end of a request they are letters, not an article or "'s": "vitamin a".
_FINAL_LETTERS = {"a": "A", "s": "S"}
_BRACKETS = str.maketrans(dict.fromkeys("()[]{},;", " "))


def key_words(text: str) -> str:
    """Return the words that carry the meaning of a short normalised request, in the singular.

    Empty if they are too few or the request is long. Contractions are written out; articles, "is",
    "are" and polite words are dropped. The lists are English: in other languages only spellings are
    compared.
    """
    if len(text) > _LONGEST_SHORT_REQUEST:
        return ""
    kept = _without_fillers(text).split()
    is_enough = len(kept) > 1 and sum(map(len, kept)) >= _FEWEST_LETTERS
    return " ".join(kept) if is_enough else ""


@lru_cache(maxsize=8)  # ``key_words`` and ``leak_form`` ask for the same, one after the other
def _without_fillers(text: str) -> str:
    text = text.translate(_BRACKETS)
    chunks = _CONTRACTION.sub(lambda match: _CONTRACTIONS[match[0]], text).split()
    if chunks:
        chunks[-1] = _FINAL_LETTERS.get(chunks[-1], chunks[-1])
    return " ".join(_singular(word) for word in chunks if word not in _FILLERS)


def _singular(word: str) -> str:
    is_plural = len(word) > 4 and word[-1] == "s" and word[-2] not in "siu" and word.isalpha()
    return word[:-1] if is_plural else word


# -------------------------------------------------------------------------------------------- leaks
_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{2,6}|#x[0-9a-f]{2,5})(?![\w=])[;]?")
_INLINE_TAG = re.compile(
    r"</?(?:a|abbr|b|big|code|del|em|font|i|ins|mark|s|small|span|strong|sub|sup|tt|u)"
    r"(?:\s[^<>]*)?/?>"
)
_BLOCK_TAG = re.compile(
    r"</?(?:blockquote|br|div|h[1-6]|hr|li|ol|p|pre|table|tbody|td|th|tr|ul)(?:\s[^<>]*)?/?>"
)
_ACCENT = re.compile(
    "(?<=[a-zα-ω])[\u0300-\u036f]+|(?<=е)\u0308"
    "|[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a"
    "\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed"
    "\u200b-\u200f\u2060\u00ad\ufeff\ufe0e\ufe0f]"
)
_LATIN_LETTERS = dict(zip("øœæłđðı", ("o", "oe", "ae", "l", "d", "d", "i"), strict=True))
_ARABIC_LETTERS = dict(zip("كيىةٱ", "کییها", strict=True))  # as Persian writes them
_DIGITS = {chr(zero + n): str(n) for zero in (0x660, 0x6F0) for n in range(10)}
_SAME_LETTERS = str.maketrans({**_LATIN_LETTERS, **_ARABIC_LETTERS, **_DIGITS})


def folded(text: str) -> str:
    """Return ``text``, already normalised, without what leaks may differ in.

    Removed are tags, entities, accents on Latin and Greek letters, vowel points of Arabic and
    Hebrew, joiners and repeated emoji; Arabic and Persian letters and digits become one. Marks that
    are vowels or make other letters (Hindi, Thai, "й") stay.
    """
    if "&" in text:
        text = _ENTITY.sub(
            lambda entity: html.unescape(entity[0].rstrip(";") + ";").casefold(), text
        )
    if "<" in text:
        text = _BLOCK_TAG.sub(" ", _INLINE_TAG.sub("", text))
    if not text.isascii():
        text = _ACCENT.sub("", unicodedata.normalize("NFD", text)).translate(_SAME_LETTERS)
        text = REPEATED_SYMBOL.sub(r"\1", unicodedata.normalize("NFC", text))
    return text


_LONGEST_WITHOUT_FILLERS = 180  # characters; of a longer text all words count
_BETWEEN_DIGITS = re.compile(r"\d (?=\d)")


@lru_cache(maxsize=4)  # a request is often its own last turn
def leak_form(text: str, loose: str) -> str:
    """Return the key words of a normalised request, joined: its form in leaks with equal answers.

    "e mail" and "the email, please" have the same. ``loose`` is ``words(text)``.
    """
    fold = folded(text)
    if fold is not text:
        loose = words(fold)
    if len(loose) <= _LONGEST_WITHOUT_FILLERS:
        loose = _without_fillers(loose) or loose
    return _BETWEEN_DIGITS.sub(lambda gap: f"{gap[0][0]}_", loose).replace(" ", "")


_WHOLE_WORD = re.compile(rf"(?<!\S)[\"'“‘(]*{WORD}(?=[\"'”’),;:.!?…]*(?!\S))")
_FINAL_MARKS = re.compile(r"(?<=\w)[\"'”’]*[.!?…。！？]*[\"'”’]*\Z")
_LONGEST_ENDING = 8  # characters in which final marks are removed


def answer_form(answer: str) -> str:
    """Return an answer as leaks compare it: without final marks and without case.

    In short answers only the case of whole words of letters is ignored.
    """
    answer = " ".join(answer.split())
    if len(answer) > _LONGEST_SHORT_REQUEST:
        answer = answer.casefold()
    elif not answer.islower():
        answer = _WHOLE_WORD.sub(lambda word: word[0].casefold(), answer)
    start, end = answer[:-_LONGEST_ENDING], answer[-_LONGEST_ENDING:]
    return answer if FACTORIAL.search(end) else start + _FINAL_MARKS.sub("", end)
