"""The worker: it gives up its rights, executes an answer and the tests, and reports the outcome."""

import builtins
import contextlib
import gc
import json
import os
import resource
import signal
import sys
import types
from collections.abc import Callable
from typing import Any, TypeAlias

from . import kernel

REPORT = 3  # the worker's socket to the judge
_MAX_THREADS = 16
Request: TypeAlias = dict[str, Any]  # the JSON object of one answer


def verdict(code: str, tests: str, free_memory: Callable[[], None]) -> dict[str, str]:
    """Return what became of ``tests`` after ``code``: ``outcome`` and ``why``.

    Tests are doctests, or statements that must not raise. ``free_memory`` raises the limit of
    memory, so that a lack of it can be reported.
    """
    doctest = __import__("doctest") if ">>>" in tests else None
    has_cases = "unittest" in tests
    main = types.ModuleType("__main__")
    names: dict[str, object] = vars(main)
    names["__name__"] = "answer"
    sys.modules["__main__"] = sys.modules["answer"] = main  # where unittest looks for test cases
    original = dict(vars(builtins))
    compiled, syntax_error = _compile_tests(tests, doctest)
    del tests
    failure = _execute(code, names, free_memory)
    if failure is not None:
        return failure
    vars(builtins).update(original)  # a len or sorted of the answer's own must not test it
    for planted in [name for name in sys.modules if name.partition(".")[0] == "unittest"]:
        del sys.modules[planted]
    names["__name__"], sys.modules["__main__"] = "__main__", main
    if syntax_error:
        return {"outcome": "failed", "why": syntax_error}
    try:
        if has_cases:
            _make_unittest_raise()
        if doctest is not None:
            return _run_doctests(doctest, compiled, names)
        exec(compiled, names)
        return {"outcome": "passed", "why": ""}
    except MemoryError:
        free_memory()
        names.clear()
        return {"outcome": "memory", "why": "the tests wanted more memory than they may have"}
    except BaseException as error:
        return {"outcome": "failed", "why": f"{type(error).__name__}: {error}"}


def _compile_tests(tests: str, doctest: Any) -> tuple[Any, str]:
    """Return (compiled statements or parsed doctests, why they cannot be compiled)."""
    try:
        if doctest is None:
            return compile(tests, "<tests>", "exec", dont_inherit=True), ""
        return doctest.DocTestParser().parse(tests), ""
    except BaseException as error:
        return [], f"{type(error).__name__}: {error}"


def _execute(
    code: str, names: dict[str, object], free_memory: Callable[[], None]
) -> dict[str, str] | None:
    """Execute the answer's code; None if it ran to its end."""
    try:
        program = compile(code, "<answer>", "exec", dont_inherit=True)
        del code
        exec(program, names)
    except SyntaxError as error:
        return {"outcome": "syntax", "why": f"line {error.lineno}: {error.msg}"}
    except MemoryError:
        free_memory()
        names.clear()
        return {"outcome": "memory", "why": "the code wanted more memory than it may have"}
    except BaseException as error:
        return {"outcome": "error", "why": f"{type(error).__name__}: {error}"}
    return None


def _run_doctests(doctest: Any, parsed: list[Any], names: dict[str, object]) -> dict[str, str]:
    output: list[str] = []
    examples = [part for part in parsed if isinstance(part, doctest.Example)]
    test = doctest.DocTest(examples, names, "tests", None, 0, "")
    result = doctest.DocTestRunner(verbose=False).run(test, out=output.append)
    text = "".join(output)
    why = next((line.strip() for line in text.splitlines() if line.startswith("    ")), "")
    if not result.failed:
        return {"outcome": "passed", "why": why}
    return {"outcome": "memory" if "MemoryError" in text else "failed", "why": why}


def _make_unittest_raise() -> None:
    """Make unittest raise an error where a test case fails or none is found.

    By itself it only prints that, or ends the process.
    """
    import unittest

    main, run = unittest.main, unittest.TextTestRunner.run

    def checked(
        self: "unittest.TextTestRunner", test: "unittest.TestSuite | unittest.TestCase"
    ) -> "unittest.TextTestResult":
        result = run(self, test)
        if not result.wasSuccessful():
            tracebacks = [lines for _, lines in (*result.failures, *result.errors)]
            reasons = tracebacks or ["a test passes that was expected to fail"]
            raise AssertionError(reasons[0].strip().splitlines()[-1])
        if not result.testsRun:
            raise AssertionError("unittest has found no test")
        return result

    def main_without_exit(*args: Any, **options: Any) -> "unittest.TestProgram":
        return main(*args, **{**options, "exit": False})

    # stubs of a class and a function cannot be assigned to
    unittest.TextTestRunner.run = checked  # type: ignore[method-assign]
    unittest.main = main_without_exit  # type: ignore[misc, assignment]


def work(request: Request, socket: int) -> None:
    """Execute a request and report its outcome to the socket ``REPORT``. Never returns.

    What the code prints is thrown away.
    """
    _redirect_output(socket)
    code, tests = request["code"], [request["tests"]]
    rights = _give_up_everything(request)
    request["waiting"].clear()
    request.clear()  # the frames below hold nothing else
    gc.collect()
    # the answer can replace these functions in their modules
    write, read, leave, dumps = os.write, os.read, os._exit, json.dumps
    free_memory = _memory_for_report()
    result = verdict(code, tests.pop(), free_memory)
    free_memory()
    write(REPORT, b"done")
    nonce = read(REPORT, 64).decode()
    report = {"nonce": nonce, "outcome": result["outcome"], "why": result["why"][:200], **rights}
    write(REPORT, dumps(report).encode())
    leave(0)  # threads of the code do not matter any more


def _memory_for_report() -> Callable[[], None]:
    """Return a function that raises the limit of memory to its hard limit.

    It allocates nothing, and uses nothing that the answer can replace.
    """
    setrlimit, name = resource.setrlimit, resource.RLIMIT_AS
    hard = resource.getrlimit(name)[1]
    limits = (hard, hard)

    def free_memory() -> None:
        try:  # noqa: SIM105 - contextlib.suppress would allocate
            setrlimit(name, limits)
        except (ValueError, OSError):
            pass

    return free_memory


def _redirect_output(socket: int) -> None:
    """Close every file but the socket, and open the standard streams to nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    if socket != REPORT:
        os.dup2(socket, REPORT)
    os.closerange(REPORT + 1, 256)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.environ.clear()
    sys.argv[:] = ["answer.py"]
    for name in [name for name in sys.modules if name.partition(".")[0] == __package__]:
        del sys.modules[name]  # an answer cannot import this package, as elsewhere


def _give_up_everything(request: Request) -> dict[str, bool]:
    """Give up shared memory, rights, time, memory and processes, for the answer and its tests."""
    with contextlib.suppress(kernel.Unavailable, AttributeError):
        kernel.call("unshare", kernel.UNSHARE["ipc"])  # no shared memory stays for the next run
    visible = kernel.count_threads()
    rights = kernel.give_up_rights()
    threads = 0
    if kernel.forbid_processes():
        threads = _MAX_THREADS + (0 if rights["own_user"] else visible)
    kernel.limit(request["seconds"], request["megabytes"], threads)
    kernel.prctl(kernel.PARENT_DEATH, signal.SIGKILL)
    return rights
