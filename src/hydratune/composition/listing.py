"""``hydratune configs`` and ``hydratune help SETTING``: groups, options and settings, explained."""

import difflib
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydratune.composition.package_options import option_names
from hydratune.composition.resolvers import CONF, register, shipped_options
from hydratune.composition.suggestions import nearest_setting
from hydratune.composition.value_types import declared_type, enums_in
from hydratune.errors import InputError
from hydratune.models.catalogue.entries import models
from hydratune.settings import packages
from hydratune.settings.commands import COMMANDS, TrainConfig
from hydratune.settings.reference import Setting, settings_of
from hydratune.settings.registry import all_variants, typed
from hydratune.sweeps.executor_options import EXECUTORS
from hydratune.sweeps.options import PackOptions
from hydratune.sweeps.planning import without_hydra

_MARK = "# "
_PACKAGE = "@package"  # a comment that Hydra reads
_LAUNCHER = "hydra.launcher"
_TRIED = (-1, 0, 2)  # values of numbers, to show which are refused
_WIDEST = 110  # columns


def groups() -> list[str]:
    """Return the config groups, those that every run has first."""
    own = [group for group in all_variants() if (CONF / group).is_dir()]
    return [*own, *(name for name in ("experiment", "sweep", "debug") if (CONF / name).is_dir())]


def options(group: str) -> list[tuple[str, str]]:
    """Return the options of a group, each with what it is."""
    files = {name: CONF / group / f"{name}.yaml" for name in shipped_options(group)}
    shipped = [
        (name, describe_option(file) if file.is_file() else models()[name].describe())
        for name, file in files.items()
    ]
    brought = [(name, packages.owner(group, name)) for name in option_names(group)]
    return [*shipped, *brought]


def describe_option(file: Path) -> str:
    """Return the comment at the top of a file of settings, in one line."""
    described = ""
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith(_MARK.strip()):
            break
        text = line.removeprefix(_MARK).strip()
        if _PACKAGE not in line:
            begins_sentence = text[:1].isupper() and described[-1:] not in ("", ".", ",", ":", ";")
            described += f"{'. ' if begins_sentence else ' '}{text}"
    return described.strip()


