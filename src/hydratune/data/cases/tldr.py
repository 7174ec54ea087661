"""Pages of the tldr project (CC BY 4.0): what a command does and examples of it, in a strict
style.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydratune.data.cases.published import published_objects, published_text
from hydratune.errors import DataError

PUBLISHED = "pages_common_linux.jsonl"
TLDR_CONTENTS = f"{PUBLISHED}, or a clone of tldr-pages"  # of a folder, for messages


@dataclass(frozen=True)
class Page:
    """One page."""

    path: str  # in the project: "pages/common/git-log.md"
    title: str
    notes: tuple[str, ...]  # the lines quoted with ">"
    examples: tuple[tuple[str, str], ...]  # (what, command)
    text: str
    where: str  # file or file:line

    @property
    def name(self) -> str:
        """The name of the file: "git-log"."""
        return self.path.rpartition("/")[2].removesuffix(".md")

    @property
    def family(self) -> str:
        """The command to which the page belongs: "git" for git-log and git-commit."""
        return self.name.split("-")[0] or self.name

    @property
    def is_alias(self) -> bool:
        """Whether the page only points to another one."""
        return any("is an alias of" in note for note in self.notes)


def read_pages(folder: str, key: str = "data.path") -> list[Page]:
    """Read ``pages_common_linux.jsonl`` ({"path", "text"} per line), or a clone of tldr-pages.

    Raises ``DataError`` that names ``key``, the setting of the folder.
    """
    pages = [parse_page(path, text, where) for path, text, where in _texts(Path(folder))]
    if not pages:
        raise DataError(
            f"{key} = {folder}: neither {PUBLISHED} nor pages/common/*.md in it; clone"
            " https://github.com/tldr-pages/tldr"
        )
    return pages


def _texts(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (path in the project, text, where)."""
    published = folder / PUBLISHED
    if published.is_file():
        for where, page in published_objects(published, ("path", "text")):
            yield page["path"], page["text"], where
        return
    for platform in ("common", "linux"):
        for file in sorted((folder / "pages" / platform).glob("*.md")):
            yield file.relative_to(folder).as_posix(), published_text(file), str(file)


def parse_page(path: str, text: str, where: str) -> Page:
    """Parse one page. Raises ``DataError`` if it is not in the project's format."""
    title, notes, descriptions, commands = "", list[str](), list[str](), list[str]()
    for line in filter(None, map(str.rstrip, text.split("\n"))):
        is_described = len(descriptions) == len(commands) + 1  # the last description has no command
        if line.startswith("# ") and not title:
            title = line[2:]
        elif line.startswith("> "):
            notes.append(line[2:])
        elif line.startswith("- ") and len(descriptions) == len(commands):
            descriptions.append(line[2:].removesuffix(":"))
        elif re.fullmatch(r"`.+`", line) and is_described:
            commands.append(line[1:-1])
        else:
            raise DataError(
                f"{where}: {path}: not a tldr page at {line[:60]!r}; take the pages as they were"
                " published"
            )
    if not title or not notes or not descriptions or len(descriptions) != len(commands):
        raise DataError(
            f"{where}: {path}: not a tldr page: a title, a description and examples with a command"
            " each are needed"
        )
    examples = tuple(zip(descriptions, commands, strict=True))
    return Page(path, title, tuple(notes), examples, text.strip() + "\n", where)
