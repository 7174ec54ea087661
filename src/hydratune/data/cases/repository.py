"""A Python code base -> rows: the body, the docstring and a test of each of its functions.

The files are parsed with ``ast``; nothing of them is imported or run.
"""

import ast
import io
import logging
import os
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.data import CodeTask, RepositoryData

log = logging.getLogger(__name__)

_Definition = ast.FunctionDef | ast.AsyncFunctionDef
ASKS = {
    CodeTask.body: "Write the body of this {kind} of {file}. Begin at the left margin.",
    CodeTask.docstring: "Write the docstring of this {kind} of {file}, without quotation marks.",
    CodeTask.test: "Write a test for this {kind} of {file}.",
}


@dataclass(frozen=True)
class Function:
    """A function or method of the code base; ``lines`` are its source, moved to the left margin."""

    file: str
    name: str  # with its class: "Row.prompt"
    node: _Definition
    lines: tuple[str, ...]
    fixed: frozenset[
        int
    ]  # lines of the file that lie inside a long string, whose indentation is part of the value

    @property
    def kind(self) -> str:
        owner = self.name.rpartition(".")[0]
        return f"method of class {owner}" if owner else "function"

    @property
    def docstring(self) -> str | None:
        return ast.get_docstring(self.node)

    @property
    def first_line(self) -> int:
        """In the file, decorators included."""
        return min(
            [self.node.lineno, *(decorator.lineno for decorator in self.node.decorator_list)]
        )


@dataclass(frozen=True)
class Module:
    """One parsed file; ``file`` is its path inside the folder."""

    file: str
    tree: ast.Module
    functions: tuple[Function, ...]

    @property
    def is_test(self) -> bool:
        path = Path(self.file)
        return (
            path.stem.startswith("test_")
            or path.stem.endswith("_test")
            or path.stem == "conftest"
            or "tests" in path.parts[:-1]
        )


def read_repository(data: RepositoryData) -> tuple[list[Row], None, None]:
    """Rows of every function that fits ``min_lines`` to ``max_lines``.

    Raises ``DataError`` if there is none.
    """
    modules, skipped = parse_folder(Path(data.path), data.exclude)
    if skipped:
        log.warning(
            "%s: %d files do not parse and are skipped: %s",
            data.path,
            len(skipped),
            "; ".join(skipped),
        )
    if not modules:
        excluded = ", ".join(data.exclude)
        raise DataError(
            f"data.path = {data.path}: no Python file that parses ({len(skipped)} do not); looked"
            f" outside data.exclude = {excluded}"
        )
    all_of_them = [
        function for module in modules if not module.is_test for function in module.functions
    ]
    fitting = [
        function
        for function in all_of_them
        if data.min_lines <= len(function.lines) <= data.max_lines
    ]
    tests = tests_of(fitting, [module for module in modules if module.is_test], data.max_lines)
    rows = [
        row for function in fitting for task in data.tasks if (row := _row(function, task, tests))
    ]
    if not rows:
        tasks = ", ".join(data.tasks)
        raise DataError(
            f"data.path = {data.path}: {len(modules)} files with {len(all_of_them)} functions, but"
            " none gives a row; body and docstring need a docstring, test a test that calls the"
            f" function (data.tasks = {tasks}, {data.min_lines} to {data.max_lines} lines)"
        )
    counts = Counter(row.meta["task"] for row in rows)
    log.info(
        "%s: %d files, %d functions; rows: %s",
        data.path,
        len(modules),
        len(all_of_them),
        dict(counts),
    )
    return _numbered(rows), None, None


def parse_folder(folder: Path, exclude: Sequence[str]) -> tuple[list[Module], list[str]]:
    """(modules, "file (why it does not parse)"), in the order of their paths."""
    modules, skipped = [], []
    for path in python_files(folder, exclude):
        file = path.relative_to(folder).as_posix()
        try:
            modules.append(parse_module(path.read_bytes(), file))
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
            skipped.append(f"{file} ({str(error) or type(error).__name__})")
    return modules, skipped


