"""The config groups and their variants, and conversion between composed YAML and dataclasses.

A variant is one of this package's, one of an installed package (``settings.packages``), which is
imported when it is used, or one that Python code registered.

Hydra composes with the classes as schemas (``composition.schemas``), so that a wrong type or an
unknown key is refused. ``typed()`` turns a composed or stored configuration into these classes.

Imports no torch: ``hydratune train --cfg job`` and every refusal of a wrong setting must be
instant.
"""

import copy
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache, lru_cache
from typing import Any, TypeVar

from omegaconf import MISSING as NOT_SET
from omegaconf import DictConfig, OmegaConf

from hydratune.errors import ConfigError, Problem
from hydratune.settings import packages
from hydratune.settings.paths import expand_paths

Config = TypeVar("Config")
_GROUPS = ("model", "data", "adapter", "optimizer", "trainer", "evaluation", "tracking")
_VARIANTS: dict[str, dict[str, type]] = {group: {} for group in _GROUPS}  # by name
# where the variants are defined: modules, and packages in which every module defines some
_HOMES = (
    "hydratune.models.sources",
    "hydratune.data.sources",
    "hydratune.data.cases",
    "hydratune.adapters.methods",
    "hydratune.training.optimizers",
    "hydratune.settings.trainer",
    "hydratune.settings.evaluation",
    "hydratune.settings.tracking",
)
# the field that names the variant in a stored configuration
_VARIANT_FIELD = {"model": "source", "data": "source", "adapter": "method", "optimizer": "kind"}
# the variant of a configuration that is older than the field
_BEFORE_VARIANTS = {"optimizer": "adamw"}


def variant(group: str, name: str) -> Callable[[type[Config]], type[Config]]:
    """Return a decorator that makes a dataclass the variant ``name`` of a config group.

    It raises ``ConfigError`` for a class of a package whose name another class has already.
    """

    def add(schema: type[Config]) -> type[Config]:
        _refuse_second(group, name, schema)
        _VARIANTS[group][name] = schema
        return schema

    return add


def _refuse_second(group: str, name: str, schema: type) -> None:
    """Raise ``ConfigError`` if another class than ``schema`` is the variant ``name``.

    A class that is defined again, as in a notebook, replaces its earlier definition.
    """
    if is_own(schema):
        return
    _import_own()
    field = _VARIANT_FIELD.get(group, "")
    if not is_dataclass(schema) or getattr(schema, field, None) != name:
        why = f"the class {_full_name(schema)} is no dataclass with a field {field}"
        fix = f'add @dataclass below the decorator, and the line {field}: str = "{name}"'
        raise ConfigError([Problem(group, name, why, fix)])
    other = _VARIANTS[group].get(name)
    if other is not None and _full_name(other) != _full_name(schema):
        why = f"{_full_name(schema)} has the name of {_full_name(other)}"
        raise ConfigError([Problem(group, name, why, "give it another name")])


def is_own(schema: type) -> bool:
    """Return whether a class is one of this package."""
    return schema.__module__.partition(".")[0] == __name__.partition(".")[0]


def variant_name(group: str, settings: object) -> str:
    """Return the name of the variant that ``settings`` are of."""
    return str(getattr(settings, _VARIANT_FIELD[group]))


def _full_name(schema: type) -> str:
    return f"{schema.__module__}.{schema.__qualname__}"


def variants(group: str) -> Mapping[str, type]:
    """Return the dataclasses of a config group, sorted by name; see ``all_variants``."""
    return all_variants()[group]


def all_variants() -> Mapping[str, Mapping[str, type]]:
    """Return the dataclasses of every config group: group -> name -> dataclass, both sorted.

    Of those that packages bring, the ones that were used in this process.
    """
    _import_own()
    return {group: dict(sorted(_VARIANTS[group].items())) for group in sorted(_GROUPS)}


def variant_names(group: str) -> list[str]:
    """Return the names of all variants of a config group, those of packages included, sorted."""
    brought = packages.names(group) if group in packages.GROUPS else []
    return sorted({*variants(group), *brought})


def brought_variants(group: str) -> list[str]:
    """Return the names of the variants that packages and Python code bring, sorted."""
    _import_own()
    registered = [name for name, kind in _VARIANTS[group].items() if not is_own(kind)]
    return sorted({*registered, *(packages.names(group) if group in packages.GROUPS else [])})


