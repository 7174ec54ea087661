"""When two texts are the same. One rule in several strengths, each used where its error does no
harm.

``exact`` is for claims of conflict ("one request, different answers"): nearly everything counts.

``normalised`` is the strict strength: free are case, white space, quotes, dashes and hyphens
between words, and the marks that end a word. Symbols count wherever they may mean something: "sort
in C++" and "sort in C#", "5 < 7" and "5 > 7", "-5" and "5", "1.5" and "15", ".net" and "net", "5!"
and "5", "f(x)" and "f x" stay different. Repeated rows are removed by it.

``words`` is the loose strength: only letters (with the marks they carry) and digits count. Leaks
and repeats are looked for by it, where the answers are the same too: a symbol that changes no
answer told nothing apart.

``core`` is for requests of a few words that are nearly the same: "What is my balance?" and "what's
my balance".

``folded``, ``form`` and ``answer_form`` are for leaks alone: without accents, vowel points, tags
and entities; joined words; answers that differ in case or in the mark at their end.
"""

import html
import re
import unicodedata
from functools import lru_cache

_QUOTES = "\"'`´‘’‚‛“”„‟«»‹›"
_ENDS = ".,;:!?…"
_STOPS = ".,;:?"  # after 5! or n!
_WIDE = str.maketrans(
    {**dict.fromkeys("、。，．！？；：「」『』《》〈〉【】・،؛؟।॥¿¡", " "), "´": "'"}
)
_RAISED = re.compile("([⁰¹²³⁴-⁹₀-₉]+)")  # 5² is not 52
_DASH = re.compile("[‐‑‒–—―−﹣－]")
_BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_]{2})-+(?=[^\W\d_]{2})")
_QUOTED_SYMBOLS = re.compile(rf"(?<!\S)[{_QUOTES}]([^\w\s{_QUOTES}]+)[{_QUOTES}](?![\w])")
# stands before symbols that were quoted, so that they are not taken for the end of a sentence
_KEPT = "\ue000"
_FACTORIAL = re.compile(r"(?:\A|[\W\d_])[^\W_]!\Z|\d!\Z")
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_CJK_GAP = re.compile(f"(?<=[{_CJK}]) (?=[{_CJK}])")


_SAME_QUOTES = str.maketrans({**dict.fromkeys("‘’‛´", "'"), **dict.fromkeys("“”‟", '"')})
_WORD = r"[^\W\d_]{2,}"
_WORD_END = r"(?:'(?:s|t|m|re|ve|ll|d))?(?=[,;:.?!]*(?!\S))"
# begins with a set of letters, so that it is sought fast
_CAPITALISED = re.compile(r"[A-Z](?<!\S[A-Z])[a-z]+" + _WORD_END)
_ANY_WORD = re.compile(rf"(?<!\S){_WORD}{_WORD_END}")
_FIRST_PERSON = re.compile(
    r"I(?<!\SI)(?:'(?:m|ve|ll|d)(?!\S)|(?= (?!in |is |to |and |or |mean|stand)[a-z]{2,} ))"
)
# how words begin in requests about patterns, and about names (save!, empty?), to which a mark at
# the end may belong
_PATTERNS = (
    " expression",
    " glob",
    " operator",
    " pattern",
    " regex",
    " string",
    " suffix",
    " symbol",
    " syntax",
)
_NAMES = (
    *(
        " call",
        " command",
        " defin",
        " difference",
        " echo",
        " explain",
        " function",
        " macro",
        " mean",
        " method",
        " name",
        " predicate",
    ),
    *(" print", " rails", " ruby", " rust", " scheme", " type", " use", " write"),
)