def python_files(folder: Path, exclude: Sequence[str]) -> Iterator[Path]:
    """Files that no glob of ``exclude`` matches, by path inside ``folder`` or by any part of it;
    virtual environments are left out.
    """
    for place, folders, files in os.walk(folder):
        inside = Path(place).relative_to(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not _excluded(inside / name, exclude)
            and not Path(place, name, "pyvenv.cfg").exists()
        )
        yield from (
            Path(place, name)
            for name in sorted(files)
            if name.endswith(".py") and not _excluded(inside / name, exclude)
        )


def _excluded(inside: Path, exclude: Sequence[str]) -> bool:
    return any(
        fnmatchcase(inside.name, glob) or fnmatchcase(inside.as_posix(), glob) for glob in exclude
    )


def parse_module(raw: bytes, file: str) -> Module:
    """Raises ``SyntaxError`` or ``ValueError``, as Python does for a file it cannot read."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
    source = raw.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the user's code, about which nobody asked
        tree = ast.parse(source)
    lines = source.split("\n")
    return Module(
        file, tree, tuple(_functions(tree.body, file, lines, _inside_strings(tree, lines), ""))
    )


def _functions(
    body: Sequence[ast.stmt], file: str, lines: Sequence[str], fixed: frozenset[int], owner: str
) -> Iterator[Function]:
    """Of a module and its classes; functions inside functions belong to these."""
    for node in body:
        if isinstance(node, _Definition):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            source = _to_margin(lines[first - 1 : node.end_lineno], first, fixed)
            yield Function(file, owner + node.name, node, tuple(source), fixed)
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body, file, lines, fixed, f"{owner}{node.name}.")


def _inside_strings(tree: ast.Module, lines: Sequence[str]) -> frozenset[int]:
    """Lines, from 1, that continue a triple-quoted string other than a docstring."""
    documented = (
        n
        for n in ast.walk(tree)
        if isinstance(n, _Definition | ast.ClassDef)
        and ast.get_docstring(n, clean=False) is not None
    )
    docstrings = {id(n.body[0].value) for n in documented if isinstance(n.body[0], ast.Expr)}
    found: set[int] = set()
    for text in ast.walk(tree):
        if (
            isinstance(text, ast.Constant | ast.JoinedStr)
            and id(text) not in docstrings
            and text.end_lineno
        ):
            start = (
                lines[text.lineno - 1]
                .encode()[text.col_offset :]
                .decode(errors="replace")
                .lstrip("rRbBuUfF")
            )
            if start.startswith(('"""', "'''")):
                found.update(range(text.lineno + 1, text.end_lineno + 1))
    return frozenset(found)


def _to_margin(lines: Sequence[str], first: int, fixed: frozenset[int]) -> list[str]:
    """``lines``, of which the first is number ``first``, without the indentation of the first, but
    for those in ``fixed``.
    """
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    return [
        line if number in fixed else line.removeprefix(indent)
        for number, line in enumerate(lines, first)
    ]


def _row(function: Function, task: CodeTask, tests: dict[int, Function]) -> Row | None:
    """None where the function gives no such row."""
    parts = _parts(function)
    test = tests.get(id(function))
    shown: Sequence[str]
    if task is CodeTask.test:
        shown, answer = function.lines, "\n".join(test.lines) if test else None
    elif parts is None:
        return None
    elif task is CodeTask.body:
        shown, answer = (
            parts[0],
            "\n".join(parts[1]) if _is_whole(function.node, parts[1]) else None,
        )
    else:
        shown, answer = parts[2], function.docstring
    if not answer or not answer.strip():
        return None
    question = f"{ASKS[task].format(kind=function.kind, file=function.file)}\n\n" + "\n".join(shown)
    return Row(
        id=f"{function.file}:{function.name}:{task.value}",
        messages=(Message("user", question), Message("assistant", answer.rstrip())),
        group=function.file,
        meta={"task": task.value},
        where=f"{function.file}:{function.first_line}",
    )


