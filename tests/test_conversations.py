"""Conversations as a whole: order, keys and nesting of turns."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.data.formats import reader
from hydratune.errors import DataError
from row_files import ASSISTANT_TURN, USER_TURN, read_chat, refusal_of, write_and_read
from tool_records import TEXT


def test_unknown_keys_of_turns_are_named_once_with_counts(tmp_path: Path) -> None:
    odd = {"timestamp": 3, "lang": "de", "refusal": None, "annotations": [], "extra": {}}
    turns = [
        {**USER_TURN, **odd},
        {**ASSISTANT_TURN, "content": [{**TEXT, "citations": [1]}], "timestamp": 4},
    ]
    _, statements = write_and_read(tmp_path / "a.jsonl", [{"messages": turns}] * 3)
    assert statements[1:] == [
        "keys of turns ignored, with the number of turns: timestamp (6), lang (3),"
        " text.citations (3)"
    ]


@pytest.mark.parametrize("key", ["images", "audio", "video", "tools", "functions"])
def test_keys_of_turns_that_cannot_be_dropped_are_refused(tmp_path: Path, key: str) -> None:
    assert f"{key} of the user turn" in refusal_of(
        tmp_path / "a.jsonl", {**USER_TURN, key: ["x"]}, ASSISTANT_TURN
    )
    read_chat(tmp_path / "b.jsonl", {**USER_TURN, key: None}, ASSISTANT_TURN)


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (
            {**ASSISTANT_TURN, "reasoning": "a", "thinking": "b"},
            "thinking and reasoning of the assistant turn differ",
        ),
        ({**ASSISTANT_TURN, "value": "other"}, "content and value of a turn differ"),
        (
            {**ASSISTANT_TURN, "refusal": "No."},
            "content and refusal of the assistant turn are both there",
        ),
        ({**ASSISTANT_TURN, "from": "user"}, "role and from of a turn differ"),
        (
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "a"}, TEXT],
                "thinking": "b",
            },
            "both in its content and beside it",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(
    tmp_path: Path, turn: dict[str, Any], words: str
) -> None:
    assert words in refusal_of(tmp_path / "a.jsonl", USER_TURN, turn)


def test_a_conversation_as_an_object_of_lists(tmp_path: Path) -> None:
    (row,), _ = write_and_read(
        tmp_path / "a.jsonl",
        [{"messages": {"role": ["user", "assistant"], "content": ["Where?", "There."]}}],
    )
    assert [(m.role, m.content) for m in row.messages] == [
        ("user", "Where?"),
        ("assistant", "There."),
    ]


def test_a_system_column_may_be_text_parts(tmp_path: Path) -> None:
    assert (
        read_chat(tmp_path / "a.jsonl", USER_TURN, ASSISTANT_TURN, system=[TEXT])
        .messages[0]
        .content
        == "In the attic."
    )
    assert "must be a text" in refusal_of(
        tmp_path / "b.jsonl",
        USER_TURN,
        ASSISTANT_TURN,
        system=[{"type": "thinking", "thinking": "a"}],
    )


def test_an_answer_object_with_role_and_content_is_json(tmp_path: Path) -> None:
    (row,), _ = write_and_read(
        tmp_path / "a.jsonl",
        [{"prompt": "Who?", "completion": {"role": "engineer", "content": "bridges"}}],
    )
    assert row.answer == '{"role": "engineer", "content": "bridges"}'


def test_deep_nesting_is_refused_with_its_line(tmp_path: Path) -> None:
    for depth in (500, 2_000, 50_000):
        deep = '{"name": "f", "arguments": {"a": null, "b": ' + "[" * depth + "]" * depth + "}}"
        path = tmp_path / f"{depth}.jsonl"
        path.write_text(
            '{"messages": [{"role": "user", "content": "a"}, {"role": "function_call", "content": '
            + deep
            + "}]}\n"
        )
        if depth > 1_000:
            with pytest.raises(DataError, match=r"jsonl:1: .*nested too deeply"):
                list(reader.read_file(path, {}))
        else:
            assert len(list(reader.read_file(path, {}))) == 1


def test_the_fixes_for_turns_out_of_order_work(tmp_path: Path) -> None:
    system, second_answer = (
        {"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": "Upstairs."},
    )
    for turns, fix, mended in (
        (
            [USER_TURN, ASSISTANT_TURN, USER_TURN],
            "take it out, or add the answer",
            [USER_TURN, ASSISTANT_TURN],
        ),
        (
            [ASSISTANT_TURN, USER_TURN, ASSISTANT_TURN],
            "take a greeting out",
            [USER_TURN, ASSISTANT_TURN],
        ),
        (
            [USER_TURN, ASSISTANT_TURN, second_answer],
            "join turns of one speaker",
            [
                USER_TURN,
                {
                    **ASSISTANT_TURN,
                    "content": ASSISTANT_TURN["content"] + "\n" + second_answer["content"],
                },
            ],
        ),
        (
            [USER_TURN, ASSISTANT_TURN, system, USER_TURN, ASSISTANT_TURN],
            "put its text into the first one",
            [system, USER_TURN, ASSISTANT_TURN, USER_TURN, ASSISTANT_TURN],
        ),
    ):
        assert fix in refusal_of(tmp_path / "a.jsonl", *turns)
        assert [m.turn() for m in read_chat(tmp_path / "b.jsonl", *mended).messages] == mended


def test_lists_as_python_prints_them_are_refused_with_what_to_write(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", [{"messages": str([USER_TURN, ASSISTANT_TURN])}])
    with pytest.raises(
        DataError,
        match=r"write it with json\.dumps\(\.\.\.\), or the file as JSON lines or Parquet",
    ):
        list(reader.read_file(path, {}))
    for text in (json.dumps([USER_TURN, ASSISTANT_TURN]),):
        assert (
            len(list(reader.read_file(write_rows(tmp_path / "b.csv", [{"messages": text}]), {})))
            == 1
        )


@pytest.mark.parametrize("text", ["null", "NULL", "NaN", "None", "<NA>"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_answers_that_are_words_for_null_are_counted(tmp_path: Path, text: str, kind: str) -> None:
    rows, statements = write_and_read(
        tmp_path / f"a.{kind}",
        [{"prompt": "p", "completion": text}, {"prompt": "q", "completion": "a"}],
    )
    assert (
        len(rows) == 2
        and f"{text!r} (1); where the answer is missing, take these rows out" in statements[1]
    )