def variant_class(group: str, name: str, key: str | None = None) -> type:
    """Return the dataclass of a variant; that of a package is imported now.

    ``key``: the setting that names it, by default ``group``. Raises ``ConfigError`` if there is
    none of this name, if a package brings another one of a built-in name, or if the package cannot
    be imported.
    """
    key = key or group
    known = variants(group).get(name)
    brought = group in packages.GROUPS and packages.has(group, name)
    if known is not None and not brought:
        return known
    if not brought:
        kind = f"{group} source" if _VARIANT_FIELD.get(group) == "source" else group
        why, fix = (
            f"this version has no {kind} {name}",
            f"one of: {', '.join(variant_names(group))}",
        )
        raise ConfigError([Problem(key, name, why, fix)])
    if known is not None and is_own(known):
        built_in = f"a built-in {packages.TITLES[group]} ({_full_name(known)})"
        raise ConfigError([packages.of_two(group, name, key, built_in)])
    part = packages.load(group, name, key)
    if name not in _VARIANTS[group] and isinstance(part, type):
        variant(group, name)(part)
    if name not in _VARIANTS[group]:
        why = f"{packages.owner(group, name)} has no class with @variant({group!r}, {name!r})"
        fix = "the entry point names that class or its module"
        raise ConfigError([Problem(key, name, why, fix)])
    return _VARIANTS[group][name]


def import_packages() -> list[Problem]:
    """Import all variants that packages bring; return why some cannot be used."""
    problems: list[Problem] = []
    for group in _GROUPS:
        for name in brought_variants(group):
            try:
                variant_class(group, name)
            except ConfigError as error:
                problems += error.problems
    return problems


@cache
def _import_own() -> None:
    """Import the modules of this package that define variants."""
    for name in _HOMES:
        home = importlib.import_module(name)
        modules = pkgutil.iter_modules(getattr(home, "__path__", ()), f"{name}.")
        for module in sorted(module.name for module in modules):
            importlib.import_module(module)


def override_key(override: str) -> str:
    """Return the config key of a Hydra override, such as ``adapter.r`` of ``+adapter.r=8``."""
    return override.split("=", 1)[0].lstrip("+~").split("@")[0]


def typed(config: DictConfig, kind: type[Config]) -> Config:
    """Return ``config`` as an instance of ``kind``: interpolations resolved, ``~`` expanded.

    Hydra's own node ``hydra`` is left out. Raises OmegaConf's own errors, and ``ConfigError`` for a
    variant that does not exist.
    """
    values = {str(key): _resolved(config, key) for key in config if key != "hydra"}
    variants = tuple(
        (group, _variant_of(group, values[group]))
        for group in _VARIANT_FIELD
        if isinstance(values.get(group), dict)
    )
    tree = copy.deepcopy(_schema(kind, variants))  # type: ignore[arg-type]  # a class
    result = OmegaConf.to_object(OmegaConf.unsafe_merge(tree, values))
    assert isinstance(result, kind)
    expand_paths(result)
    return result


def _resolved(config: DictConfig, key: Any) -> Any:
    """Return the plain value of ``key``; a copy of ``config`` without other keys takes longer."""
    if OmegaConf.is_missing(config, key):
        return NOT_SET
    value = config[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


@lru_cache(maxsize=64)  # making one takes a third of the time of a composition
def _schema(kind: type, variants: tuple[tuple[str, type], ...]) -> DictConfig:
    """Return the schema of ``kind`` with the chosen variant of each group, not to be changed."""
    tree: DictConfig = OmegaConf.structured(kind)
    for group, variant_kind in variants:
        tree[group] = OmegaConf.structured(variant_kind)
    return tree


def _variant_of(group: str, settings: Mapping[object, object]) -> type:
    """Return the dataclass of composed or stored ``settings`` of a group.

    Raises ``ConfigError`` if there is none of that name.
    """
    field = _VARIANT_FIELD[group]
    name = str(settings.get(field, _BEFORE_VARIANTS.get(group)))
    return variant_class(group, name, f"{group}.{field}")


def flat(value: object, prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key."""
    if not isinstance(value, dict):
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, inner in value.items():
        result |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return result


def plain(config: object) -> dict[str, Any]:
    """Return a dataclass as nested plain values, enums by name: what is stored and sent to W&B."""
    assert is_dataclass(config)
    return {field.name: _plain_value(getattr(config, field.name)) for field in fields(config)}


def defaults(config: object) -> dict[str, Any]:
    """Return the defaults of all settings of a dataclass that have one, by dotted key."""
    assert is_dataclass(config)
    result: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            inner = defaults(value)
            result |= {f"{field.name}.{key}": default for key, default in inner.items()}
        elif field.default_factory is not MISSING:
            result |= flat(_plain_value(field.default_factory()), field.name)
        elif field.default is not MISSING:
            result |= flat(_plain_value(field.default), field.name)
    return result


def _plain_value(value: object) -> object:
    if is_dataclass(value):
        return plain(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {_plain_value(key): _plain_value(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain_value(inner) for inner in value]
    return value
