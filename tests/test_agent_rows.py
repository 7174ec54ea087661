"""Conversations with tools, calls, reasoning and turns that are context."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.errors import DataError
from row_files import SHORT_PAIR, read_row, statements_of

TOOL = {
    "name": "weather",
    "description": "of the coming days",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
AGENT: list[dict[str, Any]] = [
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **CALL}]},
    {"role": "tool", "content": "no", "tool_call_id": "c1", "name": "weather"},
    {"role": "assistant", "content": "No.", "reasoning_content": "It said no."},
]


@pytest.mark.parametrize("arguments", [{"city": "Zürich"}, '{"city": "Zürich"}'])
def test_tool_calls_reach_the_template_as_objects(tmp_path: Path, arguments: Any) -> None:
    turns = [dict(turn) for turn in AGENT]
    turns[1] = {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "function": {"name": "weather", "arguments": arguments}}],
    }
    row = read_row(tmp_path / "a.jsonl", {"messages": turns, "tools": [TOOL]})
    assert row.messages[1].turn() == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", **CALL}],
    }
    assert row.messages[2].turn() == AGENT[2]
    assert row.messages[3].turn() == AGENT[3]
    assert row.tools == ({"type": "function", "function": TOOL},)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_tools_may_be_json_text(tmp_path: Path, kind: str) -> None:
    record = {
        "messages": json.dumps(AGENT),
        "tools": json.dumps([{"type": "function", "function": TOOL}]),
    }
    row = read_row(tmp_path / f"a.{kind}", record)
    assert row.tools == ({"type": "function", "function": TOOL},)
    assert row.messages[1].tool_calls == ({"id": "c1", **CALL},)


def test_nulls_of_parquet_structs_are_no_values(tmp_path: Path) -> None:
    row = read_row(tmp_path / "a.parquet", {"messages": AGENT})
    assert [message.turn() for message in row.messages] == [
        {**turn, "content": turn["content"] or ""} for turn in AGENT
    ]


def test_parquet_tools_whose_schemas_were_filled_with_null_lose_the_nulls(tmp_path: Path) -> None:
    other = {
        **TOOL,
        "name": "time",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}},
    }
    row = read_row(tmp_path / "a.parquet", {"messages": AGENT, "tools": [TOOL, other]})
    assert row.tools == tuple({"type": "function", "function": tool} for tool in (TOOL, other))


def test_sharegpt_with_calls_and_a_system_column(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Rain?"},
        {
            "from": "function_call",
            "value": json.dumps({"name": "weather", "arguments": {"city": "Zürich"}}),
        },
        {"from": "observation", "value": "no"},
        {"from": "gpt", "value": "No."},
    ]
    row = read_row(
        tmp_path / "a.jsonl",
        {"conversations": turns, "tools": json.dumps([TOOL]), "system": "Be terse."},
    )
    assert [m.role for m in row.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert row.messages[2].tool_calls == (CALL,) and row.messages[2].content == ""
    assert row.tools == ({"type": "function", "function": TOOL},)


@pytest.mark.parametrize("context", [{"train": False}, {"weight": 0}])
def test_turns_marked_as_context_are_not_trained(tmp_path: Path, context: dict[str, Any]) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **context}] * 2
    turns += [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c", "weight": 1}]
    row = read_row(tmp_path / "a.jsonl", {"messages": turns})
    assert [m.train for m in row.messages if m.role == "assistant"] == [False, False, True]


def test_turns_after_the_last_trained_turn_are_dropped(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    turns += [
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d", "train": False},
    ]  # type: ignore[dict-item]
    row = read_row(tmp_path / "a.jsonl", {"messages": turns})
    assert (row.prompt[-1].content, row.answer) == ("a", "b")


def test_rows_that_differ_in_their_calls_have_different_ids(tmp_path: Path) -> None:
    turns = [
        AGENT[0],
        {"role": "assistant", "tool_calls": [{"function": {"name": "time", "arguments": {}}}]},
    ]
    ids = {
        read_row(tmp_path / f"{i}.jsonl", {"messages": messages}).id
        for i, messages in enumerate((AGENT[:2], turns))
    }
    assert len(ids) == 2


def agent_chat_with(number: int, **keys: Any) -> dict[str, Any]:
    """Return the conversation AGENT with other ``keys`` in one turn."""
    return {"messages": [{**turn, **(keys if i == number else {})} for i, turn in enumerate(AGENT)]}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (agent_chat_with(1, tool_calls="[{"), "a tool call is a text that is not JSON"),
        (agent_chat_with(1, tool_calls=7), "tool_calls must be a list"),
        (agent_chat_with(1, tool_calls=[{"function": {"arguments": {}}}]), "a tool call needs"),
        (
            agent_chat_with(1, tool_calls=[{"name": "weather", "arguments": "{city: Zürich}"}]),
            "arguments of the call to weather is a text",
        ),
        (
            agent_chat_with(1, tool_calls=[{"name": "weather", "arguments": [1]}]),
            "arguments of the call to weather must be an object",
        ),
        (
            agent_chat_with(1, tool_calls=[{"id": 7, "name": "weather"}]),
            "id of the call to weather must be a text",
        ),
        (agent_chat_with(1, tool_calls=[]), "content of the assistant turn is empty"),
        (agent_chat_with(0, tool_calls=[CALL]), "tool_calls on the user turn"),
        (agent_chat_with(0, thinking="hm"), "thinking on the user turn"),
        (
            agent_chat_with(3, thinking=True, reasoning_content=None),
            "thinking of the assistant turn must be a text, this is bool",
        ),
        (agent_chat_with(2, tool_call_id=7), "tool_call_id of the tool turn must be a text"),
        (agent_chat_with(3, tool_call_id="c1"), "tool_call_id on the assistant turn"),
        (agent_chat_with(3, train="no"), "train of the assistant turn must be true or false"),
        (agent_chat_with(3, weight=0.5), "weight of the assistant turn must be 0"),
        (agent_chat_with(3, weight=0, train=True), "say opposite things"),
        (agent_chat_with(0, weight=1), "only assistant turns can be"),
        (
            {"messages": [{**t, "train": False} for t in AGENT]},
            "every assistant turn is marked as context",
        ),
        (
            {"messages": [AGENT[0], AGENT[2], AGENT[3]]},
            "a tool turn must follow an assistant turn with tool_calls",
        ),
        (
            {"messages": [AGENT[0], AGENT[3], AGENT[2], AGENT[3]]},
            "a tool turn must follow an assistant turn with tool_calls",
        ),
        ({"messages": AGENT, "tools": "weather"}, "tools is a text that is not JSON"),
        ({"messages": AGENT, "tools": {"name": "weather"}}, "tools must be a list of functions"),
        ({"messages": AGENT, "tools": ["weather"]}, "a tool needs a name"),
        ({"messages": AGENT, "tools": [{"name": "\ud83d"}]}, "tools holds half a character"),
        (
            agent_chat_with(1, tool_calls=[{"name": "a", "arguments": {"b": "\ud83d"}}]),
            "the assistant turn holds half a character",
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "a"},
                    {"from": "function_call", "value": "b"},
                ]
            },
            "a tool call is a text that is not",
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "a"},
                    {"from": "function_call", "value": ""},
                ]
            },
            "holds no call",
        ),
        (
            {"messages": [{"role": "system", "content": "a"}, *AGENT], "system": "b"},
            "own system turn differ",
        ),
        ({"messages": [{"role": "text", "content": "a"}, AGENT[0]]}, "stands alone in its row"),
        ({"text": "a", "system": "b"}, "stands alone in its row"),
        ({"text": "a", "tools": [TOOL]}, "cannot have tools"),
        ({"text": " "}, "the text is empty"),
        ({"text": None}, "text is empty"),
    ],
)
def test_wrong_turn_is_refused_with_its_place(
    tmp_path: Path, record: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_row(tmp_path / "rows.jsonl", record)
    assert "rows.jsonl:1: " in str(caught.value)


IMAGE = {"type": "image_url", "image_url": {"url": "http://x/0.png"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
BAD_CONTENT: list[tuple[dict[str, Any], str]] = [
    ({"instruction": "i", "input": {"k": 1}, "output": "o"}, "input must be a text, this is dict"),
    ({"instruction": ["i"], "output": "o"}, "instruction must be a text, this is list"),
    ({"prompt": {"a": 1}, "completion": "c"}, "prompt must be a text, this is dict"),
    ({"prompt": True, "completion": "c"}, "prompt must be a text, this is bool"),
    ({"prompt": float("inf"), "completion": "c"}, "prompt is not a finite number"),
    ({"prompt": "p", "completion": {"a": float("nan")}}, "completion cannot be written as JSON"),
    ({"text": ["a"]}, "text must be a text, this is list"),
    (
        agent_chat_with(0, content=[{"type": "text", "text": "what"}, IMAGE]),
        "'image_url'; images cannot be trained on",
    ),
    (agent_chat_with(0, content=[SOUND]), "'input_audio'; sounds cannot be trained on"),
    (agent_chat_with(3, content=[IMAGE]), "'image_url'; images cannot be trained on"),
    (
        agent_chat_with(0, content=[{"type": "text", "text": None}]),
        "of type 'text' that is not text",
    ),
    (
        agent_chat_with(0, content=[{"type": "thinking", "thinking": "a"}]),
        "of type 'thinking' that is not text",
    ),
    (agent_chat_with(0, content={"a": 1}), "content of the user turn must be a text, this is dict"),
    ({**SHORT_PAIR, "id": [1]}, "id must be a text or a number, this is list"),
    ({**SHORT_PAIR, "group": "\ud83d"}, "group holds half a character"),
    ({**SHORT_PAIR, "label": "\ud83d"}, "meta data holds half a character"),
]


@pytest.mark.parametrize(("record", "words"), BAD_CONTENT)
def test_content_that_is_not_text_is_refused_with_its_place(
    tmp_path: Path, record: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_row(tmp_path / "rows.jsonl", record)
    assert "rows.jsonl:1: " in str(caught.value)


def test_developer_turns_are_system_turns(tmp_path: Path) -> None:
    roles = [{"role": role, "content": "x"} for role in ("developer", "user", "assistant")]
    assert read_row(tmp_path / "a.jsonl", {"messages": roles}).messages[0].role == "system"


@pytest.mark.parametrize(("count", "words"), [(1, "1 row: "), (3, "3 rows: ")])
def test_rows_whose_last_turns_are_dropped_are_counted(
    tmp_path: Path, count: int, words: str
) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    context = [*turns, turns[0], {**turns[1], "weight": 0}]
    path = write_rows(
        tmp_path / "rows.jsonl", [{"messages": turns}, *[{"messages": context}] * count]
    )
    assert statements_of(path) == [
        "read as messages",
        f"{words}turns after the last trained one dropped",
    ]
