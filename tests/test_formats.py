import json
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.data import formats
from hydratune.data.rows import Row
from hydratune.errors import DataError

QUESTION, ANSWER = "What is the capital of France?", 'Paris, "of course".\nSince 987.'
LAYOUTS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]},
    "sharegpt": {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
    "alpaca": {"instruction": QUESTION, "input": "", "output": ANSWER},
    "prompt/completion": {"prompt": QUESTION, "completion": ANSWER},
    "prompt/response": {"prompt": QUESTION, "response": ANSWER},
    "question/answer": {"question": QUESTION, "answer": ANSWER},
    "instruction/output": {"instruction": QUESTION, "output": ANSWER},
    "conversational prompt/completion": {
        "prompt": [{"role": "user", "content": QUESTION}],
        "completion": [{"role": "assistant", "content": ANSWER}],
    },
}
TYPES = ("jsonl", "json", "csv", "tsv", "parquet")


def read_file(*args: Any) -> list[Row]:
    return list(formats.read_file(*args))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "conversational prompt/completion"])
def test_every_layout_in_every_file_type_gives_the_same_row(tmp_path: Path, layout: str, kind: str) -> None:
    (row,) = read_file(write_rows(tmp_path / f"rows.{kind}", [LAYOUTS[layout]]), {})
    assert [(m.role, m.content) for m in row.messages] == [("user", QUESTION), ("assistant", ANSWER)]


def test_prompt_and_completion_may_be_lists_of_turns(tmp_path: Path) -> None:
    (row,) = read_file(write_rows(tmp_path / "rows.jsonl", [LAYOUTS["conversational prompt/completion"]]), {})
    assert [(m.role, m.content) for m in row.messages] == [("user", QUESTION), ("assistant", ANSWER)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a \\ud83d", "completion": "b"}', "half a character"),
        ('{"prompt": ' + "[" * 200_000, "nested too deeply"),
    ],
)
def test_strange_text_is_refused_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' + line + "\n")
    with pytest.raises(DataError, match=words) as caught:
        read_file(tmp_path / "rows.jsonl", {})
    assert "rows.jsonl:2" in str(caught.value)


def test_what_was_recognised_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        read_file(write_rows(tmp_path / "rows.jsonl", [LAYOUTS["alpaca"]]), {})
    assert "read as alpaca" in caplog.text


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.csv", [{"frage": "a", "antwort": "b", "kunde": "c"}])
    (row,) = read_file(path, {"prompt": "frage", "completion": "antwort", "group": "kunde"})
    assert (row.prompt[0].content, row.answer, row.group) == ("a", "b", "c")
    with pytest.raises(DataError, match="no such column"):
        read_file(path, {"prompt": "question"})


def test_system_column_and_alpaca_input(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"system": "s", "instruction": "i", "input": "x", "output": "o"}])
    (row,) = read_file(path, {})
    assert [(m.role, m.content) for m in row.messages] == [("system", "s"), ("user", "i\n\nx"), ("assistant", "o")]


def test_rare_line_separators_stay_in_their_cell(tmp_path: Path) -> None:
    text = "one\u2028two\x0cthree\x85four"
    for kind in ("csv", "jsonl"):
        (row,) = read_file(write_rows(tmp_path / f"rows.{kind}", [{"prompt": "q", "completion": text}]), {})
        assert row.answer == text


def test_alpaca_input_is_kept_where_only_some_rows_have_it(tmp_path: Path) -> None:
    records = [{"instruction": "i", "output": "o"}, {"instruction": "i", "input": "x", "output": "o"}]
    assert [r.prompt[0].content for r in read_file(write_rows(tmp_path / "rows.jsonl", records), {})] == ["i", "i\n\nx"]


def test_openai_content_parts_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    records = [{"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "b"}]}]
    assert read_file(write_rows(tmp_path / "rows.jsonl", records), {})[0].prompt[0].content == "hello"


def test_answer_that_is_an_object_becomes_json(tmp_path: Path) -> None:
    (row,) = read_file(write_rows(tmp_path / "rows.jsonl", [{"prompt": "p", "completion": {"a": 1}}]), {})
    assert row.answer == '{"a": 1}'


def test_stated_encoding_is_used(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"prompt": "café", "completion": "b"}\n'.encode("latin-1"))
    assert read_file(path, {}, "latin-1")[0].prompt[0].content == "café"


def turns(*roles: str) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": "x"} for role in roles]}).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b"\n\n", "no rows"),
        ("a.docx", b"hello", "unknown file type"),
        ("a.jsonl", b"\x89PNG\r\n\x00\x00\x00", "binary"),
        ("a.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": "caf\xe9"', r"a\.jsonl:2: not utf-8"),
        ("a.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", \n', r"a\.jsonl:2: broken JSON"),
        ("a.jsonl", b'["a"]\n', "must be a JSON object"),
        ("a.jsonl", b'{"foo": "a", "bar": "b"}\n', "no known layout in the columns foo, bar"),
        ("a.jsonl", b'{"prompt": "a", "completion": null}\n', "completion is empty"),
        ("a.jsonl", b'{"prompt": "a", "completion": " "}\n', "answer is empty"),
        ("a.jsonl", turns("user"), "no assistant turn"),
        ("a.jsonl", turns("user", "assistant", "user"), "last turn must be the assistant"),
        ("a.jsonl", turns("assistant"), "out of order"),
        ("a.jsonl", turns("user", "user", "assistant"), "out of order"),
        ("a.jsonl", turns("user", "system", "assistant"), "system turn can only come first"),
        ("a.jsonl", turns("human", "assistant"), "unknown role 'human'"),
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
def test_bad_file_is_refused_with_its_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_file(tmp_path / name, {})


def test_columns_that_are_named_win_over_a_known_layout(tmp_path: Path) -> None:
    record = {"instruction": "wrong", "output": "wrong", "question": QUESTION, "answer": ANSWER, "customer": "c1"}
    file = write_rows(tmp_path / "rows.csv", [record])
    (row,) = read_file(file, {"prompt": "question", "completion": "answer", "group": "customer"})
    assert [m.content for m in row.messages] == [QUESTION, ANSWER] and row.group == "c1"
    (row,) = read_file(file, {"group": "customer"})  # names no text column: the layout is recognised
    assert [m.content for m in row.messages] == ["wrong", "wrong"] and row.group == "c1"


def test_wrong_encoding_and_wrong_delimiter_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("prompt,completion\na,b\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"data\.encoding=utf-16"):
        read_file(tmp_path / "a.csv", {})
    assert read_file(tmp_path / "a.csv", {}, "utf-16")[0].answer == "b"
    (tmp_path / "b.csv").write_text("prompt;completion\na;b\n")
    with pytest.raises(DataError, match="semicolons"):
        read_file(tmp_path / "b.csv", {})
