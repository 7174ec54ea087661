"""Partial fine-tuning: chosen parameters are trained in full, all others stay frozen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hydratune.adapters.methods.full import FullFinetune
from hydratune.errors import ConfigError, Problem
from hydratune.settings.adapter import AdapterContext
from hydratune.settings.ranges import at_least
from hydratune.settings.registry import variant
from hydratune.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@variant("adapter", "freeze")
@dataclass
class PartialFinetune(FullFinetune):
    """No adapter: chosen parameters are trained in full, all others stay frozen."""

    method: str = "freeze"
    last_layers: int = 2  # the top layers that are trained
    # further modules or parameters: names or regular expressions of whole names
    trainable: list[str] = field(default_factory=list)

    def problems(self, context: AdapterContext) -> Iterator[Problem]:
        yield from at_least("adapter.last_layers", self.last_layers, 0)
        if self.last_layers == 0 and not self.trainable:
            fix = "set adapter.last_layers=2, or name adapter.trainable=[...]"
            yield Problem("adapter.last_layers", 0, "nothing would be trained", fix)

    def trained_parameters(self, model: "PreTrainedModel") -> set[str]:
        """Return the names of the parameters that are trained.

        Raises ``ConfigError`` for layers and names that ``model`` does not have.
        """
        from hydratune.adapters.targets import layer_number

        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        problems = list(self._pattern_problems(names))
        by_layer = {name: layer_number(name, None) for name in names}
        layers = sorted({number for number in by_layer.values() if number is not None})
        if self.last_layers > len(layers):
            fix = f"set adapter.last_layers={len(layers)} or less"
            why = f"this model has {counted(len(layers), 'layer')}"
            problems.append(Problem("adapter.last_layers", self.last_layers, why, fix))
        if not problems:
            matched = {pattern: _matching(names, pattern) for pattern in self.trainable}
            problems = [
                self._unknown_name(pattern, names) for pattern, some in matched.items() if not some
            ]
        if problems:
            raise ConfigError(problems)
        top = layers[len(layers) - self.last_layers :]
        return {name for name in names if by_layer[name] in top}.union(*matched.values())

    def _pattern_problems(self, names: Sequence[str]) -> Iterator[Problem]:
        from hydratune.adapters.targets import glob_like, unreadable

        key = "adapter.trainable"
        unreadable_patterns = list(unreadable(key, self.trainable))
        yield from unreadable_patterns or glob_like(key, self.trainable, names)

    def _unknown_name(self, pattern: str, names: Sequence[str]) -> Problem:
        from hydratune.adapters.targets import short_names

        why = f"this model has no module or parameter called {pattern}"
        parents = [
            part for name in names for part in _prefixes(name)[:-1] if not part[-1].isdigit()
        ]
        return Problem("adapter.trainable", self.trainable, why, f"some of: {short_names(parents)}")


def _matching(names: Sequence[str], pattern: str) -> set[str]:
    """Return the parameters that ``pattern`` names, or that are in a module it names."""
    from hydratune.adapters.targets import matches

    return {name for name in names if any(matches(part, pattern) for part in _prefixes(name))}


def _prefixes(name: str) -> list[str]:
    """Return the modules a parameter is in, and itself: a, a.b, a.b.c for ``a.b.c``."""
    words = name.split(".")
    return [".".join(words[:end]) for end in range(1, len(words) + 1)]
