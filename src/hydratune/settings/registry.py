"""The config groups and their variants, and conversion between composed YAML and dataclasses.

``register()`` hands the classes to Hydra as schemas (``/schema/<group>``), so that a wrong type or
an unknown key is refused while the configuration is composed. ``typed()`` turns a composed or
stored configuration into these classes.

Imports no torch: ``hydratune train --cfg job`` and every refusal of a wrong setting must be
instant.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from hydratune.errors import ConfigError, Problem
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
    """Return a decorator that makes a dataclass the variant ``name`` of a config group."""

    def add(schema: type[Config]) -> type[Config]:
        _VARIANTS[group][name] = schema
        return schema

    return add


def variants(group: str) -> Mapping[str, type]:
    """Return the dataclasses of a config group, sorted by name."""
    return all_variants()[group]


@cache
def all_variants() -> Mapping[str, Mapping[str, type]]:
    """Return the dataclasses of every config group: group -> name -> dataclass, both sorted."""
    for name in _HOMES:
        home = importlib.import_module(name)
        modules = pkgutil.iter_modules(getattr(home, "__path__", ()), f"{name}.")
        for module in sorted(module.name for module in modules):
            importlib.import_module(module)
    return {group: dict(sorted(_VARIANTS[group].items())) for group in sorted(_GROUPS)}


def register(commands: Mapping[str, type]) -> None:
    """Make all dataclasses available to Hydra's defaults lists.

    A variant of a group is ``/schema/<group>@_here_: <variant>``. ``commands``: the complete
    settings by the command's name.
    """
    store = ConfigStore.instance()
    for command, schema in commands.items():
        store.store(group="schema", name=command, node=schema)
    for group, schemas in all_variants().items():
        for name, schema in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=schema)


def override_key(override: str) -> str:
    """Return the config key of a Hydra override, such as ``adapter.r`` of ``+adapter.r=8``."""
    return override.split("=", 1)[0].lstrip("+~").split("@")[0]


def typed(config: DictConfig, kind: type[Config]) -> Config:
    """Return ``config`` as an instance of ``kind``: interpolations resolved, ``~`` expanded.

    Raises OmegaConf's own errors, and ``ConfigError`` for a variant that does not exist.
    """
    tree = OmegaConf.structured(kind)
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    for group in _VARIANT_FIELD:
        settings = values.get(group)
        if isinstance(settings, dict):
            tree[group] = OmegaConf.structured(_variant_of(group, settings))
    result = OmegaConf.to_object(OmegaConf.merge(tree, values))
    assert isinstance(result, kind)
    expand_paths(result)
    return result


def _variant_of(group: str, settings: Mapping[object, object]) -> type:
    """Return the dataclass of composed or stored ``settings`` of a group.

    Raises ``ConfigError`` if there is none of that name.
    """
    field = _VARIANT_FIELD[group]
    name = str(settings.get(field, _BEFORE_VARIANTS.get(group)))
    if name not in variants(group):
        kind = f"{group} source" if field == "source" else group
        why, fix = f"this version has no {kind} {name}", f"one of: {', '.join(variants(group))}"
        raise ConfigError([Problem(f"{group}.{field}", name, why, fix)])
    return variants(group)[name]


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
    values = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
