"""Settings from Python: the groups, options and checks of the command line."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

import hydra
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.markup import escape

from hydratune.adapters.folder import use_saved_settings
from hydratune.api.rows import named_as_given, write_rows
from hydratune.composition.arguments import check_settings, read_arguments, repeated_settings
from hydratune.composition.mappings import (
    mapping_override,
    mapping_settings,
    schema_problem,
)
from hydratune.composition.problems import explain
from hydratune.composition.resolvers import CONF, register
from hydratune.composition.value_types import setting_type
from hydratune.console import console
from hydratune.errors import ConfigError, HydratuneError, InputError
from hydratune.lean_imports import garbage_collection_paused
from hydratune.settings.commands import COMMANDS, CommandConfig, TrainConfig
from hydratune.settings.overrides import value_text
from hydratune.settings.registry import typed
from hydratune.settings.secrets import refuse_secrets
from hydratune.sweeps.planning import without_hydra

if TYPE_CHECKING:
    from hydratune.api.rows import Rows

# as on the command line, in one text or a list of words; or a mapping from settings to values
Settings: TypeAlias = str | Sequence[str] | Mapping[str, object]

_FLAG_M = re.compile(r"(?<!\S)-m(?!\S)")  # in advice for the command line


@dataclass(frozen=True)
class Composed:
    """Composed settings, and what Hydra knows of them."""

    config: CommandConfig
    words: tuple[str, ...]  # the overrides
    content: DictConfig  # as composed, without Hydra's own
    hydra: HydraConf


@overload
def compose(
    settings: Settings = (), command: Literal["train"] = "train", *, data: "Rows | None" = None
) -> TrainConfig: ...
@overload
def compose(
    settings: Settings = (), command: str = "train", *, data: "Rows | None" = None
) -> CommandConfig: ...
def compose(
    settings: Settings = (), command: str = "train", *, data: "Rows | None" = None
) -> CommandConfig:
    """Return the checked settings of a command, as a dataclass whose values can be changed.

    ``settings`` are typed as on the command line, ``"model=tiny optimizer.lr=1e-3"`` or
    ``["model=tiny", "optimizer.lr=1e-3"]``, or a mapping ``{"optimizer.lr": 1e-3}``. ``data``: rows
    in memory instead of a file, see ``train``. Settings of a group may stand in a mapping of their
    own: ``{"optimizer": {"lr": 1e-3}}``. Raises ``ConfigError`` with every problem.
    """
    if command not in COMMANDS:
        raise InputError(f"command = {command}: one of {', '.join(COMMANDS)}")
    with named_as_given():
        words = words_of(settings, data)
        say(repeated_settings(words))
        config = compose_with_hydra(words, command).config
        config.check()
    return config


def words_of(
    settings: Settings, data: "Rows | None" = None, *, is_sweep: bool = False
) -> list[str]:
    """Return ``settings`` as overrides of Hydra, with those that name the files of ``data``.

    ``is_sweep``: a list in a mapping stands for the values of a sweep, unless the setting is a
    list itself. Raises ``InputError`` for flags, for what is no setting, and for two data sets.
    """
    if isinstance(settings, str):
        words = _split(settings)
    elif isinstance(settings, Mapping):
        words = [_typed(key, value, is_sweep) for key, value in _flat(settings)]
    else:
        words = _listed(settings)
    arguments = read_arguments(words)
    if arguments.flags:
        raise InputError(
            f"{' '.join(arguments.flags)} belongs to the command line; from Python,"
            " hydratune.sweep(...) runs a sweep, and hydratune.compose(...) returns settings"
        )
    words = list(arguments.settings)
    return words if data is None else [*_words_of_data(words), *_files(data)]


def _split(text: str) -> list[str]:
    """Return the words of a text as a shell splits them; Python's comments are left out."""
    try:
        return shlex.split(text, comments=True)
    except ValueError as error:
        raise InputError(
            f"settings = {text[:60]!r}: {error}; close the quote, or give a list of settings, each"
            " of which is taken as it stands"
        ) from None


