"""What all data sources have in common."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from hydratune.data.rows import Row
from hydratune.settings.data import DataConfig
from hydratune.settings.registry import plain


@dataclass
class OpenedSource:
    """The rows of a source, read one after the other.

    A split that is not in ``rows`` is split off the training rows. ``identity`` changes when the
    content of the source changes. ``statements`` say how the source was read, once rows are read.
    """

    rows: dict[str, Iterator[Row]]
    identity: object  # plain values
    about: int = 0  # number of rows, as far as it is known before reading; for progress only
    statements: list[str] = field(default_factory=list)


@dataclass
class SourceConfig(DataConfig):
    """Settings of one data source: what all sources share, and its own.

    A source overrides ``open``, and ``source_problems`` if its settings have rules.
    """

    def open(self) -> OpenedSource:
        """Open the source.

        Raise ``DataError``, also while rows are read, for whatever is wrong with the data: name the
        file (and line) or the table, what is wrong, and what to do. Errors of reading a file, such
        as ``OSError`` and ``UnicodeDecodeError``, need not be caught: ``data.source_errors``
        explains them to the user. Any other exception, such as that of a database, is reported as
        an unexpected error of this source.
        """
        raise NotImplementedError

    def read_first_rows(self) -> None:
        """Read one row of every split if that is cheap, so that wrong columns cost no start-up.

        Needs no torch. Raise the errors of ``open``.
        """

    def own_settings(self) -> dict[str, Any]:
        """Return the settings that decide what is read: those that not all sources share."""
        return {name: value for name, value in plain(self).items() if name not in _SHARED}


_SHARED = {shared.name for shared in fields(DataConfig)}
