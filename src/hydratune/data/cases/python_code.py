"""The functions of a Python code base and the tests that call them, parsed with ``ast``."""

import ast
import io
import os
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

_Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """A function or method of the code base."""

    file: str
    name: str  # with its class: "Row.prompt"
    node: _Definition
    lines: tuple[str, ...]  # its source, moved to the left margin
    # lines of the file inside a long string, whose indentation is part of the value
    fixed: frozenset[int]

    @property
    def kind(self) -> str:
        """The function in words: "function" or "method of class Row"."""
        owner = self.name.rpartition(".")[0]
        return f"method of class {owner}" if owner else "function"

    @property
    def docstring(self) -> str | None:
        """The docstring, without its indentation."""
        return ast.get_docstring(self.node)

    @property
    def first_line(self) -> int:
        """The number of its first line in the file, decorators included."""
        return _first_line(self.node)


@dataclass(frozen=True)
class Module:
    """One parsed file; ``file`` is its path inside the folder."""

    file: str
    tree: ast.Module
    functions: tuple[Function, ...]

    @property
    def is_test(self) -> bool:
        """Return whether the file has tests, by its name or its folder."""
        path = Path(self.file)
        is_test_file = path.stem.startswith("test_") or path.stem.endswith("_test")
        return is_test_file or path.stem == "conftest" or "tests" in path.parts[:-1]


@dataclass(frozen=True)
class FunctionParts:
    """The source of a function in parts, as lines."""

    signature: Sequence[str]  # with the docstring
    body: Sequence[str]  # at the left margin
    without_docstring: Sequence[str]


def parse_folder(folder: Path, exclude: Sequence[str]) -> tuple[list[Module], list[str]]:
    """Return (modules, "file (why it does not parse)"), in the order of their paths."""
    modules, skipped = [], []
    for path in python_files(folder, exclude):
        file = path.relative_to(folder).as_posix()
        try:
            modules.append(parse_module(path.read_bytes(), file))
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
            skipped.append(f"{file} ({str(error) or type(error).__name__})")
    return modules, skipped


def python_files(folder: Path, exclude: Sequence[str]) -> Iterator[Path]:
    """Yield the files that no glob of ``exclude`` matches, by path inside ``folder`` or by any part
    of it; virtual environments are skipped.
    """
    for place, folders, files in os.walk(folder):
        inside = Path(place).relative_to(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not _is_excluded(inside / name, exclude)
            and not Path(place, name, "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            if name.endswith(".py") and not _is_excluded(inside / name, exclude):
                yield Path(place, name)


def _is_excluded(inside: Path, exclude: Sequence[str]) -> bool:
    return any(
        fnmatchcase(inside.name, glob) or fnmatchcase(inside.as_posix(), glob) for glob in exclude
    )


def parse_module(raw: bytes, file: str) -> Module:
    """Parse one file.

    Raises ``SyntaxError`` or ``ValueError``, as Python does for a file it cannot read.
    """
    encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
    source = raw.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about the user's code
        tree = ast.parse(source)
    lines = source.split("\n")
    functions = _functions(tree.body, file, lines, _inside_strings(tree, lines), "")
    return Module(file, tree, tuple(functions))


def _functions(
    body: Sequence[ast.stmt], file: str, lines: Sequence[str], fixed: frozenset[int], owner: str
) -> Iterator[Function]:
    """Yield the functions of a module and its classes; inner functions belong to outer ones."""
    for node in body:
        if isinstance(node, _Definition):
            first = _first_line(node)
            source = _to_margin(lines[first - 1 : node.end_lineno], first, fixed)
            yield Function(file, owner + node.name, node, tuple(source), fixed)
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body, file, lines, fixed, f"{owner}{node.name}.")


def _first_line(node: _Definition) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _inside_strings(tree: ast.Module, lines: Sequence[str]) -> frozenset[int]:
    """Return the numbers of the lines that continue a triple-quoted string that is no docstring."""
    docstrings = _docstrings(tree)
    inside: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant | ast.JoinedStr) or id(node) in docstrings:
            continue
        if node.end_lineno:
            line = lines[node.lineno - 1].encode()[node.col_offset :].decode(errors="replace")
            if line.lstrip("rRbBuUfF").startswith(('"""', "'''")):
                inside.update(range(node.lineno + 1, node.end_lineno + 1))
    return frozenset(inside)