def exact(text: str) -> str:
    """``text`` as conflicts are claimed by. Free are white space, curly quotes, full-width forms,
    the case of capitalised words of letters ("Paris", not "-D", "A" or "PATH"; of all words, where
    a whole request is in capitals), and one mark after the word at the end ("List files!", not "git
    add ." or "a?"), unless the text is about names or patterns ("explain save!").
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _RAISED.sub(r"^\1", text.translate(_SAME_QUOTES)))
    text = " ".join(text.split())
    if text.isupper() and len(re.findall(_WORD, text)) > 2:
        text = _ANY_WORD.sub(lambda word: word[0].lower(), text)
    elif not text.islower():
        text = _FIRST_PERSON.sub(lambda said: said[0].lower(), text)
        words_ = _CAPITALISED if text.isascii() else _ANY_WORD
        text = words_.sub(lambda word: word[0].lower() if word[0][1:].islower() else word[0], text)
    return text[:-1] if _ends_in_free_mark(text) else text


def _ends_in_free_mark(text: str) -> bool:
    before, _, last = text.rpartition(" ")
    if not before or last[-1] not in ".?!" or len(last) < 3 or not last[:-1].isalpha():
        return False
    said = f" {text.lower()}"
    return not any(map(said.__contains__, _PATTERNS if last[-1] == "." else (*_PATTERNS, *_NAMES)))


def normalised(text: str) -> str:
    """``text`` by the strict rule: what people vary freely is gone, symbols stay."""
    if not text.isascii():
        text = _DASH.sub("-", _RAISED.sub(r"^\1", text.translate(_WIDE)))
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold()
    if '"' in text or "'" in text or "`" in text or not text.isascii():
        text = _QUOTED_SYMBOLS.sub(rf"{_KEPT}\1{_KEPT}", text)
    kept: list[str] = []
    for line in text.splitlines():
        chunks = line.split()
        last = len(chunks) - 1
        for i, chunk in enumerate(chunks):
            if chunk.isalnum():
                kept.append(chunk)
            elif chunk[0] == _KEPT:
                kept.append(chunk.split(_KEPT)[1])
            elif bare := _bare(chunk):
                if not (
                    bare == "-"
                    and 0 < i < last
                    and _is_word(chunks[i - 1])
                    and _is_word(chunks[i + 1])
                ):
                    kept.append(bare)
            elif i < last and chunk.strip(
                _QUOTES
            ):  # a mark that stands alone may be what the text is about
                kept.append(chunk.strip(_QUOTES))
    return " ".join(kept) or " ".join(text.replace(_KEPT, "").split())


def _is_word(chunk: str) -> bool:
    letters = chunk.strip(_QUOTES + _ENDS)
    return len(letters) > 1 and letters.isalpha()


@lru_cache(maxsize=1 << 16)
def _bare(chunk: str) -> str:
    """A piece between blanks without its quotes and the marks at its end; empty, if it is nothing
    else.
    """
    while True:
        bare = chunk.strip(_QUOTES)
        bare = bare.rstrip(_STOPS if _FACTORIAL.search(bare.rstrip(_STOPS)) else _ENDS)
        if bare.startswith(("...", "…")):
            bare = bare.lstrip(".…")
        if bare == chunk:
            break
        chunk = bare
    if chunk.isalnum():
        return chunk
    chunk = _BETWEEN_WORDS.sub(" ", chunk)
    return " ".join("".join(" " if c in _QUOTES else c for c in chunk).split())


class _Loose(dict[int, int]):
    """For ``str.translate``: letters, their marks and digits stay, everything else is a blank."""

    def __missing__(self, code: int) -> int:
        category = unicodedata.category(chr(code))
        self[code] = (
            code if category[0] in "LNM" and not 0xFE00 <= code <= 0xFE0F and code != 0x20E3 else 32
        )
        return self[code]


_LOOSE = _Loose()
_REPEATED = re.compile(r"([^\w\s\x00-\x7f])[\ufe0f\u200d]?(?:\1[\ufe0f\u200d]?)+")  # 🚀🚀


def words(text: str) -> str:
    """``text``, normalised before, by the loose rule; one of symbols alone (emoji, "?") as it is,
    but for repetition of emoji.
    """
    loose = " ".join(text.translate(_LOOSE).split())
    return (loose if loose.isascii() else _CJK_GAP.sub("", loose)) or (
        text if text.isascii() else _REPEATED.sub(r"\1", text)
    )


_SHORT = 90  # characters; among longer requests 5-grams do not miss what is nearly the same
_CONTRACTED = {
    **{f"{w}s": f"{w} is" for w in ("what", "where", "who", "how", "when", "there", "that")},
    **{
        f"{w} s": f"{w} is"
        for w in (
            "what",
            "where",
            "who",
            "how",
            "when",
            "there",
            "that",
            "it",
            "he",
            "she",
            "here",
            "why",
        )
    },
    **{f"{w} re": f"{w} are" for w in ("you", "we", "they", "what", "where")},
    **{f"{w} ve": f"{w} have" for w in ("i", "you", "we", "they")},
    **{f"{w} ll": f"{w} will" for w in ("i", "you", "we", "they", "he", "she", "it")},
    **{f"{w} d": f"{w} would" for w in ("i", "you", "we", "they", "he", "she")},
    **{
        f"{w}n t": f"{w} not"
        for w in (
            "do",
            "does",
            "did",
            "is",
            "are",
            "was",
            "were",
            "has",
            "have",
            "had",
            "could",
            "would",
            "should",
        )
    },
    **{
        f"{w}nt": f"{w} not"
        for w in (
            "do",
            "does",
            "did",
            "is",
            "are",
            "was",
            "were",
            "has",
            "have",
            "could",
            "would",
            "should",
        )
    },
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
    rf"(?<!\S)(?:{'|'.join(sorted(_CONTRACTED, key=len, reverse=True))})(?!\S)"
)
_FILLERS = frozenset("a an the is are be please pls plz kindly just hi hello hey me s".split())  # noqa: SIM905
_LETTERS = {"a": "A", "s": "S"}  # at the end they are no article and no "'s": "vitamin a"
_BRACKETS = str.maketrans(dict.fromkeys("()[]{},;", " "))


def core(text: str) -> str:
    """The telling words of a short normalised request, singular, between blanks; nothing, where
    they are too few or it is long.

    Contractions are written out; articles, "is", "are" and what is said for politeness are left
    out. The lists are English: in other languages what remains is the comparison of spellings.
    """
    if len(text) > _SHORT:
        return ""
    telling = _telling(text).split()
    return " ".join(telling) if len(telling) > 1 and sum(map(len, telling)) >= 8 else ""


@lru_cache(maxsize=8)  # of a request of letters alone ``core`` and ``form`` ask for the same
def _telling(text: str) -> str:
    told = _CONTRACTION.sub(lambda found: _CONTRACTED[found[0]], text.translate(_BRACKETS)).split()
    if told:
        told[-1] = _LETTERS.get(told[-1], told[-1])
    return " ".join(_singular(word) for word in told if word not in _FILLERS)


def _singular(word: str) -> str:
    return (
        word[:-1]
        if len(word) > 4 and word[-1] == "s" and word[-2] not in "siu" and word.isalpha()
        else word
    )


_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{2,6}|#x[0-9a-f]{2,5})(?![\w=])[;]?")
_INLINE_TAG = re.compile(
    r"</?(?:a|abbr|b|big|code|del|em|font|i|ins|mark|s|small|span|strong|sub|sup|tt|u)(?:\s[^<>]*)?/?>"
)
_BLOCK_TAG = re.compile(
    r"</?(?:blockquote|br|div|h[1-6]|hr|li|ol|p|pre|table|tbody|td|th|tr|ul)(?:\s[^<>]*)?/?>"
)
_ACCENT = re.compile(
    "(?<=[a-zα-ω])[\u0300-\u036f]+|(?<=е)\u0308|[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a"
    "\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u200b-\u200f\u2060\u00ad\ufeff\ufe0e\ufe0f]"
)
_LETTER = str.maketrans({
    "ø": "o", "œ": "oe", "æ": "ae", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "ك": "ک", "ي": "ی", "ى": "ی", "ة": "ه", "ٱ": "ا",  # noqa: E501
    **{chr(zero + n): str(n) for zero in (0x660, 0x6F0) for n in range(10)},
})  # fmt: skip


def folded(text: str) -> str:
    """``text``, normalised before, as leaks are sought in it: without tags, entities, accents on
    Latin and Greek letters, vowel points of Arabic and Hebrew, joiners and repeated emoji; Arabic
    and Persian letters and digits are one. Marks that are vowels or other letters (Hindi, Thai,
    "й") stay.
    """
    if "&" in text:
        text = _ENTITY.sub(
            lambda entity: html.unescape(entity[0].rstrip(";") + ";").casefold(), text
        )
    if "<" in text:
        text = _BLOCK_TAG.sub(" ", _INLINE_TAG.sub("", text))
    if not text.isascii():
        text = _ACCENT.sub("", unicodedata.normalize("NFD", text)).translate(_LETTER)
        text = _REPEATED.sub(r"\1", unicodedata.normalize("NFC", text))
    return text


_LONG = 180  # characters; of a longer text all words are telling
_BETWEEN_DIGITS = re.compile(r"\d (?=\d)")


def form(loose: str) -> str:
    """The telling words of ``words(folded(...))``, joined, for leaks with the same answer:

    "e mail" and "the email, please" are one.
    """
    if len(loose) <= _LONG:
        loose = _telling(loose) or loose
    return _BETWEEN_DIGITS.sub(lambda gap: f"{gap[0][0]}_", loose).replace(" ", "")


_WHOLE_WORD = re.compile(rf"(?<!\S)[\"'“‘(]*{_WORD}(?=[\"'”’),;:.!?…]*(?!\S))")
_FINAL = re.compile(r"(?<=\w)[\"'”’]*[.!?…。！？]*[\"'”’]*\Z")


def answer_form(answer: str) -> str:
    """An answer as leaks are sought by it: without the marks at its end and the case of words of
    letters, of a long one of all.
    """
    answer = " ".join(answer.split())
    if len(answer) > _SHORT:
        answer = answer.casefold()
    elif not answer.islower():
        answer = _WHOLE_WORD.sub(lambda word: word[0].casefold(), answer)
    end = answer[-8:]
    return answer if _FACTORIAL.search(end) else answer[:-8] + _FINAL.sub("", end)
