"""A value that Hydra's grammar refuses is explained, and the advice works when it is typed."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from conftest import SMALL, write_rows
from hydratune.composition.problems import composition_problems
from hydratune.settings.overrides import as_typed
from test_config import compose

Command = Callable[..., tuple[int, str]]
PAIRS = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(12)]
REFUSED = [
    *("a~b", "~b", "a'b", 'a"b', '"a', "'", '"', "a=b", "=a", "a,b", "a(b", "a(b)c", "(a)", "a)b"),
    *("a[b", "a]b", "[a]b", "a{b", "a}b", "{a}b", "a😀b", "é", "日本", "a#b", "a&b", "a!b", "a;b"),
    *("^a", "a`b", "a<b>", "a~b c", "a~$b", 'a\\"b', "a~b\\", "a,b~c", "a\u00a0b", "a – b"),
]
ACCEPTED = ["a%b", ":a", "a b", "a:b", "a*b", "a|b", "a?b", "a@b", "a$b", "a-b", "a+b", "a\\b"]


def quoted(printed: str) -> str:
    """The last of the ways that a message names to type the value as one text."""
    fix = printed.partition("fix: ")[2].partition("\n")[0]
    fix = fix.partition("; or, for the values of a sweep")[0]
    start = fix.rindex("'data.train=\"") if "'data.train=\"" in fix else fix.index("'data.train")
    (override,) = shlex.split(fix[start:])
    return override


@pytest.mark.parametrize("name", REFUSED)
def test_the_advice_means_the_value_that_was_typed(name: str) -> None:
    typed = f"data.train={name}.jsonl" if not name.endswith("\\") else f"data.train={name}"
    (problem,) = composition_problems("prepare", ["data=files", typed])
    assert problem.key == "data.train" and f"data.train={problem.value}" == typed
    assert not re.search("Exception|expecting|alternative|Error", str(problem)), problem
    assert f"data.train={compose('data=files', quoted(str(problem))).data.train}" == typed


@pytest.mark.parametrize("name", ACCEPTED)
def test_other_characters_need_no_quotes(name: str) -> None:
    assert compose("data=files", f"data.train={name}.jsonl").data.train == f"{name}.jsonl"


@pytest.mark.parametrize("name", ["a~b", "it's", 'a"b', "a,b", "[a]", "{a=b}", "a😀 (1)"])
def test_the_advice_works_when_it_is_typed(hydratune: Command, tmp_path: Path, name: str) -> None:
    file = write_rows(tmp_path / f"{name}.jsonl", PAIRS)
    code, text = hydratune("prepare", "model=tiny", "data=files", f"data.train={name}.jsonl")
    assert code == 2 and "1 problem" in text and f"data.train = {name}" in text, text
    code, printed = hydratune("prepare", "model=tiny", "data=files", quoted(text), "output=ready")
    assert code == 0 and file.name in printed, (quoted(text), printed)


def test_the_message_names_the_characters_and_what_to_type(hydratune: Command) -> None:
    _, text = hydratune("train", "data=files", "data.train=a~b#c~d.jsonl", "optimizer.lr=x")
    assert "why: Hydra reads these characters only between quotes: ~  #\n" in text
    assert "fix: type both pairs of quotes: 'data.train=\"a~b#c~d.jsonl\"'\n" in text
    assert "optimizer.lr = x" in text and "2 problems" in text  # the others are named as well
    _, text = hydratune("train", "data=files", "data.train=[a~b")
    assert "in a list or mapping, close every bracket and quote the texts" in text


def test_values_of_a_sweep_are_quoted_one_by_one(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune("train", "-m", "data=files", "data.train=a~b.jsonl,c.jsonl")
    assert (
        code == 2 and 'for the values of a sweep: -m \'data.train="a~b.jsonl","c.jsonl"\'' in text
    )
    _, text = hydratune("train", "data=files", "data.train=a,b.jsonl")
    assert "add -m for a sweep" in text and "list" not in text  # the setting is one text
    _, text = hydratune("train", "adapter.target_modules=q_proj,v_proj")
    assert "a list: 'adapter.target_modules=[q_proj,v_proj]'" in text


def test_a_name_that_hydra_cannot_read_is_no_matter_of_quotes(hydratune: Command) -> None:
    code, text = hydratune("train", "optimizer~lr=1")
    assert code == 2 and "optimizer~lr = 1" in text and "not the name of a setting" in text, text
    assert "quotes" not in text


@pytest.mark.slow
def test_the_advice_works_in_a_shell(tmp_path: Path) -> None:
    name = "it's a~b"
    write_rows(tmp_path / f"{name}.jsonl", PAIRS)
    program = (
        f"{shlex.quote(sys.executable)} -m hydratune prepare model=tiny data=files output=ready"
    )

    def typed(override: str) -> subprocess.CompletedProcess[str]:
        line = f"{program} {override}"
        return subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)

    refused = typed(shlex.quote(f"data.train={name}.jsonl"))
    match = re.search(r"both pairs of quotes: (.*)", refused.stderr)
    assert refused.returncode == 2 and match, refused.stderr
    assert typed(match[1]).returncode == 0


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        ("outputs/a/1", "run=outputs/a/1"),
        ("with space", "'run=with space'"),
        ("it's", "'run=\"it'\"'\"'s\"'"),
        ("a,b=c", "'run=\"a,b=c\"'"),
        ("1e3", "'run=\"1e3\"'"),
        ("null", "'run=\"null\"'"),
        ("$HOME", "'run=$HOME'"),
    ],
)
def test_values_are_printed_as_they_are_typed(value: str, typed: str) -> None:
    assert as_typed("run", value) == typed
    (word,) = shlex.split(typed)
    assert str(OverridesParser.create().parse_override(word).value()) == value


def test_the_printed_commands_work_for_a_folder_that_needs_quotes(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = "it's, a run=1"
    code, text = hydratune("train", *SMALL, *shlex.split(as_typed("hydra.run.dir", folder)))
    assert code == 0, text
    line = next(line for line in text.splitlines() if line.startswith("measure"))
    words = shlex.split(line.removeprefix("measure"))
    assert words[:2] == ["hydratune", "evaluate"]
    code, text = hydratune(*words[1:], "source=predictions")
    assert code == 0, text


def test_a_changed_working_directory_is_refused(hydratune: Command) -> None:
    code, text = hydratune("train", "hydra.job.chdir=true")
    assert code == 2 and "leave it out; hydra.run.dir=DIR" in text
