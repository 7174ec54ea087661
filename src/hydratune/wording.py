"""Nouns with their counts and names, for messages: 1 row, 2 rows; trial 0, trials 0, 1."""

from collections import Counter
from collections.abc import Iterable, Sequence

_TYPED = 8  # characters of a number that somebody typed; drawn or computed ones have more


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


def short_value(text: str) -> str:
    """Return the value of a setting for a table: a number with many digits has four of them."""
    try:
        number = float(text)
    except ValueError:
        return text
    is_typed = len(text) <= _TYPED or text.lstrip("+-").isdigit()
    return text if is_typed else f"{number:.4g}"


def short_values(texts: Iterable[str]) -> dict[str, str]:
    """Return each value in its short form; those that would look alike keep all their digits."""
    short = {text: short_value(text) for text in texts}
    alike = Counter(short.values())
    return {text: own if alike[own] == 1 else text for text, own in short.items()}
