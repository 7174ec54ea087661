"""Settings of Hydra that name code or change which code runs: refused, wherever they come from.

Hydra imports and calls what ``_target_`` below ``hydra`` names, and what a logging configuration
names under ``()``, ``class`` or ``ext://``; it imports the packages of ``hydra.searchpath``, and
``hydra.job.env_set`` may change where the processes of a sweep import from. A configuration that
somebody else wrote could run any code by them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from omegaconf import DictConfig, OmegaConf

from hydratune.errors import ConfigError, Problem, refuse

_OWN_CLASSES = ("hydra_plugins.hydratune_", "hydra._internal.core_plugins.basic_")
_PLUGINS = ("hydra.launcher", "hydra.sweeper")
_LOGGING = ("hydra.job_logging", "hydra.hydra_logging")
_CLASSES = (  # of formatters and handlers
    "hydratune.console.LineFormatter",
    "hydratune.console.LogFile",
    "logging.Formatter",
    "logging.FileHandler",
    "logging.StreamHandler",
    "logging.NullHandler",
)
_IN_RUN_FOLDER = "${hydra.runtime.output_dir}/"  # a path, whatever follows
_PACKAGES = ("hydra.", "hydra_plugins.", "hydratune.")  # with settings
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_FACTORIES = ("_target_", "()")
_NO_CODE = "settings hold values only: what they name is never imported or called"
_CALLBACKS = (
    "leave it out; callbacks come from installed packages (trainer.callbacks) or from Python"
    " (hydratune.extensions)"
)


@contextmanager
def code_refused() -> Iterator[None]:
    """Let Hydra refuse such settings inside the block, before it uses anything that it composed."""
    load, open_sources = ConfigLoaderImpl.load_configuration, ConfigRepository.initialize_sources

    def checked(*args: Any, **options: Any) -> DictConfig:
        composed = load(*args, **options)
        refuse(code_problems(composed))
        return composed

    def open_known(self: ConfigRepository, config_search_path: ConfigSearchPath) -> None:
        for element in config_search_path.get_path():
            _refuse_package(element.path)
        open_sources(self, config_search_path)

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign]
    ConfigRepository.initialize_sources = open_known  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = load  # type: ignore[method-assign]
        ConfigRepository.initialize_sources = open_sources  # type: ignore[method-assign]


def _refuse_package(path: str | None) -> None:
    """Raise ``ConfigError`` for a package that would be imported for the settings in it."""
    name = (path or "").partition("pkg://")[2].replace("/", ".")
    if name and not f"{name}.".startswith(_PACKAGES):
        fix = "give the folder that holds the settings: --config-dir DIR"
        raise ConfigError([Problem("hydra.searchpath", path, _NO_CODE, fix)])


def code_problems(composed: DictConfig) -> Iterator[Problem]:
    """Yield a problem for each setting below ``hydra`` that names code, or decides which runs."""
    settings = composed.hydra
    for name in settings.callbacks or {}:
        yield Problem(f"hydra.callbacks.{name}", "...", _NO_CODE, _CALLBACKS)
    for name in settings.job.env_set or {}:
        why = "variables decide which code the processes of a sweep import"
        fix = "leave it out, and set the variable in the shell before hydratune is started"
        yield Problem(f"hydra.job.env_set.{name}", "...", why, fix)
    for key in (*_PLUGINS, *_LOGGING):
        # where interpolations of a logging configuration lead is known when it is used
        value = OmegaConf.select(composed, key) if key in _PLUGINS else _unresolved(composed, key)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=key in _PLUGINS)
        yield from _named_code({key: value}, "")


def _unresolved(composed: DictConfig, key: str) -> object:
    """Return the value of ``key``, below ``hydra``, as it is written."""
    return composed.hydra._get_node(key.partition(".")[2])


def _named_code(value: object, key: str) -> Iterator[Problem]:
    """Yield a problem for each name of code in ``value``, which may be nested."""
    if isinstance(value, list):
        for inner in value:
            yield from _named_code({"": inner}, key)
    for name, inner in value.items() if isinstance(value, dict) else ():
        full = f"{key}.{name}" if key and name else key or str(name)
        is_plugin = name == "_target_" and key in _PLUGINS
        in_logging, text = full.startswith(_LOGGING), str(inner)
        if is_plugin and text.startswith(_OWN_CLASSES):
            continue
        if name in _FACTORIES or (in_logging and name == "class" and inner not in _CLASSES):
            yield Problem(full, inner, _NO_CODE, "leave it out")
        elif isinstance(inner, dict | list):
            yield from _named_code(inner, full)
        elif in_logging and "${" in text and not text.startswith(_IN_RUN_FOLDER):
            yield Problem(full, inner, "it may name code where it leads to", "write it out")
        elif in_logging and text.startswith("ext://") and inner not in _STREAMS:
            yield Problem(full, inner, _NO_CODE, f"leave it out, or: {' or '.join(_STREAMS)}")
