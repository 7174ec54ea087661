"""Callbacks of packages, chosen by ``trainer.callbacks``.

A callback is a class derived from Lightning's ``Callback``, or a function that returns an object of
one. Each is wrapped: its errors name it, and its state in a checkpoint is found under its name.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import lightning
import torch

from hydratune.errors import ConfigError, HydratuneError, Paused, Problem, RunError, RunInterrupted
from hydratune.settings import packages
from hydratune.settings.trainer import TrainerConfig
from hydratune.training.watchdog import Stopped

_KEY = "trainer.callbacks"
_ENDS = (HydratuneError, Paused, RunInterrupted, Stopped)  # what may end a run on purpose
# the hooks of a callback; those that concern its state are wrapped one by one
_HOOKS = [
    name
    for name in vars(lightning.Callback)
    if name.startswith(("on_", "setup", "teardown")) and name != "setup"
]
_PLAIN = (bool, int, float, str, bytes, torch.Tensor, type(None))


def check_callbacks(settings: TrainerConfig) -> None:
    """Import the callbacks of a run and check their settings, without making them.

    Raises ``ConfigError``.
    """
    for name in settings.callbacks or ():
        _factory(settings, name)


def create_callbacks(settings: TrainerConfig) -> list[lightning.Callback]:
    """Return the callbacks of a run in the order of ``trainer.callbacks``.

    Raises ``ConfigError`` if one cannot be imported or made with its settings.
    """
    return [_create(settings, name) for name in settings.callbacks or ()]


def _create(settings: TrainerConfig, name: str) -> "PackageCallback":
    make, values = _factory(settings, name), settings.callback_settings.get(name, {})
    owner = packages.owner("callback", name)
    try:
        callback = make(**values)
    except Exception as error:  # a package may raise anything
        why = f"{owner} refuses its settings ({type(error).__name__}: {error})"
        fix = "correct them, or the package"
        raise ConfigError([Problem(_settings_key(name), values, why, fix)]) from error
    if not isinstance(callback, lightning.Callback):
        raise ConfigError([_no_callback(name)])
    return PackageCallback(name, callback, owner)


def _factory(settings: TrainerConfig, name: str) -> Callable[..., object]:
    """Return what makes the callback. Raises ``ConfigError`` if it does not take its settings."""
    make = packages.load("callback", name, _KEY)
    if not callable(make) or (isinstance(make, type) and not issubclass(make, lightning.Callback)):
        raise ConfigError([_no_callback(name)])
    signature = inspect.signature(make)
    values = settings.callback_settings.get(name, {})
    try:
        signature.bind(**values)
    except TypeError as error:
        known = [p.name for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        fix = f"it has these settings: {', '.join(known)}" if known else "it has no settings"
        raise ConfigError([Problem(_settings_key(name), values, str(error), fix)]) from None
    return make


def _no_callback(name: str) -> Problem:
    why = f"{packages.owner('callback', name)} is neither a Lightning callback nor makes one"
    return Problem(_KEY, name, why, "derive the class from lightning.Callback")


def _settings_key(name: str) -> str:
    return f"trainer.callback_settings.{name}"


class PackageCallback(lightning.Callback):
    """A callback of a package, under the name by which it was chosen."""

    def __init__(self, name: str, callback: lightning.Callback, owner: str) -> None:
        self.name, self.callback, self.owner = name, callback, owner
        self._loaded: Mapping[str, Any] | None = None  # its state, until it has been set up
        for hook in _HOOKS:
            if getattr(type(callback), hook, None) is not getattr(lightning.Callback, hook):
                setattr(self, hook, partial(self._call, hook))

    @property
    def state_key(self) -> str:
        return f"callback of a package: {self.name}"

    def setup(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str
    ) -> None:
        """Set the callback up; then restore the state with which its run is resumed."""
        self._call("setup", trainer, module, stage)
        if self._loaded is not None:
            self._call("load_state_dict", self._loaded)
            self._loaded = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the callback. Raises ``RunError`` if no checkpoint can keep it."""
        state = self._call("state_dict")
        if not isinstance(state, dict) or not _is_plain(state):
            raise RunError(
                f"the callback {self.name!r} of {self.owner} has a state that a checkpoint cannot"
                " keep: its state_dict() must be a dict of numbers, texts, tensors, and lists and"
                " dicts of these"
            )
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict

    def _call(self, hook: str, *args: object, **kwargs: object) -> object:
        """Call a method of the callback. Raises ``RunError``, which names it, if it fails."""
        try:
            return getattr(self.callback, hook)(*args, **kwargs)
        except _ENDS:
            raise
        except Exception as error:
            step = getattr(args[0], "global_step", None) if args else None
            when = f" at step {step}" if step is not None else ""
            raise RunError(
                f"the callback {self.name!r} of {self.owner} failed in {hook}{when}:"
                f" {type(error).__name__}: {error}"
            ) from error


def _is_plain(value: object) -> bool:
    """Return whether a value can be read from a checkpoint without running code."""
    if isinstance(value, dict):
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN or isinstance(value, torch.Tensor)
