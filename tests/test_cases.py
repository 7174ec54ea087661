"""All case studies: their rows, settings and runs. Published files are used if present."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from case_rows import FOLDERS, SOURCE, published_folder
from conftest import SHARED_DATA, SMALL
from hydratune.data.answers import is_valid_answer, json_schema
from hydratune.data.cases.base import CaseData
from hydratune.data.sets import RowSets, load_sets
from hydratune.errors import ConfigError, DataError
from hydratune.settings.data import DataConfig
from hydratune.settings.registry import variants
from test_config import compose

LARGE = ("snips", "tech_support", "brand_style", "repository")  # up to half a minute to prepare
CASES = [name for name, kind in variants("data").items() if issubclass(kind, CaseData)]


def marked(names: Iterable[str]) -> list[Any]:
    """Return parameters of a test, the large cases among them as slow ones."""
    slow = pytest.mark.slow
    return [pytest.param(name, marks=slow) if name in LARGE else name for name in names]


@pytest.fixture(scope="module", params=marked([*FOLDERS, "repository"]))
def case(request: pytest.FixtureRequest) -> tuple[DataConfig, RowSets]:
    """(settings of the shipped experiment, all its rows) of every case."""
    name = request.param
    folder = str(SOURCE) if name == "repository" else published_folder(name)
    extra = (
        [f"data.tldr={SHARED_DATA / 'tldr'}"]
        if name == "tech_support" and (SHARED_DATA / "tldr").is_dir()
        else []
    )
    everything = [f"data.max_{split}_rows=null" for split in ("train", "validation", "test")]
    data = compose(f"experiment={name}", f"data.path={folder}", *extra, *everything).data
    return data, load_sets(data, 0)


def test_ids_are_unique(case: tuple[DataConfig, RowSets]) -> None:
    assert max(Counter(row.id for _, rows in case[1].items() for row in rows).values()) == 1


def test_no_group_is_on_two_sides(case: tuple[DataConfig, RowSets]) -> None:
    groups = [{row.group for row in rows} - {None} for _, rows in case[1].items()]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


def test_rows_have_the_cases_system_prompt_and_texts(case: tuple[DataConfig, RowSets]) -> None:
    data, sets = case
    for rows in (sets.train, sets.validation, sets.test):
        assert all(
            [m.role for m in row.messages] == ["system", "user", "assistant"] for row in rows
        )
        assert {row.messages[0].content for row in rows} == {data.system_prompt}
        assert all(
            m.content.strip() and "\r" not in m.content for row in rows for m in row.messages
        )


def test_answers_are_valid_under_the_cases_schema(case: tuple[DataConfig, RowSets]) -> None:
    schema = json_schema(case[0])
    if schema is None:
        return
    assert [
        row.id
        for _, rows in case[1].items()
        for row in rows
        if not is_valid_answer(row.answer, schema)
    ] == []


@pytest.mark.parametrize("name", CASES)
def test_missing_folder_is_refused_before_anything_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no such folder") as caught:
        compose(f"experiment={name}", f"data.path={tmp_path}/none").check()
    assert [p.key for p in caught.value.problems] == ["data.path"]


@pytest.mark.parametrize("name", CASES)
def test_empty_folder_is_refused_with_what_to_give(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"data\.path = {re.escape(str(tmp_path))}: ") as caught:
        load_sets(compose(f"experiment={name}", f"data.path={tmp_path}").data, 0)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "option",
    [f"{group}={name}" for group in ("data", "experiment") for name in [*CASES, "earnings_call"]],
)
def test_every_case_states_its_command_and_the_licence_of_its_data(option: str) -> None:
    from hydratune.composition import CONF

    group, name = option.split("=")
    head = (CONF / group / f"{name}.yaml").read_text().partition("defaults:")[0]
    assert f"{option} data." in head
    assert group == "experiment" or re.search(r"[Ll]icence|CC0", head)


def earnings_calls(folder: Path) -> Path:
    lines = [
        f'"Operator: welcome. Revenue was {n} million.",Revenue was {n} million.,firm{n % 7}'
        for n in range(40)
    ]
    (folder / "calls.csv").write_text("transcript,summary,company\n" + "\n".join(lines) + "\n")
    return folder / "calls.csv"


@pytest.mark.parametrize("name", marked([*CASES, "earnings_call"]))
def test_experiment_runs_from_the_command_line(
    tmp_path: Path, hydratune: Callable[..., tuple[int, str]], name: str
) -> None:
    if name == "earnings_call":
        source = [
            f"data.train={earnings_calls(tmp_path)}",
            "data.columns.group=company",
            "data.max_length=2048",
        ]
    else:
        source = [f"data.path={SOURCE if name == 'repository' else published_folder(name)}"]
    code, printed = hydratune(
        "train", f"experiment={name}", *SMALL, "data.max_length=2048", *source, "hydra.run.dir=run"
    )
    assert code == 0, printed
    kept = json.loads((tmp_path / "run" / "data.json").read_text())
    assert kept["splits"]["test"]["kept"] == 2, kept
