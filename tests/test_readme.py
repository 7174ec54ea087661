"""The README's commands compose and its tree is the tree."""

import re
import shlex
from pathlib import Path

import pytest

from hydratune.cli import COMMANDS
from test_config import compose

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    found = re.findall(r"`(hydratune [^`]*)`", README)
    return sorted({c for c in found if not re.search(r"COMMAND|-sc |--config-dir", c)})


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_readme_exists_and_composes(command: str) -> None:
    words = shlex.split(command)
    assert words[1] in COMMANDS, command
    if words[1] not in ("train", "prepare"):
        return
    overrides = [w for w in words[2:] if "=" in w and not w.startswith("hydra.")]
    compose(
        *(
            re.sub(r"=(?!\[|\{)([^,]*),.*", r"=\1", o)
            for o in overrides
            if not o.startswith("name=")
        ),
        command=words[1],
    )


DOCS = sorted((ROOT / "docs").glob("*.md"))


def lines_of_code(page: Path) -> list[str]:
    """What a page shows to be typed: indented lines and what is between backticks, without
    comments.
    """
    text = page.read_text()
    shown = [*re.findall(r"^ {4}(.*)$", text, re.MULTILINE), *re.findall(r"`([^`\n]+)`", text)]
    return [line.partition("  #")[0].strip() for line in shown]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_command_of_a_page_exists_and_composes(page: Path) -> None:
    commands = [shlex.split(line) for line in lines_of_code(page)]
    trained = [words[2:] for words in commands if words[:2] == ["hydratune", "train"]]
    for overrides in trained:
        compose(*overrides)
    scripts = [word for words in commands for word in words if word.startswith("benchmarks/")]
    assert trained and scripts and all((ROOT / script).is_file() for script in scripts)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_setting_of_a_page_exists(page: Path) -> None:
    settings = {
        line
        for line in lines_of_code(page)
        if re.fullmatch(r"(trainer|evaluation|model|data|adapter)(\.\w+)?=[\w.-]+", line)
    }
    assert len(settings) > 5
    for setting in settings:
        compose(setting)


def test_readme_names_its_commands() -> None:
    assert len(commands()) > 20


@pytest.mark.parametrize(
    "folder",
    [
        "data",
        "data/cases",
        "data/sources",
        "data/encoding",
        "data/formats",
        "data/quality",
        "models",
        "training",
        "evaluation",
        "sweeps",
        "sweeps/search",
        "comparison",
        "tracking",
    ],
)
def test_every_module_is_in_the_readmes_tree(folder: str) -> None:
    listed = README.split("## The tree")[1]
    missing = [
        p.name
        for p in (ROOT / "src" / "hydratune" / folder).glob("*.py")
        if p.name != "__init__.py" and p.name not in listed
    ]
    assert not missing
