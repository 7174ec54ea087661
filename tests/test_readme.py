"""The README's commands compose, and the architecture page names existing files."""

import re
import shlex
from pathlib import Path

import pytest

from hydratune.cli import COMMANDS
from test_config import compose

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    quoted = re.findall(r"`(hydratune [^`]*)`", README)
    return sorted({c for c in quoted if not re.search(r"COMMAND|-sc |--config-dir", c)})


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


ARCHITECTURE = ROOT / "docs" / "architecture.md"  # for contributors: shows modules, no commands
EXTENDING = ROOT / "docs" / "howto" / "extending.md"  # tests/test_extending.py runs what it shows
DOCS = sorted({*(ROOT / "docs").glob("*.md")} - {ARCHITECTURE, EXTENDING})


def lines_of_code(page: Path) -> list[str]:
    """Return the lines that a page shows as commands: indented and fenced lines and text in
    backticks, without comments.
    """
    text = page.read_text()
    fenced = re.findall(r"^```(?:bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = [*re.findall(r"^ {4}(.*)$", text, re.MULTILINE), *re.findall(r"`([^`\n]+)`", text)]
    shown += [line for block in fenced for line in block.splitlines()]
    return [line.partition("  #")[0].strip() for line in shown]


def trained_by(page: Path) -> list[list[str]]:
    """Return the settings of every command ``hydratune train`` that a page shows."""
    commands = [shlex.split(line) for line in lines_of_code(page) if line.startswith("hydratune ")]
    return [words[2:] for words in commands if words[:2] == ["hydratune", "train"]]


def settings_on(page: Path) -> set[str]:
    """Return the single settings that a page shows with a value."""
    pattern = r"(trainer|evaluation|model|data|adapter)(\.\w+)?=[\w.-]+"
    return {line for line in lines_of_code(page) if re.fullmatch(pattern, line)}


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_command_of_a_page_exists_and_composes(page: Path) -> None:
    for words in trained_by(page):
        settings = [w for w in words if "=" in w and not w.startswith(("hydra.", "hydra/"))]
        compose(*(re.sub(r"=(?!\[|\{)([^,]*),.*", r"=\1", setting) for setting in settings))
    scripts = re.findall(r"\bbenchmarks/\w+\.\w+", page.read_text())
    assert all((ROOT / script).is_file() for script in scripts)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_setting_of_a_page_exists(page: Path) -> None:
    for setting in settings_on(page):
        compose(setting)


def test_pages_show_commands_settings_and_scripts() -> None:
    gpu = ROOT / "docs" / "gpu.md"
    assert trained_by(gpu) and len(settings_on(gpu)) > 5 and "benchmarks/gpu" in gpu.read_text()
    assert sum(len(trained_by(page)) for page in DOCS) >= 3


def test_readme_names_its_commands() -> None:
    assert len(commands()) > 20


def test_every_module_is_in_the_tree_of_the_architecture_page() -> None:
    tree = ARCHITECTURE.read_text().split("## The tree")[1]
    listed = {word.rstrip(",;:.") for word in tree.split()}
    modules = (ROOT / "src" / "hydratune").rglob("*.py")
    variants = {"methods", "optimizers"}  # packages with a module for each option
    missing = [
        str(path.relative_to(ROOT))
        for path in modules
        if path.name not in ("__init__.py", "__main__.py")
        and path.name not in listed
        and not (path.parent.name in variants or path.parent.match("models/sources"))
    ]
    assert not missing


def test_every_module_that_the_tree_names_exists() -> None:
    tree = ARCHITECTURE.read_text().split("## The tree")[1]
    words = {word.rstrip(",;:.") for word in tree.split()}
    modules = {word for word in words if word.endswith(".py") and "/" not in word}
    files = {
        path.name
        for folder in ("src", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert not modules - files


def test_every_file_that_the_architecture_page_points_at_exists() -> None:
    page = ARCHITECTURE.read_text().split("## The tree")[0]
    paths = set(re.findall(r"`([a-z_]+/[a-z_/]+\.(?:py|yaml))`", page))
    roots = (ROOT, ROOT / "src" / "hydratune")
    assert paths and not [path for path in paths if not any((r / path).exists() for r in roots)]
