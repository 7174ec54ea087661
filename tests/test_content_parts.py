"""Contents that are lists of parts: text, reasoning, refusals, tool calls, images."""

import json
from pathlib import Path
from typing import Any

import pytest

from row_files import ASSISTANT_TURN, USER_TURN, read_chat, refusal_of, write_and_read
from tool_records import TEXT, call

CALL = {"type": "function", "function": {"name": "find", "arguments": {"thing": "kettle"}}}
ANSWER_PARTS: list[tuple[Any, dict[str, Any]]] = [
    (
        [{"type": "thinking", "thinking": "Hm.", "signature": "abc"}, TEXT],
        {"content": "In the attic.", "reasoning_content": "Hm."},
    ),
    (
        [{"type": "reasoning", "text": "Hm."}, TEXT],
        {"content": "In the attic.", "reasoning_content": "Hm."},
    ),
    (
        [{"type": "reasoning", "reasoning": "Hm."}, TEXT],
        {"content": "In the attic.", "reasoning_content": "Hm."},
    ),
    (
        [{"type": "reasoning_content", "reasoning_content": "Hm."}, TEXT],
        {"content": "In the attic.", "reasoning_content": "Hm."},
    ),
    (
        [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}, TEXT],
        {"content": "In the attic.", "reasoning_content": "Hm."},
    ),
    (
        [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, TEXT],
        {"content": "In the attic.", "reasoning_content": "Hm."},
    ),
    ([{"type": "refusal", "refusal": "I cannot say."}], {"content": "I cannot say."}),
    (
        [TEXT, {"type": "tool_use", "id": "t1", "name": "find", "input": {"thing": "kettle"}}],
        {"content": "In the attic.", "tool_calls": [{"id": "t1", **CALL}]},
    ),
    (
        [
            {
                "type": "tool-call",
                "toolCallId": "t1",
                "toolName": "find",
                "args": {"thing": "kettle"},
            }
        ],
        {"content": "", "tool_calls": [{"id": "t1", **CALL}]},
    ),
    (
        [
            {
                "type": "function_call",
                "call_id": "t1",
                "name": "find",
                "arguments": '{"thing": "kettle"}',
            }
        ],
        {"content": "", "tool_calls": [{"id": "t1", **CALL}]},
    ),
    (
        [
            {
                "type": "tool_call",
                "id": "t1",
                "function": {"name": "find", "arguments": {"thing": "kettle"}},
            }
        ],
        {"content": "", "tool_calls": [{"id": "t1", **CALL}]},
    ),
    (["In the ", {"type": "text", "text": "attic."}], {"content": "In the attic."}),
    ({"type": "text", "text": "In the attic."}, {"content": "In the attic."}),
    (
        [{"type": "output_text", "text": "In the attic.", "annotations": []}],
        {"content": "In the attic."},
    ),
    (
        [{"type": "text", "text": ""}, {"type": "thinking", "thinking": "Hm."}, TEXT],
        {"content": "In the attic.", "reasoning_content": "Hm."},
    ),
]


@pytest.mark.parametrize(("content", "turn"), ANSWER_PARTS)
def test_parts_of_an_answer_become_content_reasoning_and_tool_calls(
    tmp_path: Path, content: Any, turn: dict[str, Any]
) -> None:
    row = read_chat(tmp_path / "a.jsonl", USER_TURN, {"role": "assistant", "content": content})
    assert row.messages[1].turn() == {"role": "assistant", **turn}


@pytest.mark.parametrize(
    ("content", "turn"),
    [case for case in ANSWER_PARTS if isinstance(case[0], list) and isinstance(case[0][0], dict)],
)
def test_a_completion_of_parts_is_read_like_an_assistant_turn(
    tmp_path: Path, content: Any, turn: dict[str, Any]
) -> None:
    (row,), _ = write_and_read(tmp_path / "a.jsonl", [{"prompt": "Where?", "completion": content}])
    assert row.messages[1].turn() == {"role": "assistant", **turn}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            [{"type": "redacted_thinking", "data": "xyz"}, TEXT],
            "'redacted_thinking'; it is encrypted",
        ),
        (
            [{"type": "server_tool_use", "id": "t", "name": "search", "input": {}}, TEXT],
            "'server_tool_use' that is not text",
        ),
        ([{"type": "image", "source": {}}], "'image'; images cannot be trained on"),
        ([TEXT, {"type": "thinking", "thinking": "Hm."}], "thoughts after text"),
        ([{"type": "tool_use", "id": "t", "name": "find", "input": {}}, TEXT], "text after calls"),
        (
            [{"type": "tool_result", "tool_use_id": "t", "content": "x"}],
            "results belong in a turn of the tool",
        ),
        ([{"type": "PERSON", "text": "Bob"}], "'PERSON' that is not text"),
        ([{"type": "text", "text": None}], "'text' that is not text"),
        ([{"type": "thinking", "thinking": {"a": 1}}, TEXT], "'thinking' that is not text"),
        ([{"text": "In the attic."}], "list of objects without a type"),
        ([{"toolUse": {"name": "find"}}], "list of objects without a type"),
        ([TEXT, {"a": 1}], "one of them has no type"),
    ],
)
def test_parts_that_no_template_supports_are_refused(
    tmp_path: Path, content: Any, words: str
) -> None:
    assert words in refusal_of(
        tmp_path / "a.jsonl", USER_TURN, {"role": "assistant", "content": content}
    )


