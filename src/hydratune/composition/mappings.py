"""How the entries of a setting that is a mapping are typed, such as ``adapter.rank_pattern``."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser

from hydratune.errors import InputError, Problem
from hydratune.settings.commands import COMMANDS, TrainConfig
from hydratune.settings.overrides import UNREADABLE, quoted_value, value_text
from hydratune.settings.registry import all_variants

# those whose keys are regular expressions
_PATTERNS = ("rank_pattern", "alpha_pattern", "lr_groups", "weight_decay_groups")
_EXAMPLES = {"rank_pattern": "q_proj:8", "alpha_pattern": "q_proj:16"}
_BUDGETS = ("evaluation.forgetting.warn", "evaluation.forgetting.fail")
_ENTRY = re.compile(r"""\A\s*(["']?)(.*)\1\s*:\s*([^:]+?)\s*\Z""", re.S)
_SPECIAL, _ESCAPED = re.compile(r"([(){}:=, \[\]])"), r"\\\1"  # in a key, for Hydra's grammar


@cache
def mapping_settings() -> frozenset[str]:
    """Return the full keys of all settings that are mappings."""
    kinds = [("", kind) for kind in COMMANDS.values()]
    kinds += [(f"{group}.", k) for group, ks in all_variants().items() for k in ks.values()]
    names = {
        f"{prefix}{field.name}"
        for prefix, kind in kinds
        for field in fields(kind)
        if str(field.type).startswith("dict[")
    }
    return frozenset({*names, *_BUDGETS})


@cache
def mappings_of(command: str) -> tuple[str, ...]:
    """Return the settings of ``command`` that are mappings."""
    kind = COMMANDS[command]
    groups = all_variants() if issubclass(kind, TrainConfig) else ()
    own = {field.name for field in fields(kind)} | set(groups)
    return tuple(name for name in mapping_settings() if name.partition(".")[0] in own)


def as_entry(setting: str, command: str) -> str:
    """Return ``setting`` with the plus signs that Hydra asks for where it has entries of a mapping.

    Whether the mapping has them already does not matter to who types them.
    """
    begins = tuple(f"{name}{sign}" for name in mappings_of(command) for sign in (".", "={"))
    return f"++{setting}" if setting.startswith(begins) else setting


def mapping_of(key: str, command: str) -> str:
    """Return the setting that is a mapping in which ``key`` would be an entry, or ""."""
    return next((name for name in mappings_of(command) if key.startswith(f"{name}.")), "")


def entries_of(key: str, values: Mapping[str, str]) -> str:
    """Return the entries of the mapping ``key`` that were typed one by one, in braces, or ""."""
    own = {k: value for k, value in values.items() if k.startswith(f"{key}.")}
    entries = ",".join(f"{k.removeprefix(f'{key}.')}:{value}" for k, value in own.items())
    return f"{{{entries}}}" if own else ""


def advice_for_entry(key: str, value: str, command: str) -> str:
    """Return how an entry is typed, such as ``optimizer.lr_groups.lora_B=16``."""
    mapping = mapping_of(key, command)
    return f"an entry of {mapping} is added with +: {shlex.quote(f'+{key}={value}')}"


def advice_for_mapping(key: str, value: str) -> str:
    """Return how a mapping is typed that was typed as ``value`` and cannot be read."""
    if not value.startswith("{"):
        example = shlex.quote(f"+{key}={{{_EXAMPLES.get(key.rpartition('.')[2], 'NAME:VALUE')}}}")
        return f"it is a mapping, with + and in braces: {example}"
    setting = _readable(key, value)
    if setting is None:
        return _advice_for_file(key)
    return f"type it with +, and without quotes inside: {shlex.quote(setting)}"


def mapping_override(key: str, value: Mapping[str, object]) -> str:
    """Return an override that sets or adds the entries of a mapping.

    Raises ``InputError`` for names of entries that Hydra cannot read.
    """
    own = _readable_names(key, value)
    setting = f"++{key}={_entries_text(key, own)}"
    try:
        read = OverridesParser.create().parse_override(setting).value()
    except UNREADABLE:
        read = None
    if _names(read) != _names(own):
        raise InputError(
            f"{key} = {value}: Hydra cannot read these names; set them in what compose returns:"
            f" config = hydratune.compose(...); config.{key} = {{...}}"
        )
    return setting


def _readable_names(key: str, value: Mapping[str, object]) -> dict[str, object]:
    """Return a mapping with ``\\A``, which Hydra reads, for the same ``^`` in its patterns."""
    is_pattern = key.rpartition(".")[2] in _PATTERNS
    return {re.sub(r"\A\^", r"\\A", n) if is_pattern else n: v for n, v in value.items()}


def _entries_text(key: str, value: object) -> str:
    """Return a value inside an override: Hydra reads texts in quotes, and names without."""
    if isinstance(value, Mapping):
        entries = (
            f"{_SPECIAL.sub(_ESCAPED, str(name))}:{_entries_text(key, part)}"
            for name, part in value.items()
        )
        return f"{{{','.join(entries)}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(_entries_text(key, part) for part in value)}]"
    if isinstance(value, str) and not isinstance(value, Enum):
        return quoted_value(value)
    return value_text(key, value)


def _names(value: object) -> object:
    """Return the names of the entries of a mapping, and of those in it."""
    if isinstance(value, Mapping):
        return {str(name): _names(part) for name, part in value.items()}
    return [_names(part) for part in value] if isinstance(value, list | tuple) else None


def _readable(key: str, value: str) -> str | None:
    """Return an override that means ``value``, or None if Hydra's grammar has none."""
    entries = [_ENTRY.match(part) for part in value.strip().strip("{}").split(",")]
    texts = []
    for entry in entries:
        if entry is None:
            return None
        name = entry[2].strip()
        (name,) = _readable_names(key, {name: None})
        texts.append(f"{_SPECIAL.sub(_ESCAPED, name)}:{entry[3]}")
    setting = f"+{key}={{{','.join(texts)}}}"
    try:
        OverridesParser.create().parse_override(setting)
    except UNREADABLE:
        return None
    return setting


def _advice_for_file(key: str) -> str:
    """Return how a mapping is given in a file, for keys that cannot be typed."""
    group, _, name = key.partition(".")
    return (
        "Hydra cannot read these keys on a command line; write them in a file DIR/experiment/"
        f"own.yaml: a first line '# @package _global_', then '{group}: {{{name}: {{\"KEY\": VALUE}}"
        "}', and type --config-dir DIR experiment=own"
    )


def schema_problem(error: BaseException, args: Sequence[str]) -> Problem | None:
    """Return the problem of a JSON schema that is typed for data without one, or None.

    OmegaConf fails to add entries to a mapping that is null, by an error of its own code.
    """
    pairs = [arg.lstrip("+").partition("=") for arg in args]
    typed = [
        (k, value) for k, _, value in pairs if k == "data.schema" or k.startswith("data.schema.")
    ]
    if not typed or not isinstance(error, AttributeError | AssertionError):
        return None
    why = "this data has no JSON schema to which entries could be added"
    return Problem(*typed[0], why, "write the schema into a JSON file: data.schema_file=FILE")
