"""What separates the columns of a CSV file: found in the first rows and stated, or set."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import SMALL
from hydratune.data.formats.delimiters import named_delimiter
from row_files import read_rows, statements_of

Command = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    ("name", "sign", "called"),
    [
        ("a.csv", ";", "semicolons"),
        ("a.csv", "\t", "tabs"),
        ("a.csv", "|", "pipes"),
        ("a.tsv", ",", "commas"),
    ],
)
def test_another_delimiter_is_found_and_stated(
    tmp_path: Path, name: str, sign: str, called: str
) -> None:
    """Signs of other kinds in cells, and in quoted cells, do not matter."""
    rows = [f'p{n}, or; so|{sign}"c{sign} {n}"' for n in range(3)]
    quoted = [f'"p{n}, or; so|"{sign}"c{sign} {n}"' for n in range(3)]
    header = f"prompt{sign}completion"
    lines = [header, *(quoted if sign in ",;|" else rows)]
    (tmp_path / name).write_text("\n".join(lines))
    read = read_rows(tmp_path / name, {})
    assert [row.answer for row in read] == [f"c{sign} {n}" for n in range(3)]
    assert read[0].prompt[0].content == "p0, or; so|"
    first = statements_of(tmp_path / name)[0]
    assert first == f"columns separated by {called}, as the first rows show"


def test_the_usual_delimiter_is_not_stated(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion;x\na,b;c\n")
    assert read_rows(tmp_path / "a.csv", {"prompt": "prompt", "completion": "completion;x"})
    text = "text\nOne column; nothing to separate.\n"
    (tmp_path / "b.csv").write_text(text)
    assert len(statements_of(tmp_path / "b.csv")) == 1


def test_a_long_file_is_not_read_for_it(tmp_path: Path) -> None:
    """A row after the first 50 that is broken is an error of that row."""
    rows = "".join(f"p{n};c{n}\n" for n in range(80))
    (tmp_path / "a.csv").write_text(f"prompt;completion\n{rows}x;y;z\n")
    with pytest.raises(Exception, match=r"a\.csv:82: more cells than the header has columns"):
        read_rows(tmp_path / "a.csv", {})


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("comma", ","),
        ("tab", "\t"),
        ("\\t", "\t"),
        ("~", "~"),
        ("ab", None),
        ("a", None),
        (" ", None),
    ],
)
def test_names_of_delimiters(text: str, sign: str | None) -> None:
    assert named_delimiter(text) == sign


def test_the_setting_overrides_and_is_checked(hydratune: Command, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt~completion\n" + "a~b\n" * 3)
    command = ("train", *SMALL, "data=files", "data.train=a.csv")
    code, text = hydratune(*command)
    assert code == 2 and "no known layout in the columns prompt~completion" in text
    code, text = hydratune(*command, "data.delimiter=colons")
    assert code == 2 and "one of: comma, semicolon, tab, pipe or one other character" in text
    _, text = hydratune("prepare", *command[1:], 'data.delimiter="~"', "output=prepared")
    assert "read as prompt/completion" in text
    (tmp_path / "a.jsonl").write_text("{}")
    code, text = hydratune(*command[:-1], "data.train=a.jsonl", "data.delimiter=tab")
    assert code == 2 and "none of the files is a CSV file" in text


def test_a_wrong_column_is_refused_before_torch_is_imported(
    hydratune: Command, tmp_path: Path
) -> None:
    import subprocess
    import sys

    (tmp_path / "a.csv").write_text("frage;antwort\na;b\n")
    script = (
        "import sys\nfrom hydratune.cli import main\n"
        "code = main(['train', 'data=files', 'data.train=a.csv'])\n"
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-2:] == ["2", "False"]
    assert "data.columns.prompt=YOURS" in done.stderr and "columns frage, antwort" in done.stderr
