"""Pages of the tldr project (CC BY 4.0): what a command does and examples of it, in one strict
style.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydratune.data.cases.published import published_objects, published_text
from hydratune.errors import DataError

PUBLISHED = "pages_common_linux.jsonl"


@dataclass(frozen=True)
class Page:
    """``path`` as in the project ("pages/common/git-log.md"); ``notes`` are the lines quoted with
    ">"; examples are (what, command).
    """

    path: str
    title: str
    notes: tuple[str, ...]
    examples: tuple[tuple[str, str], ...]
    text: str
    where: str

    @property
    def name(self) -> str:
        """Of the file: "git-log"."""
        return self.path.rpartition("/")[2].removesuffix(".md")

    @property
    def family(self) -> str:
        """The command it belongs to: "git" for git-log and git-commit."""
        return self.name.split("-")[0] or self.name

    @property
    def is_alias(self) -> bool:
        """It only points to another page."""
        return any("is an alias of" in note for note in self.notes)


def read_pages(folder: str, key: str = "data.path") -> list[Page]:
    """From ``pages_common_linux.jsonl`` ({"path", "text"} a line), or from a clone of tldr-pages.

    Raises ``DataError``.
    """
    pages = [parse_page(path, text, where) for path, text, where in _texts(Path(folder))]
    if not pages:
        raise DataError(
            f"{key} = {folder}: neither {PUBLISHED} nor pages/common/*.md in it; clone"
            " https://github.com/tldr-pages/tldr"
        )
    return pages


def _texts(folder: Path) -> Iterator[tuple[str, str, str]]:
    published = folder / PUBLISHED
    if published.is_file():
        for where, page in published_objects(published, ("path", "text")):
            yield page["path"], page["text"], where
        return
    for platform in ("common", "linux"):
        for file in sorted((folder / "pages" / platform).glob("*.md")):
            yield file.relative_to(folder).as_posix(), published_text(file), str(file)


def parse_page(path: str, text: str, where: str) -> Page:
    """Raises ``DataError`` where the page is not in the project's format."""
    notes: list[str] = []
    title, whats, commands = "", list[str](), list[str]()
    for line in filter(None, map(str.rstrip, text.split("\n"))):
        if line.startswith("# ") and not title:
            title = line[2:]
        elif line.startswith("> "):
            notes.append(line[2:])
        elif line.startswith("- ") and len(whats) == len(commands):
            whats.append(line[2:].removesuffix(":"))
        elif re.fullmatch(r"`.+`", line) and len(whats) == len(commands) + 1:
            commands.append(line[1:-1])
        else:
            raise DataError(
                f"{where}: {path}: not a tldr page at {line[:60]!r}; take the pages as they were"
                " published"
            )
    if not title or not notes or not whats or len(whats) != len(commands):
        raise DataError(
            f"{where}: {path}: not a tldr page: a title, a description and examples with a command"
            " each are needed"
        )
    return Page(
        path,
        title,
        tuple(notes),
        tuple(zip(whats, commands, strict=True)),
        text.strip() + "\n",
        where,
    )
