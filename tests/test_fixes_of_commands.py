"""Every fix that a command prints for data, a model or an earlier run is typed, and it then runs.

Commands run in this process, up to the first step of training.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fix_places
from fix_case import RUNS, Case
from fix_commands import COMMANDS, is_fast
from fix_typing import alternatives, maker_of, quick_composition, typed
from hydratune import lean_imports
from hydratune.errors import ConfigError, HydratuneError, InputError, Problem

Command = Callable[..., tuple[int, str]]


@dataclass(frozen=True)
class Made:
    """A problem or another message, and the function that made it."""

    maker: str
    problem: Problem

    @property
    def text(self) -> str:
        return str(self.problem) if self.problem.key else self.problem.fix


@pytest.fixture(scope="module", autouse=True)
def composed_once() -> Iterator[None]:
    with quick_composition():
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("places")


@pytest.fixture
def folder(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: Path,
    hydratune: Command,
) -> Path:
    """A folder with what the case needs. Its name has to be quoted in a command."""
    folder = tmp_path / "it's, a place"
    folder.mkdir()
    for need in request.getfixturevalue("case").needs:
        fix_places.put(need, folder, store, hydratune)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Made]:
    """The problems and messages that are made in a test."""
    found: list[Made] = []

    def problem_init(self: Problem, *args: object, **kwargs: object) -> None:
        of_problem(self, *args, **kwargs)  # type: ignore[arg-type]
        found.append(Made(maker_of(sys._getframe(1)), self))

    def error_init(self: HydratuneError, *args: object) -> None:
        Exception.__init__(self, *args)
        frame = sys._getframe(1)
        if args and frame.f_code is not ConfigError.__init__.__code__:
            found.append(Made(maker_of(frame), Problem("", None, "", str(args[0]))))

    of_problem = Problem.__init__
    monkeypatch.setattr(Problem, "__init__", problem_init)
    monkeypatch.setattr(HydratuneError, "__init__", error_init)
    return found


def stop(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands end with an error where training would begin, and measure nothing before."""
    from hydratune.experiment import lifecycle, opening, probes
    from hydratune.sweeps import launch
    from hydratune.sweeps.search import run as search_run
    from hydratune.training import fit

    def runs(*_: object, **__: object) -> None:
        raise InputError(RUNS)

    monkeypatch.setattr(fit, "plan_memory", runs)
    monkeypatch.setattr(opening, "write_opening", lambda *_: {})
    monkeypatch.setattr(lifecycle, "write_hydra_files", lambda *_: None)
    monkeypatch.setattr(lifecycle, "_say_what_has_no_effect", lambda *_: None)
    for name in ("ForgettingProbe", "MemorisationProbe", "CanaryProbe", "TestRowsProbe"):
        monkeypatch.setattr(getattr(probes, name), "before", lambda _: None)
    monkeypatch.setattr(launch, "run_jobs", runs)
    monkeypatch.setattr(search_run, "run_batch", runs)
    if case.only_settings:
        monkeypatch.setattr(lean_imports, "load", lambda _: SimpleNamespace(run=runs))


def rows() -> Iterator[Any]:
    """Yield (maker, case, part of the fix); "": the settings in the fix are typed."""
    for maker, cases in COMMANDS.items():
        for number, case in enumerate(cases):
            for part in case.ways or [""]:
                marks = () if is_fast(case) else pytest.mark.slow
                yield pytest.param(maker, case, part, id=f"{maker}-{number}-{part}", marks=marks)


@pytest.mark.parametrize(("maker", "case", "part"), list(rows()))
def test_the_command_runs_when_the_fix_is_typed(
    hydratune: Command,
    made: list[Made],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    maker: str,
    case: Case,
    part: str,
) -> None:
    shell(case.setup)
    stop(case, monkeypatch)
    words = shlex.split(case.line)
    message = refused(words, made, hydratune, maker)
    number = 0
    changes = [case.ways[part]] if part else map(shlex.join, alternatives(message.problem))
    for change in changes:
        assert part in message.problem.fix, message.text
        number += 1
        again = typed_again(words, change, message.problem)
        code, text = hydratune(*again)
        assert code == 0 or case.ends in text, f"{message.text}\ntyped {again}:\n{text}"
    assert number, f"nothing to type in: {message.text}"


def refused(words: list[str], made: list[Made], hydratune: Command, maker: str) -> Made:
    """Return the message of ``maker`` that is printed for a command."""
    made.clear()
    code, text = hydratune(*words)
    found = [m for m in made if m.maker == maker and m.text.strip() in text]
    assert code and found, f"{maker} makes no message: {text}\n{[m.maker for m in made]}"
    return found[0]


def typed_again(words: list[str], change: str, problem: Problem) -> list[str]:
    """Return the command with ``change``, which is typed in its place if it is a whole command."""
    if change.startswith("hydratune "):
        return shlex.split(change)[1:]
    if change == "printed":
        return printed_command(words, problem.fix)
    if change.startswith("!"):
        shell(change.removeprefix("!"))
        return words
    return [words[0], *typed(words[1:], shlex.split(change), problem)]


def shell(line: str) -> None:
    """Run what a user does beside the command."""
    subprocess.run(line, shell=True, check=True)


def printed_command(words: list[str], fix: str) -> list[str]:
    """Return the command of hydratune that stands in ``fix``, or do what it says and repeat the
    command ``words``.
    """
    command = re.search(
        r"hydratune \w+(?: .*?)??(?= lists|$)|\brm .*?(?= makes)|python -c .*", fix, re.M
    )
    assert command is not None
    if command[0].startswith("rm "):
        shell(command[0])
        return words
    typed_words = shlex.split(command[0])
    if typed_words[0] == "hydratune":
        return typed_words[1:]
    exec(typed_words[2], {})  # in this process, which has imported transformers
    return [*words, *shlex.split(fix[command.end() :])]
