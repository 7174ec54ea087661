"""What a reader of a message types: the settings that its fix names, put into the command."""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import pytest
from hydra._internal.hydra import Hydra

from hydratune.composition import command, register
from hydratune.errors import Problem

_VALUE = r"(?:\[[^\]]*\]|\{[^}]*\}|\"[^\"]*\"|[^\s,;()?'\":]+(?::[^\s,;()?'\"]+)*)"
_SETTING = re.compile(
    r"(?P<quoted>'(?:[^']|'\"'\"')*=(?:[^']|'\"'\"')*'(?=[\s,;?)]|$))"
    rf"|(?P<plain>(?<![\w.])[+~]{{0,2}}[A-Za-z_][\w./]*={_VALUE})|(?P<flag>(?<!\w)-m\b)"
)
_PLACEHOLDER = re.compile(r"=(?:[A-Z]{1,}|null)\Z|=(?:.*[:,])?(?:NAME|VALUE)\b")


def alternatives(problem: Problem) -> list[list[str]]:
    """Return what the fix of ``problem`` says to type: settings that belong together.

    ``-KEY`` stands for leaving a setting out.
    """
    fix = re.sub(r"instead of [^:]*: ", "instead: ", problem.fix)
    left_out = re.findall(r"without (resume)=extend|without (model\.adapter)\b", fix)
    fix = fix.replace("without resume=extend", "without it")
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
    if match := re.match(r"(?:set|leave) it (?:to|at) (\w+)(?: or (?:more|less))?$", fix):
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
    for names in left_out:
        found[-1] += [f"-{name}" for name in names if name]
    if "in another hydra.run.dir" in fix and found:
        found[-1].append("hydra.run.dir=another")
    found += [[f"-{key}"] for key in re.findall(r"leave ([a-z]+\.\w+) out", fix)]
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


def maker_of(frame: FrameType) -> str:
    """Return module:function of the code in ``frame``, as the lists of cases name it."""
    while frame.f_globals["__name__"] == "dataclasses" and frame.f_back is not None:
        frame = frame.f_back  # replace() makes a changed problem
    module = frame.f_globals["__name__"].removeprefix("hydratune.")
    return f"{module}:{frame.f_code.co_qualname.partition('.<locals>')[0]}"


@contextmanager
def quick_composition() -> Iterator[None]:
    """Register the settings once, and compose once per command: Hydra composes a second time to
    learn of ``hydra.mode``, which no case sets.
    """
    register()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "register", lambda: None)
        patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
        yield
