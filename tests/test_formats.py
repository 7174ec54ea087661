"""Layouts and file types that give the same row, documents, and answers that become JSON."""

from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from row_files import read_row, read_rows, statements_of

QUESTION, ANSWER = "What is the capital of France?", 'Paris, "of course".\nSince 987.'
LAYOUTS: dict[str, dict[str, Any]] = {
    "messages": {
        "messages": [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": ANSWER},
        ]
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]
    },
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


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "layout", [name for name in LAYOUTS if name != "conversational prompt/completion"]
)
def test_every_layout_in_every_file_type_gives_the_same_row(
    tmp_path: Path, layout: str, kind: str
) -> None:
    (row,) = read_rows(write_rows(tmp_path / f"rows.{kind}", [LAYOUTS[layout]]), {})
    assert [(m.role, m.content) for m in row.messages] == [
        ("user", QUESTION),
        ("assistant", ANSWER),
    ]


def test_prompt_and_completion_may_be_lists_of_turns(tmp_path: Path) -> None:
    (row,) = read_rows(
        write_rows(tmp_path / "rows.jsonl", [LAYOUTS["conversational prompt/completion"]]), {}
    )
    assert [(m.role, m.content) for m in row.messages] == [
        ("user", QUESTION),
        ("assistant", ANSWER),
    ]


def test_the_recognised_layout_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        read_rows(write_rows(tmp_path / "rows.jsonl", [LAYOUTS["alpaca"]]), {})
    assert "read as alpaca" in caplog.text


def test_rare_line_separators_stay_in_their_cell(tmp_path: Path) -> None:
    text = "one\u2028two\x0cthree\x85four"
    for kind in ("csv", "jsonl"):
        (row,) = read_rows(
            write_rows(tmp_path / f"rows.{kind}", [{"prompt": "q", "completion": text}]), {}
        )
        assert row.answer == text


def test_openai_content_parts_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    records = [
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "b"}]}
    ]
    assert (
        read_rows(write_rows(tmp_path / "rows.jsonl", records), {})[0].prompt[0].content == "hello"
    )


def test_answer_that_is_an_object_becomes_json(tmp_path: Path) -> None:
    (row,) = read_rows(
        write_rows(tmp_path / "rows.jsonl", [{"prompt": "p", "completion": {"a": 1}}]), {}
    )
    assert row.answer == '{"a": 1}'


def test_stated_encoding_is_used(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"prompt": "café", "completion": "b"}\n'.encode("latin-1"))
    assert read_rows(path, {}, "latin-1")[0].prompt[0].content == "café"


def test_text_column_alone_is_a_document(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        row = read_row(
            tmp_path / "a.jsonl", {"text": "Once upon a time", "source": "a book", "id": 7}
        )
    assert row.is_text and row.answer == "Once upon a time" and row.prompt == () and row.id == "7"
    assert "read as text" in caplog.text
    assert read_row(tmp_path / "b.csv", {"body": "Once", "label": "x"}, {"text": "body"}).is_text
    with pytest.raises(DataError, match="no known layout in the columns text, prompt"):
        read_row(tmp_path / "c.jsonl", {"text": "a", "prompt": "b"})


@pytest.mark.parametrize(
    ("columns", "advice"),
    [
        (
            ("question", "anser"),
            "Is anser meant as answer? Then type data.columns.question=question"
            " data.columns.answer=anser",
        ),
        (
            ("Prompt", "Completion"),
            "Is Prompt meant as prompt and Completion meant as completion? Then type"
            " data.columns.prompt=Prompt data.columns.completion=Completion",
        ),
        (("frage", "antwort"), "Name yours: data.columns.prompt=YOURS"),
    ],
)
def test_misspelled_columns_are_recognised(
    columns: tuple[str, str], advice: str, tmp_path: Path
) -> None:
    row = dict.fromkeys(columns, "a")
    with pytest.raises(DataError, match="question/answer") as caught:
        read_row(tmp_path / "a.jsonl", row)
    assert advice in str(caught.value)
    if "Then type " in advice:
        typed = advice.partition("Then type ")[2].split()
        words = (word.removeprefix("data.columns.").partition("=") for word in typed)
        assert read_row(tmp_path / "b.jsonl", row, {k: v for k, _, v in words}).answer == "a"


def test_documents_are_split_by_their_text() -> None:
    from hydratune.data.splits import place

    documents = [Row(str(i), (Message("text", f"document {i}"),)) for i in range(50)]
    assert len({place(document) for document in documents}) == 50


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ({"a": "ü"}, '{"a": "ü"}'),
        (["a", 1], '["a", 1]'),
        ([], "[]"),
        ([{"type": "file", "name": "a"}], '[{"type": "file", "name": "a"}]'),
        ([{"type": "PERSON", "text": "Bob"}], '[{"type": "PERSON", "text": "Bob"}]'),
        (True, "true"),
    ],
)
def test_answers_that_become_json_are_counted(tmp_path: Path, completion: Any, answer: str) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl",
        [{"prompt": "p", "completion": c} for c in (completion, "text", completion)],
    )
    assert [row.answer for row in read_rows(path, {})] == [answer, "text", answer]
    assert statements_of(path)[1:] == [
        "answers that are objects, lists, true or false became JSON (2 rows)"
    ]


def test_numbers_are_text(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": 7, "completion": 0.5}])
    (row,) = read_rows(path, {})
    assert (row.prompt[0].content, row.answer) == ("7", "0.5") and len(statements_of(path)) == 1


@pytest.mark.parametrize(
    ("written", "stated"),
    [
        ("utf-16", "utf-16-le"),
        ("utf-16", "UTF16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-8-sig", "utf-8"),
    ],
)
def test_byte_order_mark_is_not_part_of_the_first_column(
    tmp_path: Path, written: str, stated: str
) -> None:
    (tmp_path / "a.csv").write_bytes("prompt,completion\na,b\n".encode(written))
    assert read_rows(tmp_path / "a.csv", {}, stated)[0].answer == "b"


def test_empty_lines_before_a_header_are_skipped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\n\nprompt,completion\n\n"a\nb",c\nd,e\n')
    rows = read_rows(tmp_path / "a.csv", {})
    assert [(row.prompt[0].content, row.where.rpartition(":")[2]) for row in rows] == [
        ("a\nb", "5"),
        ("d", "7"),
    ]


def test_quote_inside_a_cell_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('prompt\tcompletion\n5" nails\tsay "x"\n')
    (row,) = read_rows(tmp_path / "a.tsv", {})
    assert (row.prompt[0].content, row.answer) == ('5" nails', 'say "x"')
