"""Your own parts: callbacks, metrics, data sources, adapters, optimizers (docs/howto/extending.md).

An installed package names its parts in its entry points. In a test or a notebook the functions
below do without a package: they make a part known in this process, and return decorators::

    @callback("print_loss")
    class PrintLoss(lightning.Callback): ...
"""

from collections.abc import Callable
from typing import TypeVar

from hydratune.errors import ConfigError, Problem
from hydratune.metric_table import families
from hydratune.settings import own_metrics, packages
from hydratune.settings.registry import variant

Part = TypeVar("Part")
Class = TypeVar("Class")


def callback(name: str) -> Callable[[Part], Part]:
    """Return a decorator for a Lightning callback, or a function that makes one.

    It is chosen by ``trainer.callbacks=[NAME]``.
    """
    return _adder("callback", name)


def metric(
    name: str, *, direction: str | None = None, unit: str | None = None
) -> Callable[[Part], Part]:
    """Return a decorator for a function of (answer, references, row) that scores one answer.

    It is chosen by ``evaluation.metrics=[NAME]``. ``direction``: which values are better, higher or
    lower; ``unit``: rate (a share of 1, shown in per cent) or number. They are set as attributes of
    the function, which may have them already. Raises ``ConfigError`` for other values.
    """
    if name in families():
        why, fix = "a built-in family of metrics has this name", "give it another name"
        raise ConfigError([Problem("evaluation.metrics", name, why, fix)])
    declared = {"direction": direction, "unit": unit}

    def add(part: Part) -> Part:
        for attribute, value in declared.items():
            if value is not None:
                setattr(part, attribute, value)
        if found := list(own_metrics.problems(name, part, "evaluation.metrics")):
            raise ConfigError(found)
        packages.add("metric", name, part)
        return part

    return add


def data_source(name: str) -> Callable[[type[Class]], type[Class]]:
    """Return a decorator for a dataclass derived from ``SourceConfig``, with ``source`` = NAME.

    It is chosen by ``data=NAME``.
    """
    return variant("data", name)


def adapter(name: str) -> Callable[[type[Class]], type[Class]]:
    """Return a decorator for a dataclass derived from ``AdapterConfig``, with ``method`` = NAME.

    It is chosen by ``adapter=NAME``.
    """
    return variant("adapter", name)


def optimizer(name: str) -> Callable[[type[Class]], type[Class]]:
    """Return a decorator for a dataclass derived from ``OptimizerConfig``, with ``kind`` = NAME.

    It is chosen by ``optimizer=NAME``.
    """
    return variant("optimizer", name)


def _adder(kind: str, name: str) -> Callable[[Part], Part]:
    def add(part: Part) -> Part:
        packages.add(kind, name, part)
        return part

    return add
