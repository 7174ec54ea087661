"""The judge: it starts the workers, keeps the time, ends every process, and prints the verdict."""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import kernel
from .folders import WORKING_FOLDER, enter_namespaces, remove
from .worker import Request, work

OUTCOMES = ("passed", "failed", "error", "syntax", "time", "memory")
MAX_REPORT = 65536  # bytes
_IDLE = 20  # seconds without a request after which the program ends
_MAX_PROCESSES = 8  # of an answer, where the kernel does not refuse the first one
_NOT_ITS_OWN = "it wrote into what is not its own"


def _descendants() -> Iterator[int]:
    """Yield every process below this one.

    Those whose parents have ended become children of this one (``kernel.SUBREAPER``).
    """
    parents: dict[int, int] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            state, parent = file.read_bytes().rpartition(b")")[2].split()[:2]
            if state not in (b"Z", b"X"):
                parents[int(file.parent.name)] = int(parent)
    below = {os.getpid()}
    while True:
        more = {pid for pid, parent in parents.items() if parent in below} - below
        if not more:
            return
        yield from more
        below |= more


def _end_all() -> None:
    """End every process of the worker's, also those that left its group and its session."""
    if os.getpid() == 1:  # of the new namespace: this signal reaches all in it but this one
        with contextlib.suppress(OSError):
            os.kill(-1, signal.SIGKILL)
    else:
        stopped: set[int] = set()
        while new := set(_descendants()) - stopped:  # first none of them may start another
            for pid in new:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGSTOP)
            stopped |= new
        for pid in stopped:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 2
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.001)


def _read(source: int) -> bytes:
    with contextlib.suppress(ConnectionError):  # the worker ended without reading
        return os.read(source, MAX_REPORT)
    return b""


def _is_ready(source: int) -> bool:
    return bool(select.select([source], [], [], 0)[0])


def _watch(worker: int, source: int, nonce: bytes, until: float) -> tuple[bytes, str]:
    """Return what the worker reported to ``source``, and why it was ended early, if it was.

    The worker receives ``nonce`` once it is done. Processes that it started may still run.
    """
    report, is_open, is_done = b"", True, False
    counted = time.monotonic()
    while time.monotonic() < until:
        sources = [0, source] if is_open else [0]
        ready = select.select(sources, [], [], 0.05 if is_open else 0.001)[0]
        if 0 in ready:
            return b"", "nobody waits for it any more"
        if source in ready:
            part = _read(source)
            report, is_open = report + part, bool(part)
            if not is_done and report == b"done":
                report, is_done = b"", True
                with contextlib.suppress(OSError):
                    os.write(source, nonce)
            if len(report) > MAX_REPORT:
                return b"", _NOT_ITS_OWN
        if os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            while is_open and _is_ready(source) and (part := _read(source)):
                report += part
                if len(report) > MAX_REPORT:
                    break
            return report, ""
        if os.getpid() != 1 and time.monotonic() - counted > 0.05:
            counted = time.monotonic()
            if sum(1 for _ in _descendants()) > _MAX_PROCESSES:
                return b"", "it started more processes than it may"
    return b"", "time"


def _start_worker(request: Request) -> tuple[int, int]:
    """Return (process id of a new worker, the judge's end of its socket)."""
    for _ in range(os.urandom(1)[0] % 4):  # the worker's number does not say which run this is
        if (unused := os.fork()) == 0:
            os._exit(0)
        os.waitpid(unused, 0)
    ours, its = socket.socketpair()
    source = ours.detach()
    worker = os.fork()
    if worker == 0:
        try:
            work(request, its.detach())
        finally:
            os._exit(1)
    its.close()
    return worker, source


def attempt(request: Request) -> dict[str, str]:
    """Run the answer once on ``request["tests"]`` in a worker; none of its processes is left."""
    wall = request["seconds"] + request["patience"]
    worker, source = _start_worker(request)
    nonce = os.urandom(16).hex()  # the worker's memory does not have it
    if request[
        "tell"
    ]:  # without a namespace, the process that started this one must be able to end it
        os.write(1, json.dumps({"worker": worker}).encode() + b"\n")
    report, why = _watch(worker, source, nonce.encode(), time.monotonic() + wall)
    with contextlib.suppress(OSError):
        os.kill(worker, signal.SIGKILL)
    _, status, used = os.wait4(worker, 0)
    _end_all()
    os.close(source)
    if why == "time":
        return {"outcome": "time", "why": f"not done after {wall} s"}
    if why:
        return {"outcome": "error", "why": why}
    reported = _outcome(report, nonce, request) if os.WIFEXITED(status) else None
    return reported or _why_it_ended(status, used.ru_utime + used.ru_stime, request["seconds"])


