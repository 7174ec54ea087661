"""Passages of documents, retrieved by BM25 (bm25s)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydratune.data.rows import Message, Row
from hydratune.errors import ConfigError, InputError, Problem
from hydratune.records.files import read_jsonl

_ENDINGS = (".md", ".txt", ".rst", ".jsonl")
_TEXTS = ("text", "content", "page", "body")  # of a JSONL record, the first that is there
_TITLES = ("title", "name", "id")


@dataclass(frozen=True)
class Passage:
    """A piece of a document. ``source`` is what a prompt calls it."""

    source: str
    text: str


class Library:
    """Passages that can be searched."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        """Index the passages. Raises ``InputError`` if there is nothing to search."""
        import bm25s

        self.passages = list(passages)
        self._index = bm25s.BM25()
        corpus = _words([f"{p.source} {p.text}" for p in self.passages])
        if not any(corpus):
            raise InputError("there is nothing to look things up in: no passage has a word")
        self._known = {word for words in corpus for word in words}
        self._index.index(corpus, show_progress=False)

    def search(self, query: str, count: int) -> list[Passage]:
        """Return the ``count`` nearest passages that share a word with ``query``, best first."""
        words = [word for word in _words([query])[0] if word in self._known]
        if not words:
            return []
        count = min(count, len(self.passages))
        numbers, scores = self._index.retrieve([words], k=count, show_progress=False)
        ranked = zip(numbers[0], scores[0], strict=True)
        return [self.passages[number] for number, score in ranked if score > 0]


def _words(texts: Sequence[str]) -> list[list[str]]:
    """Return the lower-case words of each text without the most frequent English ones."""
    import bm25s

    words: list[list[str]] = bm25s.tokenize(list(texts), return_ids=False, show_progress=False)
    return words


def pieces(text: str, words: int) -> list[str]:
    """Split ``text`` into pieces of about ``words`` words.

    They are cut between paragraphs where these are short enough.
    """
    finished: list[str] = []
    here: list[str] = []
    count = 0
    for paragraph in text.split("\n\n"):
        tokens = paragraph.split()
        for start in range(0, len(tokens), words) or [0]:
            is_short = len(tokens) <= words
            part = paragraph.strip() if is_short else " ".join(tokens[start : start + words])
            size = min(words, len(tokens) - start)
            if here and count + size > words:
                finished.append("\n\n".join(here))
                here, count = [], 0
            if part:
                here.append(part)
                count += size
    return [*finished, *(["\n\n".join(here)] if here else [])]


def documents(place: Path, setting: str) -> list[tuple[str, str]]:
    """Return (name, text) of a text file, or of every one below a folder.

    A JSONL file has one document per line. Raises ``ConfigError``.
    """
    files = [place]
    if place.is_dir():
        files = sorted(p for p in place.rglob("*") if p.suffix in _ENDINGS and p.is_file())
    if not place.exists() or not files:
        nothing = f"no text in it ({', '.join(_ENDINGS)})"
        why = nothing if place.exists() else "no such file or folder"
        raise ConfigError([Problem(setting, place, why, "give a text file or a folder of texts")])
    texts: list[tuple[str, str]] = []
    for file in files:
        if file.suffix == ".jsonl":
            texts += [_document(record, file, n) for n, record in enumerate(read_jsonl(file), 1)]
        else:
            texts.append((file.stem, file.read_text("utf-8", errors="replace")))
    return texts


def from_files(place: Path, words: int) -> list[Passage]:
    """Return the passages of the documents in a file or folder. Raises ``ConfigError``."""
    return [
        Passage(name, piece)
        for name, text in documents(place, "knowledge")
        for piece in pieces(text, words)
    ]


def _document(record: object, file: Path, number: int) -> tuple[str, str]:
    fields = record if isinstance(record, dict) else {}
    text = next((fields[name] for name in _TEXTS if isinstance(fields.get(name), str)), None)
    if text is None:
        raise InputError(f"{file}:{number}: a document needs one of the fields {', '.join(_TEXTS)}")
    title = next((fields[name] for name in _TITLES if fields.get(name)), f"{file.stem} {number}")
    return str(title), text


def from_rows(rows: Sequence[Row]) -> list[Passage]:
    """Return each training row as a passage: its request and its answer."""
    return [
        Passage(f"example {n}", f"{request(row)}\nAnswer: {row.answer}")
        for n, row in enumerate(rows, 1)
    ]


def request(row: Row) -> str:
    """Return what is searched for: the turns of the user."""
    return "\n".join(m.content for m in row.prompt if m.role == "user")


def with_sources(prompt: Sequence[Message], passages: Sequence[Passage]) -> tuple[Message, ...]:
    """Return the prompt with ``passages`` before the text of its last turn."""
    if not passages:
        return tuple(prompt)
    listed = "\n\n".join(f"[{number}] {p.source}: {p.text}" for number, p in enumerate(passages, 1))
    last = prompt[-1]
    text = f"Sources:\n\n{listed}\n\nAnswer from the sources where they help.\n\n{last.content}"
    return (*prompt[:-1], Message(last.role, text))
