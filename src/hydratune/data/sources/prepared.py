"""``data=prepared``: what ``hydratune prepare`` wrote."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hydratune.data.answers import REPORT_FILE, SCHEMA_FILE
from hydratune.data.sources.base import SourceConfig
from hydratune.errors import Problem
from hydratune.settings.data import DataConfig
from hydratune.settings.paths import path_setting
from hydratune.settings.registry import variant

# Settings that hydratune prepare decides; "quality" too, but for the check that needs the model.
_DECIDED = ("clean", "stratify", "validation_fraction", "test_fraction")


@variant("data", "prepared")
@dataclass
class PreparedData(SourceConfig):
    """What ``hydratune prepare`` wrote: read without changes.

    It is refused if a file was changed since. It is divided already, so
    ``prepared.read_prepared`` reads it instead of ``open``.
    """

    source: str = "prepared"
    path: str = path_setting()  # the folder that hydratune prepare wrote

    def source_problems(self) -> Iterator[Problem]:
        """Yield the problems of the settings that only this source has."""
        if not (Path(self.path) / REPORT_FILE).is_file():
            why = f"no prepared data set (no {REPORT_FILE} in it)"
            yield Problem(
                "data.path", self.path, why, "give the folder that hydratune prepare wrote"
            )
        usual = DataConfig()
        changed = [name for name in _DECIDED if getattr(self, name) != getattr(usual, name)]
        quality = replace(self.quality, template_tokens=usual.quality.template_tokens)
        if quality != usual.quality:
            changed.append("quality")
        for name in changed:
            why = "a prepared data set is read without changes"
            fix = f"give data.{name} to hydratune prepare, which decides it"
            yield Problem(f"data.{name}", "…", why, fix)

    def own_schema_file(self) -> str | None:
        """Return the JSON schema that ``hydratune prepare`` stored, if it did."""
        file = Path(self.path) / SCHEMA_FILE
        return str(file) if file.is_file() else None
