"""The examples of docs/howto/python.md with data frames, a loaded model and callbacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import doc_pages
from test_docs import python_blocks


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture
def example(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    """Execute the example of the page that has a text in it; return (printed, shown)."""
    monkeypatch.chdir(place)

    def execute(part: str, folder: str = "") -> tuple[str, str]:
        ((code, shown),) = [pair for pair in python_blocks("howto/python.md") if part in pair[0]]
        exec(code.replace("BASE", folder), {})
        return capsys.readouterr().out, shown

    return execute


@pytest.mark.slow
@pytest.mark.parametrize("part", ["pandas.DataFrame(", "model=model", "callbacks=["])
def test_an_example_prints_what_the_page_shows(
    part: str, example: Callable[..., tuple[str, str]], tiny: tuple[Any, Any, Any]
) -> None:
    printed, shown = example(part, tiny[1].name)
    assert shown and printed.endswith(shown)


def test_every_argument_of_train_is_on_the_page() -> None:
    text = (doc_pages.DOCS / "howto" / "python.md").read_text("utf-8")
    for argument in ("data=", "model=", "tokenizer=", "callbacks=", "directory="):
        assert argument in text
