"""Parts that installed packages or Python code bring: which there are, and how they are loaded.

A package names its parts in its entry points, one group for each kind of part (``GROUPS``). Only
the names are read until a part is used, so a package that cannot be imported disturbs nobody else,
and one that imports torch delays only the commands that use it. ``hydratune.extensions`` adds parts
from Python.
"""

import hashlib
import inspect
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from hydratune.errors import ConfigError, Problem
from hydratune.metric_table import PACKAGE_METRICS

# kind of part -> the group of entry points; three kinds are variants of the config group
GROUPS = {
    "adapter": "hydratune.adapters",
    "callback": "hydratune.callbacks",
    "data": "hydratune.data_sources",
    "metric": PACKAGE_METRICS,
    "optimizer": "hydratune.optimizers",
}
TITLES = {
    "adapter": "adapter",
    "callback": "callback",
    "data": "data source",
    "metric": "metric",
    "optimizer": "optimizer",
}
_REGISTERED: dict[str, dict[str, object]] = {kind: {} for kind in GROUPS}  # from Python
_LOADED: dict[tuple[str, str], object] = {}  # of packages, by group and value of the entry point


def add(kind: str, name: str, part: object) -> None:
    """Make ``part`` known as ``name`` in this process."""
    _REGISTERED[kind][name] = part


def remove(kind: str, name: str) -> None:
    """Forget a part that ``add`` made known."""
    _REGISTERED[kind].pop(name, None)


def names(kind: str) -> list[str]:
    """Return the names of the parts of a kind that packages and Python code bring, sorted.

    Imports none of them.
    """
    return sorted({*_REGISTERED[kind], *_points(kind)})


def has(kind: str, name: str) -> bool:
    """Return whether a package or Python code brings a part of this name."""
    return name in _REGISTERED[kind] or name in _points(kind)


def is_of_package(kind: str, name: str) -> bool:
    """Return whether a package brings it, so that other processes find it too."""
    return name in _points(kind)


def load(kind: str, name: str, key: str) -> object:
    """Return the part ``name``, imported if that has not been done yet.

    ``key``: the setting that names it. Raises ``ConfigError`` if several packages bring it, or if
    its package cannot be imported.
    """
    if name in _REGISTERED[kind]:
        return _REGISTERED[kind][name]
    points = _points(kind)[name]
    if len(points) > 1:
        packages = " and ".join(map(described, points))
        why = f"several packages bring a {TITLES[kind]} of this name: {packages}"
        raise ConfigError([Problem(key, name, why, "uninstall all but one of them")])
    (point,) = points
    loaded = point.group, point.value
    if loaded not in _LOADED:
        try:
            _LOADED[loaded] = point.load()
        except ConfigError:
            raise
        except Exception as error:  # a package may raise anything while it is imported
            why = (
                f"it belongs to {described(point)}, which cannot be imported"
                f" ({type(error).__name__}: {error})"
            )
            fix = "correct or reinstall that package, or choose another"
            raise ConfigError([Problem(key, name, why, f"{fix} {TITLES[kind]}")]) from error
    return _LOADED[loaded]


def owner(kind: str, name: str) -> str:
    """Return who brings a part, for messages: ``the package my-parts 1.0 (my_parts:Haiku)``."""
    if name in _REGISTERED[kind]:
        return f"registered from Python ({place(kind, name)})"
    points = _points(kind).get(name, ())
    return " and ".join(map(described, points)) if points else "registered from Python"


def place(kind: str, name: str) -> str:
    """Return which object a part is, as ``module:name``."""
    if name not in _REGISTERED[kind]:
        return _points(kind)[name][0].value
    part = _REGISTERED[kind][name]
    return f"{getattr(part, '__module__', '?')}:{getattr(part, '__qualname__', name)}"


def distribution(kind: str, name: str) -> str:
    """Return the package of a part and its version; "" if it is not of a package."""
    points = _points(kind).get(name, ()) if name not in _REGISTERED[kind] else ()
    packages = [point.dist for point in points if point.dist is not None]
    return f"{packages[0].name} {packages[0].version}" if packages else ""


def described(point: EntryPoint) -> str:
    """Return the package of an entry point with its version, and what it names."""
    if point.dist is None:
        return f"a package ({point.value})"
    return f"the package {point.dist.name} {point.dist.version} ({point.value})"


def of_two(kind: str, name: str, key: str, built_in: str) -> Problem:
    """Return the problem of a part that has the name of a built-in one."""
    why = f"it is {built_in}, and {owner(kind, name)} brings another one of the same name"
    fix = "uninstall that package, or have it use another name in its entry points"
    return Problem(key, name, why, fix)


def source_hash(part: object) -> str:
    """Return a hash of the file that defines a class or function; of its name if there is none."""
    try:
        return hashlib.sha256(Path(inspect.getfile(part)).read_bytes()).hexdigest()  # type: ignore[arg-type]  # anything else raises TypeError
    except (OSError, TypeError):
        return f"{getattr(part, '__module__', '')}.{getattr(part, '__qualname__', '')}"


def _points(kind: str) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Return the entry points of a kind of part by name.

    A distribution that is found twice on the path counts once.
    """
    group = GROUPS[kind]
    key = group, tuple(sys.path)
    if key not in _POINTS:
        found: dict[str, dict[tuple[str, str], EntryPoint]] = {}
        for point in entry_points(group=group):
            package = point.dist.name if point.dist is not None else ""
            found.setdefault(point.name, {}).setdefault((package, point.value), point)
        _POINTS[key] = {name: tuple(points.values()) for name, points in found.items()}
    return _POINTS[key]


# by group and sys.path: reading them takes milliseconds
_POINTS: dict[tuple[str, tuple[str, ...]], Mapping[str, tuple[EntryPoint, ...]]] = {}
