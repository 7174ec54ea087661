"""Every fix that a message names is typed, and the message is then gone.

``fix_cases.py`` lists settings by the function that makes the message. A new message that says what
to type fails here without a case, there or in ``fix_commands.py``, or a reason.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fix_sites
from conftest import write_rows
from fix_cases import CASES
from fix_commands import COMMANDS
from fix_reasons import NOT_TYPED
from fix_typing import alternatives, maker_of, quick_composition, typed
from hydratune import lean_imports
from hydratune.composition import composition_problems
from hydratune.composition.arguments import check_settings
from hydratune.errors import ConfigError, InputError, Problem
from hydratune.sweeps import launch
from hydratune.sweeps.search import run as search_run

Command = Callable[..., tuple[int, str]]


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


def rows() -> Iterator[Any]:
    """Yield (function, words). Of the cases of one function, the first is among the fast tests."""
    for maker, cases in CASES.items():
        for number, words in enumerate(cases):
            yield pytest.param(maker, words, marks=[pytest.mark.slow] if number else [])


@pytest.mark.parametrize(("maker", "words"), list(rows()), ids=lambda part: str(part)[-60:])
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


def test_every_message_that_says_what_to_type_has_a_case_or_a_reason() -> None:
    found = {*fix_sites.makers_of_problems(), *fix_sites.makers_of_advice()}
    typed_in_tests = {*CASES, *COMMANDS}
    assert not found - typed_in_tests - NOT_TYPED.keys()
    assert not NOT_TYPED.keys() - found
    assert not typed_in_tests & NOT_TYPED.keys()
    assert not typed_in_tests - {name for name, *_ in fix_sites.functions()}