def _outcome(report: bytes, nonce: str, request: Request) -> dict[str, str] | None:
    """Return the outcome of a report with the right nonce; store its rights in ``request``."""
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        values = json.loads(report)
        if values["nonce"] == nonce and values["outcome"] in OUTCOMES:
            rights = [name for name in ("own_user", "reads_all") if values[name] is True]
            outcome = {"outcome": values["outcome"], "why": str(values["why"])}
            request["rights"] = rights
            return outcome
    return None


def _why_it_ended(status: int, cpu_seconds: float, limit: int) -> dict[str, str]:
    """Return the outcome of a worker that ended without a report."""
    if os.WIFSIGNALED(status) and cpu_seconds > limit - 0.5:
        return {"outcome": "time", "why": f"more than {limit} s of CPU"}
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return {"outcome": "error", "why": f"the code's process was ended by signal {number}"}
    why = "the code ended its process, or wrote into what is not its own"
    return {"outcome": "error", "why": why}


def judged(request: Request) -> dict[str, str]:
    """Return the verdict: an answer that passes must fail the controls."""
    waiting = request["waiting"]
    outcome = attempt(request)
    if outcome["outcome"] != "passed":
        return outcome
    for number in range(len(waiting["controls"])):
        request["tests"] = waiting["controls"][number]
        control = attempt(request)
        if control["outcome"] == "passed":
            return {"outcome": "error", "why": "the code makes tests pass that cannot pass"}
        if waiting["equal"] and control["why"] == f"AssertionError: {waiting['equal']}":
            return {"outcome": "error", "why": "what the code returns is equal to everything"}
    return outcome


def _serve(shut: list[str]) -> None:
    """Judge one request after the other.

    Returns when no request has come for a while, or an answer has left something in its folder.
    """
    while select.select([0], [], [], _IDLE)[0] and (line := sys.stdin.buffer.readline()):
        request, line = json.loads(line), b""
        # what every worker empties
        request["waiting"] = {name: request.pop(name) for name in ("controls", "equal", "token")}
        if ">>>" in request["tests"]:
            import doctest  # noqa: F401 - once, not in every worker
        outcome = judged(request)
        reply = {
            "token": request["waiting"]["token"],
            **outcome,
            "shut": [*shut, *request.get("rights", [])],
            "clean": not list(Path().iterdir()),
        }
        os.write(1, json.dumps(reply).encode() + b"\n")
        if not reply["clean"]:
            break


def _isolate() -> list[str]:
    """Enter new namespaces and continue as their first process; return what is shut off."""
    try:
        shut = enter_namespaces()
    except kernel.Unavailable:
        os._exit(1)
    if judge := os.fork():
        os.waitpid(judge, 0)
        os._exit(0)
    kernel.prctl(kernel.PARENT_DEATH, signal.SIGKILL)
    with contextlib.suppress(kernel.Unavailable, AttributeError):
        kernel.call("mount", b"proc", b"/proc", b"proc", ctypes.c_ulong(14), None)
    return shut


def main() -> None:
    """Run the program. Its argument is the isolation: ``namespaces``, ``bubblewrap`` or nothing."""
    with contextlib.suppress(OSError):  # rather this than the training, if memory is short
        Path("/proc/self/oom_score_adj").write_text("900")
    if "bubblewrap" in sys.argv:
        os.chdir(WORKING_FOLDER)
    shut = _isolate() if "namespaces" in sys.argv else []
    kernel.prctl(kernel.SUBREAPER, 1)
    kernel.prctl(kernel.DUMPABLE, 0)  # the worker may not look into this process
    try:
        _serve(shut)
    finally:
        if "namespaces" not in sys.argv and "bubblewrap" not in sys.argv:
            remove(Path.cwd())  # the process that made this folder may have ended
        os._exit(0)
