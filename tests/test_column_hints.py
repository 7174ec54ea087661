"""Hints that name columns with spaces are typed as they are printed."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL, write_rows

Command = Callable[..., tuple[int, str]]
CHAT = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This one."}]


@pytest.mark.parametrize(
    ("record", "settings"),
    [
        ({"my turns": CHAT}, ["data.columns.messages=my turns"]),
        (
            {"text": "Which?", "Label": "x", "other column": 1},
            ["data.columns.prompt=text", "data.columns.completion=Label"],
        ),
        (
            {"prompt": "Which?", "completion": "This.", "is good": False},
            ["+data.keep={is good: any}"],
        ),
        (
            {"prompt": "Which?", "completion": "This.", "label ok?": False},
            ["+data.keep={label ok?: any}"],
        ),
        (
            {"question": "Which?", "context": "Of two.", "chosen": "This.", "rejected": "That."},
            ["data.columns.prompt=question", "data.columns.completion=chosen"],
        ),
    ],
)
def test_the_hint_is_read_and_then_the_file(
    hydratune: Command, tmp_path: Path, record: dict[str, Any], settings: list[str]
) -> None:
    """The rows are read with it, so that only their number is found wanting."""
    write_rows(tmp_path / "a.jsonl", [record] * 3)
    command = ("prepare", *SMALL, "data=files", "data.train=a.jsonl")
    code, text = hydratune(*command)
    assert code == 2
    typed = [re.escape(shlex.quote(setting)) + "|" + re.escape(setting) for setting in settings]
    assert all(re.search(setting, text) for setting in typed), text
    code, text = hydratune(*command, *settings)
    assert "training needs rows in all three splits" in text or code == 0, text


def test_the_example_has_the_quotes_of_the_shell(hydratune: Command, tmp_path: Path) -> None:
    rows = [{"my query": f"Which of {n}?", "my reply": f"{n} is."} for n in range(3)]
    write_rows(tmp_path / "a.csv", rows)
    code, text = hydratune("train", *SMALL, "data=files", "data.train=a.csv")
    assert code == 2 and "(with quotes: 'data.columns.prompt=my query')" in text


def test_a_part_of_a_mixture_is_named_in_the_hint(hydratune: Command, tmp_path: Path) -> None:
    write_rows(
        tmp_path / "a.jsonl", [{"my text": f"Which of {n}?", "reply": "x"} for n in range(3)]
    )
    part = "data.parts.own"
    command = ("prepare", *SMALL, "data=mixed", f"{part}.source=files", f"{part}.train=a.jsonl")
    code, text = hydratune(*command)
    assert code == 2 and "data.columns" not in text
    assert f"Name yours: {part}.columns.prompt=YOURS {part}.columns.completion=YOURS" in text
    words = (f"{part}.columns.prompt=my text", f"{part}.columns.completion=reply")
    code, text = hydratune(*command, *words)
    assert "training needs rows in all three splits" in text or code == 0, text


def test_a_mapping_of_another_command_is_no_setting(hydratune: Command) -> None:
    code, text = hydratune("train", *SMALL, "columns.prompt=question")
    assert code == 2 and "columns.prompt = question\n    why: there is no such setting" in text
    code, text = hydratune("train", *SMALL, "data.columns.prompt=question")
    assert code == 2 and "add data=files 'data.columns={prompt:question}'" in text
