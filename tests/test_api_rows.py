"""Rows in memory: errors name them as they were given, and a run finds them from any folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hydratune
from hydratune.api.rows import as_given
from hydratune.api.sweeping import _name
from hydratune.errors import DataError, InputError, RunError

Command = Callable[..., tuple[int, str]]
ROWS = [{"prompt": f"thing {i}?", "completion": ("red", "blue")[i % 2]} for i in range(40)]
SETTINGS = "debug=smoke evaluation.baselines=[] tracking=disabled"


def with_row(number: int, **values: object) -> list[dict[str, Any]]:
    """Return the rows with other values in the row of this number, which counts from 1."""
    return [dict(row, **(values if n == number else {})) for n, row in enumerate(ROWS, 1)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "my project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (with_row(8, completion=None), "data, train row 8: completion is empty"),
        ({"train": ROWS, "test": with_row(3, completion="")}, "data, test row 3: the assistant's"),
        ([{"foo": 1}, {"foo": 2}], "data, train row 1: no known layout in the columns foo"),
    ],
)
def test_a_wrong_row_is_named_as_it_was_given(rows: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        hydratune.train(SETTINGS, data=rows)
    assert str(caught.value).startswith(message) and "jsonl" not in str(caught.value)
    config = hydratune.compose(SETTINGS, data=rows)
    os.chdir("..")
    with pytest.raises(DataError) as caught:
        hydratune.train(config)
    assert str(caught.value).startswith(message)


def test_the_error_of_a_run_that_failed_names_the_row(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        hydratune.train(SETTINGS, data=with_row(8, completion=None), directory=tmp_path / "run")
    run = hydratune.Run(tmp_path / "run")
    with pytest.raises(RunError, match="data, train row 8: completion is empty"):
        run.metrics  # noqa: B018


def test_a_wrong_row_of_a_sweep_is_named_as_it_was_given() -> None:
    with pytest.raises(InputError, match="data, train row 1: no known layout"):
        hydratune.sweep(f"{SETTINGS} seed=0,1", data=[{"foo": 1}, {"foo": 2}])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{here}/outputs/rows/rows-0123456789ab/train.jsonl:12: x", "data, train row 12: x"),
        ("outputs/rows/rows-0123456789ab/test.jsonl: x", "data, test rows: x"),
        ("see '/a/b/outputs/rows/rows-0123456789ab/test.jsonl'", "see 'data, test rows'"),
        ("data/train.jsonl:12: x", "data/train.jsonl:12: x"),
    ],
)
def test_files_of_rows_are_recognised_in_a_text(here: Path, text: str, named: str) -> None:
    assert as_given(text.replace("{here}", str(here))) == named


def test_a_run_finds_its_rows_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: Command
) -> None:
    config = hydratune.compose(SETTINGS, data=ROWS)
    assert Path(config.data.train).is_absolute()  # type: ignore[attr-defined]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = hydratune.train(config, directory=tmp_path / "run")
    assert run.state == "finished"
    code, text = command_line("evaluate", f"run={run.path}")
    assert code == 0, text


def test_a_sweep_over_rows_has_the_same_name_in_every_folder(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = "outputs/rows/rows-0123456789ab/train.jsonl"
    name = _name(["seed=0,1", f"data.train={here / file}"])
    monkeypatch.chdir(tmp_path)
    assert _name(["seed=0,1", f"data.train={tmp_path / file}"]) == name
