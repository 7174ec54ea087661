"""The README is short, and the architecture page names existing files.

Their commands and links: tests/test_docs.py.
"""

import re
from pathlib import Path

import doc_pages

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


ARCHITECTURE = ROOT / "docs" / "architecture.md"


def test_readme_is_short_and_shows_a_picture_a_run_and_no_tree() -> None:
    lines = README.splitlines()
    assert 120 <= len(lines) <= 150
    (picture,) = re.findall(r"!\[[^\]]+\]\((docs/images/[^)]+\.png)\)", README)
    assert 10_000 < (ROOT / picture).stat().st_size < 200_000
    assert "src/hydratune/" not in README


def test_readme_and_recipes_name_their_commands() -> None:
    assert len(doc_pages.commands_of(ROOT / "README.md")) > 5
    assert len(doc_pages.commands_of(ROOT / "docs" / "howto" / "recipes.md")) > 60


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
        for folder in ("src", "tests", "benchmarks", "docs")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert not modules - files


def test_every_file_that_the_architecture_page_points_at_exists() -> None:
    page = ARCHITECTURE.read_text().split("## The tree")[0]
    paths = set(re.findall(r"`([a-z_]+/[a-z_/]+\.(?:py|yaml))`", page))
    roots = (ROOT, ROOT / "src" / "hydratune")
    assert paths and not [path for path in paths if not any((r / path).exists() for r in roots)]
