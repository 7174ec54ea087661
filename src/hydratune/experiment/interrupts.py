"""Ctrl-C, a kill and a closed terminal: one of them ends a run, and what was trained is saved.

SIGUSR2, which a cluster sends before it takes the machine away, ends it as well, but not within an
optimizer step: the run writes a checkpoint after the step and ends.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from hydratune.console import discard_output

_UNNOTICED = 30.0  # seconds; Python drops an exception that is raised inside a destructor
_SAVING = (
    b"\nending: the trained weights are being saved (Ctrl-\\ ends it at once, and loses them)\n"
)


@dataclass
class _Ending:
    """What is known of the end that a signal asked for."""

    asked_at: float | None = None  # by ``time.monotonic``
    saving: bool = False  # the run has noticed, and only saves its work
    in_training: bool = False  # the training loop runs, and asks after every step
    after_step: bool = False  # the run is to leave after this step


_ending = _Ending()


def listen() -> None:
    """End the run at a signal from now on: its work is saved, and its status is stopped.

    The first signal is enough; further ones change nothing. A signal that the parent process has
    set to be ignored stays ignored.
    """
    _ending.asked_at, _ending.saving, _ending.after_step = None, False, False
    _install()


@contextmanager
def listening() -> Iterator[None]:
    """End the run in the block at a signal, as ``listen`` does; the handlers are restored after."""
    numbers = [number for name in _HANDLERS if (number := getattr(signal, name, None)) is not None]
    before = {number: signal.getsignal(number) for number in numbers}
    listen()
    try:
        yield
    finally:
        if _is_main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def ignore_signals() -> None:
    """Ignore signals from now on, because the run only saves its work."""
    _ending.asked_at, _ending.saving = _ending.asked_at or time.monotonic(), True
    _install()


def _is_main_thread() -> bool:
    """Return whether this thread may set handlers; no other one may."""
    return threading.current_thread() is threading.main_thread()


def _install() -> None:
    if not _is_main_thread():
        return
    for name, handler in _HANDLERS.items():
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is None:
            continue
        if name != "SIGINT" or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Raise ``KeyboardInterrupt`` at the first signal, and again if it was not noticed."""
    now = time.monotonic()
    if _ending.asked_at is not None and (_ending.saving or now - _ending.asked_at < _UNNOTICED):
        with suppress(OSError):  # not print: the signal may have interrupted one
            os.write(2, _SAVING)
        return
    _ending.asked_at = now
    raise KeyboardInterrupt


def leave(signum: int, frame: FrameType | None) -> None:
    """Let the run end after this optimizer step; at once, outside the training loop."""
    if _ending.in_training:
        _ending.after_step = True
    else:
        interrupt(signum, frame)


@contextmanager
def in_training() -> Iterator[None]:
    """Mark the block as the training loop, which asks ``is_to_leave`` after every step."""
    _ending.in_training = True
    try:
        yield
    finally:
        _ending.in_training = False


def is_to_leave() -> bool:
    """Return whether a signal asked the run to leave after this step."""
    return _ending.after_step


def hang_up(signum: int, frame: FrameType | None) -> None:
    """Interrupt the run without printing, which fails once the terminal is closed."""
    discard_output()
    interrupt(signum, frame)


_HANDLERS = {"SIGINT": interrupt, "SIGTERM": interrupt, "SIGHUP": hang_up, "SIGUSR2": leave}
