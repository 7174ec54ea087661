"""Arguments of tool calls: their names, their form, and what the chat template takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.errors import MaskError
from hydratune.settings.data import TrainOn
from row_files import ASSISTANT_TURN, USER_TURN, read_chat, refusal_of, write_and_read
from tool_records import PRICE, WEATHER, call, record_with_calls

ARGUMENTS = '{"town": "Attic \\"Zürich\\""}'
BEGIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name }}"
)
END = (
    "{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{"
    " '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = {
    "concatenates": "{{ c.function.arguments + '' }}",
    "prints": "{{ c.function.arguments }}",
    "tojson": "{{ c.function.arguments | tojson }}",
    "either": (
        "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}{{"
        " c.function.arguments | tojson }}{% endif %}"
    ),
    "items": "{% for k, v in c.function.arguments | items %}{{ k + '=' + v }}{% endfor %}",
}


@pytest.fixture
def encoder_with(encoder: ChatEncoder) -> Callable[[str], ChatEncoder]:
    import copy

    def make(template: str) -> ChatEncoder:
        tokenizer = copy.deepcopy(encoder.tokenizer)
        tokenizer.chat_template = BEGIN + template + END
        return ChatEncoder(tokenizer, encoder.turn_end_ids)

    return make


@pytest.mark.parametrize("given", [ARGUMENTS, json.loads(ARGUMENTS)])
@pytest.mark.parametrize("template", TEMPLATES)
def test_arguments_have_the_form_that_the_template_needs(
    tmp_path: Path, encoder_with: Callable[[str], ChatEncoder], template: str, given: Any
) -> None:
    call_turn = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "weather", "arguments": given}}],
    }
    row = read_chat(
        tmp_path / "a.jsonl",
        USER_TURN,
        call_turn,
        {"role": "tool", "content": "grey"},
        ASSISTANT_TURN,
    )
    chat_encoder = encoder_with(TEMPLATES[template])
    example = chat_encoder.encode(row, TrainOn.all)
    trained = chat_encoder.decode(
        [t for t, is_target in zip(example.ids, example.loss_mask, strict=True) if is_target]
    )
    shown = 'town=Attic "Zürich"' if template == "items" else ARGUMENTS
    assert trained == f"<call>weather{shown}<|im_end|>In the attic.<|im_end|>"


def test_a_template_that_takes_neither_form_refuses_the_row(
    tmp_path: Path, encoder_with: Callable[[str], ChatEncoder]
) -> None:
    row = read_chat(
        tmp_path / "a.jsonl",
        USER_TURN,
        record_with_calls(call("weather", town="Ulm"))["messages"][1],
    )
    with pytest.raises(MaskError, match=r"a\.jsonl:1: the chat template refuses this conversation"):
        encoder_with("{{ c.function.arguments + 1 }}").encode(row, TrainOn.all)


@pytest.mark.parametrize("arguments", ["[1]", '"{}"', "7", "{town: Ulm}", "{'town': 'Ulm'}"])
def test_arguments_that_are_no_object_are_refused_with_row_and_field(
    tmp_path: Path, arguments: str
) -> None:
    call_turn = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "weather", "arguments": arguments}}],
    }
    assert "arguments of the call to weather" in refusal_of(
        tmp_path / "a.jsonl", USER_TURN, call_turn
    )


NAMES = ("arguments", "parameters", "input", "args", "kwargs", "params")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [{"town": "Ulm"}, '{"town": "Ulm"}'])
def test_arguments_have_several_names(tmp_path: Path, name: str, value: Any) -> None:
    for tool_call in (
        {"name": "weather", name: value},
        {"function": {"name": "weather", name: value}},
        {"function": {"name": "weather"}, name: value},
        {"name": "weather", "arguments": {}, name: value},
    ):
        rows = [
            read_chat(
                tmp_path / "a.jsonl", USER_TURN, {"role": "assistant", "tool_calls": [tool_call]}
            ),
            read_chat(
                tmp_path / "a.jsonl",
                USER_TURN,
                {"role": "tool_call", "content": json.dumps(tool_call)},
            ),
        ]
        assert [row.messages[1].tool_calls for row in rows] == [(call("weather", town="Ulm"),)] * 2
    part = {"type": "tool_use", "name": "weather", name: value}
    assert read_chat(
        tmp_path / "b.jsonl", USER_TURN, {"role": "assistant", "content": [part]}
    ).messages[1].tool_calls == (call("weather", town="Ulm"),)


@pytest.mark.parametrize("key", ["toolArgs", "action_input", "args_json", "town"])
@pytest.mark.parametrize("value", [{"town": "Ulm"}, '{"town": "Ulm"}', ["Ulm"], "Ulm"])
def test_unknown_keys_that_may_be_arguments_are_refused(
    tmp_path: Path, key: str, value: Any
) -> None:
    for tool_call in (
        {"name": "weather", key: value},
        {"function": {"name": "weather", key: value}},
    ):
        message = refusal_of(
            tmp_path / "a.jsonl", USER_TURN, {"role": "assistant", "tool_calls": [tool_call]}
        )
        assert (
            f"the call to weather has no arguments, but the key {key}" in message
            and '{"name": "weather", "arguments": {...}}' in message
        )
    part = {"type": "tool_use", "name": "weather", key: value}
    assert "the call to weather has no arguments" in refusal_of(
        tmp_path / "b.jsonl", USER_TURN, {"role": "assistant", "content": [part]}
    )


def test_other_keys_of_calls_are_named_and_arguments_are_optional(tmp_path: Path) -> None:
    tool_call = {"name": "weather", "arguments": {"town": "Ulm"}, "result": {"sky": "grey"}}
    (row,), statements = write_and_read(
        tmp_path / "a.jsonl",
        [{"messages": [USER_TURN, {"role": "assistant", "tool_calls": [tool_call]}]}],
    )
    assert row.messages[1].tool_calls == (call("weather", town="Ulm"),)
    assert statements[1:] == [
        "keys of turns ignored, with the number of turns: tool_calls.result (1)"
    ]
    bare = {
        "role": "assistant",
        "tool_calls": [{"id": "a", "index": 0, "type": "function", "function": {"name": "now"}}],
    }
    assert read_chat(tmp_path / "b.jsonl", USER_TURN, bare).messages[1].tool_calls == (
        {"id": "a", **call("now")},
    )
    contradicting = {
        "role": "assistant",
        "tool_calls": [{"name": "f", "arguments": {"a": 1}, "args": {"a": 2}}],
    }
    assert "arguments and args of the call to f differ" in refusal_of(
        tmp_path / "c.jsonl", USER_TURN, contradicting
    )


def test_tools_may_be_a_list_of_json_texts(tmp_path: Path) -> None:
    assert read_chat(
        tmp_path / "a.jsonl", USER_TURN, ASSISTANT_TURN, tools=[json.dumps(WEATHER), PRICE]
    ).tools == (
        WEATHER,
        PRICE,
    )
    assert "a tool is a text that is not JSON" in refusal_of(
        tmp_path / "b.jsonl", USER_TURN, ASSISTANT_TURN, tools=["{weather"]
    )
