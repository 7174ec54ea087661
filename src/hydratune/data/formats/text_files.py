"""Open text files in the encoding that the settings state, and read plain text as documents."""

import codecs
import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from hydratune.data.formats import limits
from hydratune.data.rows import Records
from hydratune.errors import DataError

_HEAD_BYTES = 65_536  # of a file: enough to see whether it is text
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def open_text(path: Path, encoding: str) -> io.TextIOWrapper:
    """Open a file as text whose lines end with a line feed only, without its byte-order mark.

    Raises ``DataError`` for an unknown encoding, and for a file that is binary or UTF-16 although
    another encoding is stated.
    """
    try:
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError):
        codec = None
    if codec is None or not getattr(codec, "_is_text_encoding", True):  # hex, rot13 and the like
        raise DataError(
            f"{path}: data.encoding = {encoding}: no such encoding of text; usual: utf-8, latin-1,"
            " cp1252"
        )
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    name = codec.name
    if not name.startswith(("utf-16", "utf-32")):
        _refuse_wide_or_binary(head, path)
    if name == "utf-8":
        name = "utf-8-sig"
    if name.startswith("utf-16") and head.startswith(_UTF16_MARKS):
        name = "utf-16"  # utf-16-le would leave the mark in the first column's name
    return io.TextIOWrapper(path.open("rb"), encoding=name, newline="\n")


def _refuse_wide_or_binary(head: bytes, path: Path) -> None:
    """Raise ``DataError`` if the beginning of a file is UTF-16 text or no text at all."""
    advice = "or save the file as UTF-8"
    if head.startswith(_UTF16_MARKS):
        raise DataError(f"{path}: this is UTF-16 text; state it: data.encoding=utf-16, {advice}")
    if (wide := _utf16_without_mark(head)) is not None:
        raise DataError(
            f"{path}: this looks like UTF-16 text; state it: data.encoding={wide}, {advice}"
        )
    if b"\0" in head:
        raise DataError(
            f"{path}: this is a binary file, not text; give JSONL, JSON, CSV or Parquet with the"
            " right ending"
        )


def _utf16_without_mark(head: bytes) -> str | None:
    """Return the byte order of UTF-16 text of mostly ASCII characters: every second byte is 0."""
    if len(head) <= 3:
        return None
    even, odd = head[::2], head[1::2]
    for name, high, low in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if high.count(0) > 0.7 * len(high) and low.count(0) == 0:
            return name
    return None


def wrong_encoding_error(path: Path, encoding: str) -> DataError:
    """Return the error for a file that is not ``encoding``, with the line of the first wrong byte.

    The file is decoded once more as a whole: decoding in chunks does not say where the byte is.
    """
    raw = path.read_bytes()
    position = f"{path}: not {encoding}"
    try:
        raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        position = f"{path}:{line}: not {encoding} (byte 0x{raw[error.start]:02x})"
    except UnicodeError:  # some codecs do not say where
        pass
    own = codecs.lookup(encoding).name
    others = [name for name in ("latin-1", "cp1252") if codecs.lookup(name).name != own]
    advised = f"{others[0]} (or {others[1]})" if len(others) > 1 else others[0]
    return DataError(
        f"{position}; save the file as UTF-8, or state its encoding: data.encoding={advised}"
    )


def read_lines(path: Path, stream: io.TextIOWrapper) -> Iterator[str]:
    """Yield the lines of a file. Raises ``DataError`` before a line that is too long is read."""
    longest = limits.MAX_ROW_CHARACTERS
    for number, line in enumerate(iter(lambda: stream.readline(longest + 1), ""), 1):
        if len(line) > longest:
            raise limits.too_large_error(f"{path}:{number}", "this line")
        yield line


def read_paragraphs(path: Path, lines: Iterable[str]) -> Records:
    """Yield each paragraph of a plain text, up to an empty line, as the record of a document."""
    paragraph: list[str] = []
    length = 0
    for number, line in enumerate(itertools.chain(lines, [""]), 1):
        if line.strip():
            paragraph.append(line)
            length += len(line)
            if length > limits.MAX_ROW_CHARACTERS:
                where = f"{path}:{number - len(paragraph) + 1}"
                raise limits.too_large_error(where, "the paragraph that begins here")
        elif paragraph:
            yield f"{path}:{number - len(paragraph)}", {"text": "".join(paragraph).rstrip("\r\n")}
            paragraph, length = [], 0
