"""Columns: their configured names, context, meta data, labels, ids."""

from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.errors import DataError
from row_files import SHORT_PAIR, read_row, read_rows, statements_of

QUESTION, ANSWER = "What is the capital of France?", 'Paris, "of course".\nSince 987.'


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.csv", [{"frage": "a", "antwort": "b", "kunde": "c"}])
    (row,) = read_rows(path, {"prompt": "frage", "completion": "antwort", "group": "kunde"})
    assert (row.prompt[0].content, row.answer, row.group) == ("a", "b", "c")
    with pytest.raises(DataError, match="no such column"):
        read_rows(path, {"prompt": "question"})


def test_system_column_and_alpaca_input(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl", [{"system": "s", "instruction": "i", "input": "x", "output": "o"}]
    )
    (row,) = read_rows(path, {})
    assert [(m.role, m.content) for m in row.messages] == [
        ("system", "s"),
        ("user", "i\n\nx"),
        ("assistant", "o"),
    ]


def test_alpaca_input_is_kept_where_only_some_rows_have_it(tmp_path: Path) -> None:
    records = [
        {"instruction": "i", "output": "o"},
        {"instruction": "i", "input": "x", "output": "o"},
    ]
    assert [
        r.prompt[0].content for r in read_rows(write_rows(tmp_path / "rows.jsonl", records), {})
    ] == ["i", "i\n\nx"]


def test_configured_columns_take_precedence_over_a_known_layout(tmp_path: Path) -> None:
    record = {
        "instruction": "wrong",
        "output": "wrong",
        "question": QUESTION,
        "answer": ANSWER,
        "customer": "c1",
    }
    file = write_rows(tmp_path / "rows.csv", [record])
    (row,) = read_rows(file, {"prompt": "question", "completion": "answer", "group": "customer"})
    assert [m.content for m in row.messages] == [QUESTION, ANSWER] and row.group == "c1"
    # names no text column: the layout is recognised
    (row,) = read_rows(file, {"group": "customer"})
    assert [m.content for m in row.messages] == ["wrong", "wrong"] and row.group == "c1"


@pytest.mark.parametrize(
    ("record", "prompt", "statement"),
    [
        (
            {"instruction": "i", "context": "x", "response": "r"},
            "i\n\nx",
            "instruction/response from instruction, context, response",
        ),
        (
            {"instruction": "i", "input": "x", "response": "r"},
            "i\n\nx",
            "instruction/response from instruction, input, response",
        ),
        (
            {"instruction": "i", "context": "x", "output": "r"},
            "i\n\nx",
            "alpaca from instruction, context, output",
        ),
        (
            {"question": "i", "context": "x", "answer": "r"},
            "i\n\nx",
            "question/answer from question, context, answer",
        ),
        (
            {"prompt": "i", "context": "x", "completion": "r"},
            "i",
            "prompt/completion; kept as meta data: context",
        ),
        (
            {"input": "i", "context": "x", "output": "r"},
            "i",
            "input/output; kept as meta data: context",
        ),
    ],
)
def test_context_belongs_to_an_instruction(
    tmp_path: Path, record: dict[str, Any], prompt: str, statement: str
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [record])
    assert read_rows(path, {})[0].prompt[0].content == prompt
    assert statements_of(path) == [f"read as {statement}"]


def test_context_can_be_named(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl", [{"q": "q", "about": "x", "a": "a", "input": "not named"}]
    )
    names = {"prompt": "q", "completion": "a", "context": "about"}
    assert read_rows(path, names)[0].prompt[0].content == "q\n\nx"
    assert statements_of(path, names) == [
        "read as prompt/completion from q, about, a; kept as meta data: input"
    ]


def test_context_alone_can_be_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{**SHORT_PAIR, "passage": "x"}])
    assert read_rows(path, {"context": "passage"})[0].prompt[0].content == "p\n\nx"
    assert statements_of(path, {"context": "passage"}) == [
        "read as prompt/completion from prompt, completion, passage"
    ]


@pytest.mark.parametrize(
    "columns",
    [
        {"text": "prompt", "context": "completion"},
        {**{n: n for n in SHORT_PAIR}, "question": "prompt"},
    ],
)
def test_named_column_without_a_place_is_refused(tmp_path: Path, columns: dict[str, str]) -> None:
    with pytest.raises(
        DataError, match=r"data\.columns\.(context|question) has no place in rows read as"
    ):
        read_row(tmp_path / "rows.jsonl", SHORT_PAIR, columns)


