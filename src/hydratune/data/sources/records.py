"""What sources of records have in common: columns, speakers and the choice of rows."""

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hydratune.data.formats.layouts import COLUMNS
from hydratune.data.formats.roles import ROLES_OF_TURNS
from hydratune.data.sources.base import SourceConfig
from hydratune.errors import Problem

if TYPE_CHECKING:
    from hydratune.data.formats.columns import Naming


class RecordsConfig(SourceConfig):
    """Settings of a source whose records have columns; ``files`` and ``hub`` declare the fields."""

    columns: dict[str, str]
    roles: dict[str, Any]
    keep: dict[str, Any]

    def naming(self) -> "Naming":
        """Return what the settings say of columns, speakers and rows.

        A column by which rows are divided selects no rows.
        """
        from hydratune.data.formats.columns import Naming
        from hydratune.data.formats.preferences import ANY

        divided = {self.stratify: ANY} if self.stratify and self.stratify != "answer" else {}
        return Naming(self.columns, self.roles, {**divided, **self.keep})

    def record_problems(self) -> Iterator[Problem]:
        """Yield the problems of ``columns`` and ``roles``."""
        for name, column in self.columns.items():
            if name not in COLUMNS:
                near = difflib.get_close_matches(name, COLUMNS, n=1)
                meant = f"did you mean data.columns.{near[0]}?" if near else ""
                fix = meant or f"one of: {', '.join(COLUMNS)}"
                why = "no column of this name can be mapped"
                yield Problem(f"data.columns.{name}", column, why, fix)
        for name, role in self.roles.items():
            if role not in ROLES_OF_TURNS and not _are_speakers(name, role):
                fix = f"one of: {', '.join(ROLES_OF_TURNS)}"
                yield Problem(f"data.roles.{name}", role, "there is no such role", fix)


def _are_speakers(role: str, speakers: object) -> bool:
    """Return whether this maps a role to its speakers: {user: [Mr. X, Ann]}."""
    names = [speakers] if isinstance(speakers, str) else speakers
    is_list = isinstance(names, list) and all(isinstance(name, str | int) for name in names)
    return is_list and role in ROLES_OF_TURNS
