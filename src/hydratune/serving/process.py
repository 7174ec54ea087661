"""The process of a server: started, waited for, and ended with everything that it started."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from hydratune.errors import ConfigError, Problem, RunError

_TO_END = 10.0  # seconds that a server has to end by itself
_PAUSE = 0.3  # seconds between two questions whether it answers
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


def require_free_port(host: str, port: int) -> None:
    """Raise ``ConfigError`` if another program listens there, or the address is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, UnicodeError) as error:
            key, value = ("port", str(port))
            fix = f"set port={port + 1 if port < 65535 else 8000}, or end what listens there"
            if isinstance(error, UnicodeError | socket.gaierror):
                key, value, fix = "host", host, "set host=127.0.0.1"
            why = f"{host}:{port} cannot be used ({getattr(error, 'strerror', None) or error})"
            raise ConfigError([Problem(key, value, why, fix)]) from None


@contextmanager
def running(
    command: Sequence[str], more: Mapping[str, str] | None = None, *, offline: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server while the block runs; afterwards no process of it is left.

    Ctrl-C, SIGTERM and SIGHUP end the block by ``KeyboardInterrupt``. ``more``: variables of its
    environment; ``offline``: it asks no model hub. Raises ``RunError`` if it cannot be started.
    """
    environment = {**os.environ, **(more or {}), **({"HF_HUB_OFFLINE": "1"} if offline else {})}
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
    except OSError as error:
        raise RunError(f"{command[0]} cannot be started: {error.strerror or error}") from error
    try:
        yield process
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C leaves nothing behind
        _end(process)
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Let the kernel end this process if its parent is killed and can end nothing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a server and what it started: asked first, then killed."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_TO_END)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until_ready(process: "subprocess.Popen[bytes]", url: str, timeout: float) -> None:
    """Return once ``url`` answers. Raises ``RunError`` if the server ends, or takes too long."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RunError(
                f"the server ended with exit code {process.returncode} before it answered; what it"
                " printed says why"
            )
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):  # not yet
            pass
        time.sleep(_PAUSE)
    raise RunError(
        f"the server did not answer within {timeout:g} seconds; give it more:"
        f" start_timeout={2 * timeout:g}"
    )
