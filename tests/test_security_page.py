"""SECURITY.md names the tests of each promise, and they exist."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "SECURITY.md").read_text("utf-8")


def test_every_promise_names_tests_that_exist() -> None:
    table = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
    assert len(table) >= 14
    for line in table:
        _, promise, kept, tests, _ = line.split("|")
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", tests)
        assert promise.strip() and kept.strip() and named, line
        for file, name in named:
            tree = ast.parse((TESTS / file).read_text("utf-8"))
            assert name in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, name