def _docstrings(tree: ast.Module) -> set[int]:
    """Return the ids of the nodes that are docstrings of functions and classes."""
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, _Definition | ast.ClassDef)
        and ast.get_docstring(node, clean=False) is not None
        and isinstance(node.body[0], ast.Expr)
    }


def _to_margin(lines: Sequence[str], first: int, fixed: frozenset[int]) -> list[str]:
    """Remove the indentation of the first line from all lines but those in ``fixed``.

    ``first`` is the number of the first line.
    """
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    return [
        line if number in fixed else line.removeprefix(indent)
        for number, line in enumerate(lines, first)
    ]


def parts_of(function: Function) -> FunctionParts | None:
    """Split the source of a function; None without a docstring on lines of its own and a body."""
    node, first, lines = function.node, function.first_line, function.lines
    if not function.docstring or len(node.body) < 2:
        return None
    begin, end = node.body[0].lineno - first, (node.body[0].end_lineno or 0) - first + 1
    if begin == node.lineno - first or node.body[1].lineno - first < end:  # all on one line
        return None
    # The first statement, or the comment before it.
    start = next(n for n in range(end, len(lines)) if lines[n].strip())
    return FunctionParts(
        signature=lines[:end],
        body=_to_margin(lines[start:], first + start, function.fixed),
        without_docstring=[*lines[:begin], *lines[end:]],
    )


def tests_of(
    functions: Sequence[Function], modules: Sequence[Module], max_lines: int
) -> dict[int, Function]:
    """Return id(function) -> the shortest test that calls it.

    A test is given to one function only, so that no answer is in two splits.
    """
    names = Counter(function.node.name for function in functions)
    tests = [
        (test, module.tree, _calls_in(test.node))
        for module in modules
        for test in module.functions
        if test.node.name.startswith("test") and len(test.lines) <= max_lines
    ]
    tests.sort(key=lambda entry: len(entry[0].lines))
    test_of: dict[int, Function] = {}
    used: set[int] = set()
    for function in functions:
        is_unique = names[function.node.name] == 1
        for test, tree, calls in tests:
            if id(test) not in used and _is_called(function, tree, calls, is_unique):
                test_of[id(function)] = test
                used.add(id(test))
                break
    return test_of


def _calls_in(node: ast.AST) -> set[tuple[str, str]]:
    """Return (what the name is taken from, name) of every call.

    ("", "f") for f(), ("m", "f") for m.f(), ("?", "f") for g().f().
    """
    calls = set()
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            calls.add(("", call.func.id))
        elif isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            owner = call.func.value.id if isinstance(call.func.value, ast.Name) else "?"
            calls.add((owner, call.func.attr))
    return calls


def _is_called(
    function: Function, test: ast.Module, calls: set[tuple[str, str]], is_unique: bool
) -> bool:
    """Return whether a test calls ``function`` by name.

    It is imported from its module or an attribute of it; a method counts if the test uses its class
    as well.

    ``is_unique``: no other function has this name.
    """
    owner, _, name = function.name.rpartition(".")
    if owner:
        used = {n.id for n in ast.walk(test) if isinstance(n, ast.Name)}
        is_method_call = any(source and called == name for source, called in calls)
        return is_unique and owner.split(".")[-1] in used and is_method_call
    path = Path(function.file)
    module = path.parent.name if path.stem == "__init__" else path.stem
    if (module, name) in calls:
        return True
    return ("", name) in calls and any(
        is_unique or imported_from == module for imported_from in _importers(test, name)
    )


def _importers(test: ast.Module, name: str) -> Iterator[str]:
    """Yield the modules from which a test imports ``name``, without their packages."""
    for node in ast.walk(test):
        if isinstance(node, ast.ImportFrom) and any(
            alias.name == name and alias.asname is None for alias in node.names
        ):
            yield (node.module or "").split(".")[-1]
