"""Which character separates the columns of a CSV file."""

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hydratune.errors import DataError

NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_OF_SUFFIX = {".csv": ",", ".tsv": "\t"}
_SAMPLE_LINES, _SAMPLE_CHARACTERS = 50, 65_536


def named_delimiter(text: str) -> str | None:
    """Return the delimiter that a setting means: a name, or the character itself; None: neither."""
    signs = {name: sign for sign, name in NAMES.items()} | {"\\t": "\t"}
    if text in signs:
        return signs[text]
    is_sign = len(text) == 1 and not text.isalnum() and text not in '"\r\n '
    return text if is_sign else None


def find_delimiter(
    path: Path, lines: Iterator[str], where: str, statements: list[str]
) -> tuple[str, Iterator[str]]:
    """Return the delimiter of a file, and all its lines.

    It is that of the suffix, unless the first rows can only be divided by another one, which is
    appended to ``statements``. ``lines`` begins with the header, which is at ``where``. Raises
    ``DataError`` where the header has another delimiter that does not divide the rows alike.
    """
    usual = _OF_SUFFIX.get(path.suffix.lower(), ",")
    sample: list[str] = []
    characters, is_whole = 0, True
    for line in lines:
        sample.append(line)
        characters += len(line)
        if len(sample) == _SAMPLE_LINES or characters > _SAMPLE_CHARACTERS:
            is_whole = False
            break
    every = itertools.chain(sample, lines)
    if not sample or _divides(sample, usual, is_whole):
        return usual, every
    others = [sign for sign in NAMES if sign != usual and _divides(sample, sign, is_whole)]
    if len(others) == 1:
        (found,) = others
        statements.append(f"{path}: columns separated by {NAMES[found]}s, as the first rows show")
        return found, every
    if usual not in sample[0]:
        _refuse_unclear(sample[0], others, where)
    return usual, every


def _divides(sample: Sequence[str], delimiter: str, is_whole: bool) -> bool:
    """Return whether the rows have as many cells as the header, and more than one.

    ``is_whole``: the sample is the whole file, so that its last row is not cut.
    """
    if delimiter not in sample[0]:
        return False
    counts = [len(cells) for cells in _rows(sample, delimiter) if cells]
    if not is_whole and len(counts) > 1:
        counts.pop()
    return len(set(counts)) == 1 and counts[0] > 1


def _rows(sample: Iterable[str], delimiter: str) -> list[list[str]]:
    """Return the cells of each row; none if the rows are broken."""
    try:
        return list(csv.reader(sample, delimiter=delimiter))
    except csv.Error:
        return []


def _refuse_unclear(header: str, others: Sequence[str], where: str) -> None:
    """Raise ``DataError`` if the header has delimiters, none of which is certain."""
    present = [sign for sign in NAMES if sign in header]
    if not present:
        return  # one column
    names = others or present
    fixes = " or ".join(f"data.delimiter={NAMES[sign]}" for sign in names)
    why = "several could" if others else "the rows have not as many cells as the header"
    raise DataError(
        f"{where}: the header has {' and '.join(NAMES[sign] + 's' for sign in present)}, and it is"
        f" not certain what separates the columns ({why}); say it: {fixes}"
    )
