"""When two texts are the same. One rule in several strengths, each used where its error does no harm.

``exact`` is for claims of conflict ("one request, different answers"): nearly everything counts.

``normalised`` is the strict strength: free are case, white space, quotes, dashes and hyphens between words, and the marks that
end a word. Symbols count wherever they may mean something: "sort in C++" and "sort in C#", "5 < 7" and "5 > 7", "-5" and "5",
"1.5" and "15", ".net" and "net", "5!" and "5", "f(x)" and "f x" stay different. Repeated rows are removed by it.

``words`` is the loose strength: only letters (with the marks they carry) and digits count. Leaks and repeats are looked for by it,
where the answers are the same too: a symbol that changes no answer told nothing apart.

``core`` is for requests of a few words that are nearly the same: "What is my balance?" and "what's my balance".

``folded``, ``form`` and ``answer_form`` are for leaks alone: without accents, vowel points, tags and entities; joined words; answers
that differ in case or in the mark at their end.
"""

import re
import unicodedata
from functools import lru_cache

_QUOTES = "\"'`´‘’‚‛“”„‟«»‹›"
_ENDS = ".,;:!?…"
_STOPS = ".,;:?"  # after 5! or n!
_WIDE = str.maketrans({**dict.fromkeys("、。，．！？；：「」『』《》〈〉【】・،؛؟।॥¿¡", " "), "´": "'"})
_RAISED = re.compile("([⁰¹²³⁴-⁹₀-₉]+)")  # 5² is not 52
_DASH = re.compile("[‐‑‒–—―−﹣－]")
_BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_]{2})-+(?=[^\W\d_]{2})")
_QUOTED_SYMBOLS = re.compile(rf"(?<!\S)[{_QUOTES}]([^\w\s{_QUOTES}]+)[{_QUOTES}](?![\w])")
_KEPT = "\ue000"  # stands before symbols that were quoted, so that they are not taken for the end of a sentence
_FACTORIAL = re.compile(r"(?:\A|[\W\d_])[^\W_]!\Z|\d!\Z")
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_CJK_GAP = re.compile(f"(?<=[{_CJK}]) (?=[{_CJK}])")


_SAME_QUOTES = str.maketrans({**dict.fromkeys("‘’‛´", "'"), **dict.fromkeys("“”‟", '"')})
_WORD = r"[^\W\d_]{2,}"
_CAPITALISED = re.compile(rf"(?<!\S){_WORD}(?:'(?:s|t|m|re|ve|ll|d))?(?=[,;:.?!]*(?!\S))")
_FIRST_PERSON = re.compile(r"(?<!\S)I(?:'(?:m|ve|ll|d)(?!\S)|(?= (?!in |is |to |and |or |mean|stand)[a-z]{2,} ))")
_ENDED = re.compile(rf"(?s:.*)\s(?P<word>{_WORD})[.?!]\Z")
_PATTERNS = re.compile(r"(?i:\b(?:expression|glob|operator|pattern|regex|string|suffix|symbol|syntax))")
_NAMES = re.compile(  # of requests about names, in which a mark at the end may belong to the name: save!, empty?
    r"(?i:\b(?:call|command|defin|difference|echo|explain|function|macro|mean|method|name|predicate|print|rails|ruby|rust|scheme|type|"
    r"use|write))"
)


