"""Code: the answer is executed, and the row's tests are run on it. Only where ``evaluation.run_code`` allows it."""

import json
import re
import secrets
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydratune.evaluation.measures import Measure, rate

SECONDS, MEGABYTES = 5, 512  # for one answer
HOW = {"tests_passed": f"doctests or assertions of the row's field `tests`, in a process of its own; {SECONDS} s and {MEGABYTES} MB each"}
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
_RUNNER = Path(__file__).with_name("sandboxed.py")


def score(prediction: str, tests: str | None) -> dict[str, Any]:
    """``outcome``: passed, failed, error, syntax, time, memory, or none where the row brings no tests."""
    if not tests:
        return {"outcome": "none"}
    found = run(code_of(prediction), tests)
    return {"outcome": found["outcome"], **({"why": found["why"]} if found["why"] else {})}


def code_of(answer: str) -> str:
    """The first fenced block, or the whole answer."""
    block = _BLOCK.search(answer)
    return block[1] if block else answer


def run(code: str, tests: str, seconds: int = SECONDS, megabytes: int = MEGABYTES) -> dict[str, str]:
    """The verdict on ``code``, in a process without our environment, in an empty folder."""
    token = secrets.token_hex(16)
    asked = {"code": code, "tests": tests, "seconds": seconds, "megabytes": megabytes, "token": token}
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_RUNNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            out, _ = process.communicate(json.dumps(asked).encode(), timeout=seconds + 5)
        except subprocess.TimeoutExpired:  # it slept: that costs no CPU
            process.kill()
            process.communicate()
            return {"outcome": "time", "why": f"not done after {seconds + 5} s"}
    said = out.decode("utf-8", "replace").strip().removeprefix(token)
    if process.returncode < 0 and not said:  # by a signal: the CPU limit, or the kernel's for memory
        return {"outcome": "time", "why": f"more than {seconds} s of CPU, or killed by signal {-process.returncode}"}
    if not out.startswith(token.encode()):
        return {"outcome": "error", "why": "the code ended its process"}
    verdict: dict[str, str] = json.loads(said)
    return verdict


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
