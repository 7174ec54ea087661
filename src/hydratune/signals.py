"""Signals that are for a run, and not for the processes that it starts."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

# what a terminal or a cluster sends to every process of a run
TO_ALL = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


@contextmanager
def kept_from_children(*names: str) -> Iterator[None]:
    """Block signals in this thread, and so in the processes that it starts inside the block.

    ``names``: such as ``SIGTERM``; none: those that reach every process of a run.
    """
    numbers = {signal.Signals[name] for name in names or TO_ALL}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