@pytest.mark.parametrize("absent", [None, "", float("nan")])
@pytest.mark.parametrize("column", ["input", "context", "system", "id", "group"])
def test_empty_optional_column_is_absent(tmp_path: Path, column: str, absent: Any) -> None:
    record = {"instruction": "i", "output": "o"}
    bare, row = (
        read_row(tmp_path / "a.jsonl", record),
        read_row(tmp_path / "b.jsonl", {**record, column: absent}),
    )
    assert (row.messages, row.id, row.group, row.meta) == (bare.messages, bare.id, None, {})


@pytest.mark.parametrize("label", ["label", "Category", "target", "answer"])
def test_label_beside_a_text_is_not_dropped(tmp_path: Path, label: str) -> None:
    path = write_rows(tmp_path / "rows.csv", [{"text": "good", label: "positive"}])
    with pytest.raises(DataError, match=rf"rows\.csv:2: .*data\.columns\.completion={label}"):
        read_rows(path, {})
    assert read_rows(path, {"prompt": "text", "completion": label})[0].answer == "positive"
    assert read_rows(path, {"text": "text"})[0].meta == {label: "positive"}


def test_other_columns_are_meta_data_or_stated_as_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extra = {
        "intent": "buy",
        "stars": 4,
        "score": 0.5,
        "new": True,
        "note": "x" * 201,
        "tags": ["a"],
        "gone": None,
    }
    path = write_rows(
        tmp_path / "rows.jsonl",
        [{**SHORT_PAIR, **extra, "meta": {"lang": "de", "intent": "not this", "deep": {"a": 1}}}],
    )
    with caplog.at_level("INFO"):
        (statement,) = statements_of(path)
    assert (
        statement
        == "read as prompt/completion; kept as meta data: intent, stars, score, new, lang; ignored:"
        " note, tags, deep"
    )
    assert caplog.messages == [f"{path}: {statement}"]
    (row,) = read_rows(path, {})
    assert row.meta == {"intent": "buy", "stars": 4, "score": 0.5, "new": True, "lang": "de"}
    assert row.content_hash == read_row(tmp_path / "bare.jsonl", SHORT_PAIR).content_hash


def test_columns_of_later_rows_are_stated_too(tmp_path: Path) -> None:
    records = [{**SHORT_PAIR, "note": "short"}, {**SHORT_PAIR, "note": "x" * 201, "intent": "buy"}]
    assert statements_of(write_rows(tmp_path / "rows.jsonl", records)) == [
        "read as prompt/completion; kept as meta data: note, intent; ignored: note (in some rows)"
    ]


def test_meta_data_may_be_json_text(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "rows.csv",
        [{**SHORT_PAIR, "metadata": '{"intent": "buy"}'}, {**SHORT_PAIR, "metadata": "free words"}],
    )
    assert [row.meta for row in read_rows(path, {})] == [
        {"intent": "buy"},
        {"metadata": "free words"},
    ]


def test_infinite_numbers_and_reserved_names_are_no_meta_data(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl", [{**SHORT_PAIR, "score": float("inf"), "encoding": "latin-1"}]
    )
    assert read_rows(path, {})[0].meta == {}
    assert statements_of(path) == ["read as prompt/completion; ignored: score, encoding"]


def test_stratum_is_found_in_a_column(tmp_path: Path) -> None:
    from hydratune.data.splits import stratum

    assert (
        stratum(read_row(tmp_path / "a.jsonl", {**SHORT_PAIR, "intent": "buy"}), "intent") == "buy"
    )
    assert (
        stratum(
            read_row(tmp_path / "b.jsonl", {**SHORT_PAIR, "meta": {"intent": "sell"}}), "intent"
        )
        == "sell"
    )


@pytest.mark.parametrize(
    ("columns", "missing"),
    [
        ({"prompt": "prompt"}, "completion"),
        ({"completion": "prompt", "group": "prompt"}, "prompt"),
        ({"instruction": "prompt"}, "output"),
        ({"answer": "prompt"}, "question"),
    ],
)
def test_half_of_a_configured_pair_is_refused(
    tmp_path: Path, columns: dict[str, str], missing: str
) -> None:
    with pytest.raises(DataError, match=rf"but not {missing}, .*data\.columns\.{missing}=YOURS"):
        read_row(tmp_path / "a.jsonl", SHORT_PAIR, columns)


def test_ids_of_parquet_are_whole_numbers_or_absent(tmp_path: Path) -> None:
    records = [{**SHORT_PAIR, "id": i, "group": i} for i in (2.0, float("nan"), 2.5)]
    rows = read_rows(write_rows(tmp_path / "a.parquet", records), {})
    assert [(row.id, row.group) for row in rows] == [
        ("2", "2"),
        (rows[1].content_hash, None),
        ("2.5", "2.5"),
    ]
