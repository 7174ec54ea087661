"""Tool calls and tools in the layouts of several providers, and calls between tags."""

import json
from pathlib import Path

import pytest

from hydratune.data.formats.columns import Naming
from row_files import ASSISTANT_TURN, USER_TURN, read_chat, refusal_of, write_and_read
from tool_records import WEATHER, call


def test_parallel_calls_in_any_layout_are_one_turn(tmp_path: Path) -> None:
    calls = [call("weather", town=town) for town in ("Ulm", "Bonn")]
    texts = [json.dumps(c["function"]) for c in calls]
    results = [{"role": "tool", "content": "grey"}, {"role": "tool", "content": "blue"}]
    one_turn = [
        USER_TURN,
        {"role": "assistant", "content": "", "tool_calls": calls},
        *results,
        ASSISTANT_TURN,
    ]
    expected = [m.turn() for m in read_chat(tmp_path / "a.jsonl", *one_turn).messages]
    assert expected[1]["tool_calls"] == calls
    for call_name, result_name in (
        ("function_call", "observation"),
        ("tool_call", "tool_response"),
        ("Function-Call", "function_response"),
    ):
        turns = [
            USER_TURN,
            *({"role": call_name, "content": text} for text in texts),
            *({**r, "role": result_name} for r in results),
            ASSISTANT_TURN,
        ]
        assert [m.turn() for m in read_chat(tmp_path / "b.jsonl", *turns).messages] == expected
        renamed = [{"from": turn["role"], "value": turn["content"]} for turn in turns]
        rows, statements = write_and_read(tmp_path / "c.jsonl", [{"conversations": renamed}])
        assert [m.turn() for m in rows[0].messages] == expected
        assert statements[1:] == [
            "1 call put into the assistant turn before, as calls made together"
        ]
    together = [
        USER_TURN,
        {"role": "tool_call", "content": json.dumps([c["function"] for c in calls])},
        *results,
        ASSISTANT_TURN,
    ]
    assert [m.turn() for m in read_chat(tmp_path / "d.jsonl", *together).messages] == expected


def test_a_call_after_a_text_belongs_to_its_turn(tmp_path: Path) -> None:
    calls = {"role": "tool_call", "content": {"name": "weather", "arguments": {"town": "Ulm"}}}
    row = read_chat(
        tmp_path / "a.jsonl",
        USER_TURN,
        {**ASSISTANT_TURN, "content": "I look."},
        calls,
        {"role": "tool", "content": "grey"},
        ASSISTANT_TURN,
    )
    assert row.messages[1].turn() == {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [call("weather", town="Ulm")],
    }
    assert "marked both as trained and as context" in refusal_of(
        tmp_path / "b.jsonl", USER_TURN, {**ASSISTANT_TURN, "train": False}, calls
    )


def test_legacy_function_calls_and_functions(tmp_path: Path) -> None:
    turns = [
        USER_TURN,
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "weather", "arguments": '{"town": "Ulm"}'},
        },
        {"role": "function", "name": "weather", "content": "grey"},
        ASSISTANT_TURN,
    ]
    rows, statements = write_and_read(
        tmp_path / "a.jsonl", [{"messages": turns, "functions": [WEATHER["function"]]}]
    )
    assert [m.turn() for m in rows[0].messages[1:3]] == [
        {"role": "assistant", "content": "", "tool_calls": [call("weather", town="Ulm")]},
        {"role": "tool", "content": "grey", "name": "weather"},
    ]
    assert rows[0].tools == (WEATHER,) and statements == [
        "read as messages from messages, functions"
    ]


def test_tools_of_other_providers(tmp_path: Path) -> None:
    schema = WEATHER["function"]["parameters"]
    for tool_schema in (
        {"name": "weather", "description": "x", "input_schema": schema},  # Anthropic's
        # OpenAI's responses
        {"type": "function", "name": "weather", "description": "x", "parameters": schema},
    ):
        assert read_chat(
            tmp_path / "a.jsonl", USER_TURN, ASSISTANT_TURN, tools=[tool_schema]
        ).tools == (WEATHER,)


def tagged_calls(*towns: str) -> str:
    return "\n".join(
        "<tool_call>\n"
        + json.dumps({"name": "weather", "arguments": {"town": town}})
        + "\n</tool_call>"
        for town in towns
    )


def test_tagged_calls_with_results_become_tool_calls(tmp_path: Path) -> None:
    results = (
        '<tool_response>\n{"sky":'
        ' "grey"}\n</tool_response>\n<tool_response>\nblue\n</tool_response>'
    )
    turns = [
        ("human", "Where?"),
        ("gpt", "I look.\n" + tagged_calls("Ulm", "Bonn")),
        ("tool", results),
        ("gpt", "In the attic."),
    ]
    (row,), statements = write_and_read(
        tmp_path / "a.jsonl", [{"conversations": [{"from": r, "value": t} for r, t in turns]}]
    )
    assert [m.turn() for m in row.messages[1:]] == [
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [call("weather", town="Ulm"), call("weather", town="Bonn")],
        },
        {"role": "tool", "content": '{"sky": "grey"}'},
        {"role": "tool", "content": "blue"},
        ASSISTANT_TURN,
    ]
    assert statements[1].startswith("1 text with <tool_call> read as calls")


def test_a_tool_call_turn_may_have_tags(tmp_path: Path) -> None:
    turns = [
        USER_TURN,
        {"role": "tool_call", "content": tagged_calls("Ulm")},
        {"role": "tool", "content": "grey"},
        ASSISTANT_TURN,
    ]
    assert read_chat(tmp_path / "a.jsonl", *turns).messages[1].tool_calls == (
        call("weather", town="Ulm"),
    )


def test_tagged_calls_without_results_stay_text(tmp_path: Path) -> None:
    for text in (tagged_calls("Ulm"), "Write <tool_call>x</tool_call> so."):
        assert (
            read_chat(
                tmp_path / "a.jsonl", USER_TURN, {"role": "assistant", "content": text}
            ).answer
            == text
        )


@pytest.mark.parametrize(
    "text",
    [tagged_calls("Ulm") + " Done.", "<tool_call>{'name': 'weather'}</tool_call>", "Let me look."],
)
def test_the_fix_for_results_without_calls_works(tmp_path: Path, text: str) -> None:
    call_turn = {"role": "assistant", "content": text}
    turns = [USER_TURN, call_turn, {"role": "tool", "content": "grey"}, ASSISTANT_TURN]
    message = refusal_of(tmp_path / "a.jsonl", *turns)
    assert (
        '"tool_calls": [{"name": ..., "arguments": {...}}]' in message
        and "data.roles.tool=user" in message
    )
    (row,), _ = write_and_read(
        tmp_path / "b.jsonl", [{"messages": turns}], Naming(roles={"tool": "user"})
    )
    assert [m.role for m in row.messages] == [
        "user",
        "assistant",
        "user",
        "assistant",
    ] and row.messages[1].content == text
    call_turn["tool_calls"] = [{"name": "weather", "arguments": {}}]
    assert len(read_chat(tmp_path / "c.jsonl", *turns).messages) == 4
