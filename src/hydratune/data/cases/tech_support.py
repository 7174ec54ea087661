"""NL2Bash (MIT) and the examples of tldr pages (CC BY 4.0) -> rows: a request in words and the
shell command that does it.
"""

import re

from hydratune.data.cases.published import published_file, published_text
from hydratune.data.cases.tldr import Page, read_pages
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.data import TechSupportData

_ELSEWHERE = re.compile(
    r"\b(as|like|the|see) (above|previous|before)\b|\babove (command|example)\b", re.I
)


def read_tech_support(data: TechSupportData) -> tuple[list[Row], None, None]:
    """NL2Bash, then the tldr examples if ``data.tldr`` is given. Raises ``DataError``."""
    rows = nl2bash_rows(data.path)
    if data.tldr is not None:
        rows += [row for page in read_pages(data.tldr, "data.tldr") for row in example_rows(page)]
    return rows, None, None


def nl2bash_rows(folder: str) -> list[Row]:
    """``all.nl`` and ``all.cm``, line by line.

    A request with several commands keeps them all, in one group.
    """
    asked, given = (published_file(folder, name) for name in ("all.nl", "all.cm"))
    requests, commands = (
        [line.strip() for line in published_text(path).rstrip("\n").split("\n")]
        for path in (asked, given)
    )
    if len(requests) != len(commands):
        raise DataError(
            f"{given}: {len(commands)} commands for the {len(requests)} requests of {asked}; line n"
            " answers line n"
        )
    rows = []
    for number, (request, command) in enumerate(zip(requests, commands, strict=True), 1):
        if not request or not command:
            empty = asked if not request else given
            raise DataError(
                f"{empty}:{number}: an empty line; take the files as they were published"
            )
        turns = Message("user", request), Message("assistant", command)
        rows.append(
            Row(
                f"nl2bash-{number}",
                turns,
                group=f"nl2bash/{normalised(request)}",
                where=f"{given}:{number}",
            )
        )
    return rows


def normalised(request: str) -> str:
    """The words alone, so that a full stop or a capital makes no other request."""
    return " ".join(re.findall(r"\w+", request.casefold()))


def example_rows(page: Page) -> list[Row]:
    """One row per example that is understood without the rest of its page."""
    if page.is_alias:
        return []
    rows = []
    for number, (what, command) in enumerate(page.examples, 1):
        if not _ELSEWHERE.search(what):
            turns = Message("user", f"{page.title}: {what}"), Message("assistant", command)
            identity = f"tldr-{page.path.removeprefix('pages/').removesuffix('.md')}-{number}"
            rows.append(
                Row(
                    identity,
                    turns,
                    group=f"tldr/{page.name}",
                    meta={"page": page.path},
                    where=page.where,
                )
            )
    return rows
