"""A running Ray cluster, or one of this machine that lives as long as a sweep.

The processes of the latter listen on the loopback address only, and answer only who has the token
of this process.
"""

import os
import secrets
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from rich.markup import escape

from hydratune.console import console
from hydratune.errors import SweepError
from hydratune.sweeps.executor_options import RayOptions
from hydratune.sweeps.executors.guard import GuardedProcess

_LOOPBACK = "127.0.0.1"
_TIME_TO_START = 300.0  # seconds
_TIME_TO_ANSWER = 10.0  # seconds
_STARTS = 3  # Ray gives its processes 30 seconds, which are too few on a busy machine
_STORE = 80 * 2**20  # bytes of Ray's object store: a pack sends some lines of text
_LONGEST_FOLDER = 40  # characters; those of a socket are limited to about 100
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2")


class RayCluster:
    """The connection of this process to a cluster."""

    def __init__(self, options: RayOptions) -> None:
        """Connect to the cluster, or start one. Raises ``SweepError`` if that is impossible."""
        self._own: _OwnCluster | None = None
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # without it, Ray warns
        address = options.address
        if address is None:
            self._own, address = _start_own(options)
        try:
            self._connect(address)
        except BaseException:
            self.close()
            raise

    def _connect(self, address: str) -> None:
        if self._own is None:
            _require_answer(address)
        with _own_signal_handlers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray

            try:
                ray.init(address, log_to_driver=False, configure_logging=False)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                text = " ".join(str(error).split()) or type(error).__name__
                raise SweepError(
                    f"hydra.launcher.executor.address={address}: no connection to Ray: {text};"
                    " leave the setting out to have a cluster started on this machine"
                ) from error

    def close(self) -> None:
        """Disconnect, and end the cluster if it was started here."""
        if "ray" in sys.modules:
            with _own_signal_handlers():
                sys.modules["ray"].shutdown()
        if self._own is not None:
            self._own.close()


def _require_answer(address: str) -> None:
    """Raise ``SweepError`` if nothing listens at an address; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host:  # auto
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TIME_TO_ANSWER).close()
    except OSError as error:
        raise SweepError(
            f"hydra.launcher.executor.address={address}: nothing answers there ({error}); correct"
            " the address, or leave the setting out to have a cluster started on this machine"
        ) from error


def _start_own(options: RayOptions) -> "tuple[_OwnCluster, str]":
    """Return a cluster of this machine and its address. Raises ``SweepError``."""
    console.print("starting Ray on this machine", soft_wrap=True)
    for tries in range(1, _STARTS + 1):
        cluster = _OwnCluster(options)
        try:
            return cluster, cluster.address()
        except BaseException as error:
            cluster.close()
            if not isinstance(error, SweepError) or tries == _STARTS:
                raise
            console.print(f"[yellow]{escape(str(error))}; once more", soft_wrap=True)
    raise AssertionError


class _OwnCluster:
    """A head node on the loopback address."""

    def __init__(self, options: RayOptions) -> None:
        os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", _token()
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # as on a Mac: without it, Ray replaces the loopback address by that of the machine
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        self._folder = _temporary_folder()
        ports = _free_ports(5)
        self._port = ports[0]
        names = (
            *("port", "dashboard-agent-grpc-port", "dashboard-agent-listen-port"),
            *("runtime-env-agent-port", "metrics-export-port"),
        )
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *(f"--node-ip-address={_LOOPBACK}", "--include-dashboard=false"),
            *(f"--{name}={port}" for name, port in zip(names, ports, strict=True)),
            f"--num-cpus={options.num_cpus * options.at_once:g}",
            *(f"--object-store-memory={_STORE}", f"--temp-dir={self._folder}"),
            *("--disable-usage-stats", "--log-color=false"),
        ]
        log = self._folder / "start.log"
        log.touch()
        self._output = log.open(encoding="utf-8", errors="replace")
        environment = {**os.environ, "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(int(_TIME_TO_START))}
        environment.pop("RAY_ADDRESS", None)  # of another cluster
        self._process = GuardedProcess(
            command,
            log,
            self._folder / "result.json",
            environment,
            temporary=self._folder,
        )

    def address(self) -> str:
        """Wait until the cluster is there; return its address."""
        deadline, text = time.monotonic() + _TIME_TO_START, ""
        while "Ray runtime started" not in text:
            is_over = self._process.poll(0.2) is not None or time.monotonic() > deadline
            text += self._output.read()
            if is_over:
                why = next((line for line in reversed(text.split("\n")) if line.strip()), "")
                raise SweepError(f"Ray did not start on this machine: {why.strip()}")
        return f"{_LOOPBACK}:{self._port}"

    def close(self) -> None:
        """End the cluster, which removes its folder, as it does if this process dies."""
        self._process.end()
        self._output.close()


@cache
def _token() -> str:
    """Return the token of this process; Ray reads it once."""
    return secrets.token_hex(32)


def _temporary_folder() -> Path:
    """Return a new folder of this user whose path is short enough for sockets."""
    place = tempfile.gettempdir()
    short = place if len(place) <= _LONGEST_FOLDER else "/tmp"
    return Path(tempfile.mkdtemp(prefix="ht-ray-", dir=short))


def _free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((_LOOPBACK, 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers after the block, in which Ray sets its own."""
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(ValueError):  # not the main thread, in which none were set
                signal.signal(number, handler)
