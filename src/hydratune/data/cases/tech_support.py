"""NL2Bash (MIT) and the examples of tldr pages (CC BY 4.0) -> rows: a request in words and the
shell command that does it.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hydratune.data.cases.base import CaseData, CaseRows
from hydratune.data.cases.published import published_file, published_text
from hydratune.data.cases.tldr import TLDR_CONTENTS, Page, read_pages
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.paths import path_setting
from hydratune.settings.registry import variant
from hydratune.wording import counted


@variant("data", "tech_support")
@dataclass
class TechSupportData(CaseData):
    """NL2Bash: request -> shell command; with ``tldr`` also the examples of tldr pages."""

    contents: ClassVar[str] = "all.nl and all.cm"

    source: str = "tech_support"
    # a folder of tldr pages, as for data=brand_style; null: NL2Bash alone
    tldr: str | None = path_setting(None)

    def folders(self) -> dict[str, tuple[str, str]]:
        """Return setting -> (folder, what it must contain)."""
        tldr = {} if self.tldr is None else {"tldr": (self.tldr, TLDR_CONTENTS)}
        return super().folders() | tldr

    def read(self) -> CaseRows:
        """Return the rows of NL2Bash, then the tldr examples. Raises ``DataError``."""
        rows = nl2bash_rows(self.path)
        if self.tldr is not None:
            pages = read_pages(self.tldr, "data.tldr")
            rows += [row for page in pages for row in example_rows(page)]
        return rows, None, None


def nl2bash_rows(folder: str) -> list[Row]:
    """Return the rows of ``all.nl`` and ``all.cm``, whose lines belong together.

    The rows of a request with several commands are one group. Raises ``DataError``.
    """
    request_file, command_file = (published_file(folder, name) for name in ("all.nl", "all.cm"))
    requests, commands = _lines(request_file), _lines(command_file)
    if len(requests) != len(commands):
        raise DataError(
            f"{command_file}: {counted(len(commands), 'command')} for the {len(requests)}"
            " requests of"
            f" {request_file}; line n answers line n"
        )
    rows = []
    for number, (request, command) in enumerate(zip(requests, commands, strict=True), 1):
        if not request or not command:
            empty = command_file if request else request_file
            raise DataError(
                f"{empty}:{number}: an empty line; take the files as they were published"
            )
        turns = Message("user", request), Message("assistant", command)
        group, where = f"nl2bash/{request_words(request)}", f"{command_file}:{number}"
        rows.append(Row(f"nl2bash-{number}", turns, group=group, where=where))
    return rows


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in published_text(file).rstrip("\n").split("\n")]


def request_words(request: str) -> str:
    """Return the words of a request, so that a full stop or a capital makes no other request."""
    return " ".join(re.findall(r"\w+", request.casefold()))


_REFERS_ELSEWHERE = re.compile(
    r"\b(as|like|the|see) (above|previous|before)\b|\babove (command|example)\b", re.I
)


def example_rows(page: Page) -> list[Row]:
    """Return one row per example that is understood without the rest of its page."""
    if page.is_alias:
        return []
    name = page.path.removeprefix("pages/").removesuffix(".md")
    group, meta = f"tldr/{page.name}", {"page": page.path}
    rows = []
    for number, (what, command) in enumerate(page.examples, 1):
        if not _REFERS_ELSEWHERE.search(what):
            turns = Message("user", f"{page.title}: {what}"), Message("assistant", command)
            rows.append(Row(f"tldr-{name}-{number}", turns, group, dict(meta), page.where))
    return rows
