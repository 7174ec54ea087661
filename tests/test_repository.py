"""The reader of a code repository."""

import ast
from pathlib import Path
from typing import Any

import pytest

from case_rows import SOURCE, question, rows_of
from hydratune.data.cases.repository import CodeTask, RepositoryData
from hydratune.errors import ConfigError, DataError
from test_config import compose

CODE = '''
import functools


class Box:
    """A box."""

    @functools.cache
    def volume(self, unit: str = "m") -> str:
        """How much goes in.

        In ``unit``.
        """
        # the product of its sides
        text = """one
    two"""
        return text + (
            "a"
            f"{unit}"
        )


def undocumented(x):
    y = x
    return y


def placeholder():
    """To be written."""
    ...


def short(): "One line."; return 1
'''
TESTS = """
from box import Box, undocumented


def test_everything():
    box = Box()
    assert box.volume()
    assert undocumented(1) == 1


def test_volume():
    assert Box().volume("l")
"""


def code_base(folder: Path, **options: Any) -> RepositoryData:
    (folder / "tests").mkdir()
    (folder / "box.py").write_text(CODE)
    (folder / "tests" / "test_box.py").write_text(TESTS)
    return RepositoryData(path=str(folder), **options)


def test_function_gives_its_body_docstring_and_test(tmp_path: Path) -> None:
    rows = {row.id: row for row in rows_of(code_base(tmp_path))}
    assert set(rows) == {
        "box.py:Box.volume:body",
        "box.py:Box.volume:docstring",
        "box.py:Box.volume:test",
        "box.py:undocumented:test",
        "box.py:placeholder:docstring",
    }
    body = rows["box.py:Box.volume:body"]
    assert question(body).startswith("Write the body of this method of class Box of box.py.")
    assert question(body).endswith(
        '\n@functools.cache\ndef volume(self, unit: str = "m") -> str:\n    """How much goes'
        ' in.\n\n    In ``unit``.\n    """'
    )
    assert (
        body.answer
        == '# the product of its sides\ntext = """one\n    two"""\nreturn text + (\n    "a"\n   '
        ' f"{unit}"\n)'
    )
    assert rows["box.py:Box.volume:docstring"].answer == "How much goes in.\n\nIn ``unit``."
    assert "How much goes in" not in question(rows["box.py:Box.volume:docstring"])
    assert (
        rows["box.py:Box.volume:test"].answer == 'def test_volume():\n    assert Box().volume("l")'
    )
    assert rows["box.py:undocumented:test"].answer.startswith("def test_everything")
    assert {row.group for row in rows.values()} == {"box.py"}
    assert body.where == "box.py:8"


def test_only_the_configured_tasks_and_sizes_are_read(tmp_path: Path) -> None:
    data = code_base(tmp_path, tasks=[CodeTask.docstring], max_lines=4)
    assert [row.id for row in rows_of(data)] == ["box.py:placeholder:docstring"]


def test_name_defined_twice_keeps_its_id_unique(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text('def f():\n    """Doc."""\n    return 1\n' * 2)
    assert len({row.id for row in rows_of(RepositoryData(path=str(tmp_path)))}) == 8


def test_excluded_folders_and_environments_are_not_read(tmp_path: Path) -> None:
    code = 'def f():\n    """Doc."""\n    return 1\n'
    for folder in (".hidden", "a/node_modules/b", "myenv/lib", "kept", "kept/gen"):
        # excluded names above the folder do not count
        (tmp_path / "build" / folder).mkdir(parents=True)
        (tmp_path / "build" / folder / "x.py").write_text(code)
    (tmp_path / "build" / "myenv" / "pyvenv.cfg").write_text("")
    path = str(tmp_path / "build")
    assert {row.group for row in rows_of(RepositoryData(path=path))} == {
        "kept/x.py",
        "kept/gen/x.py",
    }
    assert {
        row.group
        for row in rows_of(RepositoryData(path=path, exclude=[".*", "a", "myenv", "kept/gen"]))
    } == {"kept/x.py"}


@pytest.mark.parametrize(
    "raw", [b"def f(:\n", b"x = '\xff'\n", b"# coding: nonsense\n", b"x = '\0'\n"]
)
def test_file_that_does_not_parse_is_skipped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, raw: bytes
) -> None:
    data = code_base(tmp_path)
    (tmp_path / "broken.py").write_bytes(raw)
    assert len(rows_of(data)) == 5
    assert "1 files do not parse and are skipped: broken.py (" in caplog.text


def test_code_is_not_run_and_its_warnings_are_ignored(tmp_path: Path) -> None:
    data = code_base(tmp_path)
    (tmp_path / "loud.py").write_text("x = '\\d'\nraise SystemExit('imported')\n")
    assert len(rows_of(data)) == 5


def test_code_base_without_usable_functions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(DataError, match="1 file with 0 functions, but none gives a row"):
        rows_of(RepositoryData(path=str(tmp_path)))
    (tmp_path / "a.py").write_text("def f(:\n")
    with pytest.raises(DataError, match=r"no Python file that parses \(1 do not\)"):
        rows_of(RepositoryData(path=str(tmp_path)))


def test_empty_tasks_and_impossible_sizes_are_refused(tmp_path: Path) -> None:
    overrides = [f"data.path={tmp_path}", "data.tasks=[]", "data.min_lines=9", "data.max_lines=3"]
    with pytest.raises(ConfigError) as caught:
        compose("data=repository", *overrides).check()
    assert [p.key for p in caught.value.problems] == ["data.tasks", "data.max_lines"]


@pytest.mark.slow
def test_bodies_of_this_projects_functions_parse_and_have_no_docstring() -> None:
    rows = [row for row in rows_of(RepositoryData(path=str(SOURCE))) if row.meta["task"] == "body"]
    assert len(rows) > 100
    for row in rows:
        ast.parse(row.answer)
        assert not row.answer.startswith((" ", '"""'))