def test_the_advice_for_refused_parts_works(tmp_path: Path) -> None:
    entities = [{"type": "PERSON", "text": "Bob"}]
    assert "store the answer as a text if it is JSON" in refusal_of(
        tmp_path / "a.jsonl", USER_TURN, {"role": "assistant", "content": entities}
    )
    assert read_chat(
        tmp_path / "b.jsonl", USER_TURN, {"role": "assistant", "content": json.dumps(entities)}
    ).answer == json.dumps(entities)
    hidden = [{"type": "redacted_thinking", "data": "xyz"}, TEXT]
    assert "take the part out" in refusal_of(
        tmp_path / "c.jsonl", USER_TURN, {"role": "assistant", "content": hidden}
    )
    assert (
        read_chat(
            tmp_path / "d.jsonl", USER_TURN, {"role": "assistant", "content": hidden[1:]}
        ).answer
        == "In the attic."
    )
    assert '{"type": "text", "text": "..."}' in refusal_of(
        tmp_path / "e.jsonl", USER_TURN, {"role": "assistant", "content": [{"text": "x"}]}
    )


def test_an_object_in_an_answer_column_is_still_json(tmp_path: Path) -> None:
    for completion in (
        [{"type": "PERSON", "text": "Bob"}],
        [{"text": "Bob"}],
        {"type": "text", "text": "Bob"},
        [{"type": "thinking"}],
    ):
        (row,), statements = write_and_read(
            tmp_path / "a.jsonl", [{"prompt": "p", "completion": completion}]
        )
        assert row.answer == json.dumps(completion) and "became JSON (1 row)" in statements[1]
    row = read_chat(
        tmp_path / "b.jsonl", USER_TURN, {"role": "assistant", "content": {"room": "attic"}}
    )
    assert row.answer == '{"room": "attic"}'


TWO_USES = {
    "role": "assistant",
    "content": [
        {"type": "tool_use", "id": t, "name": "find", "input": {"thing": "kettle"}}
        for t in ("t1", "t2")
    ],
}
TWO_RESULTS = [
    {"type": "tool_result", "tool_use_id": "t1", "content": "attic"},
    {
        "type": "tool_result",
        "tool_use_id": "t2",
        "content": [{"type": "text", "text": "gar"}, {"type": "text", "text": "age"}],
    },
]


def test_results_in_a_user_turn_become_turns_of_the_tool(tmp_path: Path) -> None:
    row = read_chat(
        tmp_path / "a.jsonl",
        USER_TURN,
        TWO_USES,
        {"role": "user", "content": TWO_RESULTS},
        ASSISTANT_TURN,
    )
    assert [m.turn() for m in row.messages[2:]] == [
        {"role": "tool", "content": "attic", "tool_call_id": "t1"},
        {"role": "tool", "content": "garage", "tool_call_id": "t2"},
        ASSISTANT_TURN,
    ]
    row = read_chat(
        tmp_path / "b.jsonl",
        USER_TURN,
        TWO_USES,
        {"role": "user", "content": [*TWO_RESULTS, {"type": "text", "text": "So?"}]},
        ASSISTANT_TURN,
    )
    assert [m.role for m in row.messages] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "user",
        "assistant",
    ]
    row = read_chat(
        tmp_path / "c.jsonl",
        USER_TURN,
        TWO_USES,
        {"role": "tool", "content": TWO_RESULTS[:1]},
        {"role": "tool", "content": TWO_RESULTS[1:]},
        ASSISTANT_TURN,
    )
    assert [m.role for m in row.messages] == ["user", "assistant", "tool", "tool", "assistant"]
    nothing = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1"}]}
    assert read_chat(tmp_path / "e.jsonl", USER_TURN, TWO_USES, nothing, ASSISTANT_TURN).messages[
        2
    ].turn() == {
        "role": "tool",
        "content": "",
        "tool_call_id": "t1",
    }
    assert "results come first" in refusal_of(
        tmp_path / "d.jsonl",
        USER_TURN,
        TWO_USES,
        {"role": "user", "content": [{"type": "text", "text": "So?"}, *TWO_RESULTS]},
        ASSISTANT_TURN,
    )


