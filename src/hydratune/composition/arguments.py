"""The arguments of a command as they are typed, and as Hydra takes them.

Flags may stand between settings, ``--key=value`` is a setting (W&B's agent types it so), and the
value of a setting that is a text stays the text that was typed.
"""

import difflib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.errors import HydraException

from hydratune.composition.hydra_settings import RUN_FOLDERS, hydra_problems, sweep_problems
from hydratune.composition.mappings import as_entry
from hydratune.composition.package_options import option_names
from hydratune.composition.resolvers import shipped_options
from hydratune.composition.separators import refuse_separators
from hydratune.composition.suggestions import nearest_option, written
from hydratune.errors import ConfigError, InputError, Problem
from hydratune.settings import packages
from hydratune.settings.commands import COMMANDS
from hydratune.settings.paths import expanded
from hydratune.settings.registry import all_variants, variant_class

# Hydra's flags, and how many values follow each
_FLAGS = {
    **dict.fromkeys(("-h", "--help", "--hydra-help", "--version", "--resolve"), 0),
    **dict.fromkeys(("-r", "--run", "-m", "--multirun", "-sc", "--shell-completion"), 0),
    **dict.fromkeys(("-c", "--cfg", "-p", "--package", "-cp", "--config-path"), 1),
    **dict.fromkeys(("-cn", "--config-name", "-cd", "--config-dir"), 1),
}
_INFO = ("-i", "--info")  # a value may follow
_INFO_VALUES = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# advice for a group that is set to null or removed
_WITHOUT = {
    "tracking": "tracking=disabled mirrors the run nowhere; ",
    "adapter": "adapter=none trains the model itself; ",
}
# the home folder at the start of a folder that Hydra makes or searches
_RUN_FOLDER = rf"(?:--)?\+{{0,2}}(?:{'|'.join(map(re.escape, RUN_FOLDERS))})"
_HOME = re.compile(rf"""\A((?:-cd|--config-dir|{_RUN_FOLDER})=["']?)(~[^/"']*)""")


@dataclass(frozen=True)
class Arguments:
    """The flags of Hydra with their values, and the settings."""

    flags: tuple[str, ...]
    settings: tuple[str, ...]


def expand_home(args: Sequence[str]) -> list[str]:
    """Return ``args`` with the home folder in place of ``~`` in the folders that Hydra itself uses.

    Those of the command's own settings are expanded after Hydra has composed them.
    """
    result = [_HOME.sub(lambda m: f"{m[1]}{expanded(m[2])}", arg) for arg in args]
    for number, (flag, folder) in enumerate(pairwise(args), 1):
        if flag in ("-cd", "--config-dir") and folder.startswith("~"):
            result[number] = str(expanded(folder))
    return result


def read_arguments(args: Sequence[str], command: str = "train") -> Arguments:
    """Return the flags and settings in ``args`` of ``command``.

    Raises ``InputError`` for what is neither, and for spaces and commas where none belong.
    """
    flags: list[str] = []
    settings: list[str] = []
    words = iter(enumerate(args))
    for position, word in words:
        name, equals, _ = word.partition("=")
        following = args[position + 1] if position + 1 < len(args) else None
        if name in _FLAGS or name in _INFO:
            flags.append(word)
            wants_value = _FLAGS.get(name, following in _INFO_VALUES) and not equals
            if wants_value and following is not None:
                flags.append(following)
                next(words)
        elif name.startswith("--") and equals and name != "--":
            settings.append(word[2:])
        elif name.startswith("-"):
            raise InputError(_unknown_flag(word, following, command))
        else:
            settings.append(word)
    _refuse_flags_together(flags)
    refuse_separators(settings, flags)
    return Arguments(tuple(flags), tuple(settings))


def _unknown_flag(word: str, following: str | None, command: str) -> str:
    """Return what to type instead of a flag that does not exist."""
    if word.partition("=")[0] == "--experimental-rerun":
        return f"{word}: this would run what a pickle holds; type the settings of that run again"
    near = difflib.get_close_matches(word, [*_FLAGS, *_INFO], n=1, cutoff=0.75)
    if near:
        return f"no such flag: {word}; did you mean {near[0]}?"
    name, equals, value = word.lstrip("-").partition("=")
    given = value if equals else None
    if given is None and following is not None and following[:1] != "-" and "=" not in following:
        given = following
    setting = written(name or "KEY", command, given)
    return f"no such flag: {word}; a setting is written without dashes and spaces: {setting}"


def _refuse_flags_together(flags: Sequence[str]) -> None:
    """Raise ``InputError`` for flags that Hydra refuses together."""
    is_sweep = "-m" in flags or "--multirun" in flags
    shows = flag_that_shows(flags)
    if is_sweep and shows is not None:
        raise InputError(
            f"-m and {shows.partition('=')[0]} cannot be given together: it shows the settings of"
            " one run; leave out -m, and give one value to each setting"
        )


def flag_that_shows(flags: Sequence[str]) -> str | None:
    """Return the flag with which settings are shown instead of used, or None."""
    return next((f for f in flags if f.partition("=")[0] in ("-c", "--cfg", *_INFO)), None)


