"""Code: the answer is executed, and the row's tests are run on it.

Only where ``evaluation.run_code`` allows it. The folder sandbox/ is the program that does it, in
the best isolation that works here: inside bubblewrap where that is installed, in namespaces of its
own where the kernel allows them, else under limits only. metrics.json names the isolation, because
a number that was taken without any was taken at a risk.
"""

import atexit
import contextlib
import json
import logging
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import IO

from hydratune.errors import HydratuneError
from hydratune.evaluation.controls import COUNT, controls
from hydratune.evaluation.measures import Measure, Scores, rate
from hydratune.evaluation.sandbox.folders import homes, remove
from hydratune.evaluation.sandbox.judge import MAX_REPORT, OUTCOMES
from hydratune.records.files import Json
from hydratune.signals import kept_from_children

SECONDS, MEGABYTES = 5, 512  # for one answer
_PATIENCE = 5  # seconds of waiting that an answer may have beside its CPU time
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
_RUNNER = Path(__file__).with_name("sandbox") / "__main__.py"
_PROBE = "import ctypes, decimal, json, random\nx = 1"  # an answer that passes in every isolation

Reply = dict[str, Json]  # of the judge: outcome, why, shut (what is shut off), clean

_lock = threading.Lock()
log = logging.getLogger(__name__)


class Isolation(Enum):
    """What keeps the code of an answer from everything else, best first."""

    bubblewrap = "bubblewrap"
    namespaces = "namespaces"
    limits = "limits alone"


_judges: dict[Isolation, "_Judge"] = {}


def score(prediction: str, tests: str | None) -> dict[str, str]:
    """Return the outcome of one answer: an outcome of the sandbox, or none without tests.

    ``why`` says what happened where the answer did not pass.
    """
    if not tests:
        return {"outcome": "none"}
    result = run(code_of(prediction), tests)
    return {"outcome": result["outcome"], **({"why": result["why"]} if result["why"] else {})}


def code_of(answer: str) -> str:
    """Return the first fenced block, or the whole answer."""
    block = _BLOCK.search(answer)
    return block[1] if block else answer


def run(
    code: str,
    tests: str,
    seconds: int = SECONDS,
    megabytes: int = MEGABYTES,
    isolation: Isolation | None = None,
) -> dict[str, str]:
    """Return the verdict on ``code``: ``outcome`` and ``why``. No process is left.

    An answer that does not pass ends soon after ``seconds`` of CPU; one that passes is run some
    more times, on controls.
    """
    reply = _run(code, tests, seconds, megabytes, isolation or protection()[0])
    return {"outcome": reply["outcome"], "why": reply["why"]}


@cache
def protection() -> tuple[Isolation, tuple[str, ...]]:
    """Return the best isolation that works here, and what it shuts off: processes, files ..."""
    for isolation in Isolation:
        reply = _run(_PROBE, "assert x == 1", SECONDS, MEGABYTES, isolation)
        if reply["outcome"] == "passed":
            return isolation, tuple(reply["shut"])
    return Isolation.limits, ()


def how() -> dict[str, str]:
    """Return how answers are tested and what protects this machine, for metrics.json."""
    isolation, shut = protection()
    own = "own_user" in shut  # root's workers take another user id
    if "files" in shut:
        writes = "files are read-only"
    else:
        writes = "writes only where everybody may" if own else "files of this user can be deleted"
    reads = "what everybody may read can be read" if own else "what this user may read can be read"
    if "reads_all" in shut:
        reads = "every file can be read"
    if "homes" in shut:
        reads = f"{reads}, but no home folder"
    if "processes" in shut:
        processes = "no other process is seen"
    else:
        processes = "under a user id of its own" if own else "can end this user's processes"
    network = "no network" if "network" in shut else "the network is not cut"
    facts = ", ".join((network, writes, reads, processes))
    return {
        "tests_passed": (
            f"doctests or assertions of the row's field `tests`; {SECONDS} s and {MEGABYTES} MB"
            " each, no processes"
        ),
        "code_isolation": f"{isolation.value}: {facts}",
    }