def _parts(function: Function) -> tuple[Sequence[str], Sequence[str], Sequence[str]] | None:
    """(signature with docstring, body, source without docstring); None without a docstring on lines
    of its own and a body.
    """
    node, first = function.node, function.first_line
    if not function.docstring or len(node.body) < 2:
        return None
    begin, end = node.body[0].lineno - first, (node.body[0].end_lineno or 0) - first + 1
    lines = function.lines
    if begin == node.lineno - first or node.body[1].lineno - first < end:  # all on one line
        return None
    # the first statement, or the comment before it
    start = next(n for n in range(end, len(lines)) if lines[n].strip())
    return (
        lines[:end],
        _to_margin(lines[start:], first + start, function.fixed),
        [*lines[:begin], *lines[end:]],
    )


def _is_whole(node: _Definition, moved: Sequence[str]) -> bool:
    """``moved`` is the body of ``node``, unchanged by the move to the margin, and more than a
    placeholder.
    """
    body = node.body[1:]
    if all(
        isinstance(s, ast.Pass) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
        for s in body
    ):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [ast.dump(s) for s in ast.parse("\n".join(moved)).body] == [
            ast.dump(s) for s in body
        ]


def tests_of(
    functions: Sequence[Function], modules: Sequence[Module], max_lines: int
) -> dict[int, Function]:
    """id(function) -> the shortest test that calls it.

    A test is given once, so that no answer is on two sides of a split.
    """
    names = Counter(function.node.name for function in functions)
    tests = [
        (test, module.tree, _called(test.node))
        for module in modules
        for test in module.functions
        if test.node.name.startswith("test") and len(test.lines) <= max_lines
    ]
    tests.sort(key=lambda entry: len(entry[0].lines))
    given: dict[int, Function] = {}
    used: set[int] = set()
    for function in functions:
        for test, tree, called in tests:
            if id(test) not in used and _calls(
                function, tree, called, names[function.node.name] == 1
            ):
                given[id(function)] = test
                used.add(id(test))
                break
    return given


def _called(node: ast.AST) -> set[tuple[str, str]]:
    """(what it is taken from, name) of every call:

    ("", "f") for f(), ("m", "f") for m.f(), ("?", "f") for g().f().
    """
    found = set()
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            found.add(("", call.func.id))
        elif isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            found.add(
                (
                    call.func.value.id if isinstance(call.func.value, ast.Name) else "?",
                    call.func.attr,
                )
            )
    return found


def _calls(
    function: Function, test: ast.Module, called: set[tuple[str, str]], is_unique: bool
) -> bool:
    """By name: imported from the function's module, or as an attribute of it; a method if its class
    is used there as well.
    """
    owner, _, name = function.name.rpartition(".")
    if owner:
        used = {n.id for n in ast.walk(test) if isinstance(n, ast.Name)}
        return (
            is_unique
            and owner.split(".")[-1] in used
            and any(source and n == name for source, n in called)
        )
    path = Path(function.file)
    module = path.parent.name if path.stem == "__init__" else path.stem
    if (module, name) in called:
        return True
    imports = (
        n
        for n in ast.walk(test)
        if isinstance(n, ast.ImportFrom)
        and any(a.name == name and a.asname is None for a in n.names)
    )
    return ("", name) in called and any(
        is_unique or (n.module or "").split(".")[-1] == module for n in imports
    )


def _numbered(rows: list[Row]) -> list[Row]:
    """A name that is defined twice in a file (a property and its setter) gets the line of each
    definition into its id.
    """
    counts = Counter(row.id for row in rows)
    return [
        replace(row, id=f"{row.id}@{row.where.rpartition(':')[2]}") if counts[row.id] > 1 else row
        for row in rows
    ]
