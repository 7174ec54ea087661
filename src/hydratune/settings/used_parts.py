"""Which parts of packages, or of Python code, the settings of a run choose."""

import inspect
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from hydratune.errors import Problem
from hydratune.metric_table import VALIDATION
from hydratune.settings import packages
from hydratune.settings.commands import TrainConfig
from hydratune.settings.monitor import split_direction
from hydratune.settings.registry import is_own, variant_name


@dataclass(frozen=True)
class UsedPart:
    """A part that hydratune does not bring itself, and the setting that chooses it."""

    kind: str  # one of ``packages.GROUPS``
    key: str
    name: str

    @property
    def title(self) -> str:
        return f"{packages.TITLES[self.kind]} {self.name}"

    @property
    def decides_training(self) -> bool:
        """Whether the trained weights depend on it; on a metric only if it is monitored."""
        return self.kind != "metric" or self.key == "trainer.monitor"

    @property
    def owner(self) -> str:
        """Who brings it, for messages."""
        return packages.owner(self.kind, self.name)

    def definition(self, config: TrainConfig) -> object:
        """Return the class or function; ``config``: the settings that choose it."""
        if self.kind in ("callback", "metric"):
            return packages.load(self.kind, self.name, self.key)
        return type(getattr(config, self.kind))


def used_parts(config: TrainConfig) -> list[UsedPart]:
    """Return the parts of others in ``config``; empty for the settings of most runs."""
    parts = []
    for group in ("data", "adapter", "optimizer"):
        settings = getattr(config, group)
        if not is_own(type(settings)):
            parts.append(UsedPart(group, group, variant_name(group, settings)))
    callbacks, metrics = config.trainer.callbacks or (), list(config.evaluation.metrics or ())
    monitored = split_direction(config.trainer.monitor)[0].removeprefix(f"{VALIDATION}/")
    return [
        *parts,
        *(UsedPart("callback", "trainer.callbacks", name) for name in callbacks),
        *(
            UsedPart("metric", "evaluation.metrics", name)
            for name in metrics
            if packages.has("metric", name) and name != monitored
        ),
        *(
            UsedPart("metric", "trainer.monitor", name)
            for name in [monitored]
            if packages.has("metric", name)
        ),
    ]


def facts(config: TrainConfig, *, training_only: bool = False) -> dict[str, dict[str, str]]:
    """Return what identifies each part: its package, and a hash of the file that defines it.

    ``training_only``: of those that decide what is trained.
    """
    result = {}
    for used in used_parts(config):
        if training_only and not used.decides_training:
            continue
        part = used.definition(config)
        package = packages.distribution(used.kind, used.name) or "registered from Python"
        result[used.title] = {"package": package, "sha256": packages.source_hash(part)}
    return result


def part_that_raised(config: TrainConfig, error: BaseException) -> UsedPart | None:
    """Return the part in whose file an error was raised or passed through; None if in none."""
    files = {frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)}
    for used in used_parts(config):
        try:
            file = inspect.getfile(used.definition(config))  # type: ignore[arg-type]  # or TypeError
        except TypeError:  # it has no file
            continue
        if file in files:
            return used
    return None


def only_in_this_process(config: TrainConfig) -> Iterator[Problem]:
    """Yield parts that were registered from Python, which other processes do not have."""
    for used in used_parts(config):
        if not packages.is_of_package(used.kind, used.name):
            why = "it was registered from Python, and this starts other processes, which lack it"
            fix = "put it into a package with an entry point (docs/howto/extending.md)"
            yield Problem(used.key, used.name, why, fix)
