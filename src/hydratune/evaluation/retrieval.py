"""Looking things up: passages of documents, ranked by BM25 (bm25s)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        """Raises ``InputError`` if there is nothing to search."""
        import bm25s

        self.passages = list(passages)
        self._index = bm25s.BM25()
        corpus = _words([f"{p.source} {p.text}" for p in self.passages])
        if not any(corpus):
            raise InputError("there is nothing to look things up in: no passage has a word")
        self._known = {word for words in corpus for word in words}
        self._index.index(corpus, show_progress=False)

    def search(self, query: str, count: int) -> list[Passage]:
        """The ``count`` nearest passages that share a word with ``query``, the best first."""
        words = [word for word in _words([query])[0] if word in self._known]
        if not words:
            return []
        found, scores = self._index.retrieve(
            [words], k=min(count, len(self.passages)), show_progress=False
        )
        return [
            self.passages[number]
            for number, score in zip(found[0], scores[0], strict=True)
            if score > 0
        ]


def _words(texts: Sequence[str]) -> list[list[str]]:
    """Lower-case words without the most frequent English ones."""
    import bm25s

    words: list[list[str]] = bm25s.tokenize(list(texts), return_ids=False, show_progress=False)
    return words


def pieces(text: str, words: int) -> list[str]:
    """``text`` in pieces of about ``words`` words, cut between paragraphs where they are short
    enough.
    """
    found: list[str] = []
    here: list[str] = []
    count = 0
    for paragraph in text.split("\n\n"):
        tokens = paragraph.split()
        for start in range(0, len(tokens), words) or [0]:
            part = (
                paragraph.strip()
                if len(tokens) <= words
                else " ".join(tokens[start : start + words])
            )
            size = min(words, len(tokens) - start)
            if here and count + size > words:
                found.append("\n\n".join(here))
                here, count = [], 0
            if part:
                here.append(part)
                count += size
    return [*found, *(["\n\n".join(here)] if here else [])]


def documents(place: Path, setting: str) -> list[tuple[str, str]]:
    """(name, text) of a text file or of every one below a folder; of a JSONL file one a line.

    Raises ``ConfigError``.
    """
    files = (
        sorted(p for p in place.rglob("*") if p.suffix in _ENDINGS and p.is_file())
        if place.is_dir()
        else [place]
    )
    if not place.exists() or not files:
        why = (
            "no such file or folder"
            if not place.exists()
            else f"no text in it ({', '.join(_ENDINGS)})"
        )
        raise ConfigError([Problem(setting, place, why, "give a text file or a folder of texts")])
    found: list[tuple[str, str]] = []
    for file in files:
        if file.suffix == ".jsonl":
            found += [
                _document(record, file, number) for number, record in enumerate(read_jsonl(file), 1)
            ]
        else:
            found.append((file.stem, file.read_text("utf-8", errors="replace")))
    return found


def from_files(place: Path, words: int) -> list[Passage]:
    """Passages of the documents in a file or folder. Raises ``ConfigError``."""
    return [
        Passage(name, piece)
        for name, text in documents(place, "knowledge")
        for piece in pieces(text, words)
    ]


def _document(record: Any, file: Path, number: int) -> tuple[str, str]:
    fields = record if isinstance(record, dict) else {}
    text = next((fields[name] for name in _TEXTS if isinstance(fields.get(name), str)), None)
    if text is None:
        raise InputError(f"{file}:{number}: a document needs one of the fields {', '.join(_TEXTS)}")
    return str(
        next((fields[name] for name in _TITLES if fields.get(name)), f"{file.stem} {number}")
    ), text


def from_rows(rows: Sequence[Row]) -> list[Passage]:
    """Each training row as what was asked and what was answered."""
    return [
        Passage(f"example {n}", f"{request(row)}\nAnswer: {row.answer}")
        for n, row in enumerate(rows, 1)
    ]


def request(row: Row) -> str:
    """What is looked for: the turns of the user."""
    return "\n".join(m.content for m in row.prompt if m.role == "user")


def with_sources(prompt: Sequence[Message], passages: Sequence[Passage]) -> tuple[Message, ...]:
    """The prompt with what was found before its last turn's text."""
    if not passages:
        return tuple(prompt)
    listed = "\n\n".join(f"[{number}] {p.source}: {p.text}" for number, p in enumerate(passages, 1))
    asked = prompt[-1]
    text = f"Sources:\n\n{listed}\n\nAnswer from the sources where they help.\n\n{asked.content}"
    return (*prompt[:-1], Message(asked.role, text))
