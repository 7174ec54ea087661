"""Nouns with their counts and names, for messages: 1 row, 2 rows; trial 0, trials 0, 1."""

from collections.abc import Sequence


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: 1 row, 2 rows.

    ``plural``: where it is not the noun with an s.
    """
    return f"{count:,} {noun_for(count, noun, plural)}"


def noun_for(count: int, noun: str, plural: str = "") -> str:
    """Return a noun in the number of ``count``."""
    return noun if count == 1 else plural or f"{noun}s"


def named(noun: str, names: Sequence[str]) -> str:
    """Return names after their noun: trial 0; trials 0, 1."""
    return f"{noun_for(len(names), noun)} {', '.join(names)}"


def in_markdown(text: str) -> str:
    """Return a text of somebody else as one line of Markdown without markup, link or picture."""
    line = " ".join(text.split())
    return line.replace("<", "&lt;").replace("](", "]\\(").replace("`", "\\`")