def _listed(settings: object) -> list[str]:
    """Return settings that are listed. Raises ``InputError`` for anything else, such as rows."""
    is_table = hasattr(settings, "columns") or hasattr(settings, "column_names")
    listed = list(settings) if isinstance(settings, Iterable) and not is_table else None
    if listed is None or not all(isinstance(word, str) for word in listed):
        raise InputError(
            f"settings = a {type(settings).__name__}: give a text such as"
            ' "model=tiny optimizer.lr=1e-3", a list of such texts or a mapping; rows are given as'
            " data=..."
        )
    return listed


def _flat(settings: Mapping[str, object], group: str = "") -> Iterator[tuple[str, object]]:
    """Yield (setting, value); mappings are groups of settings, but for settings that are one."""
    for name, value in settings.items():
        key = f"{group}{name}"
        if isinstance(value, Mapping) and key.lstrip("+") not in mapping_settings():
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def say(notices: Iterable[str]) -> None:
    """Print what is to be noticed about settings that are accepted."""
    for notice in notices:
        console.print(f"[yellow]{escape(notice)}", soft_wrap=True)


def _typed(key: str, value: object, is_sweep: bool) -> str:
    """Return a setting in a mapping as it is typed."""
    if isinstance(value, Mapping) and value:
        return mapping_override(key.lstrip("+"), value)
    if not is_sweep:
        return f"{key}={value_text(key, value)}"
    if isinstance(value, list | tuple) and "list" not in setting_type(key):
        return f"{key}={','.join(value_text(key, part) for part in value)}"
    return f"{key}={value if isinstance(value, str) else value_text(key, value)}"


def _words_of_data(words: Sequence[str]) -> list[str]:
    """Return ``words`` for rows in memory. Raises ``InputError`` if they name other data."""
    for word in words:
        key, _, value = word.partition("=")
        files = ("data.train", "data.validation", "data.test")
        if (key == "data" and value != "files") or key in files:
            raise InputError(
                f"data: rows are given, and {word} names others; leave one of them out"
            )
    return [*(word for word in words if word != "data=files"), "data=files"]


def _files(data: "Rows") -> Iterator[str]:
    for split, file in write_rows(data).items():
        yield f"data.{split}={value_text(f'data.{split}', str(file))}"


def compose_with_hydra(words: Sequence[str], command: str) -> Composed:
    """Compose the settings of a command. Raises ``ConfigError`` and ``InputError``."""
    register()
    refuse_secrets(list(words))
    try:
        words = check_settings(words, command)
        with (
            garbage_collection_paused(),
            _own_hydra(),
            hydra.initialize_config_dir(str(CONF), version_base="1.3"),
        ):
            composed = hydra.compose(command, list(words), return_hydra_config=True)
            OmegaConf.set_readonly(composed.hydra, False)
            composed.hydra.runtime.cwd = str(Path.cwd())
            config = typed(composed, COMMANDS[command])
            if isinstance(config, TrainConfig):
                config.name = config.name or str(composed.hydra.runtime.choices["data"])
                use_saved_settings(config, list(words))
                composed.hydra.run.dir = str(composed.hydra.run.dir)  # with the time of now
    except (HydraException, OmegaConfBaseException) as error:
        raise _for_python(explain(error, command, words)) from None
    except ConfigError as error:
        raise _for_python(error) from None
    except (AttributeError, AssertionError) as error:
        problem = schema_problem(error, words)
        if problem is None:
            raise
        raise ConfigError([problem]) from None
    return Composed(config, tuple(words), without_hydra(composed), composed.hydra)


def _for_python(error: HydratuneError) -> HydratuneError:
    """Return an error whose advice is not about the command line."""
    if not isinstance(error, ConfigError):
        return error
    return ConfigError(
        [
            replace(problem, fix="give one value; hydratune.sweep(...) runs a sweep over several")
            if _FLAG_M.search(problem.fix)
            else problem
            for problem in error.problems
        ]
    )


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Let Hydra be initialised in the block, even if the program around it has done so."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before