def test_a_refusal_beside_an_empty_content_is_the_answer(tmp_path: Path) -> None:
    rows, statements = write_and_read(
        tmp_path / "a.jsonl",
        [
            {
                "messages": [
                    USER_TURN,
                    {"role": "assistant", "content": None, "refusal": "I cannot say."},
                ]
            }
        ],
    )
    assert rows[0].answer == "I cannot say." and statements[1:] == [
        "1 refusal read as the text of the answer"
    ]


@pytest.mark.parametrize(
    "content",
    [
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "image", "source": {"type": "base64"}},
    ],
)
def test_a_single_image_part_is_refused(tmp_path: Path, content: Any) -> None:
    assert "images cannot be trained on" in refusal_of(
        tmp_path / "a.jsonl", USER_TURN, {"role": "assistant", "content": content}
    )


@pytest.mark.parametrize(
    "part",
    [
        {"type": "redacted_thinking", "data": "x"},
        {"type": "server_tool_use", "id": "t", "name": "search", "input": {}},
        {"type": "code", "code": "1"},
        {"type": "reasoning", "summary": []},
        {"type": "text", "value": "x"},
        {"type": "image_url", "image_url": {"url": "x"}},
    ],
)
def test_a_single_part_is_refused_like_one_in_a_list(tmp_path: Path, part: dict[str, Any]) -> None:
    alone, listed = (
        refusal_of(tmp_path / "a.jsonl", USER_TURN, {"role": "assistant", "content": content})
        for content in (part, [part])
    )
    assert alone == listed and "holds a part of type" in alone
    text = json.dumps(part)
    assert (
        read_chat(tmp_path / "b.jsonl", USER_TURN, {"role": "assistant", "content": text}).answer
        == text
    )


@pytest.mark.parametrize("content", [["a", "b"], ["a"], ["a", 1]])
def test_a_list_of_texts_in_a_turn_is_refused(tmp_path: Path, content: list[Any]) -> None:
    assert "write the one text, or the list as JSON text" in refusal_of(
        tmp_path / "a.jsonl", USER_TURN, {"role": "assistant", "content": content}
    )
    (row,), statements = write_and_read(
        tmp_path / "b.jsonl", [{"prompt": "p", "completion": content}]
    )
    assert row.answer == json.dumps(content) and "became JSON (1 row)" in statements[1]
    assert (
        read_chat(tmp_path / "c.jsonl", USER_TURN, {"role": "assistant", "content": [1, 2]}).answer
        == "[1, 2]"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (key, "Hm.")
            for key in (
                "reasoning_content",
                "thinking",
                "reasoning",
                "thoughts",
                "thought",
                "chain_of_thought",
                "cot",
            )
        ),
        ("thinking_blocks", [{"type": "thinking", "thinking": "Hm.", "signature": "abc"}]),
        ("reasoning_details", [{"type": "reasoning.text", "text": "Hm."}]),
        ("reasoning_details", [{"type": "reasoning.summary", "summary": "Hm."}]),
    ],
)
def test_reasoning_keys_beside_the_content_are_recognised(
    tmp_path: Path, key: str, value: Any
) -> None:
    rows, statements = write_and_read(
        tmp_path / "a.jsonl", [{"messages": [USER_TURN, {**ASSISTANT_TURN, key: value}]}]
    )
    assert rows[0].messages[1].reasoning == "Hm." and len(statements) == 1


def test_encrypted_reasoning_is_refused(tmp_path: Path) -> None:
    hidden = {"reasoning_details": [{"type": "reasoning.encrypted", "data": "xyz"}]}
    assert 'or write the thoughts as "reasoning_content"' in refusal_of(
        tmp_path / "a.jsonl", USER_TURN, {**ASSISTANT_TURN, **hidden}
    )
    assert (
        read_chat(
            tmp_path / "b.jsonl",
            USER_TURN,
            {**ASSISTANT_TURN, **hidden, "reasoning_content": "Hm."},
        )
        .messages[1]
        .reasoning
        == "Hm."
    )


def test_parts_of_gemini(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "parts": [{"text": "Where?"}]},
        {
            "role": "model",
            "parts": [
                {"text": "Hm.", "thought": True},
                {"text": "I look."},
                {"functionCall": {"name": "weather", "args": {"town": "Ulm"}}},
            ],
        },
        {
            "role": "user",
            "parts": [{"functionResponse": {"name": "weather", "response": {"sky": "grey"}}}],
        },
        {"role": "model", "parts": [{"text": "In the attic.", "thoughtSignature": "x"}]},
    ]
    assert [m.turn() for m in read_chat(tmp_path / "a.jsonl", *turns).messages[1:]] == [
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm.",
            "tool_calls": [call("weather", town="Ulm")],
        },
        {"role": "tool", "content": '{"sky": "grey"}', "name": "weather"},
        ASSISTANT_TURN,
    ]
