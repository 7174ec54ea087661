"""Bounds on what others' inputs may take: time, depth of nesting, and what YAML aliases unfold to."""  # noqa: E501

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

_PAUSE = 0.25  # seconds between two looks at other threads
_MOST_NODES = 1_000_000  # of a YAML file, its aliases unfolded
_DEEPEST_YAML = 100  # levels; PyYAML and OmegaConf call themselves for each
_MOST_BYTES = 2**24  # of a YAML file


class TooSlowError(Exception):
    """Something took longer than it may."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises ``TooSlowError`` in the block after ``seconds``: in the main thread by SIGALRM, also
    inside a regular expression.

    In other threads it is raised between two steps of Python, so not inside one long step of a
    library. Where somebody else has set the alarm of the main thread, nothing is bounded.
    """
    if threading.current_thread() is not threading.main_thread():
        with _WATCH.limit(seconds):
            yield
        return
    if signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        yield
        return

    def expired(signum: int, frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Watch:
    """Looks, from a thread of its own, at blocks in other threads that have a time limit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[int, float] = {}  # thread -> when its block must be over
        self._raised: set[int] = set()
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        own = threading.get_ident()
        with self._lock:
            if own in self._until:  # a block within a block: the outer one has its time
                nested = True
            else:
                nested = False
                self._until[own] = time.monotonic() + seconds
                # it does not live on in a forked process
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(
                        target=self._look, name="time limits", daemon=True
                    )
                    self._thread.start()
        try:
            yield
        finally:
            if not nested:
                with self._lock:
                    self._until.pop(own, None)
                    if own in self._raised:
                        self._raised.discard(own)
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(
                            ctypes.c_ulong(own), None
                        )  # if it has not arrived, it need not

    def _look(self) -> None:
        pause = threading.Event()  # nobody sets it
        while True:
            pause.wait(_PAUSE)
            now = time.monotonic()
            with self._lock:
                for thread, until in list(self._until.items()):
                    if now > until and thread not in self._raised:
                        self._raised.add(thread)
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(
                            ctypes.c_ulong(thread), ctypes.py_object(TooSlowError)
                        )


_WATCH = _Watch()


def depth(value: Any, enough: int) -> int:
    """How deep lists and objects are nested; no deeper than just beyond ``enough`` is looked."""
    level, found = [value], 0
    while level and found <= enough:
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        found += bool(level)
    return found


def check_yaml(path: Path) -> None:
    """Raises ``InputError`` for a YAML file that unfolds to more than it shows (aliases of
    aliases), or is nested without end.

    Reads events only, so it needs no more memory than the file. What is no YAML at all is left to
    whoever loads it.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise InputError(
            f"{path}: larger than {_MOST_BYTES // 2**20} MiB, which is no configuration; give"
            " another file"
        )
    sizes, open_nodes = (
        Counter[str](),
        list[tuple[str | None, int]](),
    )  # nodes below an anchor; (anchor, nodes so far)
    total = 0
    try:
        with path.open("rb") as stream:
            for event in yaml.parse(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                line = event.start_mark.line if event.start_mark else 0
                if isinstance(event, yaml.AliasEvent) and any(
                    anchor == event.anchor for anchor, _ in open_nodes
                ):
                    raise InputError(
                        f"{path}:{line + 1}: *{event.anchor} stands inside of what it names; write"
                        " it out"
                    )
                size = (
                    sizes[str(event.anchor)]
                    if isinstance(event, yaml.AliasEvent)
                    else int(isinstance(event, yaml.NodeEvent))
                )
                total += size
                if isinstance(event, yaml.CollectionStartEvent):
                    open_nodes.append((event.anchor, total - 1))
                elif isinstance(event, yaml.CollectionEndEvent):
                    anchor, before = open_nodes.pop()
                    if anchor:
                        sizes[anchor] = total - before
                elif isinstance(event, yaml.ScalarEvent) and event.anchor:
                    sizes[event.anchor] = 1
                if total > _MOST_NODES:
                    why = f"its aliases (*name) unfold to more than {_MOST_NODES:,} values"
                    raise InputError(
                        f"{path}:{line + 1}: {why}; write the values out, or fewer of them"
                    )
                if len(open_nodes) > _DEEPEST_YAML:
                    raise _too_deep(path, line)
    except yaml.YAMLError as error:
        if "nesting" in str(error) or "depth" in str(error):
            raise _too_deep(path, 0) from None
    except RecursionError:
        raise _too_deep(path, 0) from None


def load_yaml(path: Path) -> Any:
    """An OmegaConf tree.

    Raises ``InputError`` as ``check_yaml`` does, and the errors of YAML and OmegaConf.
    """
    check_yaml(path)
    return OmegaConf.load(path)


def _too_deep(path: Path, line: int) -> InputError:
    return InputError(
        f"{path}:{line + 1}: nested deeper than {_DEEPEST_YAML} levels, which no setting is; mend"
        " the file"
    )
