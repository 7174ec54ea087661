"""Control characters in files and settings do not reach the terminal or the log."""

import logging
from pathlib import Path

import pytest

from conftest import SMALL, write_rows
from hydratune import console
from prepare_inputs import ROWS, Run, run_prepare

CONTROLS = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202eabc\u2066\x7f\r\x08"


def test_control_characters_are_escaped() -> None:
    shown = console.escape_controls(CONTROLS + "\udc80 tab\tline\nÄ日本\u200d")
    assert shown == (
        r"\x1b[31mred\x1b]0;title\x07\x9b2J\u202eabc\u2066\x7f\x0d\x08\udc80"
        " tab\tline\nÄ日本\u200d"
    )


def control_characters(text: str) -> list[str]:
    """Return the characters of ``text`` that control a terminal."""
    return [c for c in text if ord(c) in console._ESCAPES]


def test_row_ids_and_cells_are_escaped_on_the_terminal(hydratune: Run, tmp_path: Path) -> None:
    rows = [{**row, "id": f"{CONTROLS}{n}"} for n, row in enumerate(ROWS)]
    write_rows(
        tmp_path / "rows.jsonl",
        [*rows, rows[0], {"id": CONTROLS, "prompt": CONTROLS, "completion": CONTROLS}],
    )
    code, output = run_prepare(
        hydratune,
        "data.train=rows.jsonl",
        "data.quality.duplicate_ids=error",
        "data.quality.ungrounded=error",
    )
    assert code == 2 and not control_characters(output) and r"\x1b[31mred" in output, output
    _, output = run_prepare(hydratune, "data.train=rows.jsonl", "preview=2")
    assert not control_characters(output) and r"\x1b" in output, output


@pytest.mark.parametrize(
    "broken",
    [
        '{"prompt": "a", "completion": 1, "\x1b[31m',
        '{"prompt": "a", "\\u001b[2Jx": {"y": 1}, "completion": []}',
    ],
)
def test_errors_about_files_with_control_characters_in_their_names_are_escaped(
    broken: str, hydratune: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "f\x1b]0;owned\x07\u202e"
    folder.mkdir()
    (folder / "r\x1b[2J.jsonl").write_text(broken + "\n")
    code, output = run_prepare(hydratune, f'data.train="{folder}/r\x1b[2J.jsonl"')
    assert code == 2 and not control_characters(output), output


def test_a_run_with_control_characters_prints_and_logs_none(hydratune: Run, tmp_path: Path) -> None:
    (tmp_path / "f\x1b[31m").mkdir()
    rows = [
        {
            "id": f"{n}{CONTROLS}",
            "prompt": f"Say {n}{CONTROLS}",
            "completion": f"[/bold]{CONTROLS} {n % 2}",
        }
        for n in range(20)
    ]
    file = write_rows(tmp_path / "f\x1b[31m" / "rows.jsonl", rows)
    settings = [
        "data=files",
        f'data.train="{file}"',
        "evaluation.metrics=[label]",
        "data.clean.text=false",
    ]
    code, output = hydratune("train", *SMALL, *settings, 'hydra.run.dir="run\x1b[31m[red]"')
    assert not control_characters(output), output
    if code == 0:
        for log in Path().glob("run*/run.log"):
            assert not control_characters(log.read_text())
        code, output = hydratune("compare", *map(str, Path().glob("run*")))
        assert not control_characters(output), output


def test_markup_in_a_folder_name_is_printed_as_text(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    code, output = hydratune(
        "prepare", "model=tiny", "data=files", "data.train=rows.jsonl", 'output="out[red]x"'
    )
    assert code == 0 and "out[red]x/report.html" in output


def test_the_log_has_no_control_characters() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "row %s", (CONTROLS,), None)
    assert not control_characters(console.LineFormatter("%(message)s").format(record))


def test_a_traceback_has_no_control_characters(
    hydratune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRATUNE_TRACEBACK", "1")
    code, output = run_prepare(hydratune, "data.train=no\x1b[31m.jsonl")
    assert code == 2 and not control_characters(output)
    assert not control_characters(hydratune("pre\x1b[31mpare")[1])


def test_nothing_is_logged_after_the_end(tmp_path: Path) -> None:
    handler = console.LogFile(tmp_path / "run.log", encoding="utf-8")
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "text", None, None)
    handler.handle(record)
    handler.close()
    handler.handle(record)
    assert handler.stream is None and (tmp_path / "run.log").read_text() == "text\n"
