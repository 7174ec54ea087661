"""metrics.json: what a finished run measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hydratune.errors import RunError
from hydratune.records.files import Json, read_json, write_json

_STRUCTURES = ("course", "settings", "intervals", "seconds")
_TRAINING = ("train/loss", "val/", "objective", "cost/")
_NO_SYSTEMS = ("objective", "validation")  # of ``settings``, beside the systems
_PROBES = ("forgetting/", "memorisation/")


@dataclass
class RunMetrics:
    """The content of metrics.json. Its metrics are numbers by name, in three parts."""

    # of the answers to the test rows ("eval/exact_match") and of the loss curve ("fit/rise")
    answers: dict[str, Json] = field(default_factory=dict)
    training: dict[str, Json] = field(default_factory=dict)  # losses, objective, "cost/..."
    probes: dict[str, Json] = field(default_factory=dict)  # "forgetting/...", "memorisation/..."
    course: dict[str, Json] = field(default_factory=dict)  # verdict and advice on the loss curve
    settings: dict[str, dict[str, Json]] = field(default_factory=dict)  # how it was measured
    intervals: dict[str, list[float]] = field(default_factory=dict)  # by name of a metric
    seconds: dict[str, float] = field(default_factory=dict)  # wall seconds by stage
    other: dict[str, Json] = field(default_factory=dict)  # what another version wrote

    @property
    def values(self) -> dict[str, float]:
        """Every metric that is a number, by name."""
        every = {**self.answers, **self.training, **self.probes}
        return {name: value for name, value in every.items() if isinstance(value, (int, float))}

    @property
    def systems(self) -> list[str]:
        """The systems whose answers were measured: base, fewshot, eval."""
        return [name for name in self.settings if name not in _NO_SYSTEMS]

    def to_json(self) -> dict[str, Json]:
        """Return the content of the file, in the order in which it is written."""
        return {
            **self.answers,
            "course": self.course,
            **self.training,
            "settings": self.settings,
            "intervals": self.intervals,
            "seconds": self.seconds,
            **self.probes,
            **self.other,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Json]) -> "RunMetrics":
        """Read the content of a file; whatever an older version did not write is empty."""
        metrics = cls(**{name: content[name] for name in _STRUCTURES if name in content})
        for name, value in content.items():
            if name in _STRUCTURES:
                continue
            if name.startswith(_PROBES):
                metrics.probes[name] = value
            elif name.startswith(_TRAINING):
                metrics.training[name] = value
            elif isinstance(value, (int, float)):
                metrics.answers[name] = value
            else:
                metrics.other[name] = value
        return metrics

    def write(self, file: Path) -> None:
        write_json(file, self.to_json())

    @classmethod
    def read(cls, file: Path) -> "RunMetrics":
        """Read the file. Raises ``RunError`` if the file is missing, damaged or no object."""
        content = read_json(file)
        if not isinstance(content, dict):
            raise RunError(f"{file} holds no metrics; it was changed or cut")
        return cls.from_json(content)
