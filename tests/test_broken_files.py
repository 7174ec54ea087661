"""Files that cannot be read: each is refused with its place and a fix."""

import json
from pathlib import Path

import pytest

from conftest import write_rows
from hydratune.errors import DataError
from row_files import SHORT_PAIR, read_rows


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a \\ud83d", "completion": "b"}', "half a character"),
        ('{"prompt": ' + "[" * 200_000, "nested too deeply"),
    ],
)
def test_unreadable_text_is_refused_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' + line + "\n")
    with pytest.raises(DataError, match=words) as caught:
        read_rows(tmp_path / "rows.jsonl", {})
    assert "rows.jsonl:2" in str(caught.value)


def chat_bytes(*roles: str) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": "x"} for role in roles]}).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b"\n\n", "no rows"),
        ("a.docx", b"hello", "unknown file type"),
        ("a.jsonl", b"\x89PNG\r\n\x00\x00\x00", "binary"),
        (
            "a.jsonl",
            b'{"prompt": "a", "completion": "b"}\n{"prompt": "caf\xe9"',
            r"a\.jsonl:2: not utf-8",
        ),
        (
            "a.jsonl",
            b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", \n',
            r"a\.jsonl:2: broken JSON",
        ),
        ("a.jsonl", b'["a"]\n', "must be a JSON object"),
        ("a.jsonl", b'{"foo": "a", "bar": "b"}\n', "no known layout in the columns foo, bar"),
        ("a.jsonl", b'{"prompt": "a", "completion": null}\n', "completion is empty"),
        ("a.jsonl", b'{"prompt": "a", "completion": " "}\n', "answer is empty"),
        ("a.jsonl", chat_bytes("user"), "no assistant turn"),
        ("a.jsonl", chat_bytes("user", "assistant", "user"), "last turn must be the assistant"),
        ("a.jsonl", chat_bytes("assistant"), "out of order"),
        ("a.jsonl", chat_bytes("user", "user", "assistant"), "out of order"),
        ("a.jsonl", chat_bytes("user", "system", "assistant"), "system turn can only come first"),
        ("a.jsonl", chat_bytes("narrator", "assistant"), "unknown role 'narrator'"),
        ("a.jsonl", b'{"messages": []}', "at least one turn"),
        ("a.jsonl", b'{"messages": [{"text": "a"}]}', "needs 'role' and 'content'"),
        ("a.json", b'{"prompt": "a"}\n{"prompt": "b"}', "name it .jsonl"),
        ("a.json", b'{"a": 1}', "list of rows"),
        ("a.csv", b"prompt,completion\na,b,c\n", r"a\.csv:2: more cells"),
        ("a.csv", b"prompt,completion\na\n", r"a\.csv:2: fewer cells"),
        ("a.csv", b'prompt,completion\na,"b\n', "broken CSV"),
        ("a.parquet", b"PAR1 but not really", "not a readable Parquet"),
    ],
)
def test_bad_file_is_refused_with_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name, {})


def test_wrong_encoding_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("prompt,completion\na,b\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"data\.encoding=utf-16"):
        read_rows(tmp_path / "a.csv", {})
    assert read_rows(tmp_path / "a.csv", {}, "utf-16")[0].answer == "b"


def test_utf_16_is_stated_and_the_file_has_no_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion\na,bcd\n")  # an even number of bytes
    with pytest.raises(DataError, match=r"a\.csv: not utf-16; save the file as UTF-8"):
        read_rows(tmp_path / "a.csv", {}, "utf-16")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"prompt": "p", "completion": "c"}\n{"prompt": "p", "completion": '
            + b"1" * 5000
            + b"}",
            r"a\.jsonl:2: .*digits",
        ),
        (
            "a.json",
            b'[{"prompt": "p",\n"completion": ' + b"1" * 5000 + b"}]",
            r"a\.json:2: .*digits",
        ),
        (
            "a.csv",
            b"prompt,completion\rhello a,b\r",
            r"a\.csv:1: broken CSV .*save the file with line feeds",
        ),
        (
            "a.csv",
            b"prompt,completion\nhello a,b\na\rb,c\n",
            r"a\.csv:3: broken CSV .*save the file with line feeds",
        ),
        (
            "a.csv",
            b"prompt|completion\na|b|c\n",
            r"a\.csv:1: the header has pipes, .* say it: data\.delimiter=pipe",
        ),
        (
            "a.csv",
            b"\nprompt\tcompletion;n\na\tb;c\n",
            r"a\.csv:2: the header has semicolons and tabs, .*=semicolon or data\.delimiter=tab",
        ),
        (
            "a.tsv",
            b"prompt,completion\na\n",
            r"a\.tsv:1: the header has commas, .* say it: data\.delimiter=comma",
        ),
        (
            "a.tsv",
            b'prompt\tcompletion\nx\ty\n5\t"good\n7" x\ty\n',
            r"a\.tsv:3: broken CSV .*quotes inside it are doubled",
        ),
        ("a.csv", "prompt,completion\na,b\n".encode("utf-16-le"), r"data\.encoding=utf-16-le"),
        ("a.csv", "prompt,completion\na,b\n".encode("utf-16-be"), r"data\.encoding=utf-16-be"),
        ("a.jsonl.gz", b"\x1f\x8b", "unpack it first"),
        ("a.zip", b"PK", "unpack it first"),
        ("a.xlsx", b"PK", "export the sheet as CSV"),
        (
            "a.jsonl",
            b'{"prompt": "p", "completion": "x", "completion": "y"}',
            r"a\.jsonl:1: the key 'completion' occurs twice",
        ),
        (
            "a.jsonl",
            b'{"prompt": "p", "completion": {"a": 1, "a": 2}}',
            r"a\.jsonl:1: the key 'a' occurs twice",
        ),
        (
            "a.json",
            b'[{"prompt": "p", "completion": "x", "completion": "y"}]',
            r"a\.json: the key 'completion' occurs twice",
        ),
        (
            "a.jsonl",
            b'{"prompt": "p", "completion": "c"}\n{"question": "p", "completion": "c"}',
            r"a\.jsonl:2: no column 'prompt' in this row; it has: question, completion",
        ),
        (
            "a.jsonl",
            b'{"prompt": "p", "completion": "c"}\n{"prompt": null, "completion": "c"}',
            r"a\.jsonl:2: prompt is empty \(null\)",
        ),
    ],
)
def test_broken_file_is_refused_with_its_place_and_a_fix(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name, {})


@pytest.mark.parametrize("encoding", ["hex", "rot13", "klingon", "a\0b", "undefined"])
def test_unknown_encodings_are_refused(tmp_path: Path, encoding: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [SHORT_PAIR])
    with pytest.raises(DataError, match=r"rows\.jsonl: .*data\.encoding"):
        read_rows(path, {}, encoding)
