"""Code: the answer is executed, and the row's tests are run on it. Only where
``evaluation.run_code`` allows it.

``sandboxed.py`` is the program that does it, in the best isolation that works here: inside
bubblewrap where that is installed, in namespaces of its own where the kernel allows them, else
under limits alone. Which one stands in metrics.json, because a number taken without any was taken
at a risk.
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
from typing import Any

from hydratune.errors import HydratuneError
from hydratune.evaluation.controls import COUNT, controls
from hydratune.evaluation.measures import Measure, rate
from hydratune.evaluation.sandboxed import MOST_SAID, OUTCOMES, homes, remove

SECONDS, MEGABYTES = 5, 512  # for one answer
_PATIENCE = 5  # seconds of waiting that an answer may have beside its CPU time
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
_RUNNER = Path(__file__).with_name("sandboxed.py")


_lock = threading.Lock()
log = logging.getLogger(__name__)


class Isolation(Enum):
    """What keeps the code of an answer from everything else, best first."""

    bubblewrap = "bubblewrap"
    namespaces = "namespaces"
    limits = "limits alone"


_judges: dict[Isolation, "_Judge"] = {}


def score(prediction: str, tests: str | None) -> dict[str, Any]:
    """``outcome``: passed, failed, error, syntax, time, memory, or none where the row brings no
    tests.
    """
    if not tests:
        return {"outcome": "none"}
    found = run(code_of(prediction), tests)
    return {"outcome": found["outcome"], **({"why": found["why"]} if found["why"] else {})}


def code_of(answer: str) -> str:
    """The first fenced block, or the whole answer."""
    block = _BLOCK.search(answer)
    return block[1] if block else answer


def run(
    code: str,
    tests: str,
    seconds: int = SECONDS,
    megabytes: int = MEGABYTES,
    isolation: Isolation | None = None,
) -> dict[str, str]:
    """The verdict on ``code``: ``outcome`` and ``why``. Leaves no process.

    An answer that does not pass ends within ``seconds`` of CPU and a little; one that passes is run
    some more times, on controls.
    """
    found = _run(code, tests, seconds, megabytes, isolation or protection()[0])
    return {"outcome": found["outcome"], "why": found["why"]}


@cache
def protection() -> tuple[Isolation, tuple[str, ...]]:
    """The best isolation that works here, and what it shuts off: processes, network, files."""
    for isolation in Isolation:
        found = _run(
            "import ctypes, decimal, json, random\nx = 1",
            "assert x == 1",
            SECONDS,
            MEGABYTES,
            isolation,
        )
        if found["outcome"] == "passed":
            return isolation, tuple(found["shut"])
    return Isolation.limits, ()


def how() -> dict[str, str]:
    """How answers are tested and what protects this machine from them, for ``settings`` in
    metrics.json.
    """
    isolation, shut = protection()
    facts = ["no network" if "network" in shut else "the network is not cut"]
    own = "own_user" in shut  # root's workers take another user id
    facts.append(
        "files are read-only"
        if "files" in shut
        else "writes only where everybody may"
        if own
        else "files of this user can be deleted"
    )
    readable = (
        "what everybody may read can be read" if own else "what this user may read can be read"
    )
    readable = "every file can be read" if "reads_all" in shut else readable
    facts.append(f"{readable}, but no home folder" if "homes" in shut else readable)
    facts.append(
        "no other process is seen"
        if "processes" in shut
        else "under a user id of its own"
        if own
        else "can end this user's processes"
    )
    return {
        "tests_passed": (
            f"doctests or assertions of the row's field `tests`; {SECONDS} s and {MEGABYTES} MB"
            " each, no processes"
        ),
        "code_isolation": f"{isolation.value}: {', '.join(facts)}",
    }


def _run(
    code: str, tests: str, seconds: int, megabytes: int, isolation: Isolation
) -> dict[str, Any]:
    token = secrets.token_hex(16)
    asked = {
        "code": code,
        "tests": tests,
        "seconds": seconds,
        "megabytes": megabytes,
        "patience": _PATIENCE,
        "token": token,
    }
    asked["controls"], asked["equal"] = controls(tests)
    asked["tell"] = isolation is Isolation.limits
    with _lock:
        for _ in range(2):  # a judge that had nothing to do may end just now
            judge = _judges.get(isolation)
            if judge is None or not judge.is_alive:
                close(isolation)
                judge = _judges[isolation] = _Judge(isolation)
            found = judge.ask(asked, (2 + COUNT) * (seconds + _PATIENCE) + 5)
            if found is not None and found.pop("clean"):
                return found
            close(isolation)
            if found is not None:
                return found
    return {"outcome": "error", "why": "the code ended the process that judges it", "shut": []}


def close(isolation: Isolation | None = None) -> None:
    """Ends the processes that judge, which wait for the next answer for a while, and removes their
    folders.
    """
    for kind in list(_judges) if isolation is None else [isolation]:
        if (judge := _judges.pop(kind, None)) is not None:
            judge.end()


atexit.register(close)


class _Judge:
    """The process that runs answers, one at a time, without our environment and in an empty folder.

    See sandboxed.py.
    """

    def __init__(self, isolation: Isolation) -> None:
        self.owner, self.isolation = os.getpid(), isolation
        self.folder: Path | None = None  # namespaces have an empty folder of their own
        self.process: subprocess.Popen[bytes] | None = None
        if (program := _command(isolation)) is None:
            return
        if isolation is Isolation.limits:
            self.folder = Path(tempfile.mkdtemp(prefix="hydratune-"))
            self.folder.chmod(
                0o555
            )  # nothing is written there; a worker of root's has another user id
        try:
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
                return  # the others need no other program
            why = f"{program[0]} cannot be started to run the code of answers ({error.strerror})"
            fix = (
                "run hydratune with an interpreter that this user may execute, or set"
                " evaluation.run_code=false"
            )
            raise HydratuneError(f"evaluation.run_code=true: {why}; {fix}") from None

    @property
    def is_alive(self) -> bool:
        return (
            self.owner == os.getpid() and self.process is not None and self.process.poll() is None
        )

    def ask(self, asked: Mapping[str, Any], seconds: float) -> dict[str, Any] | None:
        """The verdict, or None if the judge did not say one in time."""
        if self.process is None:
            return None
        assert self.process.stdin is not None and self.process.stdout is not None
        token, said = asked["token"], b""
        with contextlib.suppress(BrokenPipeError):
            left = memoryview(json.dumps(asked).encode() + b"\n")
            while left:
                left = left[self.process.stdin.write(left) :]
        until = time.monotonic() + seconds
        while (found := _verdict(said.splitlines(), token)) is None and len(said) <= MOST_SAID:
            if not select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))[
                0
            ]:
                break
            part = os.read(self.process.stdout.fileno(), MOST_SAID)
            if not part:
                break
            said += part
        if found is None:
            _end_workers(said.splitlines())
        elif self.isolation is Isolation.bubblewrap:
            found["shut"] += ["processes", "network", "files", "homes"]
        return found

    def end(self) -> None:
        """Nothing of it is left, whatever it was made to do."""
        if self.owner == os.getpid():
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
            if self.folder is not None and self.folder.exists():
                log.warning("code of an answer has filled %s; it was not removed", self.folder)


def _command(isolation: Isolation) -> list[str] | None:
    options = ["-I", "-S", str(_RUNNER)]
    if isolation is not Isolation.bubblewrap:
        return [
            sys.executable,
            *options,
            *(["namespaces"] if isolation is Isolation.namespaces else []),
        ]
    found = shutil.which("bwrap")
    if found is None:
        return None
    root = [part for name in ("SETUID", "SETGID", "KILL") for part in ("--cap-add", f"CAP_{name}")]
    # root needs no namespace of users, and there its processes would have no limit
    others = ("user",) if os.getuid() else ()
    namespaces = [
        f"--unshare-{name}" for name in (*others, "pid", "net", "ipc", "uts", "cgroup-try")
    ]
    places = [
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--remount-ro",
        "/dev/shm",
        "--remount-ro",
        "/dev",
    ]
    places += ["--proc", "/proc", "--tmpfs", "/run"]  # in /run are sockets of services
    covered = homes()
    places += [part for folder in covered for part in ("--tmpfs", str(folder))]
    for needed in (Path(sys.base_prefix).resolve(), _RUNNER.resolve()):
        if cover := set(covered) & set(needed.parents):
            between = [folder for folder in reversed(needed.parents) if cover & set(folder.parents)]
            places += [
                part for folder in between for part in ("--dir", str(folder))
            ]  # else only root may pass through these
            places += ["--ro-bind", str(needed), str(needed)]
    places += [part for folder in ("/run", *map(str, covered)) for part in ("--remount-ro", folder)]
    # a virtual environment's may lie in a folder that is hidden
    python = str(Path(sys.executable).resolve())
    options[2] = str(_RUNNER.resolve())
    return [
        *(found, *places, *namespaces, *([] if os.getuid() else root)),
        *("--die-with-parent", "--", python, *options, "bubblewrap"),
    ]


def _verdict(lines: Sequence[bytes], token: str) -> dict[str, Any] | None:
    """The judge's verdict among ``lines``; whatever else was written counts for nothing."""
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            found = json.loads(line)
            if found["token"] == token and found["outcome"] in OUTCOMES:
                return {
                    "outcome": found["outcome"],
                    "why": str(found["why"])[:200],
                    "shut": list(found["shut"]),
                    "clean": found["clean"],
                }
    return None


def _end_workers(lines: Sequence[bytes]) -> None:
    """Without a namespace a worker that has ended its judge could go on; the judge said which
    process it is.
    """
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError, OSError):
            worker = int(json.loads(line)["worker"])
            if str(_RUNNER).encode() in Path(f"/proc/{worker}/cmdline").read_bytes():
                os.kill(worker, signal.SIGKILL)


def measures(scores: Sequence[Mapping[str, Any]]) -> dict[str, Measure]:
    """Of the rows with tests; rows without any would count as failed otherwise."""
    if not scores or "outcome" not in scores[0]:
        return {}
    counts = Counter(s["outcome"] for s in scores)
    if counts["none"] == len(scores):
        return {}
    asked = [float(s["outcome"] != "none") for s in scores]
    passed = [float(s["outcome"] == "passed") for s in scores]
    runs = [float(s["outcome"] in ("passed", "failed")) for s in scores]
    whole = counts["none"] == 0
    return {
        "tests_passed": rate(passed) if whole else Measure([passed, asked]),
        "code_runs": rate(runs) if whole else Measure([runs, asked]),
    }
