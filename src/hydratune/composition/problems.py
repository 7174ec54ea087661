"""What an error of Hydra or OmegaConf says about a setting: why it is wrong and what to do.

Hydra's errors are texts, so each rule recognises one by its words. The first rule that applies
makes the problem.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydratune.composition.hydra_settings import fix_of_sweep, launcher_problem
from hydratune.composition.mappings import (
    advice_for_entry,
    advice_for_mapping,
    entries_of,
    mapping_of,
    mapping_settings,
)
from hydratune.composition.options import option_meant, path_meant, unknown_option
from hydratune.composition.resolvers import CONF
from hydratune.composition.suggestions import unknown_setting, written
from hydratune.composition.value_types import (
    SHOW_LAUNCHER,
    describe_type,
    plain_reason,
    setting_type,
)
from hydratune.errors import ConfigError, HydratuneError, InputError, Problem
from hydratune.settings.commands import COMMANDS
from hydratune.settings.not_given import not_given
from hydratune.settings.overrides import UNREADABLE, quoted
from hydratune.settings.registry import all_variants, typed

_NO_OPTION = re.compile(
    r"In '[^']*': Could not find '([^']+)/([^'/]+)'"
    r"(?:\s*\n\nAvailable options in '[^']*':\n(.*?))?\n(?:Config|$)",
    re.S,
)
_NEEDS_QUOTES = re.compile(r"[^A-Za-z0-9_/\\+.$%*@?|:\s-]")  # what is no plain text for Hydra
_OFF = re.compile(r"(?:In '([^']+)': )?.*Invalid value 'False', expected one of \[.*\boff\b", re.S)


def explain(error: Exception, command: str, args: Sequence[str]) -> HydratuneError:
    """Return an error of Hydra or OmegaConf as one of ours, with every problem of the settings."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HydratuneError):
            return cause
        cause = cause.__cause__ or cause.__context__
    overrides = [arg for arg in args if "=" in arg and not arg.startswith("-")]
    is_sweep = "-m" in args or "--multirun" in args
    # the search for further problems knows the shipped settings only
    has_own_folder = any(arg.startswith(("-cd", "--config-dir")) for arg in args) or any(
        "searchpath" in override for override in overrides
    )
    if not is_sweep and not has_own_folder:
        is_of_these = not any(arg.lstrip("+~").startswith("hydra") for arg in overrides)
        problems = composition_problems(command, overrides, error if is_of_these else None)
        if problems:
            return ConfigError(problems)
    problem = find_problem(error, command, overrides)
    return ConfigError([problem]) if problem else InputError(_first_lines(str(error)))


def composition_problems(
    command: str, overrides: Sequence[str], error: Exception | None = None
) -> list[Problem]:
    """Return every problem of ``overrides``.

    Hydra stops at the first, so what it complains about is removed and the rest composed again.
    ``error``: the first one, if they were composed already.
    """
    first = error if isinstance(error, HydraException | OmegaConfBaseException) else None
    problems: list[Problem] = []
    remaining = [o for o in overrides if not o.lstrip("+~").startswith("hydra")]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        while True:
            try:
                if first is not None:
                    raise first
                composed = hydra.compose(command, remaining, return_hydra_config=False)
                return [*problems, *typed(composed, COMMANDS[command]).problems()]
            except (HydraException, OmegaConfBaseException) as raised:
                first = None
                problem = find_problem(raised, command, remaining)
                if problem is None or problem.key in [other.key for other in problems]:
                    return problems  # a setting that was removed is missing, which is not reported
                problems.append(problem)
                fewer = [o for o in remaining if not _belongs_to(o, problem.key)]
                if len(fewer) == len(remaining):  # not one of the overrides: nothing to remove
                    return problems
                remaining = fewer


def _belongs_to(override: str, key: str) -> bool:
    """Return whether ``override`` sets ``key``, or a setting of ``key`` if that is a group."""
    name = override.lstrip("+~").split("=", 1)[0]
    return name == key or (key in all_variants() and name.startswith(f"{key}."))


