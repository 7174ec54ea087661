"""A line for a data source that gives nothing for long: a share, database or server that hangs."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.markup import escape

from hydratune.console import console

_SECONDS = 30.0  # without a row, before a line says so
_CHECK = 1.0  # seconds between two looks


class Waiting:
    """Since when a source is waited for. Used by ``with`` around each question to it."""

    def __init__(self) -> None:
        self.since: float | None = None

    def __enter__(self) -> None:
        self.since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.since = None


@contextmanager
def said_if_silent(source: str) -> Iterator[Waiting]:
    """Print a line inside the block, once, if ``source`` is waited for longer than 30 s."""
    waiting, is_over = Waiting(), threading.Event()

    def watch() -> None:
        while not is_over.wait(_CHECK):
            since = waiting.since
            if since is not None and time.monotonic() - since > _SECONDS:
                console.print(
                    f"[yellow]data={escape(source)} has given no row for {_SECONDS:.0f} s: its disk"
                    " or server may hang; this waits for it, Ctrl-C ends it",
                    soft_wrap=True,
                )
                return

    thread = threading.Thread(target=watch, name=f"silence of {source}", daemon=True)
    thread.start()
    try:
        yield waiting
    finally:
        is_over.set()
