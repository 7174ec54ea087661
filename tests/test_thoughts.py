"""Thoughts in answers: how they are separated, and under which templates they are trained."""

import copy
from dataclasses import replace

import pytest

from chat_templates import CHATML, LAST_THINKS, TALK, prompt_and_trained, with_template
from hydratune.data import thoughts
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.errors import Defect, MaskError
from hydratune.data.mask_check import check_masks
from hydratune.data.rows import Message, Row

OPENS = (  # as LAST_THINKS in every turn, and the generation prompt opens the thought
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant'"
    " %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m['content']"
    " }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{%"
    " endif %}"
)
OPENS_AND_DROPS = (  # opens the thought, and leaves thoughts out of every turn
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'].split('</think>')[-1]"
    " }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{%"
    " endif %}"
)


@pytest.mark.parametrize(
    ("content", "opened", "expected"),
    [
        ("<think>\nT\n</think>\n\nA", False, ("T", "A")),
        ("<think></think>A", False, ("", "A")),
        ("[THINK]T[/THINK]A", False, ("T", "A")),
        ("T\n</think>\n\nA", True, ("T", "A")),
        ("T\n</think>\n\nA", False, None),
        ("A", True, None),
        ("Write <think> and </think> around it", False, None),
        ("<think>a</think>b</think>c", True, None),
    ],
)
def test_thoughts_are_separated_from_the_answer(
    content: str, opened: bool, expected: tuple[str, str] | None
) -> None:
    assert thoughts.split_thoughts(content, opened=opened) == expected


def answer_row(content: str) -> Row:
    return Row("row", (Message("user", "Where?"), Message("assistant", content)), where="f.jsonl:7")


@pytest.mark.parametrize(
    "content", ["T\n</think>\n\nA", "<think>\nT\n</think>\n\nA", "<think>T</think>A"]
)
@pytest.mark.parametrize("template", [OPENS, OPENS_AND_DROPS])
def test_thought_that_the_prompt_opens_is_closed_once(
    encoder: ChatEncoder, template: str, content: str
) -> None:
    encoder, row = with_template(encoder, template), answer_row(content)
    example = encoder.encode(row)
    check_masks(encoder, [row], [example])
    # the text of the row, where the template writes no thoughts
    without_opening = content.removeprefix("<think>").lstrip("\n")
    trained = without_opening if template is OPENS_AND_DROPS else "T\n</think>\n\nA"
    assert prompt_and_trained(encoder, example) == (
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n<think>\n",
        f"{trained}<|im_end|>",
    )
    assert (
        encoder.reference_answer(row)
        == "A"
        == encoder.extract_answer(row, "Other thoughts\n</think>\n\nA")
    )


def test_rows_without_thoughts_are_refused_where_the_prompt_opens_one(encoder: ChatEncoder) -> None:
    with pytest.raises(
        MaskError, match=r"opens a thought \(<think>\), and this answer has none"
    ) as caught:
        with_template(encoder, OPENS_AND_DROPS).encode(answer_row("A"))
    assert caught.value.defect is Defect.prompt_differs
    for fixed in (
        answer_row("thoughts</think>A"),
        answer_row("A"),
    ):  # both fixes that the message names
        template = (
            OPENS_AND_DROPS
            if "</think>" in fixed.answer
            else OPENS_AND_DROPS.replace("<think>\n", "")
        )
        assert prompt_and_trained(
            with_template(encoder, template), with_template(encoder, template).encode(fixed)
        )[1].endswith("A<|im_end|>")


@pytest.mark.parametrize("content", ["<think>\nT\n</think>\n\nA", "<think>T</think>A"])
def test_thoughts_are_passed_separately_to_a_template_that_takes_thoughts(
    encoder: ChatEncoder, content: str
) -> None:
    encoder = with_template(encoder, LAST_THINKS)
    assert (
        prompt_and_trained(encoder, encoder.encode(answer_row(content)))[1]
        == "<think>\nT\n</think>\n\nA<|im_end|>"
    )


def test_thoughts_stay_in_the_text_under_a_template_without_thoughts(encoder: ChatEncoder) -> None:
    row = answer_row("<think>T</think>A")
    encoder = with_template(encoder, CHATML)
    assert prompt_and_trained(encoder, encoder.encode(row))[1] == "<think>T</think>A<|im_end|>"
    assert (
        encoder.reference_answer(row) == "A" == encoder.extract_answer(row, "<think>other</think>A")
    )