@contextmanager
def _initialised() -> Iterator[None]:
    """Make ``hydra.compose`` possible, if it is not already."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@dataclass(frozen=True)
class _Failure:
    """An error of Hydra or OmegaConf, and the overrides that led to it."""

    error: BaseException
    command: str
    values: dict[str, str]  # of the overrides, by key

    @property
    def text(self) -> str:
        return str(self.error)

    @property
    def cause(self) -> BaseException:
        """OmegaConf's error where Hydra's is raised from one, else the error itself."""
        inner = self.error.__cause__
        return inner if isinstance(inner, OmegaConfBaseException) else self.error

    def exists(self, key: str) -> bool:
        """Return whether a setting exists with the chosen options of all groups."""
        group, _, name = key.rpartition(".")
        chosen = [
            f"{group}={self.values[group].split(',')[0]}"
            for group in all_variants()
            if group in self.values
        ]
        composed = self._compose(chosen)
        return composed is None or _has(composed, group, name)

    def options_without(self, key: str) -> list[str]:
        """Return the typed options of the group of ``key`` that lack this setting."""
        group, _, name = key.rpartition(".")
        options = [option for option in self.values.get(group, "").split(",") if option]
        composed = {option: self._compose([f"{group}={option}"]) for option in options}
        return [
            option
            for option, settings in composed.items()
            if settings is not None and not _has(settings, group, name)
        ]

    def is_refused(self, option: str, setting: str) -> bool:
        """Return whether an option of a group with its setting is refused beside the others."""
        group = option.partition("=")[0]
        others = [f"{g}={self.values[g]}" for g in all_variants() if g in self.values]
        choices = [choice for choice in others if not choice.startswith(f"{group}=")]
        composed = self._compose([*choices, option, setting])
        if composed is None:
            return True
        try:
            problems = list(typed(composed, COMMANDS[self.command]).problems())
        except (OmegaConfBaseException, HydratuneError):  # another setting is missing
            return False
        return any(problem.key == group for problem in problems)

    def _compose(self, choices: list[str]) -> DictConfig | None:
        """Return the settings with these options of groups; None if that is impossible."""
        with _initialised():
            path = GlobalHydra.instance().config_loader().get_search_path().get_path()
            return _composed(self.command, tuple(choices), str(path))


@cache
def _composed(command: str, choices: tuple[str, ...], search_path: str) -> DictConfig | None:
    """Compose settings that are only looked at, once for all problems that ask for them."""
    try:
        return hydra.compose(command, list(choices))
    except (HydraException, OmegaConfBaseException):
        return None


def _has(composed: DictConfig, group: str, name: str) -> bool:
    """Return whether there is a setting, which may be one that has to be given."""
    node = OmegaConf.select(composed, group) if group else composed
    # "in" leaves those out
    return isinstance(node, DictConfig) and name in node.keys()  # noqa: SIM118


def find_problem(error: BaseException, command: str, overrides: Sequence[str]) -> Problem | None:
    """Return what ``error`` says about one setting, or None if no rule recognises it."""
    values = dict(o.lstrip("+~").split("=", 1) for o in overrides if "=" in o)
    failure = _Failure(error, command, values)
    return next((problem for rule in _RULES if (problem := rule(failure)) is not None), None)


def _halving_as_a_number(failure: _Failure) -> Problem | None:
    key = "hydra.launcher.halving"
    steps = failure.values.get(key, "{")
    if not steps.isdigit():
        return None
    return Problem(key, steps, "it has several settings", f"{key}.min_steps={steps}")


def _unreadable_override(failure: _Failure) -> Problem | None:
    """Recognise what Hydra's grammar refuses."""
    if not isinstance(failure.error, OverrideParseException):
        return None
    override = failure.error.override
    typed_key, equals, value = override.partition("=")
    if not equals:
        fix = path_meant(override, failure.command) or written(typed_key, failure.command)
        return Problem(override, "", "a setting is written KEY=VALUE, without spaces", fix)
    if not _is_readable(f"{typed_key}=0"):
        why = "this is not the name of a setting"
        return Problem(typed_key, value, why, "a setting is written GROUP.NAME=VALUE")
    if typed_key.lstrip("+") in mapping_settings():
        key = typed_key.lstrip("+")
        why = "Hydra cannot read this mapping"
        return Problem(key, value, why, advice_for_mapping(key, value))
    if meant := option_meant(typed_key, value):
        return meant
    characters = "  ".join(dict.fromkeys(_NEEDS_QUOTES.findall(value)))
    why = "Hydra cannot read this value"
    if characters:
        why = f"Hydra reads these characters only between quotes: {characters}"
    return Problem(typed_key.lstrip("+~"), value, why, _advice_to_quote(typed_key, value))


def _advice_to_quote(key: str, value: str) -> str:
    """Return how a value is typed that Hydra cannot read without quotes."""
    as_one_text = quoted(key, value)
    if value[:1] in ("[", "{"):
        example = shlex.quote(f'{key}=["a~b",c]')
        return (
            f"in a list or mapping, close every bracket and quote the texts, such as {example}; if"
            f" the whole value is one text: {as_one_text}"
        )
    advice = f"type both pairs of quotes: {as_one_text}"
    if "," in value:
        advice += f"; or, for the values of a sweep: -m {quoted(key, *value.split(','))}"
    return advice


