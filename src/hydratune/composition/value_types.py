"""What type a setting has, in words, and what is wrong with a value of another type."""

import typing
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from hydratune.settings.commands import COMMANDS, TrainConfig
from hydratune.settings.registry import all_variants
from hydratune.sweeps.executor_options import EXECUTORS
from hydratune.sweeps.options import PackOptions

SHOW_LAUNCHER = "hydratune train --cfg hydra -p hydra.launcher"
SHOW_SETTINGS = "hydratune train --cfg job"
_LAUNCHER, _EXECUTOR = "hydra.launcher.", "executor."
_NOT_OF_TYPE = {  # part of OmegaConf's message: what the value, or an entry of it, must be
    "could not be converted to Integer": "a whole number",
    "could not be converted to Float": "a number",
    "is not a valid bool": "true or false",
    "to string: ": "text",
}
_OTHER_REASONS = {
    "is not Optional": "this setting cannot be null",
    "Incompatible value 'None'": "this setting cannot be null",
    "is not a ListConfig, list or tuple": "this setting is a list, and the value is not",
    " to Dict[": "this setting is a mapping, and the value is not",
}
_SCALARS = {bool: "true or false", int: "a whole number", str: "a text"}


def plain_reason(key: str, message: str) -> str:
    """Return OmegaConf's message about the value of ``key`` in the words of who types settings."""
    has_entries = _container(declared_type(key)) is not None
    for part, needed in _NOT_OF_TYPE.items():
        if part in message:
            return f"{'every entry ' if has_entries else ''}must be {needed}"
    if "expected one of [" in message:
        return (
            "every entry must be one of its options"
            if has_entries
            else "expected one of its options"
        )
    if "Cannot merge DictConfig with ListConfig" in message:
        kind = "list" if _container(declared_type(key)) is list else "mapping"
        return f"this setting is a {kind}, and the value is not"
    if " is not a subclass of " in message:
        return "it has several settings, and is not one value"
    return next((why for part, why in _OTHER_REASONS.items() if part in message), message)


def describe_type(key: str) -> str:
    """Return, in words, what the type of the setting ``key`` allows."""
    kind = declared_type(key)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of: {_names(kind)}"
    if nested := _dataclass_in(kind):
        return f"set one of them, such as {key}.{fields(nested)[0].name}=VALUE; see {SHOW_SETTINGS}"
    if (description := _described(kind)) == _SCALARS[str] and (default := _default(key)):
        return f"give a text, or leave it out for the default, {key}={default}"
    if description.startswith("a list of some of: "):
        return description
    if description:
        can_be_null = type(None) in typing.get_args(kind)
        comma = "," if "," in description else ""
        return f"give {description}{f'{comma} or null' if can_be_null else ''}"
    where = SHOW_LAUNCHER if key.startswith("hydra.launcher") else SHOW_SETTINGS
    return f"{where} shows its type"


def _described(kind: object) -> str:
    """Return what is given for a type; "" if it is none of those of settings."""
    parts, container = typing.get_args(kind), _container(kind)
    if container is list:
        entry = next((part for part in _leaves(kind) if part is not type(None)), str)
        if isinstance(entry, type) and issubclass(entry, Enum):
            return f"a list of some of: {_names(entry)}"
        example = {int: "[1,2]", float: "[0.1,0.2]"}.get(entry, "[a,b]")
        return f"a list such as {example}, in brackets even if it has one entry"
    if float in (kind, *parts):
        return "a number such as 1e-4"
    return next((text for scalar, text in _SCALARS.items() if scalar in (kind, *parts)), "")


def enums_in(kind: object) -> Iterator[type[Enum]]:
    """Yield the enums in a type, such as that of ``list[Baseline] | None``."""
    for part in _leaves(kind):
        if isinstance(part, type) and issubclass(part, Enum):
            yield part


def _names(kind: type[Enum]) -> str:
    return ", ".join(member.name for member in kind)


def _container(kind: object) -> object:
    """Return ``list`` or ``dict`` for such a type, also if it can be null; None for others."""
    origins = [typing.get_origin(part) or part for part in (kind, *typing.get_args(kind))]
    if typing.get_origin(kind) in (list, dict):
        return typing.get_origin(kind)
    return next((origin for origin in origins if origin in (list, dict)), None)


def _leaves(kind: object) -> Iterator[Any]:
    """Yield the types in a type that have no parts."""
    parts = typing.get_args(kind)
    for part in parts:
        yield from _leaves(part)
    if not parts:
        yield kind


def _default(key: str) -> str:
    """Return the default of a setting that is a text, or ""."""
    group, _, name = key.rpartition(".")
    kinds: Sequence[type] = [TrainConfig]
    if group:
        kinds = list(all_variants().get(group, {}).values())
    defaults = (f.default for k in kinds for f in fields(k) if f.name == name)
    return next((text for text in defaults if isinstance(text, str)), "")


def setting_type(key: str) -> str:
    """Return the declared type of a setting, such as ``list[str] | None``; "" if unknown."""
    kind = declared_type(key)
    has_name = isinstance(kind, type) and not typing.get_args(kind)
    return getattr(kind, "__name__", "") if has_name else str(kind or "")


def declared_type(key: str) -> object:
    """Return the type with which a setting is declared in a dataclass, or None.

    That of an entry of a mapping is the type of the mapping's values.
    """
    group, _, rest = key.lstrip("+").partition(".")
    kinds: Sequence[type] = [TrainConfig, *COMMANDS.values()]
    if key.startswith(_LAUNCHER):
        kinds, rest = [PackOptions], key.removeprefix(_LAUNCHER)
        if rest.startswith(_EXECUTOR):
            kinds, rest = list(EXECUTORS.values()), rest.removeprefix(_EXECUTOR)
    elif rest and group in all_variants():
        kinds = list(all_variants()[group].values())
    else:
        rest = key
    found = (_type_below(kind, rest.split(".")) for kind in kinds)
    return next((kind for kind in found if kind is not None), None)


def _type_below(kind: object, names: Sequence[str]) -> object:
    """Return the type of what is found below a dataclass by these names, or None."""
    for name in names:
        if nested := _dataclass_in(kind):
            kind = _hints(nested).get(name)
        elif _container(kind) is dict:
            mapping = next(
                k for k in (kind, *typing.get_args(kind)) if typing.get_origin(k) is dict
            )
            kind = typing.get_args(mapping)[1]
        else:
            return None
    return kind


def _dataclass_in(kind: object) -> type | None:
    """Return the dataclass that a type is, or is if it is not null."""
    parts = (kind, *typing.get_args(kind))
    found = next((part for part in parts if isinstance(part, type) and is_dataclass(part)), None)
    return found if _container(kind) is None else None


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
