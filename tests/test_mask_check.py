"""The mask check refuses every broken loss mask."""

from dataclasses import replace
from typing import Any

import pytest

from chat_templates import (
    CHAT,
    CHATML,
    DOCUMENT,
    chat_row,
    masked,
    trained_text,
    with_begin,
    with_template,
)
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.errors import Defect, MaskError
from hydratune.data.mask_check import check_masks, trained_spans
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.data import TrainOn

DOUBLE_BOS = "<|im_start|><|im_start|>" + CHATML


def spans(encoder: ChatEncoder, talk: Row) -> list[tuple[int, int]]:
    return trained_spans(encoder.encode(talk).loss_mask)


BROKEN: dict[str, tuple[Any, Defect, str]] = {
    "nothing trained": (
        lambda good, first, second: masked(good, slice(None), value=False),
        Defect.nothing_trained,
        "no token of this row",
    ),
    "everything trained": (
        lambda good, first, second: masked(good, slice(None), value=True),
        Defect.others_trained,
        "a token of a user",
    ),
    "one user token": (
        lambda good, first, second: masked(good, 3, value=True),
        Defect.others_trained,
        "a token of a user",
    ),
    "user turn in between": (
        lambda good, first, second: masked(good, slice(first[1], second[0]), value=True),
        Defect.others_trained,
        "a token of a user",
    ),
    "user turn after": (
        lambda good, first, second: masked(good, slice(first[1], second[0] - 4), value=True),
        Defect.others_trained,
        "a token of a user",
    ),
    "last end untrained": (
        lambda good, first, second: masked(good, second[1] - 1, value=False),
        Defect.turn_end_untrained,
        "turn-end token",
    ),
    "first end untrained": (
        lambda good, first, second: masked(good, first[1] - 1, value=False),
        Defect.turn_end_untrained,
        "turn-end token",
    ),
    "beginning untrained": (
        lambda good, first, second: masked(good, second[0], value=False),
        Defect.answer_untrained,
        "beginning or middle",
    ),
    "middle untrained": (
        lambda good, first, second: masked(good, first[0] + 1, value=False),
        Defect.answer_untrained,
        "beginning or middle",
    ),
    "prompt of another row": (
        lambda good, first, second: Encoded(
            (good.ids[0], good.ids[0] + 40, *good.ids[2:]), good.loss_mask
        ),
        Defect.prompt_differs,
        "the training prompt is not the inference prompt",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_mask_check_refuses_every_broken_mask_by_its_defect(
    encoder: ChatEncoder, name: str
) -> None:
    change, defect, words = BROKEN[name]
    good = encoder.encode(CHAT)
    check_masks(encoder, [CHAT], [good])
    with pytest.raises(MaskError, match=words) as caught:
        check_masks(encoder, [CHAT, CHAT], [good, change(good, *spans(encoder, CHAT))])
    assert caught.value.defect is defect


def test_mask_errors_keep_their_defect_when_pickled() -> None:
    import pickle

    assert (
        pickle.loads(pickle.dumps(MaskError("why", Defect.double_bos))).defect is Defect.double_bos
    )


def test_context_turn_is_not_trained_and_the_mask_check_refuses_it_otherwise(
    encoder: ChatEncoder,
) -> None:
    messages = list(CHAT.messages)
    messages[2] = replace(messages[2], train=False)
    talk = replace(CHAT, messages=tuple(messages))
    example = encoder.encode(talk)
    assert trained_text(encoder, example) == "Madrid<|im_end|>"
    assert encoder.decode(example.ids).count("Paris") == 1
    check_masks(encoder, [talk], [example])
    with pytest.raises(MaskError, match="a token of a user, system, tool or context turn"):
        check_masks(encoder, [talk], [encoder.encode(CHAT)])


@pytest.mark.parametrize(
    ("position", "defect"), [(-1, Defect.turn_end_untrained), (3, Defect.answer_untrained)]
)
def test_mask_check_covers_documents(encoder: ChatEncoder, position: int, defect: Defect) -> None:
    with pytest.raises(MaskError) as caught:
        check_masks(encoder, [DOCUMENT], [masked(encoder.encode(DOCUMENT), position, value=False)])
    assert caught.value.defect is defect


def test_document_that_begins_with_the_begin_of_text_is_refused(encoder: ChatEncoder) -> None:
    begins_itself = with_begin(encoder)
    doubled = Row("document", (Message("text", "<|endoftext|>Once"),))
    with pytest.raises(MaskError, match="two begin-of-text"):
        check_masks(begins_itself, [doubled], [begins_itself.encode(doubled)])


def test_mask_check_refuses_two_begin_of_text_tokens(encoder: ChatEncoder) -> None:
    encoder = with_template(encoder, DOUBLE_BOS)
    single = chat_row("a", "b")
    with pytest.raises(DataError, match="two begin-of-text"):
        check_masks(encoder, [single], [encoder.encode(single)])


def test_mask_check_compares_every_turn_with_what_inference_sends(encoder: ChatEncoder) -> None:
    """A space before an answer is one token with the answer's first word inside the conversation,
    and a token of its own at the end of a prompt.
    """
    joining = (
        "{% for m in messages %}{{ m['content'] }}{{ eos_token if m['role'] == 'assistant' else ' '"
        " }}{% endfor %}"
    )
    turns = [("user", "Hi"), ("assistant", "the"), ("user", "Hello"), ("assistant", "to")]
    talk = Row("chat", tuple(Message(*turn) for turn in turns), where="f.jsonl:7")
    encoder = with_template(encoder, joining)
    first = encoder.prompt_tokens(talk.messages[:1])
    # otherwise this test would show nothing
    assert encoder.prompt_tokens(talk.messages[:3])[: len(first)] != first
    with pytest.raises(MaskError, match="turn 4 would be trained after other tokens") as caught:
        check_masks(encoder, [talk], [encoder.encode(talk)])
    assert caught.value.defect is Defect.merged_tokens
    check_masks(encoder, [talk], [encoder.encode(talk, TrainOn.last)])


def test_plain_template_passes_the_mask_check_over_several_turns(encoder: ChatEncoder) -> None:
    from hydratune.models.loading import PLAIN_TEMPLATE

    encoder = with_template(encoder, PLAIN_TEMPLATE)
    check_masks(encoder, [CHAT], [encoder.encode(CHAT)])
