"""Waiting for processes of a sweep, interrupting them, and describing how they ended."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

INTERRUPTED = 130  # exit code of a process that was interrupted and saved its work
_POLL = 0.5  # seconds between two questions whether a job is to stop
_GRACE = 90.0  # seconds a job has to save its work after Ctrl-C

Process = subprocess.Popen[bytes]


def wait(process: Process, is_to_stop: Callable[[], bool] = lambda: False) -> int:
    """Return the exit code of ``process``, which is interrupted once ``is_to_stop()``.

    After Ctrl-C it has some time to save its work. Raises ``KeyboardInterrupt`` then.
    """
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(_POLL)
            if is_to_stop():
                interrupt([process])
    except KeyboardInterrupt:
        interrupt([process])
        raise


def interrupt(processes: Sequence[Process]) -> None:
    """Send Ctrl-C to ``processes`` and wait until they have ended; kill those that take too long.

    The terminal sends Ctrl-C to all processes, but a kill of this process reaches it alone. A
    second Ctrl-C is ignored meanwhile.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _GRACE
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)


def describe_exit(code: int) -> str:
    """Return in words how a process ended; ``code`` is negative for a signal."""
    return f"the process was killed by signal {-code}" if code < 0 else f"exit code {code}"
