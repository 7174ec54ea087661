"""Every fix that a message names is typed, and the message is then gone.

``fix_cases.py`` lists commands by the function that makes the message. A new message without a case
fails here.
"""

import ast
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import hydratune
from conftest import write_rows
from fix_cases import CASES, NOT_TYPED
from hydratune.composition import command as composition_command
from hydratune.composition import composition_problems, register
from hydratune.composition.arguments import check_settings
from hydratune.errors import ConfigError, InputError, Problem
from hydratune.sweeps import launch
from hydratune.sweeps.search import run as search_run

Command = Callable[..., tuple[int, str]]
SOURCE = Path(hydratune.__file__).parent
_VALUE = r"(?:\[[^\]]*\]|\{[^}]*\}|\"[^\"]*\"|[^\s,;()?'\":]+(?::[^\s,;()?'\"]+)*)"
_SETTING = re.compile(
    r"(?P<quoted>'(?:[^']|'\"'\"')*=(?:[^']|'\"'\"')*'(?=[\s,;?)]|$))"
    rf"|(?P<plain>(?<![\w.])[+~]{{0,2}}[A-Za-z_][\w./]*={_VALUE})|(?P<flag>(?<!\w)-m\b)"
)
_PLACEHOLDER = re.compile(r"=(?:[A-Z]{1,}|null)\Z|=(?:.*[:,])?(?:NAME|VALUE)\b")


@dataclass(frozen=True)
class Made:
    """A problem, and the function that made it."""

    problem: Problem
    maker: str


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Made]]:
    """The problems that are made in a test, in an empty folder with the files of the cases.

    Nothing is trained: a command that is not refused ends with ``InputError``.
    """
    problems: list[Made] = []
    original = Problem.__init__

    def init(self: Problem, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)  # type: ignore[arg-type]
        code = sys._getframe(1)
        module = code.f_globals["__name__"].removeprefix("hydratune.")
        maker = code.f_code.co_qualname.partition(".<locals>")[0]
        problems.append(Made(self, f"{module}:{maker}"))

    def runs(*_: object) -> None:
        raise InputError("it runs")

    monkeypatch.setattr(Problem, "__init__", init)
    monkeypatch.setattr(launch, "run_jobs", runs)
    monkeypatch.setattr(search_run, "run_batch", runs)
    command = SimpleNamespace(run=runs)
    monkeypatch.setattr(composition_command, "import_module", lambda _: command)
    for name in ("x", "it's, a=1 %", "it's, a=b"):
        suffix = "csv" if name.endswith("b") else "jsonl"
        write_rows(tmp_path / f"{name}.{suffix}", [{"prompt": "a", "completion": "b"}] * 40)
    monkeypatch.chdir(tmp_path)
    register()
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


def alternatives(problem: Problem) -> list[list[str]]:
    """Return what the fix of ``problem`` says to type: settings that belong together.

    ``-KEY`` stands for leaving a setting out.
    """
    fix = re.sub(r"instead of [^:]*: ", "instead: ", problem.fix)
    if match := re.match(r"did you mean (\w+)\? \(options", fix):
        return [[f"{problem.key}={match[1]}"]]
    if fix.startswith("options: "):
        return [[f"{problem.key}={fix.rpartition(', ')[2]}"]]
    if fix.startswith("one of: "):
        options = re.split(r",\s*", fix.removeprefix("one of: ").split(" (")[0])
        return [[f"{problem.key}={option.removeprefix('or ')}"] for option in options]
    if (match := re.search(r"did you mean ([^\s?]+)\?", fix)) and "=" not in match[1]:
        return [[f"-{problem.key}", f"{match[1]}={problem.value}"]]
    if match := re.search(r"usual(?: is|(?: for \w+)?:) (\S+?)(?:[;,]? |$)", fix):
        return [[f"{problem.key}={match[1]}"]]
    if match := re.match(r"(?:set|leave) it (?:to|at) (\w+)$", fix):
        return [[f"{problem.key}={match[1]}"]]
    found: list[list[str]] = []
    end = -2
    for match in _SETTING.finditer(fix):
        (word,) = shlex.split(match[0])
        between = fix[end : match.start()] if end >= 0 else "start"
        if found and between.strip() in ("", "and", "beside"):
            found[-1].append(word)
        elif not re.search(r"such as $", between):
            found.append([word])
        end = match.end()
    found = [
        words for words in found if not any(map(_PLACEHOLDER.search, words)) or "null" in str(words)
    ]
    found = [words for words in found if words != ["-m"]]
    for match in re.finditer(r"leave out (?!the |one )([~\w./]+)(?:,? or ([a-z]+\.\w+))?", fix):
        found += [[f"-{key}"] for key in match.groups() if key]
    if "add -m" in fix and not any("-m" in words for words in found):
        found.append(["-m"])
    if re.search(r"\bleave (?:it )?out\b|\bleave (?:it|the sampler) away", fix) and not found:
        found.append([f"-{problem.key.lstrip('~')}"])
    return found


def typed(words: Sequence[str], alternative: Sequence[str], problem: Problem) -> list[str]:
    """Return the command with what the fix says to type."""
    result = list(words)

    def key_of(word: str) -> str:
        return word.lstrip("+~").split("=")[0]

    meant = problem.key.lstrip("+~")
    replaces_key = not any(key_of(word) == meant for word in alternative)
    kinds = {"hydra.launcher": "hydra/launcher", "hydra.sweeper": "hydra/sweeper"}
    for word in alternative:
        if word == "-m":
            result = ["-m", *(w for w in result if w != "-m")]
            continue
        if word.startswith("-"):
            result = [w for w in result if key_of(w) != word[1:].lstrip("+~")]
            continue
        if kinds.get(meant) == key_of(word) or (replaces_key and _stands_for(word, meant)):
            result = [w for w in result if key_of(w) != meant]
        result = [w for w in result if key_of(w) != key_of(word)] + [word]
    return result


def _stands_for(word: str, key: str) -> bool:
    """Return whether a setting is what the user meant by ``key``, which does not exist."""
    name = word.lstrip("+~").split("=")[0]
    return (
        name.rpartition(".")[2] == key.rpartition(".")[2]
        or name.startswith(f"{key}.")
        or key in ("rank", "data.quality.overlength", "data.path", "data.file")
    )


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