def test_a_doubled_closing_tag_is_refused_with_a_fix_that_works(encoder: ChatEncoder) -> None:
    quoting = answer_row("<think>T</think>Write </think> at the end")
    encoder = with_template(encoder, OPENS)
    with pytest.raises(
        MaskError, match="close it twice; put the thoughts of the row into reasoning_content"
    ) as caught:
        encoder.encode(quoting)
    assert caught.value.defect is Defect.thinking_doubled
    separate = Row(
        "row",
        (quoting.messages[0], Message("assistant", "Write </think> at the end", reasoning="T")),
    )
    assert (
        prompt_and_trained(encoder, encoder.encode(separate))[1]
        == "T\n</think>\n\nWrite </think> at the end<|im_end|>"
    )


SEED = OPENS.replace("think>", "seed:think>")
OWN_TAG = OPENS.replace("think>", "musing>")  # a tag that no family uses
NO_THINKING = CHATML.replace(
    "<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif"
).replace(
    "{{ m['content'] }}",
    "{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}",
)


@pytest.mark.parametrize(("template", "tag"), [(SEED, "seed:think"), (OWN_TAG, "musing")])
def test_thought_of_any_tag_that_the_prompt_opens_is_closed_once(
    encoder: ChatEncoder, template: str, tag: str
) -> None:
    encoder, row = with_template(encoder, template), answer_row(f"T\n</{tag}>\n\nA")
    assert prompt_and_trained(encoder, encoder.encode(row))[1] == f"T\n</{tag}>\n\nA<|im_end|>"
    assert encoder.reference_answer(row) == "A"


def test_separate_thoughts_are_written_under_a_template_that_opens_and_drops_thoughts(
    encoder: ChatEncoder,
) -> None:
    encoder = with_template(encoder, OPENS_AND_DROPS)
    row = Row("row", (Message("user", "Where?"), Message("assistant", "A", reasoning="T")))
    example = encoder.encode(row)
    check_masks(encoder, [row], [example])
    assert (
        prompt_and_trained(encoder, example)[1] == "T\n</think>\n\nA<|im_end|>"
        and encoder.reference_answer(row) == "A"
    )


def test_prompt_that_has_closed_an_empty_thought_takes_no_second_one(encoder: ChatEncoder) -> None:
    encoder = with_template(encoder, NO_THINKING)
    with pytest.raises(MaskError, match="has a thought that is closed already") as caught:
        encoder.encode(answer_row("<think>T</think>A"))
    assert caught.value.defect is Defect.thinking_doubled
    for content in ("A", "<think>\n\n</think>\n\nA"):
        read, trained = prompt_and_trained(encoder, encoder.encode(answer_row(content)))
        assert read.count("</think>") == 1 and trained == "A<|im_end|>"


def test_answer_of_thoughts_alone_is_empty(encoder: ChatEncoder) -> None:
    talk = replace(
        TALK,
        messages=(TALK.messages[0], Message("assistant", "<think>T</think>\n"), *TALK.messages[2:]),
    )
    with pytest.raises(MaskError, match="turn 2, the assistant's, says nothing after its thoughts"):
        encoder.encode(talk)


def test_thought_tags_are_not_reported_as_special_tokens(encoder: ChatEncoder) -> None:
    from hydratune.data.tokens import with_special_tokens

    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    rows = [
        answer_row("<think>T</think>A"),
        answer_row("T</think>A"),
        answer_row("<think>a</think>b</think>c"),
        Row("user", (Message("user", "<think>"),)),
    ]
    assert [token for _, token in with_special_tokens(tokenizer, rows)] == ["<think>", "<think>"]


def test_a_thought_without_an_opening_tag_is_refused_and_both_fixes_work(
    encoder: ChatEncoder,
) -> None:
    encoder = with_template(encoder, CHATML)
    with pytest.raises(
        MaskError,
        match=r"closes a thought \(</think>\) that nothing opens.*begin the answer with <think>",
    ) as caught:
        encoder.encode(answer_row("T\n</think>\n\nA"))
    assert caught.value.defect is Defect.thinking_unopened
    assert (
        prompt_and_trained(encoder, encoder.encode(answer_row("<think>T\n</think>\n\nA")))[1]
        == "<think>T\n</think>\n\nA<|im_end|>"
    )
    with_thoughts = with_template(encoder, LAST_THINKS)
    separate = Row("row", (Message("user", "Where?"), Message("assistant", "A", reasoning="T")))
    assert (
        prompt_and_trained(with_thoughts, with_thoughts.encode(separate))[1]
        == "<think>\nT\n</think>\n\nA<|im_end|>"
    )
    prose = answer_row("Write </think> where the thought ends.")  # a text about tags
    assert (
        prompt_and_trained(encoder, encoder.encode(prose))[1]
        == "Write </think> where the thought ends.<|im_end|>"
    )