def _run(code: str, tests: str, seconds: int, megabytes: int, isolation: Isolation) -> Reply:
    request: dict[str, object] = {
        "code": code,
        "tests": tests,
        "seconds": seconds,
        "megabytes": megabytes,
        "patience": _PATIENCE,
        "token": secrets.token_hex(16),
    }
    request["controls"], request["equal"] = controls(tests)
    request["tell"] = isolation is Isolation.limits
    with _lock:
        for _ in range(2):  # an idle judge may end at this very moment
            judge = _judges.get(isolation)
            if judge is None or not judge.is_alive:
                close(isolation)
                judge = _judges[isolation] = _Judge(isolation)
            reply = judge.ask(request, (2 + COUNT) * (seconds + _PATIENCE) + 5)
            if reply is not None and reply.pop("clean"):
                return reply
            close(isolation)
            if reply is not None:
                return reply
    return {"outcome": "error", "why": "the code ended the process that judges it", "shut": []}


def close(isolation: Isolation | None = None) -> None:
    """End the judges, which wait for the next answer for a while, and remove their folders."""
    for kind in list(_judges) if isolation is None else [isolation]:
        if (judge := _judges.pop(kind, None)) is not None:
            judge.end()


atexit.register(close)


class _Judge:
    """The process that runs answers, one at a time, without our environment; see sandbox/.

    Its working folder is empty.
    """

    def __init__(self, isolation: Isolation) -> None:
        self.owner, self.isolation = os.getpid(), isolation
        self.folder: Path | None = None  # namespaces have an empty folder of their own
        self.process: subprocess.Popen[bytes] | None = None
        if (program := _command(isolation)) is None:
            return
        if isolation is Isolation.limits:
            self.folder = Path(tempfile.mkdtemp(prefix="hydratune-"))
            self.folder.chmod(0o555)  # for reading also by the other user id of root's workers
        try:
            with kept_from_children():  # an answer that they end would count as wrong
                self.process = subprocess.Popen(
                    program,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    cwd=self.folder or "/",
                    env={},
                    start_new_session=True,
                )
        except OSError as error:
            self.end()
            if isolation is Isolation.bubblewrap:
                return  # the other isolations need no other program
            why = f"{program[0]} cannot be started to run the code of answers ({error.strerror})"
            fix = (
                "run hydratune with an interpreter that this user may execute, or set"
                " evaluation.run_code=false"
            )
            raise HydratuneError(f"evaluation.run_code=true: {why}; {fix}") from None

    @property
    def is_alive(self) -> bool:
        """Whether this process started it, and it still runs."""
        return (
            self.owner == os.getpid() and self.process is not None and self.process.poll() is None
        )

    def ask(self, request: Mapping[str, Json], seconds: float) -> Reply | None:
        """Return the reply, or None if the judge gives none in time."""
        if self.process is None:
            return None
        assert self.process.stdin is not None and self.process.stdout is not None
        output = b""
        with contextlib.suppress(BrokenPipeError):
            unsent = memoryview(json.dumps(request).encode() + b"\n")
            while unsent:
                unsent = unsent[self.process.stdin.write(unsent) :]
        until = time.monotonic() + seconds
        while (reply := _reply(output.splitlines(), request["token"])) is None:
            timeout = max(0.0, until - time.monotonic())
            if len(output) > MAX_REPORT or not _can_be_read(self.process.stdout, timeout):
                break
            part = os.read(self.process.stdout.fileno(), MAX_REPORT)
            if not part:
                break
            output += part
        if reply is None:
            _end_workers(output.splitlines())
        elif self.isolation is Isolation.bubblewrap:
            reply["shut"] += ["processes", "network", "files", "homes"]
        return reply

    def end(self) -> None:
        """End it, and remove its folder, whatever it was made to do."""
        if self.owner != os.getpid():
            return
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
        if self.folder is not None:
            remove(self.folder)
            if self.folder.exists():
                log.warning("code of an answer has filled %s; it was not removed", self.folder)


