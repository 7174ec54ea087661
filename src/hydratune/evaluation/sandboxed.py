"""Run as a program of its own: executes untrusted Python under limits, then tests it. Standard library only.

Reads one JSON object from standard input (code, tests, seconds, megabytes, token), and writes one line: the token, then a
verdict. Whatever the code prints is thrown away, and a verdict without the token counts for nothing.

These limits stop accidents (endless loops, memory, files, processes, the network where the kernel lets it be switched
off). They are no jail: code that means harm belongs into a container or a virtual machine.
"""

import contextlib
import doctest
import io
import json
import os
import resource
import sys


def _limit(seconds: int, megabytes: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # needs a kernel that allows it, and Python 3.12
        os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNET)  # type: ignore[attr-defined,unused-ignore]
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, megabytes * 2**20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # not on every system
            resource.setrlimit(kind, (value, value))


def verdict(code: str, tests: str) -> dict[str, object]:
    """What became of ``tests`` (doctests, or statements that must not raise) after ``code``."""
    names: dict[str, object] = {"__name__": "answer"}
    try:
        exec(compile(code, "<answer>", "exec"), names)
    except SyntaxError as error:
        return {"outcome": "syntax", "why": f"line {error.lineno}: {error.msg}"}
    except MemoryError:
        return {"outcome": "memory", "why": "the code wanted more memory than it may have"}
    except BaseException as error:
        return {"outcome": "error", "why": f"{type(error).__name__}: {error}"[:200]}
    try:
        if ">>>" not in tests:
            exec(compile(tests, "<tests>", "exec"), names)
            return {"outcome": "passed", "why": ""}
        told = io.StringIO()
        parsed = doctest.DocTestParser().get_doctest(tests, names, "tests", None, 0)
        found = doctest.DocTestRunner(verbose=False).run(parsed, out=told.write)
        why = next((line.strip() for line in told.getvalue().splitlines() if line.startswith("    ")), "")
        memory = "MemoryError" in told.getvalue()
        return {"outcome": "passed" if not found.failed else "memory" if memory else "failed", "why": why[:200]}
    except MemoryError:
        return {"outcome": "memory", "why": "the tests wanted more memory than they may have"}
    except BaseException as error:
        return {"outcome": "failed", "why": f"{type(error).__name__}: {error}"[:200]}


def main() -> None:
    asked = json.load(sys.stdin)
    out = os.dup(1)
    silent = io.StringIO()
    _limit(asked["seconds"], asked["megabytes"])
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        found = verdict(asked["code"], asked["tests"])
    os.write(out, f"{asked['token']} {json.dumps(found)}\n".encode())
    os._exit(0)  # threads of the code do not matter any more


if __name__ == "__main__":
    main()
