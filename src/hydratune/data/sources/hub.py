"""``data=hub``: a data set on the Hugging Face hub, or a local folder of one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from hydratune.data.rows import SPLIT_NAMES
from hydratune.data.sources.base import OpenedSource
from hydratune.data.sources.records import RecordsConfig
from hydratune.errors import Problem
from hydratune.settings.registry import variant


@variant("data", "hub")
@dataclass
class HubData(RecordsConfig):
    """A data set on the Hugging Face hub, or a local folder that ``datasets`` can load."""

    source: str = "hub"
    id: str = MISSING  # name of the data set on the Hugging Face hub
    subset: str | None = None  # its configuration
    revision: str | None = None  # commit, branch or tag
    train: str = "train"  # names of the splits
    validation: str | None = None  # its split; null: rows are split off
    test: str | None = None  # its split; null: rows are split off
    # as with data=files
    columns: dict[str, str] = field(default_factory=dict)
    roles: dict[str, Any] = field(default_factory=dict)  # as with data=files
    keep: dict[str, Any] = field(default_factory=dict)  # as with data=files

    def source_problems(self) -> Iterator[Problem]:
        """Yield the problems of the settings that only this source has."""
        yield from self.record_problems()

    def default_name(self) -> str:
        """Return the name of the data set without its owner."""
        return self.id.rstrip("/").rpartition("/")[2]

    def open(self) -> OpenedSource:
        """Download the data set, or take it from the cache of ``datasets``."""
        from hydratune.data.formats.reader import open_hub, read_hub

        statements: list[str] = []
        names = {name: split for name in SPLIT_NAMES if (split := getattr(self, name))}
        opened = {
            name: open_hub(self.id, self.subset, split, self.revision)
            for name, split in names.items()
        }
        naming = self.naming()
        rows = {
            name: read_hub(opened[name], self.id, split, naming, statements)
            for name, split in names.items()
        }
        identity = {name: str(getattr(part, "_fingerprint", "")) for name, part in opened.items()}
        return OpenedSource(rows, identity, sum(map(len, opened.values())), statements)
