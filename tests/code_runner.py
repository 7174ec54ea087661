"""The sandbox's runner for the tests of answers that are run: a copy of it, and what it leaves."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydratune.evaluation import code_scores
from hydratune.evaluation.code_scores import Isolation, run

MARK = f"hydratune_attack_{os.getpid()}"  # in the command line of what an answer starts
HARMLESS = "def double(x):\n    return 2 * x\n"
ISOLATIONS = list(Isolation)
ISOLATION_NAMES = [isolation.name for isolation in Isolation]


def copied_runner(folder: Path) -> Iterator[None]:
    """Use a copy of the runner, so that runners of other tests are not counted as ours."""
    copy = folder / "sandbox" / "__main__.py"
    shutil.copytree(code_scores._RUNNER.parent, copy.parent)
    code_scores.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_scores, "_RUNNER", copy)
        yield
        code_scores.close()


def checked_isolation(kind: Isolation) -> Iterator[Isolation]:
    """Skip the test where ``kind`` is impossible; assert at its end that no process survived."""
    if run("x = 1", "assert x == 1", isolation=kind)["outcome"] != "passed":
        pytest.skip(
            "bubblewrap is not installed, or the kernel refuses it"
            if kind is Isolation.bubblewrap
            else "the kernel refuses it"
        )
    code_scores.close()
    before = running_processes()
    yield kind
    code_scores.close()
    until = time.monotonic() + 5
    while (survivors := running_processes() - before) and time.monotonic() < until:
        time.sleep(0.05)
    assert not survivors, "a process has survived"


def running_processes() -> set[str]:
    """Return the processes that an answer has started, and the runners."""
    running = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().decode("utf-8", "replace")
            state = (file.parent / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX" and (MARK in command or str(code_scores._RUNNER) in command):
            running.add(f"{file.parent.name} {command}")
    return running