def _can_be_read(pipe: IO[bytes], timeout: float) -> bool:
    return bool(select.select([pipe], [], [], timeout)[0])


def _command(isolation: Isolation) -> list[str] | None:
    """Return the command that starts a judge; None where bubblewrap is not installed."""
    if isolation is Isolation.limits:
        return [sys.executable, "-I", "-S", str(_RUNNER)]
    if isolation is Isolation.namespaces:
        return [sys.executable, "-I", "-S", str(_RUNNER), "namespaces"]
    bubblewrap = shutil.which("bwrap")
    return _in_bubblewrap(bubblewrap) if bubblewrap is not None else None


def _in_bubblewrap(program: str) -> list[str]:
    root = [part for name in ("SETUID", "SETGID", "KILL") for part in ("--cap-add", f"CAP_{name}")]
    # root needs no namespace of users, and there its processes would have no limit
    own = ("user",) if os.getuid() else ()
    namespaces = [f"--unshare-{name}" for name in (*own, "pid", "net", "ipc", "uts", "cgroup-try")]
    # a virtual environment's may lie in a folder that is hidden
    python = str(Path(sys.executable).resolve())
    return [
        *(program, *_mounts(), *namespaces, *([] if os.getuid() else root)),
        *("--die-with-parent", "--", python, "-I", "-S", str(_RUNNER.resolve()), "bubblewrap"),
    ]


def _mounts() -> list[str]:
    """Return bubblewrap's options for what is visible: all is read-only, and homes are empty."""
    options = ["--ro-bind", "/", "/", "--dev", "/dev"]
    options += ["--remount-ro", "/dev/shm", "--remount-ro", "/dev"]
    options += ["--proc", "/proc", "--tmpfs", "/run"]  # in /run are sockets of services
    hidden = homes()
    options += [part for folder in hidden for part in ("--tmpfs", str(folder))]
    for needed in (Path(sys.base_prefix).resolve(), _RUNNER.resolve().parent):
        if above := set(hidden) & set(needed.parents):
            between = [folder for folder in reversed(needed.parents) if above & set(folder.parents)]
            # else only root may pass through these
            options += [part for folder in between for part in ("--dir", str(folder))]
            options += ["--ro-bind", str(needed), str(needed)]
    folders = ("/run", *map(str, hidden))
    return options + [part for folder in folders for part in ("--remount-ro", folder)]


def _reply(lines: Sequence[bytes], token: str) -> Reply | None:
    """Return the judge's reply among ``lines``; whatever else was written counts for nothing."""
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            values = json.loads(line)
            if values["token"] == token and values["outcome"] in OUTCOMES:
                return {
                    "outcome": values["outcome"],
                    "why": str(values["why"])[:200],
                    "shut": list(values["shut"]),
                    "clean": values["clean"],
                }
    return None


def _end_workers(lines: Sequence[bytes]) -> None:
    """End the workers that the judge named.

    Without a namespace, a worker that has ended its judge could continue.
    """
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError, OSError):
            worker = int(json.loads(line)["worker"])
            if str(_RUNNER).encode() in Path(f"/proc/{worker}/cmdline").read_bytes():
                os.kill(worker, signal.SIGKILL)


def measures(scores: Sequence[Scores]) -> dict[str, Measure]:
    """Return the rates over the rows that have tests: without tests, no answer has failed."""
    if not scores or "outcome" not in scores[0]:
        return {}
    counts = Counter(s["outcome"] for s in scores)
    if counts["none"] == len(scores):
        return {}
    tested = [float(s["outcome"] != "none") for s in scores]
    passed = [float(s["outcome"] == "passed") for s in scores]
    runs = [float(s["outcome"] in ("passed", "failed")) for s in scores]
    all_tested = counts["none"] == 0
    return {
        "tests_passed": rate(passed) if all_tested else Measure([passed, tested]),
        "code_runs": rate(runs) if all_tested else Measure([runs, tested]),
    }