def list_configs(group: str | None) -> str:
    """Return the options of ``group``, or of all groups with the first sentence of each.

    Raises ``InputError`` for a group that does not exist.
    """
    register()
    known = groups()
    if group is not None and group not in known:
        near = difflib.get_close_matches(group, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"groups: {', '.join(known)}"
        raise InputError(f"{group}: there is no such group; {hint}")
    chosen = _defaults()
    lines: list[str] = []
    for name in [group] if group is not None else known:
        default = f"; default: {chosen[name]}" if chosen.get(name) else ""
        lines += ["", f"{name}=OPTION{default}"] if lines else [f"{name}=OPTION{default}"]
        width = max(len(option) for option, _ in options(name))
        for option, text in options(name):
            shown = text if group is not None else _first_sentence(text)
            lines += _row(option, shown, width)
    end = f"hydratune train --cfg job {group or 'GROUP'}=OPTION shows the settings of an option"
    hint = "" if group is not None else "; hydratune configs GROUP says more of each"
    return "\n".join([*lines, "", f"{end}{hint}"]) + "\n"


def explain_setting(word: str) -> str:
    """Return what a setting means: its type, default, rule, and which options have it.

    Raises ``InputError`` for a setting that does not exist.
    """
    register()
    word = word.lstrip("+~").partition("=")[0]
    found = _find(word)
    if not found:
        near = nearest_setting(word)
        hint = (
            f"; did you mean {' or '.join(near)}?" if near else "; hydratune configs lists groups"
        )
        raise InputError(f"{word}: there is no such setting{hint}")
    return "\n".join("\n".join(_explanation(key, own)) for key, own in found.items()) + "\n"


def _find(word: str) -> dict[str, list[tuple[str, Setting]]]:
    """Return the settings that ``word`` names: key -> the variants that have it."""
    found: dict[str, list[tuple[str, Setting]]] = {}
    for group, variant, kind in _kinds():
        for setting in settings_of(kind):
            key = f"{group}.{setting.name}" if group else setting.name
            if word in (key, setting.name, key.rpartition(".")[2]):
                found.setdefault(key, []).append((variant, setting))
    exact = {key: own for key, own in found.items() if key == word}
    return exact or found


def _kinds() -> Iterator[tuple[str, str, type]]:
    """Yield (group, variant, dataclass) for everything that has settings."""
    named = all_variants()
    for kind in COMMANDS.values():
        yield "", "", kind
    for group, variants in named.items():
        for variant, kind in variants.items():
            yield group, variant, kind
    yield _LAUNCHER, "", PackOptions
    for name, executor in EXECUTORS.items():
        yield f"{_LAUNCHER}.executor", name, executor


def _explanation(key: str, own: Sequence[tuple[str, Setting]]) -> Iterator[str]:
    setting = own[0][1]
    yield key
    about = [_about(kind) for kind in enums_in(declared_type(key))]
    what = setting.meaning or next((first for first, _ in about), "-")
    rows = [("what", what), ("type", setting.type)]
    rows += [(f"- {value}", meaning.replace("``", "")) for value, meaning in setting.options]
    rows += [("note", rest) for _, rest in about if rest]
    composed = _composed()
    default = OmegaConf.select(composed, key, default=_MISSING)
    if default is not _MISSING and not OmegaConf.is_missing(composed, key):
        rows.append(("default", _written(default)))
    group = key.partition(".")[0]
    variants = all_variants().get(group, {})
    having = [variant for variant, _ in own if variant]
    if variants and len(having) < len(variants):
        rows.append(("only with", ", ".join(f"{group}={name}" for name in having)))
    rows += [("refused", text) for text in _refused(key, setting, composed)]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        yield from _row(name, text, width)


def _about(kind: type[Enum]) -> tuple[str, str]:
    """Return what an enum's docstring says it is, and what it says of its options."""
    first, _, rest = " ".join((kind.__doc__ or "").replace("``", "").split()).partition(". ")
    return first.removesuffix("."), rest


def _refused(key: str, setting: Setting, composed: DictConfig) -> Iterator[str]:
    """Yield some numbers that the setting cannot be, and why."""
    if not {"number", "whole"} & set(setting.type.split()):
        return
    said: set[str] = set()
    for value in _TRIED:
        try:
            merged = OmegaConf.merge(without_hydra(composed), _nested(key, value))
            assert isinstance(merged, DictConfig)
            problems = list(typed(merged, TrainConfig).problems())
        except OmegaConfBaseException:  # the default option lacks the setting
            return
        for problem in problems:
            text = f"{problem.why}; {problem.fix}"
            if problem.key == key and text not in said:
                said.add(text)
                yield f"{key}={value}: {text}"


def _nested(key: str, value: object) -> dict[str, Any]:
    """Return {"a": {"b": value}} for ``a.b``."""
    first, _, rest = key.partition(".")
    return {first: _nested(rest, value) if rest else value}


_MISSING = object()


@cache
def _composed() -> DictConfig:
    """Return the default settings of ``hydratune train``, with those of its launcher."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = hydra.compose("train")
    OmegaConf.set_struct(composed, False)
    launcher = OmegaConf.to_container(OmegaConf.structured(PackOptions))
    composed.hydra = {"launcher": launcher}
    composed.hydra.launcher.executor = {
        name: value for kind in EXECUTORS.values() for name, value in asdict(kind()).items()
    }
    return composed


@cache
def _defaults() -> dict[str, str]:
    """Return group -> the option that a run has unless another is chosen."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = hydra.compose("train", return_hydra_config=True)
    choices = composed.hydra.runtime.choices
    return {str(group): str(option) for group, option in choices.items() if option is not None}


def _written(value: object) -> str:
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, enum_to_str=True)  # type: ignore[arg-type]  # it is one
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return getattr(value, "name", None) or str(value)


def _first_sentence(text: str) -> str:
    """Return the first sentence of a description, or all of it if it has one."""
    end = text.find(". ")
    return text if end < 0 else text[:end]


def _row(name: str, text: str, width: int) -> list[str]:
    columns = max(60, min(shutil.get_terminal_size().columns, _WIDEST))
    start = f"  {name:{width}}  "
    wrapped = textwrap.wrap(text, columns, initial_indent=start, subsequent_indent=" " * len(start))
    return wrapped or [start.rstrip()]
