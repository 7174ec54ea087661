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
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

Config = TypeVar("Config")
_GROUPS = ("model", "data", "adapter", "optimizer", "trainer", "evaluation", "tracking")
_VARIANTS: dict[str, dict[str, type]] = {group: {} for group in _GROUPS}  # by name
# where the variants are defined: modules, and packages with one module for each variant
_HOMES = (
    "hydratune.settings.model",
    "hydratune.settings.data",
    "hydratune.adapters.methods",
    "hydratune.training.optimizers",
    "hydratune.settings.trainer",
    "hydratune.settings.evaluation",
    "hydratune.settings.tracking",
)
_VARIANT_FIELD = {
    "model": "source",
    "data": "source",
    "adapter": "method",
    "optimizer": "kind",
}  # names the class in a stored config


_BEFORE_VARIANTS = {
    "optimizer": "adamw"
}  # what a configuration was whose group had no such field yet


def variant(group: str, name: str) -> Callable[[type[Config]], type[Config]]:
    """Return a decorator that makes a dataclass the variant ``name`` of a config group."""

    def add(schema: type[Config]) -> type[Config]:
        _VARIANTS[group][name] = schema
        return schema

    return add


def variants(group: str) -> Mapping[str, type]:
    """Return the dataclasses of a config group by name."""
    return all_variants()[group]


def all_variants() -> Mapping[str, Mapping[str, type]]:
    """Return the dataclasses of every config group: group -> name -> dataclass."""
    for name in _HOMES:
        home = importlib.import_module(name)
        for module in pkgutil.iter_modules(getattr(home, "__path__", ()), f"{name}."):
            importlib.import_module(module.name)
    return _VARIANTS


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


def typed(config: DictConfig, kind: type[Config]) -> Config:
    """``config`` as an instance of ``kind``; interpolations are resolved.

    Raises OmegaConf's own errors.
    """
    tree = OmegaConf.structured(kind)
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    for group, variant_field in _VARIANT_FIELD.items():
        if isinstance(values.get(group), dict):
            variant = (
                values[group][variant_field]
                if group not in _BEFORE_VARIANTS
                else values[group].get(variant_field, _BEFORE_VARIANTS[group])
            )
            tree[group] = OmegaConf.structured(variants(group)[variant])
    result = OmegaConf.to_object(OmegaConf.merge(tree, values))
    assert isinstance(result, kind)
    for part in (getattr(result, "data", None), getattr(result, "model", None)):
        for name in (
            "train",
            "validation",
            "test",
            "path",
            "tldr",
            "schema_file",
            "chat_template",
            "adapter",
        ):
            file = getattr(part, name, None)
            if isinstance(file, str) and file.startswith("~"):
                setattr(part, name, str(Path(file).expanduser()))
    return result


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    if not isinstance(value, dict):
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, inner in value.items():
        result |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return result


def plain(config: Any) -> dict[str, Any]:
    """A dataclass as nested plain values (enums by name): what is stored and sent to W&B."""
    values = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
