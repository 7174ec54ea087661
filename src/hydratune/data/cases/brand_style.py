"""tldr pages (CC BY 4.0) -> rows: plain notes on a command, and its page in the project's house
style.

The notes are made from the page by rule: its facts in its order, run together as prose without any
markup. So every fact of the answer is in the prompt, and what is left to learn is the style.
"""

import re

from hydratune.data.cases.tldr import Page, read_pages
from hydratune.data.rows import Message, Row, stable_hash
from hydratune.settings.data import BrandStyleData

_OPENINGS = (
    "These are notes on {title}.",
    "The command is called {title}.",
    "Please write up {title}.",
    "What we know about {title}:",
)
# a blank before the full stop, so that it is not taken for a part of the command
_EXAMPLES = (
    "To {what}, run {command} .",
    "If you want to {what}, type {command} .",
    "{command} is how you {what}.",
    "You can {what} with {command} .",
)


def read_brand_style(data: BrandStyleData) -> tuple[list[Row], None, None]:
    """One row per page that is more than a pointer to another. Raises ``DataError``."""
    rows = []
    for page in read_pages(data.path):
        if not page.is_alias:
            turns = Message("user", plain_notes(page)), Message("assistant", page.text.strip())
            identity = page.path.removeprefix("pages/").removesuffix(".md")
            rows.append(Row(identity, turns, group=page.family, where=page.where))
    return rows, None, None


def plain_notes(page: Page) -> str:
    """The page's facts as one paragraph; which phrasing is used depends on the page's name alone."""  # noqa: E501
    variant = int(stable_hash(page.path), 16)
    sentences = [_OPENINGS[variant % len(_OPENINGS)].format(title=page.title)]
    sentences += [_without_markup(note) for note in page.notes]
    for number, (what, command) in enumerate(page.examples):
        phrase = _EXAMPLES[(variant // len(_OPENINGS) + number) % len(_EXAMPLES)]
        sentences.append(
            phrase.format(what=_inside_a_sentence(_without_markup(what)), command=command)
        )
    return " ".join(sentences)


def _without_markup(text: str) -> str:
    return re.sub(r"<(https?://[^>]+)>", r"\1", text).replace("`", "")


def _inside_a_sentence(text: str) -> str:
    return text[0].lower() + text[1:] if text[1:2].islower() else text