def check_settings(
    settings: Sequence[str], command: str, *, is_sweep: bool = False, shows: bool = False
) -> list[str]:
    """Return ``settings`` with quotes where a text would be read as a number.

    Raises ``ConfigError`` for options of groups that are none, for ``None``, and for settings of
    Hydra that ``command`` cannot honour.
    ``is_sweep``: -m is given; ``shows``: the settings are only shown.
    """
    problems: list[Problem] = []
    result: list[str] = []
    for setting in (as_entry(setting, command) for setting in settings):
        try:
            override = OverridesParser.create().parse_override(setting)
        except (HydraException, RecursionError):  # explained when Hydra refuses it
            result.append(setting)
            continue
        except ValueError:  # CVE-2020-10735: Python limits the digits of whole numbers
            key, _, value = setting.partition("=")
            fix = "give a smaller number; for a text, two pairs of quotes: 'KEY=\"VALUE\"'"
            problems.append(Problem(key, f"{value[:20]}...", "it has thousands of digits", fix))
            continue
        if override.key_or_group in all_variants() and override.package is None:
            problems += _group_problems(override, setting, command)
        else:
            problems += hydra_problems(override, setting, command, is_sweep=is_sweep, shows=shows)
            problems += _none_problems(override, setting)
        if not is_sweep:
            problems += sweep_problems(override, setting, command)
        result.append(_as_text(override, setting, command))
    if problems:
        raise ConfigError(problems)
    return result


def repeated_settings(settings: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for every setting that is given several times, with different values."""
    values: dict[str, list[str]] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if equals:
            values.setdefault(key.lstrip("+"), []).append(value)
    for key, given in values.items():
        if len(set(given)) > 1:
            times = "twice" if len(given) == 2 else f"{len(given)} times"
            last = shlex.quote(f"{key}={given[-1]}")
            yield f"{key} is given {times}, and only the last value is used: {last}"


def _group_problems(override: Override, setting: str, command: str) -> Iterator[Problem]:
    """Yield what is wrong with the choice of an option of a config group."""
    group, typed = override.key_or_group, setting.partition("=")[2]
    shipped = shipped_options(group)
    brought = option_names(group)
    options = sorted({*shipped, *brought})
    listed = f"options: {', '.join(options)}"
    off = _WITHOUT.get(group, "")
    value = override._value
    if override.type is OverrideType.DEL:
        yield Problem(f"~{group}", typed, "a run needs this group", f"{off}{listed}")
    elif value is None:
        yield Problem(group, "null", "a config group needs one of its options", f"{off}{listed}")
    elif isinstance(value, list | tuple):
        names = ",".join(map(str, value))
        why = "a run has one option of a group"
        fix = f"for a sweep over them: -m {group}={names}; {listed}"
        yield Problem(group, typed, why, fix if command == "train" else listed)
    elif isinstance(value, bool | int | float | dict):
        yield Problem(group, typed, "there is no such option", nearest_option(typed, options))
    elif override.type is OverrideType.ADD:
        why = "every run has an option of this group already, and this would add a second one"
        yield Problem(f"+{group}", typed, why, f"{group}={typed}, without +")
    for name in [part.strip() for part in typed.split(",")]:
        if name in brought and name in shipped:
            yield packages.of_two(group, name, group, "an option of hydratune")
        elif name in brought:
            yield from _import_problems(group, name)


def _import_problems(group: str, name: str) -> Iterator[Problem]:
    """Import an option of a package, so that its settings are known; yield why it cannot be."""
    try:
        variant_class(group, name)
    except ConfigError as error:
        yield from error.problems


def _none_problems(override: Override, setting: str) -> Iterator[Problem]:
    """Yield a problem if the value is ``None``, which is a text here."""
    value = override._value
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    if any(type(part) is str and part == "None" for part in values):
        key, _, typed = setting.partition("=")
        null = shlex.quote(f"{key}={typed.replace('None', 'null')}")
        text = shlex.quote(f'{key}="None"')
        why = "for Hydra this is the text None, not the absence of a value"
        yield Problem(override.key_or_group, typed, why, f"{null}; the text: {text}")


def _as_text(override: Override, setting: str, command: str) -> str:
    """Return a setting whose type is text with its value in quotes, if Hydra would read a number.

    ``name=1e3`` would be called 1000.0, and ``model.revision=12e4567`` inf.
    """
    key, _, typed = setting.partition("=")
    value = override._value
    parts = typed.split(",") if isinstance(value, ChoiceSweep) else [typed]
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    if len(parts) != len(values) or not any(isinstance(read, int | float) for read in values):
        return setting
    if not _is_text(override.key_or_group, command):
        return setting
    quoted = [
        f'"{part.strip()}"' if isinstance(read, int | float) else part
        for part, read in zip(parts, values, strict=True)
    ]
    return f"{key}={','.join(quoted)}"


def _is_text(key: str, command: str) -> bool:
    """Return whether a setting is a text in every variant that has it."""
    group, _, name = key.rpartition(".")
    kinds = all_variants().get(group, {}).values() if group else [COMMANDS[command]]
    types = {str(f.type) for kind in kinds for f in fields(kind) if f.name == name}
    return bool(types) and types <= {"str", "<class 'str'>", "str | None"}
