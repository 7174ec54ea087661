"""Calls, histories, system turns and documents that a template or tokenizer changes."""

from dataclasses import replace

import pytest

from chat_templates import CHATML, TALK, prompt_and_trained, with_template
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.errors import Defect, MaskError
from hydratune.data.mask_check import check_masks
from hydratune.data.rows import Message, Row

CALLS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}SHOWN<|im_end|>\n{%"
    " endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALL_CALLS = (
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }}{{ c.function.arguments | tojson }}]{%"
    " endfor %}"
)
FIRST_CALL = (
    "{% if m.tool_calls %}[{{ m.tool_calls[0].function.name }}{{ m.tool_calls[0].function.arguments"
    " | tojson }}]{% endif %}"
)
ONLY_KEYS = (
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }}({{ c.function.arguments | join(',')"
    " }})]{% endfor %}"
)
CUT_VALUES = (
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }}{% for k, v in"
    " c.function.arguments.items() %} {{ k }} {{ (v | string)[:20] }}{% endfor %}]{% endfor %}"
)


@pytest.mark.parametrize(
    ("calls", "is_complete"),
    [(ALL_CALLS, True), (FIRST_CALL, False), (ONLY_KEYS, False), (CUT_VALUES, False)],
)
def test_every_argument_of_every_call_is_written(
    encoder: ChatEncoder, calls: str, is_complete: bool
) -> None:
    encoder = with_template(encoder, CALLS.replace("SHOWN", calls))
    places = ("Rome, near the old harbour, behind it", 'the "Oslo" fjord\nat night, in the rain')
    tool_calls = tuple(
        {
            "type": "function",
            "function": {"name": "weather", "arguments": {"place": place, "days": 2}},
        }
        for place in places
    )
    row = Row(
        "row",
        (Message("user", "Rain?"), Message("assistant", "", tool_calls=tool_calls)),
        where="f.jsonl:7",
    )
    if not is_complete:
        with pytest.raises(MaskError, match=r"f\.jsonl:7: the chat template leaves out") as caught:
            encoder.encode(row)
        assert caught.value.defect is Defect.calls_ignored
        return
    example = encoder.encode(row)
    check_masks(encoder, [row], [example])
    assert prompt_and_trained(encoder, example)[1].count("[weather{") == 2


def test_a_document_that_the_tokenizer_changes_is_refused(encoder: ChatEncoder) -> None:
    from tokenizers.normalizers import Lowercase

    lowercasing = with_template(encoder, CHATML)
    lowercasing.tokenizer.backend_tokenizer.normalizer = Lowercase()
    with pytest.raises(
        MaskError,
        match=(
            r"f\.jsonl:7: the tokenizer does not write the text as it is \('Once' becomes 'once'\)"
        ),
    ) as caught:
        lowercasing.encode(Row("text", (Message("text", "Once"),), where="f.jsonl:7"))
    assert caught.value.defect is Defect.tokens_differ


def test_a_history_with_other_turn_ends_is_a_rewritten_history(encoder: ChatEncoder) -> None:
    other_end = CHATML.replace(
        "{{ m['content'] }}<|im_end|>",
        "{{ m['content'] }}{% if loop.last or m['role'] == 'user' %}<|im_end|>{% else"
        " %}<|endoftext|>{% endif %}",
    )
    with pytest.raises(MaskError, match="rewrites earlier turns") as caught:
        with_template(encoder, other_end).encode(TALK)
    assert caught.value.defect is Defect.history_rewritten


def test_advice_for_a_refused_system_turn_is_to_put_it_into_the_first_question(
    encoder: ChatEncoder,
) -> None:
    refusing = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported')"
        " }}{% endif %}" + CHATML
    )
    with pytest.raises(MaskError, match="put that text at the beginning of the first user turn"):
        with_template(encoder, refusing).encode(
            replace(TALK, messages=(Message("system", "Be terse."), *TALK.messages))
        )


def test_a_generation_prompt_that_ends_in_a_space_is_reported(encoder: ChatEncoder) -> None:
    from hydratune.experiment.compatibility import notices

    spaced = CHATML.replace("assistant\n{% endif", "assistant: {% endif").replace(
        "{{ m['role'] }}\n", "{{ m['role'] }}: "
    )
    assert "ends in a space" in notices(with_template(encoder, spaced))[0]
    assert notices(with_template(encoder, spaced.replace(": ", ":"))) == []
