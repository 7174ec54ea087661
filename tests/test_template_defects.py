"""Every way in which a chat template can make the loss mask wrong is caught by its own message."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from hydratune.data.encoding.errors import Defect, MaskError
from hydratune.data.mask_check import check_masks
from hydratune.data.rows import Message, Row
from template_families import (
    FAMILIES,
    FIRST,
    TALKS,
    THINKING,
    TOOL_TALKS,
    TOOLS,
    WITH_TOOLS,
    Build,
    family_encoder,
)


@pytest.fixture
def build(tiny: tuple[Any, Any, Any]) -> Build:
    """Build the encoder of a family, with its template changed or not."""
    return partial(family_encoder, tiny[2])


NO_TOOLS = [name for name in FAMILIES if name not in WITH_TOOLS]


def without_turn_ends(name: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        for end in set(FAMILIES[name].ends) - {"<|assistant|>"}:
            text = text.replace(end, "")
        return text.replace("eos_token", "''")

    return change


def prefixed(prefix: str) -> Callable[[str], Callable[[str], str]]:
    return lambda name: lambda text: prefix + text


def substituted(old: str, new: str) -> Callable[[str], Callable[[str], str]]:
    return lambda name: lambda text: text.replace(old, new)


WITH_FIRST_TURN = (
    "(message.content if message.role != 'assistant' else messages[0].content + message.content)"
)
TURN_COUNT = "{{- messages | selectattr('role', 'equalto', 'user') | list | length -}}"
PLANTED_DEFECTS: dict[Defect, tuple[Callable[[str], Callable[[str], str]], Row, str]] = {
    Defect.turn_end_missing: (
        without_turn_ends,
        TALKS["one turn"],
        "does not end the assistant's turn with a turn-end token",
    ),
    Defect.prompt_differs: (
        lambda name: (
            lambda text: text + "{%- if add_generation_prompt -%}{{- 'Sure: ' -}}{%- endif -%}"
        ),
        TALKS["one turn"],
        "renders an answer differently from the prompt",
    ),
    Defect.answer_changed: (
        substituted("message.content", "(message.content | upper)"),
        TALKS["one turn"],
        "changes the assistant's text",
    ),
    Defect.history_rewritten: (
        prefixed(TURN_COUNT),
        TALKS["several turns"],
        "rewrites earlier turns",
    ),
    Defect.others_trained: (
        substituted("message.content", WITH_FIRST_TURN),
        TALKS["one turn"],
        "text of a user, system or tool turn is trained",
    ),
    Defect.template_refuses: (
        prefixed("{{- raise_exception('no') -}}"),
        TALKS["one turn"],
        "the chat template refuses this conversation",
    ),
}


@pytest.mark.parametrize(
    ("name", "defect"),
    # qwen3 drops thinking before it rewrites history
    [
        (n, d)
        for n in FAMILIES
        for d in PLANTED_DEFECTS
        if (n, d) != ("qwen3", Defect.history_rewritten)
    ],
)
def test_planted_defect_is_caught_by_its_own_message(
    build: Build, name: str, defect: Defect
) -> None:
    plant, row, words = PLANTED_DEFECTS[defect]
    row = replace(row, where="f.jsonl:7")
    encoder = build(name, plant(name))
    with pytest.raises(MaskError, match=words) as caught:
        check_masks(encoder, [row], [encoder.encode(row)])
    assert caught.value.defect is defect
    assert str(caught.value).startswith("f.jsonl:7: ")


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.bos])
def test_doubled_begin_of_text_is_caught(build: Build, name: str) -> None:
    encoder, row = build(name, lambda text: "{{- bos_token -}}" + text), TALKS["one turn"]
    with pytest.raises(MaskError, match="begins with two begin-of-text tokens") as caught:
        check_masks(encoder, [row], [encoder.encode(row)])
    assert caught.value.defect is Defect.double_bos


@pytest.mark.parametrize("name", WITH_TOOLS)
@pytest.mark.parametrize(
    ("change", "defect", "words"),
    [
        (
            prefixed("{%- set tools = none -%}"),
            Defect.tools_ignored,
            "ignores the tools of this row",
        ),
        (
            substituted("message.tool_calls", "message.nothing"),
            Defect.calls_ignored,
            "leaves out the call to weather",
        ),
    ],
)
def test_template_that_ignores_tools_is_caught(
    build: Build, name: str, change: Any, defect: Defect, words: str
) -> None:
    encoder = build(name, change(name))
    with pytest.raises(MaskError, match=words) as caught:
        encoder.encode(TOOL_TALKS["tools, last turn is a call"])
    assert caught.value.defect is defect


@pytest.mark.parametrize("name", NO_TOOLS)
def test_family_without_tools_refuses_rows_with_them(build: Build, name: str) -> None:
    answered = Row("answered", FIRST, tools=TOOLS)
    with pytest.raises(MaskError) as caught:
        build(name).encode(answered)
    assert caught.value.defect is Defect.tools_ignored
    with pytest.raises(MaskError) as caught:
        build(name).encode(replace(TOOL_TALKS["tools, last turn is a call"], tools=()))
    assert caught.value.defect is Defect.calls_ignored


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "qwen3"])
def test_family_without_thinking_refuses_rows_with_it(build: Build, name: str) -> None:
    with pytest.raises(MaskError, match="leaves out the thinking") as caught:
        build(name).encode(THINKING)
    assert caught.value.defect is Defect.thinking_ignored


def test_gemma_refuses_turns_that_do_not_alternate(build: Build) -> None:
    with pytest.raises(MaskError, match="must alternate") as caught:
        build("gemma").encode(Row("twice", (FIRST[0], *FIRST)))
    assert caught.value.defect is Defect.template_refuses


def test_arguments_that_quote_the_user_are_no_leak(build: Build) -> None:
    """A call may repeat the user's words; only a template that repeats the turn is wrong."""
    words = "Will it rain in the old town of Zürich this weekend?"
    call = {
        "type": "function",
        "id": "call00002",
        "function": {"name": "weather", "arguments": {"city": words}},
    }
    row = Row(
        "quoting",
        (Message("user", words), Message("assistant", "", tool_calls=(call,))),
        tools=TOOLS,
    )
    for name in WITH_TOOLS:
        encoder = build(name)
        check_masks(encoder, [row], [encoder.encode(row)])
