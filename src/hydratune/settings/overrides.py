"""Settings as they are typed in a shell, for commands that messages print."""

import os
import re
import shlex
from collections.abc import Mapping
from enum import Enum

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import ListConfig, OmegaConf

from hydratune.errors import InputError

# what Hydra's parser raises; ValueError for a number of more digits than Python reads
UNREADABLE = (HydraException, ValueError, RecursionError)


def typed_overrides(overrides: object) -> list[str]:
    """Return the overrides that Hydra recorded as they were typed.

    Interpolations in them are of a job, and cannot be resolved where they are recorded.
    """
    if isinstance(overrides, ListConfig):
        overrides = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(overrides, list)
    return [str(override) for override in overrides]


def as_typed(key: str, value: object) -> str:
    """Return ``key=value`` as it is typed in a shell, with the quotes that shell and Hydra need."""
    plain = f"{key}={value}"
    try:
        read = OverridesParser.create().parse_override(plain)._value
    except UNREADABLE:
        return quoted(key, str(value))
    return (
        shlex.quote(plain) if type(read) is str and read == str(value) else quoted(key, str(value))
    )


def entry_as_typed(key: str, name: str, value: str) -> str | None:
    """Return an override that adds an entry to the mapping ``key``, as it is typed in a shell.

    None: no override can have this name. ``value`` is a word or a number.
    """
    if re.fullmatch(r"[A-Za-z_][\w-]*", name, re.ASCII):
        return f"{key}.{name}={value}"
    plain = f"+{key}={{{name}: {value}}}"
    try:
        read = OverridesParser.create().parse_override(plain)._value
    except UNREADABLE:
        return None
    is_entry = isinstance(read, dict) and [str(entry) for entry in read] == [name]
    return shlex.quote(plain) if is_entry else None


def quoted(key: str, *values: str) -> str:
    """Return an override as it is typed in a shell so that Hydra takes each value as a text."""
    return shlex.quote(f"{key}={','.join(map(quoted_value, values))}")


def quoted_value(value: str) -> str:
    """Return a value as it stands in an override so that Hydra takes it as a text.

    In Hydra's quotes a backslash escapes a quote, and another backslash if a quote follows.
    """
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    return '"' + re.sub(r"(\\+)\Z", r"\1\1", escaped) + '"'


def value_text(key: str, value: object) -> str:
    """Return a value as it stands in an override of Hydra.

    A text is read as if it was typed, as with W&B's own agent: ``1e-4``, which YAML reads as a
    text, is a number. Raises ``InputError`` for an object that is no value of a setting.
    """
    if isinstance(value, str) and not isinstance(value, Enum):
        return value if _is_plain(f"{key}={value}") else quoted_value(value)
    return _nested_text(key, value)


def _is_plain(override: str) -> bool:
    """Return whether Hydra reads one value without quotes."""
    try:
        return not OverridesParser.create().parse_override(override).is_sweep_override()
    except UNREADABLE:
        return False


def _nested_text(key: str, value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return value_text(key, os.fspath(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{_nested_text(key, v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_nested_text(key, part) for part in value) + "]"
    if isinstance(value, str):
        return quoted_value(value)
    if hasattr(value, "item") and hasattr(value, "dtype") and getattr(value, "ndim", 0) == 0:
        return _nested_text(key, value.item())  # a number of NumPy
    if isinstance(value, int | float):
        return repr(value)
    raise InputError(
        f"{key}: a {type(value).__name__} is no value of a setting; give a text, a number, true or"
        " false, None, or lists and mappings of these"
    )
