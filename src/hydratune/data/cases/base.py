"""What the case studies have in common: a folder of published files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from omegaconf import MISSING

from hydratune.data.rows import SPLIT_NAMES, Row
from hydratune.data.sources.base import OpenedSource, SourceConfig
from hydratune.errors import Problem
from hydratune.settings.paths import path_setting

# The rows of training, validation and test; None: this split is split off the training rows.
CaseRows = tuple[list[Row], list[Row] | None, list[Row] | None]


@dataclass
class CaseData(SourceConfig):
    """A case study that is read from a folder of published files."""

    contents: ClassVar[str] = "the published files"  # of the folder, for messages
    pattern: ClassVar[str] = "*"  # of the names of the files that are read

    source: str = MISSING
    path: str = path_setting()  # the folder

    def read(self) -> CaseRows:
        """Return the rows of each split. Raises ``DataError``."""
        raise NotImplementedError

    def folders(self) -> dict[str, tuple[str, str]]:
        """Return setting -> (folder, what it must contain)."""
        return {"path": (self.path, self.contents)}

    def source_problems(self) -> Iterator[Problem]:
        """Yield the problems of the settings that only this source has."""
        for name, (folder, contents) in self.folders().items():
            if not Path(folder).is_dir():
                is_file = Path(folder).is_file()
                why = "this is a file, not a folder" if is_file else "no such folder"
                yield Problem(f"data.{name}", folder, why, f"give the folder with {contents}")

    def open(self) -> OpenedSource:
        """Read the case study. Raises ``DataError``."""
        splits = zip(SPLIT_NAMES, self.read(), strict=True)
        rows = {name: rows for name, rows in splits if rows is not None}
        return OpenedSource(
            {name: iter(of_split) for name, of_split in rows.items()},
            self._identity(),
            sum(map(len, rows.values())),
            [f"{self.path}: read as {self.source}"],
        )

    def _identity(self) -> list[tuple[str, int, int]]:
        """Return the name, size and time of every file that may be read."""
        files = (
            file
            for folder, _ in self.folders().values()
            for file in sorted(Path(folder).rglob(self.pattern))
            if file.is_file()
        )
        return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
