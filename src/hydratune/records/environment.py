"""environment.json: with what a run was made, to find out later what has changed since."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from hydratune.errors import RunError
from hydratune.records.files import read_json, write_json

_OPTIONAL = ("start", "parts", "memory_plan")  # keys that are absent where there is no such thing


@dataclass
class Environment:
    """The content of environment.json, in the order of its keys."""

    versions: dict[str, str] = field(default_factory=dict)  # of Python and packages
    hardware: dict[str, object] = field(default_factory=dict)
    code: str = ""  # hash of the code that decides what is trained
    seed: int | None = None
    model: dict[str, str | None] = field(default_factory=dict)  # name, licence, source, identity
    base: str = ""  # identity of the base model: equal identity, equal weights
    start: dict[str, object] | None = None  # the adapter that was trained further
    parts: dict[str, dict[str, str]] | None = None  # of packages: title -> package, hash of code
    data_fingerprint: str = ""
    git: dict[str, str | bool] = field(default_factory=dict)  # commit, and whether it was changed
    precision: str = ""
    memory_plan: dict[str, object] | None = None  # how much was computed at once
    other: dict[str, object] = field(default_factory=dict)  # what another version wrote

    def facts(self) -> dict[str, object]:
        """Return what identifies model, data and code, for W&B."""
        names = ("base", "start", "data_fingerprint", "git", "precision")
        content = self.to_json()
        return {name: content[name] for name in names if name in content}

    def to_json(self) -> dict[str, object]:
        """Return the content of the file."""
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "other"}
        absent = {name for name in _OPTIONAL if content[name] is None}
        present = {name: value for name, value in content.items() if name not in absent}
        return present | self.other

    @classmethod
    def from_json(cls, content: Mapping[str, object]) -> "Environment":
        """Read the content of a file; what an older version did not write is empty."""
        names = {f.name for f in fields(cls)} - {"other"}
        environment = cls(other={k: v for k, v in content.items() if k not in names})
        for name in names & content.keys():
            setattr(environment, name, content[name])
        return environment

    def write(self, file: Path) -> None:
        write_json(file, self.to_json())

    @classmethod
    def read(cls, file: Path) -> "Environment":
        """Read the file. Raises ``RunError`` if the file is missing, damaged or no object."""
        content = read_json(file)
        if not isinstance(content, dict):
            raise RunError(f"{file} holds no object; it was changed or cut")
        return cls.from_json(content)
