"""tldr pages (CC BY 4.0) -> rows: plain notes on a command, and its page in the project's house
style.

The notes are made from the page by rule: its facts in their order, as prose without any markup. So
every fact of the answer is in the prompt, and only the style is left to learn.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from hydratune.data.cases.base import CaseData, CaseRows
from hydratune.data.cases.tldr import TLDR_CONTENTS, Page, read_pages
from hydratune.data.rows import Message, Row, stable_hash
from hydratune.settings.registry import variant


@variant("data", "brand_style")
@dataclass
class BrandStyleData(CaseData):
    """Plain notes on a command -> its page in the style of the tldr project."""

    contents: ClassVar[str] = TLDR_CONTENTS

    source: str = "brand_style"

    def read(self) -> CaseRows:
        """Return one row per page that is not only an alias of another. Raises ``DataError``."""
        rows = []
        for page in read_pages(self.path):
            if not page.is_alias:
                turns = Message("user", plain_notes(page)), Message("assistant", page.text.strip())
                identity = page.path.removeprefix("pages/").removesuffix(".md")
                rows.append(Row(identity, turns, group=page.family, where=page.where))
        return rows, None, None


_OPENINGS = (
    "These are notes on {title}.",
    "The command is called {title}.",
    "Please write up {title}.",
    "What we know about {title}:",
)
# A blank stands before the full stop, so that it is not taken for a part of the command.
_EXAMPLES = (
    "To {what}, run {command} .",
    "If you want to {what}, type {command} .",
    "{command} is how you {what}.",
    "You can {what} with {command} .",
)


def plain_notes(page: Page) -> str:
    """Return the page's facts as one paragraph; its wording depends on the page's name alone."""
    variant_number = int(stable_hash(page.path), 16)
    sentences = [_OPENINGS[variant_number % len(_OPENINGS)].format(title=page.title)]
    sentences += [_without_markup(note) for note in page.notes]
    for number, (what, command) in enumerate(page.examples):
        phrase = _EXAMPLES[(variant_number // len(_OPENINGS) + number) % len(_EXAMPLES)]
        purpose = _inside_a_sentence(_without_markup(what))
        sentences.append(phrase.format(what=purpose, command=command))
    return " ".join(sentences)


def _without_markup(text: str) -> str:
    return re.sub(r"<(https?://[^>]+)>", r"\1", text).replace("`", "")


def _inside_a_sentence(text: str) -> str:
    return text[0].lower() + text[1:] if text[1:2].islower() else text