def exact(text: str) -> str:
    """``text`` as conflicts are claimed by. Free are white space, curly quotes, full-width forms, the case of capitalised words of
    letters ("Paris", not "-D", "A" or "PATH"; of all words, where a whole request is in capitals), and one mark after the word at the end
    ("List files!", not "git add ." or "a?"), unless the text is about names or patterns ("explain save!").
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _RAISED.sub(r"^\1", text.translate(_SAME_QUOTES)))
    text = " ".join(text.split())
    loud = text.isupper() and len(re.findall(_WORD, text)) > 2
    if not text.islower():
        text = _FIRST_PERSON.sub(lambda said: said[0].lower(), text)
        text = _CAPITALISED.sub(lambda word: word[0].lower() if loud or word[0][1:].islower() else word[0], text)
    mark = text[-1:]
    if mark in (".", "?", "!") and _ENDED.fullmatch(text) and not _PATTERNS.search(text) and (mark == "." or not _NAMES.search(text)):
        return text[:-1]
    return text


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
                if not (bare == "-" and 0 < i < last and _is_word(chunks[i - 1]) and _is_word(chunks[i + 1])):
                    kept.append(bare)
            elif i < last and chunk.strip(_QUOTES):  # a mark that stands alone may be what the text is about
                kept.append(chunk.strip(_QUOTES))
    return " ".join(kept) or " ".join(text.replace(_KEPT, "").split())


def _is_word(chunk: str) -> bool:
    letters = chunk.strip(_QUOTES + _ENDS)
    return len(letters) > 1 and letters.isalpha()


@lru_cache(maxsize=1 << 16)
def _bare(chunk: str) -> str:
    """A piece between blanks without its quotes and the marks at its end; empty, if it is nothing else."""
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
        self[code] = code if category[0] in "LNM" and not 0xFE00 <= code <= 0xFE0F and code != 0x20E3 else 32
        return self[code]


_LOOSE = _Loose()


def words(text: str) -> str:
    """``text``, normalised before, by the loose rule; one of symbols alone (emoji, "?") as it is."""
    loose = " ".join(text.translate(_LOOSE).split())
    return (loose if loose.isascii() else _CJK_GAP.sub("", loose)) or text


_SHORT = 90  # characters; among longer requests 5-grams do not miss what is nearly the same
_CONTRACTED = {
    **{f"{w}s": f"{w} is" for w in ("what", "where", "who", "how", "when", "there", "that")},
    **{f"{w} s": f"{w} is" for w in ("what", "where", "who", "how", "when", "there", "that", "it", "he", "she", "here", "why")},
    **{f"{w} re": f"{w} are" for w in ("you", "we", "they", "what", "where")},
    **{f"{w} ve": f"{w} have" for w in ("i", "you", "we", "they")},
    **{f"{w} ll": f"{w} will" for w in ("i", "you", "we", "they", "he", "she", "it")},
    **{f"{w} d": f"{w} would" for w in ("i", "you", "we", "they", "he", "she")},
    **{f"{w}n t": f"{w} not" for w in ("do", "does", "did", "is", "are", "was", "were", "has", "have", "had", "could", "would", "should")},
    **{f"{w}nt": f"{w} not" for w in ("do", "does", "did", "is", "are", "was", "were", "has", "have", "could", "would", "should")},
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
_CONTRACTION = re.compile(rf"(?<!\S)(?:{'|'.join(sorted(_CONTRACTED, key=len, reverse=True))})(?!\S)")
_FILLERS = frozenset("a an the is are be please pls plz kindly just hi hello hey me".split())  # noqa: SIM905
_BRACKETS = str.maketrans(dict.fromkeys("()[]{},;", " "))


def core(text: str) -> str:
    """The telling words of a short normalised request, singular, between blanks; nothing, where they are too few or it is long.

    Contractions are written out; articles, "is", "are" and what is said for politeness are left out. The lists are English: in other
    languages what remains is the comparison of spellings.
    """
    if len(text) > _SHORT:
        return ""
    told = _CONTRACTION.sub(lambda found: _CONTRACTED[found[0]], text.translate(_BRACKETS)).split()
    if told and told[-1] == "a":
        told[-1] = "A"  # of "vitamin a" it is no article
    telling = [_singular(word) for word in told if word not in _FILLERS]
    return " ".join(telling) if len(telling) > 1 and sum(map(len, telling)) >= 8 else ""


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 4 and word[-1] == "s" and word[-2] not in "siu" and word.isalpha() else word
