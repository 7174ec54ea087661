"""The table of faults: every test that is marked with ``fault`` is a row of docs/reference.

@pytest.mark.fault("a process is killed", seen="what the user sees", kept="what is not lost")
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent


class Fault(NamedTuple):
    """A fault that a test causes, and what the test shows of it."""

    what: str
    seen: str
    kept: str
    test: str  # file::function
    is_slow: bool


def faults() -> list[Fault]:
    """Return every fault in the order of its text."""
    found = [fault for file in sorted(TESTS.glob("test_*.py")) for fault in _of_file(file)]
    return sorted(found, key=lambda fault: fault.what.lower())


def _of_file(file: Path) -> Iterator[Fault]:
    tree = ast.parse(file.read_text("utf-8"))
    module_is_slow = any(
        isinstance(node, ast.Assign) and "mark.slow" in ast.unparse(node) for node in tree.body
    )
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef):
            continue
        slow = module_is_slow or any(
            ast.unparse(mark) == "pytest.mark.slow" for mark in function.decorator_list
        )
        for mark in function.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                (what,) = map(ast.literal_eval, mark.args)
                said = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}
                yield Fault(what, said["seen"], said["kept"], f"{file.name}::{function.name}", slow)
