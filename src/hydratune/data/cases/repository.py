"""A Python code base -> rows: the body, the docstring and a test of each of its functions.

``python_code`` parses the files; nothing of them is imported or run.
"""

import ast
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from hydratune.data.cases.base import CaseData, CaseRows
from hydratune.data.cases.python_code import (
    Function,
    Module,
    parse_folder,
    parts_of,
    tests_of,
)
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError, Problem
from hydratune.settings.ranges import at_least
from hydratune.settings.registry import variant
from hydratune.wording import counted

log = logging.getLogger(__name__)


class CodeTask(StrEnum):
    """What a row of ``data=repository`` asks for, given one function of the code base."""

    body = "body"  # signature and docstring -> body
    docstring = "docstring"  # source without its docstring -> docstring
    test = "test"  # source -> a test of the code base that calls it


_EXCLUDED = (
    *(".*", "__pycache__", "build", "dist", "node_modules", "site-packages"),
    *("*.egg-info", "_vendor"),
)


@variant("data", "repository")
@dataclass
class RepositoryData(CaseData):
    """Your own Python code base -> body, docstring and test of its functions.

    Code is parsed, never imported or run.
    """

    contents: ClassVar[str] = "Python files"
    pattern: ClassVar[str] = "*.py"

    source: str = "repository"
    # what the model is to write
    tasks: list[CodeTask] = field(default_factory=lambda: list(CodeTask))
    # globs on a path inside the folder or on any part of it; virtual environments are always
    # left out
    exclude: list[str] = field(default_factory=lambda: list(_EXCLUDED))
    min_lines: int = 3  # of a function, decorators and docstring counted
    max_lines: int = 60  # of a function

    def source_problems(self) -> Iterator[Problem]:
        """Yield the problems of the settings that only this source has."""
        yield from super().source_problems()
        if not self.tasks:
            fix = f"some of: {', '.join(CodeTask)}"
            yield Problem("data.tasks", self.tasks, "nothing would be asked", fix)
        yield from at_least("data.min_lines", self.min_lines, 1, " line")
        if self.max_lines < self.min_lines:
            why, fix = "below data.min_lines, so no function fits", f"set {self.min_lines} or more"
            yield Problem("data.max_lines", self.max_lines, why, fix)

    def read(self) -> CaseRows:
        """Return the rows of every function of ``min_lines`` to ``max_lines``.

        Raises ``DataError`` if there are none.
        """
        modules = self._modules()
        functions = [f for module in modules if not module.is_test for f in module.functions]
        fitting = [f for f in functions if self.min_lines <= len(f.lines) <= self.max_lines]
        tests = tests_of(fitting, [module for module in modules if module.is_test], self.max_lines)
        made = (_row(function, task, tests) for function in fitting for task in self.tasks)
        rows = [row for row in made if row is not None]
        if not rows:
            tasks = ", ".join(self.tasks)
            raise DataError(
                f"data.path = {self.path}: {counted(len(modules), 'file')} with"
                f" {counted(len(functions), 'function')},"
                " but none gives a row; body and docstring need a docstring, test a test that"
                f" calls the function (data.tasks = {tasks}, {self.min_lines} to"
                f" {self.max_lines} lines)"
            )
        counts = dict(Counter(row.meta["task"] for row in rows))
        message = "%s: %d files, %d functions; rows: %s"
        log.info(message, self.path, len(modules), len(functions), counts)
        return _with_unique_ids(rows), None, None

    def _modules(self) -> list[Module]:
        """Parse the files. Raises ``DataError`` if none parses."""
        modules, skipped = parse_folder(Path(self.path), self.exclude)
        if skipped:
            message = "%s: %d files do not parse and are skipped: %s"
            log.warning(message, self.path, len(skipped), "; ".join(skipped))
        if not modules:
            raise DataError(
                f"data.path = {self.path}: no Python file that parses ({len(skipped)} do not);"
                f" looked outside data.exclude = {', '.join(self.exclude)}"
            )
        return modules


_QUESTIONS = {
    CodeTask.body: "Write the body of this {kind} of {file}. Begin at the left margin.",
    CodeTask.docstring: "Write the docstring of this {kind} of {file}, without quotation marks.",
    CodeTask.test: "Write a test for this {kind} of {file}.",
}


def _row(function: Function, task: CodeTask, tests: Mapping[int, Function]) -> Row | None:
    """Return the row of a task; None if the function gives no such row."""
    shown, answer = _source_and_answer(function, task, tests.get(id(function)))
    if not answer or not answer.strip():
        return None
    question = _QUESTIONS[task].format(kind=function.kind, file=function.file)
    turns = (
        Message("user", f"{question}\n\n" + "\n".join(shown)),
        Message("assistant", answer.rstrip()),
    )
    return Row(
        id=f"{function.file}:{function.name}:{task.value}",
        messages=turns,
        group=function.file,
        meta={"task": task.value},
        where=f"{function.file}:{function.first_line}",
    )


def _source_and_answer(
    function: Function, task: CodeTask, test: Function | None
) -> tuple[Sequence[str], str | None]:
    """Return (the lines that the request shows, the answer); None where there is no answer."""
    if task is CodeTask.test:
        return function.lines, "\n".join(test.lines) if test else None
    parts = parts_of(function)
    if parts is None:
        return (), None
    if task is CodeTask.docstring:
        return parts.without_docstring, function.docstring
    is_whole = _is_whole(function.node, parts.body)
    return parts.signature, "\n".join(parts.body) if is_whole else None


def _is_whole(node: ast.FunctionDef | ast.AsyncFunctionDef, moved: Sequence[str]) -> bool:
    """Return whether ``moved`` is the whole body of ``node``, and more than a placeholder.

    It is no longer that if the move to the margin has changed it.
    """
    body = node.body[1:]
    if all(_is_placeholder(statement) for statement in body):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moved_body = ast.parse("\n".join(moved)).body
    return [ast.dump(statement) for statement in moved_body] == [ast.dump(s) for s in body]


def _is_placeholder(statement: ast.stmt) -> bool:
    is_value = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_value or isinstance(statement, ast.Pass)


def _with_unique_ids(rows: list[Row]) -> list[Row]:
    """Add the line to the ids of a name that is defined twice in a file (a property and its
    setter).
    """
    counts = Counter(row.id for row in rows)
    return [
        replace(row, id=f"{row.id}@{row.where.rpartition(':')[2]}") if counts[row.id] > 1 else row
        for row in rows
    ]
