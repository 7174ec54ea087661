"""Layouts of files: wrappers around the rows, histories, and reasoning and system columns."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.data.formats import reader
from hydratune.errors import DataError
from row_files import ANSWER, CHAT, PAIR, QUESTION, TURNS, error_of, read, turns_of

# ----------------------------------------------------------------------------------------- wrappers
ROWS = [{"messages": CHAT}] * 2
WRAPPED: list[tuple[str, Any, int, str]] = [
    ("json", {"messages": CHAT}, 1, "the whole file is one object, so it is one row"),
    ("json", {"messages": CHAT, "tools": [], "id": "a"}, 1, "the whole file is one object"),
    (
        "json",
        {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
        1,
        "the whole file is one object",
    ),
    ("json", {"instruction": QUESTION, "output": ANSWER}, 1, "the whole file is one object"),
    ("json", CHAT, 1, "the whole file is one conversation"),
    ("json", [CHAT, CHAT], 2, "read as messages"),
    ("json", {"data": ROWS}, 2, "rows taken from the list 'data'"),
    (
        "json",
        {"version": "1", "data": ROWS},
        2,
        "rows taken from the list 'data'; ignored beside it: version",
    ),
    (
        "json",
        {"tags": ["a", "b"], "rows": ROWS},
        2,
        "rows taken from the list 'rows'; ignored beside it: tags",
    ),
    (
        "json",
        {"licences": [{"name": "MIT"}], "data": ROWS},
        2,
        "rows taken from the list 'data'; ignored beside it: licences",
    ),
    ("json", {"data": [CHAT, CHAT]}, 2, "rows taken from the list 'data'"),
    ("jsonl", [CHAT, CHAT], 2, "read as messages"),
    ("jsonl", [{"messages": CHAT}, CHAT], 2, "read as messages"),
]


@pytest.mark.parametrize(("kind", "value", "count", "statement"), WRAPPED)
def test_conversations_are_found_inside_wrappers(
    tmp_path: Path, kind: str, value: Any, count: int, statement: str
) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_text(
        "".join(json.dumps(line) + "\n" for line in value)
        if kind == "jsonl"
        else json.dumps(value, indent=1)
    )
    rows, statements = read(path)
    assert [turns_of(row) for row in rows] == [TURNS] * count and statements[0].startswith(
        statement
    )


def test_statements_are_made_once_although_the_file_is_read_twice(tmp_path: Path) -> None:
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": {"a": None}}}],
    }
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"messages": [CHAT[0], call]}]}))
    assert read(tmp_path / "a.json")[1] == ["rows taken from the list 'data'", "read as messages"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            {"train": ROWS, "test": ROWS},
            "this object has 2: train, test; give each a file of its own",
        ),
        ({"a": 1}, "a list of rows is needed"),
        ([["a"]], "must be a JSON object"),
        ({"data": []}, "no rows"),
    ],
)
def test_files_without_one_list_of_rows_are_refused(tmp_path: Path, value: Any, words: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert words in error_of(tmp_path / "a.json")


def test_one_turn_per_line_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    assert "this row is one turn, and a row must be a whole conversation" in error_of(
        write_rows(tmp_path / "a.jsonl", CHAT)
    )


def test_conversations_in_another_column_are_named_in_the_fix(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"dialog": CHAT}])
    assert "name it: data.columns.messages=dialog" in error_of(path)
    assert turns_of(read(path, {"messages": "dialog"})[0][0]) == TURNS


def test_turns_in_cells_of_csv_are_turns_in_pairs_too(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", [{"prompt": CHAT[:1], "completion": CHAT[1:]}])
    assert turns_of(read(path)[0][0]) == TURNS


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8", "ascii"])
def test_an_encoding_that_is_set_is_not_advised(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "caf\x81\xe9", "completion": "b"}\n')
    try:
        list(reader.read_file(tmp_path / "a.jsonl", {}, encoding))
    except DataError as error:
        assert f"data.encoding={encoding}" not in str(error) and f"(or {encoding})" not in str(
            error
        )


# ---------------------------------------------------------------------------------------- histories
LONG_TURNS = [
    ("user", "Hello"),
    ("assistant", "Hi."),
    ("user", "What is it?"),
    ("assistant", "A test."),
    *TURNS,
]


@pytest.mark.parametrize(
    "names", [("instruction", "output"), ("prompt", "response"), ("prompt", "completion")]
)
@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_history_is_read_as_turns(tmp_path: Path, names: tuple[str, str], kind: str) -> None:
    pairs = [["Hello", "Hi."], ["What is it?", "A test."]]
    turns = [{"role": role, "content": text} for role, text in LONG_TURNS[:4]]
    record = dict(zip(names, (QUESTION, ANSWER), strict=True))
    for number, history in enumerate((pairs, turns)):
        if kind == "csv" and history is turns:
            continue
        rows, statements = read(
            write_rows(
                tmp_path / f"{number}.{kind}",
                [{**record, "history": history}, {**record, "history": []}],
            )
        )
        assert [turns_of(row) for row in rows] == [LONG_TURNS, TURNS]
        assert statements[0].endswith("history") and "ignored" not in statements[0]


def test_history_is_combined_with_input_and_system(tmp_path: Path) -> None:
    record = {
        "instruction": "i",
        "input": "x",
        "output": "o",
        "system": "s",
        "history": [["q", "a"]],
    }
    rows, _ = read(write_rows(tmp_path / "a.jsonl", [record]))
    assert turns_of(rows[0]) == [
        ("system", "s"),
        ("user", "q"),
        ("assistant", "a"),
        ("user", "i\n\nx"),
        ("assistant", "o"),
    ]


def test_history_can_be_named(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.csv", [{"prompt": QUESTION, "completion": ANSWER, "past": [["Hello", "Hi."]]}]
    )
    assert turns_of(read(path, {"history": "past"})[0][0]) == [*LONG_TURNS[:2], *TURNS]


@pytest.mark.parametrize(
    "history", [[["q"]], [["q", None]], ["q", "a"], {"q": "a"}, [["q", "a", "b"]]]
)
def test_a_malformed_history_is_refused(tmp_path: Path, history: Any) -> None:
    path = write_rows(
        tmp_path / "a.jsonl", [{"prompt": "p", "completion": "c", "history": history}]
    )
    assert "a.jsonl:1: history must be a list of [request, answer]" in error_of(path)


def test_a_history_that_is_a_text_is_meta_data(tmp_path: Path) -> None:
    rows, statements = read(
        write_rows(
            tmp_path / "a.jsonl",
            [{"prompt": QUESTION, "completion": ANSWER, "history": "none known"}],
        )
    )
    assert turns_of(rows[0]) == TURNS and statements == [
        "read as prompt/completion; kept as meta data: history"
    ]


# ------------------------------------------------------------ reasoning, system and history columns
REASONING_COLUMNS = (
    "reasoning",
    "reasoning_content",
    "thinking",
    "thoughts",
    "chain_of_thought",
    "cot",
)


@pytest.mark.parametrize("column", REASONING_COLUMNS)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_reasoning_column_of_a_pair_is_the_reasoning_of_the_answer(
    tmp_path: Path, column: str, kind: str
) -> None:
    path = write_rows(
        tmp_path / f"a.{kind}", [{"question": QUESTION, "answer": ANSWER, column: "Hm."}]
    )
    rows, statements = read(path)
    assert turns_of(rows[0]) == TURNS and rows[0].messages[-1].reasoning == "Hm."
    assert statements == [f"read as question/answer from question, answer, {column}"]
    rows, _ = read(path, {"prompt": "question", "completion": "answer", "reasoning": column})
    assert rows[0].messages[-1].reasoning == "Hm."
    rows, statements = read(path, {"prompt": "question", "completion": "answer"})
    assert (
        rows[0].messages[-1].reasoning is None and f"kept as meta data: {column}" in statements[0]
    )


def test_reasoning_is_used_once(tmp_path: Path) -> None:
    in_answer = {
        "prompt": QUESTION,
        "completion": f"<think>Hm.</think>{ANSWER}",
        "reasoning": "Hm.",
    }
    row = read(write_rows(tmp_path / "a.jsonl", [in_answer]))[0][0]
    assert row.messages[-1].reasoning is None and row.answer.count("Hm.") == 1
    in_turn = {
        "prompt": QUESTION,
        "completion": [{"role": "assistant", "content": ANSWER, "thinking": "Other."}],
        "reasoning": "Hm.",
    }
    assert "keep one of them" in error_of(write_rows(tmp_path / "b.jsonl", [in_turn]))
    assert read(write_rows(tmp_path / "c.jsonl", [{**PAIR, "reasoning": True}]))[0][0].meta == {
        "reasoning": True
    }


@pytest.mark.parametrize("column", ["system_prompt", "system_message", "system"])
@pytest.mark.parametrize(
    "names", [("question", "response"), ("prompt", "completion"), ("instruction", "output")]
)
def test_a_system_prompt_in_a_column_is_the_system_turn(
    tmp_path: Path, column: str, names: tuple[str, str]
) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        [{"id": "1", column: "Be kind.", **dict(zip(names, (QUESTION, ANSWER), strict=True))}],
    )
    rows, statements = read(path)
    assert (
        turns_of(rows[0]) == [("system", "Be kind."), *TURNS]
        and column in statements[0]
        and "meta data" not in statements[0]
    )
    rows, _ = read(path, {"prompt": names[0], "completion": names[1]})
    assert turns_of(rows[0]) == [("system", "Be kind."), *TURNS]


@pytest.mark.parametrize(
    "column", ["history", "chat_history", "conversation_history", "dialogue_history"]
)
def test_history_columns_have_several_names(tmp_path: Path, column: str) -> None:
    rows, statements = read(
        write_rows(tmp_path / "a.jsonl", [{**PAIR, column: [["Hello", "Hi."]]}])
    )
    assert (
        turns_of(rows[0]) == [*LONG_TURNS[:2], *TURNS]
        and column in statements[0]
        and "ignored" not in statements[0]
    )
    assert "history must be a list of [request, answer]" in error_of(
        write_rows(tmp_path / "b.jsonl", [{**PAIR, column: ["q", "a"]}])
    )


def test_documents_keep_system_and_reasoning_columns_as_meta_data(tmp_path: Path) -> None:
    rows, _ = read(
        write_rows(
            tmp_path / "a.jsonl",
            [{"text": "Once.", "system_prompt": "Be kind.", "reasoning": "Hm."}],
        )
    )
    assert rows[0].is_text and rows[0].meta == {"system_prompt": "Be kind.", "reasoning": "Hm."}