def _is_readable(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except UNREADABLE:
        return False
    return True


def _several_values_without_m(failure: _Failure) -> Problem | None:
    match = re.search(r"Ambiguous value for argument '([^=]+)=([^']*)'", failure.text)
    if not match:
        return None
    key, value = match[1], match[2]
    kind = setting_type(key)
    fix = fix_of_sweep(f"{key}={value}", failure.command)
    if "list" in kind:
        fix = f"write a list: {shlex.quote(f'{key}=[{value}]')}"
    if kind.startswith("str"):
        fix += f"; one text is typed with both pairs of quotes: {quoted(key, value)}"
    return Problem(key, value, "several values are a sweep", fix)


def _interval_in_a_grid(failure: _Failure) -> Problem | None:
    key = next((key for key, value in failure.values.items() if "interval(" in value), "")
    if not key or "does not support sweep type" not in failure.text:
        return None
    why = "a grid runs every value, and an interval has infinitely many"
    fix = "add hydra/sweeper=optuna or hydra/sweeper=random, or name the values: a,b,c"
    return Problem(key, failure.values[key], why, fix)


def _no_such_group(failure: _Failure) -> Problem | None:
    match = re.search(
        r"Could not override '([^']+)'\.\s*No match in the defaults list", failure.text
    )
    if not match:
        return None
    value = failure.values.get(match[1], "")
    return unknown_setting(match[1], value, list(all_variants()), "", failure)


def _no_such_option(failure: _Failure) -> Problem | None:
    match = _NO_OPTION.search(failure.text)
    if not match:
        return None
    if match[1] == "hydra/launcher":
        return launcher_problem(match[2])
    options = [line.strip() for line in (match[3] or "").splitlines() if line.strip()]
    group, _, value = f"{match[1]}/{match[2]}".partition("/")
    if group in all_variants():  # whose options have no slash
        return unknown_option(group, value, options)
    return unknown_option(match[1], match[2], options)


def _removed(failure: _Failure) -> Problem | None:
    """Recognise ``~key`` for a setting that every run has, or that does not exist."""
    match = re.search(r"Could not delete from config\. '([^']+)' does not exist", failure.text)
    if match:
        return Problem(f"~{match[1]}", "", "there is no such setting", f"leave out ~{match[1]}")
    if "does not support deletion" not in str(failure.cause):
        return None
    key = str(getattr(failure.cause, "full_key", None) or "")
    why = "every run has this setting; one that is not typed has its default"
    return Problem(f"~{key}", "", why, f"leave out ~{key}")


def _off_without_quotes(failure: _Failure) -> Problem | None:
    match = _OFF.search(failure.text)
    if not match:
        return None
    key = match[1] or "data.quality"
    return Problem(key, "off", "YAML reads off as false", 'write it in quotes: "off"')


def _wrong_setting(failure: _Failure) -> Problem | None:
    """Recognise a key that is missing or unknown, or a value of the wrong type."""
    text, cause, values = failure.text, failure.cause, failure.values
    match = re.search(r"Could not override '([^']+)'", text)
    key = match[1] if match else getattr(cause, "full_key", None)
    if not key:
        return None
    if "mandatory" in text.lower() or "Missing" in type(cause).__name__:
        of_interpolation = re.search(r"interpolation: Missing mandatory value: ([\w.]+)", text)
        return not_given(of_interpolation[1] if of_interpolation else key)
    original = _first_lines(str(cause), 1)
    message = plain_reason(key, original)
    if values.get(key, "").startswith("{") and key not in mapping_settings():
        return _wrong_mapping(key, values[key], message)
    if key in mapping_settings() and "mapping" in message:
        return Problem(key, values.get(key, ""), message, advice_for_mapping(key, values[key]))
    if "not in" in message or (match and cause is failure.error):
        value = values.get(key) or entries_of(key, values)
        if mapping_of(key, failure.command):
            why = "it is an entry of a mapping, which has none of this name yet"
            return Problem(key, value, why, advice_for_entry(key, value, failure.command))
        kind = getattr(cause, "object_type", None)
        names = [f.name for f in fields(kind)] if is_dataclass(kind) else []
        group = key.rpartition(".")[0]
        return unknown_setting(key, value, names, group, failure)
    typed_list = re.fullmatch(r"\[(.+)\]", values.get(key, ""))
    if typed_list and "list" not in setting_type(key) and key not in mapping_settings():
        sweep = shlex.quote(f"{key}={typed_list[1]}")
        fix = f"for a sweep over these values, without brackets: -m {sweep}"
        return Problem(key, values[key], "it is one value, not a list", fix)
    if key in values and "is not a ListConfig" in str(cause):
        why = "this setting is a list, and the value is not"
        return Problem(
            key, values[key], why, f"with brackets: {shlex.quote(f'{key}=[{values[key]}]')}"
        )
    if key not in values:
        related = [k for k in values if key.startswith(k) or k.startswith(key)]
        key = related[0] if related else key
    is_mapping = key in mapping_settings()
    fix = advice_for_mapping(key, "") if is_mapping else describe_type(key)
    return Problem(key, values.get(key, ""), plain_reason(key, original), fix)


def _wrong_mapping(key: str, value: str, message: str) -> Problem:
    """Return the problem of a mapping that was typed for a setting that is none."""
    fix = describe_type(key)
    if key.startswith("hydra"):
        fix = f"{SHOW_LAUNCHER} shows what there is"
    return Problem(key, value, message, fix)


_RULES: tuple[Callable[[_Failure], Problem | None], ...] = (
    _halving_as_a_number,
    _unreadable_override,
    _several_values_without_m,
    _interval_in_a_grid,
    _no_such_group,
    _no_such_option,
    _removed,
    _off_without_quotes,
    _wrong_setting,
)


def _first_lines(text: str, count: int = 6) -> str:
    """Return the first lines of a message, without OmegaConf's internals."""
    internal = ("full_key:", "object_type=")
    lines = [line for line in text.strip().splitlines() if not line.strip().startswith(internal)]
    return "\n".join(lines[:count])
