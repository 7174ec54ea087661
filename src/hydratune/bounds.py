"""Bounds on what input files may cost: time, depth of nesting, and the size of expanded YAML."""

import ctypes
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from omegaconf import OmegaConf

from hydratune.errors import InputError

_REPEATED = 1.0  # seconds between two alarms of the main thread
_CHECK_INTERVAL = 0.25  # seconds between two checks of the time limits of other threads
_MOST_NODES = 1_000_000  # of a YAML file with its aliases expanded
_DEEPEST_YAML = 100  # levels; PyYAML and OmegaConf recurse once for each
_MOST_BYTES = 2**24  # of a YAML file


class TooSlowError(Exception):
    """Something took longer than its time limit."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise ``TooSlowError`` in the block after ``seconds`` in which its thread has computed.

    What the thread waits for does not count: other programs, a suspended machine, a stopped
    process. In the main thread SIGALRM does it, which also interrupts a regular expression; it
    comes again, because Python ignores errors in finalisers and callbacks of the garbage collector.
    In other threads the error is raised between two bytecode instructions, so it does
    not interrupt a long call of a C library. If other code has already set the alarm of the main
    thread, there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        with _WATCH.limit(seconds):
            yield
        return
    if signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        yield
        return

    began = time.thread_time()

    def raise_error(signum: int, frame: FrameType | None) -> None:
        if time.thread_time() - began >= seconds:
            raise TooSlowError

    previous = signal.signal(signal.SIGALRM, raise_error)
    signal.setitimer(signal.ITIMER_REAL, seconds, min(_REPEATED, max(seconds / 4, 0.01)))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


class _Watch:
    """Checks, in a thread of its own, the time limits of blocks that run in other threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # thread -> (its clock, when its block must have ended by this clock)
        self._deadlines: dict[int, tuple[int, float]] = {}
        self._raised: set[int] = set()  # threads in which the error was raised
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Limit a block of this thread; inside a limited block the outer limit counts."""
        own = threading.get_ident()
        with self._lock:
            is_nested = own in self._deadlines
            if not is_nested:
                clock = _clock_of(own)
                self._deadlines[own] = clock, time.clock_gettime(clock) + seconds
                self._ensure_running()
        try:
            yield
        finally:
            if not is_nested:
                with self._lock:
                    self._deadlines.pop(own, None)
                    if own in self._raised:
                        self._raised.discard(own)
                        _raise_in_thread(own, None)  # withdraw an error that has not arrived yet

    def _ensure_running(self) -> None:
        """Start the thread; a forked process has to start its own."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="time limits", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        never_set = threading.Event()
        while True:
            never_set.wait(_CHECK_INTERVAL)
            with self._lock:
                for thread, (clock, deadline) in list(self._deadlines.items()):
                    if thread not in self._raised and time.clock_gettime(clock) > deadline:
                        self._raised.add(thread)
                        _raise_in_thread(thread, TooSlowError)


def _clock_of(thread: int) -> int:
    """Return the clock of the time in which a thread computes; macOS has none."""
    if hasattr(time, "pthread_getcpuclockid"):
        return time.pthread_getcpuclockid(thread)
    return time.CLOCK_MONOTONIC


def _raise_in_thread(thread: int, error: type[Exception] | None) -> None:
    """Raise ``error`` in another thread at its next instruction; None withdraws a pending one."""
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


_WATCH = _Watch()


def depth(value: object, limit: int) -> int:
    """Return how deep lists and objects are nested; deeper than ``limit`` counts as one more."""
    level, levels = [value], 0
    while level and levels <= limit:
        level = [
            inner
            for container in level
            if isinstance(container, dict | list)
            for inner in (container.values() if isinstance(container, dict) else container)
        ]
        levels += bool(level)
    return levels


def check_yaml(path: Path) -> None:
    """Raise ``InputError`` for a YAML file whose aliases expand to too much, or that is too deep.

    Only parser events are read, so no more memory is needed than the size of the file. Invalid
    YAML is not reported here: the code that loads the file does that.
    """
    if path.stat().st_size > _MOST_BYTES:
        why = f"larger than {_MOST_BYTES // 2**20} MiB, which is no configuration"
        raise InputError(f"{path}: {why}; give another file")
    expanded = _ExpandedSize(path)
    try:
        with path.open("rb") as stream:
            for event in yaml.parse(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                expanded.add(event)
    except yaml.YAMLError as error:
        if "nesting" in str(error) or "depth" in str(error):
            raise _too_deep(path, 0) from None
    except RecursionError:
        raise _too_deep(path, 0) from None


class _ExpandedSize:
    """Counts the nodes of a YAML file with its aliases expanded, from the events of a parser."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._nodes = 0
        self._below_anchor = Counter[str]()  # anchor -> nodes of the value it names
        self._open: list[tuple[str | None, int]] = []  # (anchor, nodes before it) of collections

    def add(self, event: yaml.Event) -> None:
        """Count one event. Raises ``InputError`` once the bounds are exceeded."""
        line = event.start_mark.line if event.start_mark else 0
        self._nodes += self._size(event, line)
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, self._nodes - 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self._open.pop()
            if anchor:
                self._below_anchor[anchor] = self._nodes - before
        elif isinstance(event, yaml.ScalarEvent) and event.anchor:
            self._below_anchor[event.anchor] = 1
        if self._nodes > _MOST_NODES:
            why = f"its aliases (*name) expand to more than {_MOST_NODES:,} values"
            fix = "write the values out, or fewer of them"
            raise InputError(f"{self._path}:{line + 1}: {why}; {fix}")
        if len(self._open) > _DEEPEST_YAML:
            raise _too_deep(self._path, line)

    def _size(self, event: yaml.Event, line: int) -> int:
        """Return the number of nodes that an event adds."""
        if not isinstance(event, yaml.AliasEvent):
            return int(isinstance(event, yaml.NodeEvent))
        if any(anchor == event.anchor for anchor, _ in self._open):
            why = f"*{event.anchor} stands inside the value that it names"
            raise InputError(f"{self._path}:{line + 1}: {why}; write it out")
        return self._below_anchor[str(event.anchor)]


def load_yaml(path: Path) -> Any:
    """Return the OmegaConf tree of a YAML file.

    Raises ``InputError`` as ``check_yaml`` does, and the errors of YAML and OmegaConf.
    """
    check_yaml(path)
    return OmegaConf.load(path)


def _too_deep(path: Path, line: int) -> InputError:
    why = f"nested deeper than {_DEEPEST_YAML} levels, which no setting is"
    return InputError(f"{path}:{line + 1}: {why}; correct the file")
