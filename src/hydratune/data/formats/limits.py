"""The size that one row may have; a longer one is a mistake in the file, or an attack."""

from hydratune.errors import DataError

MAX_ROW_CHARACTERS = 2**25  # more than any model reads at once, and little memory


def too_large_error(where: str, what: str = "this row") -> DataError:
    """Return the error for a row, line or cell of more than ``MAX_ROW_CHARACTERS``."""
    return DataError(
        f"{where}: {what} has more than {MAX_ROW_CHARACTERS:,} characters, which no model reads;"
        " split it into rows, or take it out"
    )


def refuse_large_record(record: object, container_size: int, where: str) -> None:
    """Raise ``DataError`` if the texts of ``record`` together are too long.

    ``container_size`` is the size of the file or batch that holds it: where that is small enough,
    the record need not be looked at.
    """
    if container_size > MAX_ROW_CHARACTERS and _count_characters(record) > MAX_ROW_CHARACTERS:
        raise too_large_error(where)


def _count_characters(value: object) -> int:
    """Count the characters of all texts in a value; every other value counts as one."""
    if isinstance(value, dict):
        return sum(map(_count_characters, value.values()))
    if isinstance(value, list):
        return sum(map(_count_characters, value))
    return len(value) if isinstance(value, str | bytes) else 1
