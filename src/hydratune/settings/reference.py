"""What every setting means, read from the comments at the dataclasses of ``settings``."""

import ast
import inspect
import io
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache

_TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


@dataclass(frozen=True)
class Setting:
    """One setting: its name below the group, its type in words, and what it means."""

    name: str
    type: str
    meaning: str
    options: tuple[tuple[str, str], ...] = ()  # of an enum: value, what it means


def settings_of(kind: type) -> list[Setting]:
    """Return the settings of a dataclass, those of its base classes first.

    Settings in dataclasses of their own have dotted names. The meaning is the comment behind a
    field, or the one above it; empty if there is none.
    """
    return list(_settings_of(kind, ""))


def _settings_of(kind: type, prefix: str) -> Iterator[Setting]:
    hints = typing.get_type_hints(kind)
    for field in fields(kind):
        declared = hints[field.name]
        if field.name.startswith("_"):
            continue
        nested = next((t for t in (declared, *typing.get_args(declared)) if is_dataclass(t)), None)
        if isinstance(nested, type):
            yield from _settings_of(nested, f"{prefix}{field.name}.")
            continue
        options = tuple(option for enum in _enums(declared) for option in options_of(enum))
        name = f"{prefix}{field.name}"
        yield Setting(name, _in_words(declared), _meaning(kind, field), options)


def _enums(declared: object) -> Iterator[type[Enum]]:
    """Yield the enums in a type."""
    if isinstance(declared, type) and issubclass(declared, Enum):
        yield declared
    for argument in typing.get_args(declared):
        yield from _enums(argument)


def _in_words(declared: object) -> str:
    """Return a type as people call it."""
    arguments = typing.get_args(declared)
    origin = typing.get_origin(declared)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if a is type(None) else _in_words(a) for a in arguments)
    if origin in (list, tuple):
        return f"list of {_in_words(arguments[0])}s" if arguments else "list"
    if origin is dict:
        return "mapping"
    if isinstance(declared, type) and issubclass(declared, Enum):
        return " | ".join(str(member.value) for member in declared)
    if isinstance(declared, type):
        return _TYPES.get(declared, "list" if declared is list else "value")
    return "value"


def _meaning(kind: type, field: "Field[object]") -> str:
    """Return the comment of a field in the class that declares it."""
    owner = next(c for c in kind.__mro__ if field.name in vars(c).get("__annotations__", {}))
    return _comments(owner).get(field.name, "")


def options_of(kind: type[Enum]) -> list[tuple[str, str]]:
    """Return the values of an enum, each with its meaning; empty where it has no comment."""
    meanings = _comments(kind)
    return [(str(member.value), meanings.get(member.name, "")) for member in kind]


@cache
def _comments(kind: type) -> Mapping[str, str]:
    """Return the comments of the fields that a class declares itself, by name."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except OSError:  # a class that was not read from a file
        return {}
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    comments = {t.start[0]: _text(t.string) for t in tokens if t.type == tokenize.COMMENT}
    lines = source.splitlines()
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    result = {}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name):
            own = next((comments[n] for n in _lines(node) if comments.get(n)), "")
            above: list[str] = []
            number = node.lineno - 1
            while number in comments and lines[number - 1].lstrip().startswith("#"):
                above.insert(0, comments[number])
                number -= 1
            result[target.id] = own or " ".join(above)
    return result


def _text(comment: str) -> str:
    """Return a comment without its mark, and without what it says to a linter."""
    parts = [part.strip() for part in comment.split("#")]
    return "; ".join(p for p in parts if p and not p.startswith(("noqa", "type: ignore")))


def _lines(node: ast.Assign | ast.AnnAssign) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)
