"""Every fix that a message names is typed, and the message is then gone.

``fix_cases.py`` lists commands by the function that makes the message. A new message without a case
fails here.
"""

import ast
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import hydratune
from conftest import write_rows
from fix_cases import CASES, NOT_TYPED
from fix_typing import alternatives, maker_of, quick_composition, typed
from hydratune import lean_imports
from hydratune.composition import composition_problems
from hydratune.composition.arguments import check_settings
from hydratune.errors import ConfigError, InputError, Problem
from hydratune.sweeps import launch
from hydratune.sweeps.search import run as search_run

Command = Callable[..., tuple[int, str]]
SOURCE = Path(hydratune.__file__).parent


@dataclass(frozen=True)
class Made:
    """A problem, and the function that made it."""

    problem: Problem
    maker: str


@pytest.fixture(scope="module", autouse=True)
def composed_once() -> Iterator[None]:
    with quick_composition():
        yield


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Made]]:
    """The problems that are made in a test, in an empty folder with the files of the cases.

    Nothing is trained: a command that is not refused ends with ``InputError``.
    """
    problems: list[Made] = []
    original = Problem.__init__

    def init(self: Problem, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)  # type: ignore[arg-type]
        problems.append(Made(self, maker_of(sys._getframe(1))))

    def runs(*_: object) -> None:
        raise InputError("it runs")

    monkeypatch.setattr(Problem, "__init__", init)
    monkeypatch.setattr(launch, "run_jobs", runs)
    monkeypatch.setattr(search_run, "run_batch", runs)
    module = SimpleNamespace(run=runs)
    monkeypatch.setattr(lean_imports, "load", lambda _: module)
    for name in ("x", "it's, a=1 %", "it's, a=b"):
        suffix = "csv" if name.endswith("b") else "jsonl"
        write_rows(tmp_path / f"{name}.{suffix}", [{"prompt": "a", "completion": "b"}] * 40)
    monkeypatch.chdir(tmp_path)
    yield problems


def refused(words: Sequence[str], made: list[Made], hydratune: Command) -> list[Made]:
    """Return the problems that ``hydratune train`` prints for ``words``."""
    made.clear()
    if "-m" in words or any(word.startswith("sweep=") for word in words):
        code, text = hydratune("train", *words)
        assert code == 2 and "unexpected" not in text, text
        return [m for m in made if f"  {m.problem}\n" in text]
    try:
        problems = composition_problems("train", check_settings(words, "train"))
    except ConfigError as error:
        problems = list(error.problems)
    return [m for m in made if m.problem in problems]


ROWS = [(maker, words) for maker, cases in CASES.items() for words in cases]


@pytest.mark.parametrize(("maker", "words"), ROWS, ids=lambda part: str(part)[-60:])
def test_the_fix_works_when_it_is_typed(
    hydratune: Command, made: list[Made], maker: str, words: tuple[str, ...]
) -> None:
    found = [m.problem for m in refused(words, made, hydratune) if m.maker == maker]
    assert found, f"{maker} makes no message for {words}: {made}"
    for problem in found:
        ways = alternatives(problem)
        assert ways, f"nothing to type in: {problem}"
        for way in ways:
            again = typed(words, way, problem)
            left = refused(again, made, hydratune)
            if problem.fix.startswith("one of"):  # some options are for other settings
                left = [m for m in left if m.maker == maker and m.problem.why == problem.why]
            assert not left, f"{problem}\ntyped {again}:\n{[str(m.problem) for m in left]}"


def makers() -> dict[str, int]:
    """Return how many messages with a fix each function of the package makes."""
    counts: dict[str, int] = {}

    def visit(node: ast.AST, names: list[str], module: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = [*names, child.name]
            if isinstance(child, ast.Call) and getattr(child.func, "id", "") == "Problem":
                maker = f"{module}:{'.'.join(inner)}"
                counts[maker] = counts.get(maker, 0) + 1
            visit(child, inner, module)

    for file in sorted(SOURCE.rglob("*.py")):
        module = ".".join(file.relative_to(SOURCE).with_suffix("").parts)
        visit(ast.parse(file.read_text()), [], module)
    return counts


def test_every_message_with_a_fix_has_a_case_or_a_reason() -> None:
    listed = {*CASES, *NOT_TYPED}
    assert set(makers()) == listed
    assert not CASES.keys() & NOT_TYPED.keys()
