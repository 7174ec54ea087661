"""Convert a value that stands where a text is expected into text."""

import json
import math
from datetime import date, datetime, time
from decimal import Decimal

from hydratune.data.formats.parts import PartKind, read_parts, refuse_media
from hydratune.errors import DataError

_WRITTEN_AS_TEXT = str | int | float | Decimal | date | datetime | time


def to_text(value: object, name: str, where: str, *, is_answer: bool = False) -> str:
    """Return a text, a number or a date as text, and an answer that is an object as JSON.

    Raises ``DataError``, which calls the value ``name``, for everything else.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"{where}: {name} is empty ({'null' if value is None else 'not a number'})")
    if isinstance(value, bytes):
        raise DataError(f"{where}: {name} is binary; a text is needed")
    if becomes_json(value):
        return _to_json(value, name, where) if is_answer else _join_texts(value, name, where)
    if isinstance(value, float) and math.isinf(value):
        raise DataError(f"{where}: {name} is not a finite number")
    if not isinstance(value, _WRITTEN_AS_TEXT):
        raise DataError(f"{where}: {name} must be a text, this is {type(value).__name__}")
    return str(value)


def becomes_json(value: object) -> bool:
    """Return whether an answer with this value is stored as JSON."""
    return isinstance(value, bool | dict | list)


def _to_json(value: object, name: str, where: str) -> str:
    refuse_media(value, name, where)
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {name} cannot be written as JSON ({error})") from None


def _join_texts(value: object, name: str, where: str) -> str:
    """Return the text of a list of parts that are all texts."""
    parts = read_parts(value, name, where, strict=True)
    if parts is None or any(part.kind is not PartKind.text for part in parts):
        kind = "dict" if isinstance(value, dict) else type(value).__name__
        raise DataError(f"{where}: {name} must be a text, this is {kind}: {str(value)[:60]}")
    return "".join(part.text for part in parts)


def refuse_half_characters(text: str, name: str, where: str) -> None:
    """Raise ``DataError`` for a surrogate that stands alone, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise DataError(
            f"{where}: {name} holds half a character ({half}), as cut text does; repair or remove"
            " it"
        ) from None
