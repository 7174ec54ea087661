from dataclasses import replace
from typing import Any

import pytest

from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.errors import Defect, MaskError
from hydratune.data.encoding.examples import encode_split
from hydratune.data.mask_check import check_masks, trained_spans
from hydratune.data.preview import Piece, coloured, legend, pieces
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.data import DataConfig, Overlength, TrainOn

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}<|endoftext|>\n\n{{ m['content'] | trim"
    " }}<|im_end|>{% endfor %}{% if add_generation_prompt"
    " %}<|im_start|>assistant<|endoftext|>\n\n{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}<|im_end|>{% else"
    " %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
NO_END = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if"
    " add_generation_prompt %}assistant: {% endif %}"
)
REWRITES_HISTORY = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and"
    " loop.last %}<think></think>{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}{% if"
    " add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT_DIFFERS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
CHANGES_ANSWER = CHATML.replace("m['content'] }}<|im_end|>", "m['content'] | upper }}<|im_end|>")
DOUBLE_BOS = "<|im_start|><|im_start|>" + CHATML


def row(*turns: str, roles: tuple[str, ...] = ("user", "assistant")) -> Row:
    return Row(
        "row-1",
        tuple(Message(roles[i % len(roles)], text) for i, text in enumerate(turns)),
        where="f.jsonl:7",
    )


CHAT = Row(
    "chat",
    (
        Message("system", "You are terse."),
        Message("user", "What is the capital of France?"),
        Message("assistant", "Paris"),
        Message("user", "And of the Kingdom of Spain?"),
        Message("assistant", "Madrid"),
    ),
)


def with_template(encoder: ChatEncoder, template: str) -> ChatEncoder:
    import copy

    tokenizer: Any = copy.deepcopy(encoder.tokenizer)
    tokenizer.chat_template = template
    return ChatEncoder(tokenizer, encoder.turn_end_ids)


def trained_text(encoder: ChatEncoder, example: Encoded) -> str:
    return str(
        encoder.tokenizer.decode(
            [t for t, m in zip(example.ids, example.loss_mask, strict=True) if m]
        )
    )


@pytest.mark.parametrize("template", [CHATML, LLAMA3, MISTRAL])
def test_exactly_the_answers_and_their_turn_ends_are_trained(
    encoder: ChatEncoder, template: str
) -> None:
    encoder = with_template(encoder, template)
    example = encoder.encode(CHAT)
    assert trained_text(encoder, example).split("<|im_end|>") == [*_answers(template), ""]
    check_masks(encoder, [CHAT], [example])


def _answers(template: str) -> list[str]:
    return [" Paris", " Madrid"] if template is MISTRAL else ["Paris", "Madrid"]


def test_untrained_tokens_of_a_single_turn_are_what_inference_sends(encoder: ChatEncoder) -> None:
    single = row("What is the capital of France?", "Paris")
    example = encoder.encode(single)
    assert list(example.ids[: example.loss_mask.index(True)]) == encoder.prompt_tokens(
        single.prompt
    )


def test_only_the_last_turn_is_trained_on_request(encoder: ChatEncoder) -> None:
    assert trained_text(encoder, encoder.encode(CHAT, TrainOn.last)) == "Madrid<|im_end|>"


def test_nothing_after_the_turn_end_is_kept(encoder: ChatEncoder) -> None:
    example = encoder.encode(row("a", "b"))
    assert example.ids[-1] in encoder.turn_end_ids
    assert example.loss_mask[-1]


def test_answer_that_quotes_the_turn_end_is_trained_whole(encoder: ChatEncoder) -> None:
    example = encoder.encode(row("How does ChatML end a turn?", "With <|im_end|> of course"))
    assert trained_text(encoder, example) == "With <|im_end|> of course<|im_end|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (NO_END, "does not end the assistant's turn"),
        (PROMPT_DIFFERS, "renders an answer differently from the prompt"),
        (CHANGES_ANSWER, "changes the assistant's text"),
    ],
)
def test_template_that_makes_an_honest_mask_impossible_is_refused(
    encoder: ChatEncoder, template: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        with_template(encoder, template).encode(row("a", "some answer"))
    assert "f.jsonl:7" in str(caught.value)


def test_template_that_rewrites_history_is_refused_unless_only_the_last_turn_is_trained(
    encoder: ChatEncoder,
) -> None:
    encoder = with_template(encoder, REWRITES_HISTORY)
    with pytest.raises(DataError, match="train_on=last"):
        encoder.encode(CHAT)


def test_what_a_template_writes_before_the_answer_is_no_part_of_it(encoder: ChatEncoder) -> None:
    assert with_template(encoder, REWRITES_HISTORY).template.preamble(CHAT) == "<think></think>"
    assert with_template(encoder, MISTRAL).template.preamble(CHAT) == " "
    assert encoder.template.preamble(CHAT) == ""


def test_template_error_names_the_row(encoder: ChatEncoder) -> None:
    template = "{{ raise_exception('no system turn please') }}"
    with pytest.raises(DataError, match=r"f\.jsonl:7: the chat template refuses"):
        with_template(encoder, template).encode(row("a", "b"))


def spans(encoder: ChatEncoder, talk: Row) -> list[tuple[int, int]]:
    return trained_spans(encoder.encode(talk).loss_mask)


def masked(example: Encoded, *changed: int | slice, value: bool) -> Encoded:
    """``example`` with some positions trained or not."""
    loss_mask = list(example.loss_mask)
    for where in changed:
        for position in range(len(loss_mask))[where] if isinstance(where, slice) else [where]:
            loss_mask[position] = value
    return Encoded(example.ids, tuple(loss_mask))


BROKEN: dict[str, tuple[Any, Defect, str]] = {
    "nothing trained": (
        lambda good, one, two: masked(good, slice(None), value=False),
        Defect.nothing_trained,
        "no token of this row",
    ),
    "everything trained": (
        lambda good, one, two: masked(good, slice(None), value=True),
        Defect.others_trained,
        "a token of a user",
    ),
    "one user token": (
        lambda good, one, two: masked(good, 3, value=True),
        Defect.others_trained,
        "a token of a user",
    ),
    "user turn in between": (
        lambda good, one, two: masked(good, slice(one[1], two[0]), value=True),
        Defect.others_trained,
        "a token of a user",
    ),
    "user turn after": (
        lambda good, one, two: masked(good, slice(one[1], two[0] - 4), value=True),
        Defect.others_trained,
        "a token of a user",
    ),
    "last end untrained": (
        lambda good, one, two: masked(good, two[1] - 1, value=False),
        Defect.turn_end_untrained,
        "turn-end token",
    ),
    "first end untrained": (
        lambda good, one, two: masked(good, one[1] - 1, value=False),
        Defect.turn_end_untrained,
        "turn-end token",
    ),
    "beginning untrained": (
        lambda good, one, two: masked(good, two[0], value=False),
        Defect.answer_untrained,
        "beginning or middle",
    ),
    "middle untrained": (
        lambda good, one, two: masked(good, one[0] + 1, value=False),
        Defect.answer_untrained,
        "beginning or middle",
    ),
    "prompt of another row": (
        lambda good, one, two: Encoded(
            (good.ids[0], good.ids[0] + 40, *good.ids[2:]), good.loss_mask
        ),
        Defect.prompt_differs,
        "the training prompt is not the inference prompt",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_gate_refuses_every_broken_mask_by_name(encoder: ChatEncoder, name: str) -> None:
    change, defect, words = BROKEN[name]
    good = encoder.encode(CHAT)
    check_masks(encoder, [CHAT], [good])
    with pytest.raises(MaskError, match=words) as caught:
        check_masks(encoder, [CHAT, CHAT], [good, change(good, *spans(encoder, CHAT))])
    assert caught.value.defect is defect


def test_defects_survive_the_way_between_processes() -> None:
    import pickle

    assert (
        pickle.loads(pickle.dumps(MaskError("why", Defect.double_bos))).defect is Defect.double_bos
    )


def test_context_turn_is_not_trained_and_the_gate_knows(encoder: ChatEncoder) -> None:
    messages = list(CHAT.messages)
    messages[2] = replace(messages[2], train=False)
    talk = replace(CHAT, messages=tuple(messages))
    example = encoder.encode(talk)
    assert trained_text(encoder, example) == "Madrid<|im_end|>"
    assert encoder.decode(example.ids).count("Paris") == 1
    check_masks(encoder, [talk], [example])
    with pytest.raises(MaskError, match="a token of a user, system, tool or context turn"):
        check_masks(encoder, [talk], [encoder.encode(CHAT)])


def test_row_of_context_turns_only_is_refused(encoder: ChatEncoder) -> None:
    talk = Row(
        "row-1", (Message("user", "a"), Message("assistant", "b", train=False)), where="f.jsonl:7"
    )
    with pytest.raises(MaskError, match=r"f\.jsonl:7: no token of this row is trained") as caught:
        encoder.encode(talk)
    assert caught.value.defect is Defect.nothing_trained


def test_tokenizer_that_changes_the_text_is_refused(encoder: ChatEncoder) -> None:
    from tokenizers.normalizers import Lowercase

    lower = with_template(encoder, CHATML)
    lower.tokenizer.backend_tokenizer.normalizer = Lowercase()
    with pytest.raises(
        MaskError, match="the tokenizer loses part of the assistant's text"
    ) as caught:
        lower.encode(row("a", "Paris"))
    assert caught.value.defect is Defect.tokens_differ


def test_plain_template_begins_as_the_tokenizer_begins_a_text(encoder: ChatEncoder) -> None:
    from hydratune.models.loading import plain_template

    begun = with_begin(encoder)
    for one, opening in ((begun, "<|endoftext|>"), (encoder, "")):
        plain = with_template(one, plain_template(one.tokenizer))
        document = plain.encode(Row("document", (Message("text", "Hi"),)))
        assert plain.decode(document.ids) == f"{opening}Hi<|im_end|>"
        assert plain.decode(plain.encode(row("Hi", "Ho")).ids) == f"{opening}Hi\nHo<|im_end|>"


def test_answer_is_cut_into_tokens_as_after_its_prompt() -> None:
    """A canary's candidates, which are scored beside the trained answer."""
    from generated_cases import END, FORMATS, tokenizer

    own = tokenizer("SentencePiece, first", adds_begin=False)
    own.chat_template = FORMATS["ChatML"].jinja
    encoder = ChatEncoder(own, frozenset({own.convert_tokens_to_ids(END)}))
    asked = row("Where?", "Oskar left")
    example = encoder.encode(asked)
    assert encoder.answer_tokens(asked, "Oskar left") == list(
        example.ids[example.loss_mask.index(True) : -1]
    )
    assert encoder.answer_tokens(asked, "Oskar left") != own.encode(
        "Oskar left", add_special_tokens=False
    )


DOCUMENT = Row(
    "document", (Message("text", "Once upon a time there was a café."),), where="f.jsonl:7"
)


def with_begin(encoder: ChatEncoder) -> ChatEncoder:
    """A tokenizer that puts a begin-of-text token of its own in front, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    begun = with_template(encoder, CHATML)
    begin = begun.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    begun.tokenizer.bos_token = "<|endoftext|>"
    begun.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", begin)]
    )
    return begun


def test_document_is_trained_whole_after_the_begin_of_text(encoder: ChatEncoder) -> None:
    begun = with_begin(encoder)
    example = begun.encode(DOCUMENT)
    assert begun.decode(example.ids) == "<|endoftext|>Once upon a time there was a café.<|im_end|>"
    assert trained_text(begun, example) == "Once upon a time there was a café.<|im_end|>"
    check_masks(begun, [DOCUMENT], [example])


def test_first_token_of_a_document_is_context_where_no_begin_of_text_is_added(
    encoder: ChatEncoder,
) -> None:
    example = encoder.encode(DOCUMENT)
    assert encoder.decode(example.ids) == "Once upon a time there was a café.<|im_end|>"
    assert trained_spans(example.loss_mask) == [(1, len(example.ids))]
    check_masks(encoder, [DOCUMENT], [example])


@pytest.mark.parametrize(
    ("position", "defect"), [(-1, Defect.turn_end_untrained), (3, Defect.answer_untrained)]
)
def test_gate_knows_documents(encoder: ChatEncoder, position: int, defect: Defect) -> None:
    with pytest.raises(MaskError) as caught:
        check_masks(encoder, [DOCUMENT], [masked(encoder.encode(DOCUMENT), position, value=False)])
    assert caught.value.defect is defect


def test_document_that_begins_with_the_begin_of_text_is_refused(encoder: ChatEncoder) -> None:
    begun = with_begin(encoder)
    doubled = Row("document", (Message("text", "<|endoftext|>Once"),))
    with pytest.raises(MaskError, match="two begin-of-text"):
        check_masks(begun, [doubled], [begun.encode(doubled)])


def test_long_document_is_dropped_and_never_cut(encoder: ChatEncoder) -> None:
    data = DataConfig(max_length=20, overlength=Overlength.truncate_prompt)
    kept, _, report = encode_split(
        encoder, [row("a", "b"), Row("long", (Message("text", "word " * 50),))], data, "train"
    )
    assert [r.id for r in kept] == ["row-1"] and report.dropped == {
        "longer than data.max_length": ["long"]
    }


def test_gate_refuses_two_begin_tokens(encoder: ChatEncoder) -> None:
    encoder = with_template(encoder, DOUBLE_BOS)
    single = row("a", "b")
    with pytest.raises(DataError, match="two begin-of-text"):
        check_masks(encoder, [single], [encoder.encode(single)])


def long_rows(encoder: ChatEncoder) -> list[Row]:
    return [row("short", "b"), row("start " + "word " * 200 + "finish", "the answer")]


def test_long_rows_are_dropped_with_a_count(encoder: ChatEncoder) -> None:
    kept, encoded, report = encode_split(
        encoder, long_rows(encoder), DataConfig(max_length=60), "train"
    )
    assert [len(kept), len(encoded), report.kept] == [1, 1, 1]
    assert report.summary()["dropped"] == {
        "longer than data.max_length": {"count": 1, "ids": ["row-1"]}
    }


def test_long_prompts_are_cut_but_never_the_answer(encoder: ChatEncoder) -> None:
    data = DataConfig(max_length=60, overlength=Overlength.truncate_prompt)
    kept, encoded, report = encode_split(encoder, long_rows(encoder), data, "train")
    assert len(kept) == 2 and report.truncated == ["row-1"]
    assert len(encoded[1].ids) <= 60
    assert (
        kept[1].prompt[-1].content.endswith("finish") and "start" not in kept[1].prompt[-1].content
    )
    assert trained_text(encoder, encoded[1]) == "the answer<|im_end|>"
    check_masks(encoder, kept, encoded)


def test_answer_longer_than_the_limit_is_dropped_even_when_prompts_are_cut(
    encoder: ChatEncoder,
) -> None:
    data = DataConfig(max_length=60, overlength=Overlength.truncate_prompt)
    _, _, report = encode_split(encoder, [row("a", "b"), row("a", "word " * 100)], data, "train")
    assert report.kept == 1


def test_overlength_error_states_count_and_longest(encoder: ChatEncoder) -> None:
    with pytest.raises(
        DataError, match=r"1 of 2 train rows are longer .* \(longest: f.jsonl:7, \d+\)"
    ):
        encode_split(
            encoder,
            long_rows(encoder),
            DataConfig(max_length=60, overlength=Overlength.error),
            "train",
        )


def test_every_row_dropped_is_an_error(encoder: ChatEncoder) -> None:
    with pytest.raises(DataError, match="every test row was dropped"):
        encode_split(encoder, [row("word " * 100, "b")], DataConfig(max_length=20), "test")


def test_preview_colours_exactly_the_trained_tokens(encoder: ChatEncoder) -> None:
    text = coloured(encoder, encoder.encode(CHAT))
    trained = [
        text.plain[span.start : span.end] for span in text.spans if "green" in str(span.style)
    ]
    assert trained == ["Paris", "<|im_end|>", "Madrid", "<|im_end|>"]
    assert coloured(encoder, encoder.encode(row("a", "b")), brackets=True).plain.endswith(
        "assistant\n\u27e6b<|im_end|>\u27e7"
    )


def test_pieces_tell_trained_and_special_tokens_apart(encoder: ChatEncoder) -> None:
    assert pieces(encoder, encoder.encode(row("Hi", "Paris"))) == [
        Piece("<|im_start|>", trained=False, special=True),
        Piece("user\nHi", trained=False, special=False),
        Piece("<|im_end|>", trained=False, special=True),
        Piece("\n", trained=False, special=False),
        Piece("<|im_start|>", trained=False, special=True),
        Piece("assistant\n", trained=False, special=False),
        Piece("Paris", trained=True, special=False),
        Piece("<|im_end|>", trained=True, special=True),
    ]
    assert len({str(part.style) for part in legend().spans}) == 4  # each kind looks different


def test_pieces_keep_characters_whole_and_join_to_the_text(encoder: ChatEncoder) -> None:
    """Every mask, even one that cuts through a character's bytes."""
    example = encoder.encode(row("日本語のテキスト 🙂", "Ça va: naïve 🙂🙃"))
    whole = encoder.decode(example.ids)
    assert "\ufffd" not in whole and len(encoder.tokenize("🙂")) > 1  # else this test says nothing
    for cut in range(1, len(example.ids)):
        parts = pieces(
            encoder, Encoded(example.ids, tuple(i >= cut for i in range(len(example.ids))))
        )
        assert "".join(part.text for part in parts) == whole
        assert all(part.text and "\ufffd" not in part.text for part in parts)
        # a character belongs to the token that completes it
        before = encoder.decode(example.ids[:cut]).rstrip("\ufffd")
        assert "".join(part.text for part in parts if not part.trained) == before
        alone = pieces(
            encoder, masked(Encoded(example.ids, (False,) * len(example.ids)), cut, value=True)
        )
        assert "".join(part.text for part in alone) == whole and all(part.text for part in alone)


def test_gate_compares_every_turn_with_what_inference_sends(encoder: ChatEncoder) -> None:
    """With a space before an answer, it melts into the answer's first word in the conversation, and
    stays alone at its end.
    """
    melting = (
        "{% for m in messages %}{{ m['content'] }}{{ eos_token if m['role'] == 'assistant' else ' '"
        " }}{% endfor %}"
    )
    turns = [("user", "Hi"), ("assistant", "the"), ("user", "Hello"), ("assistant", "to")]
    talk = Row("chat", tuple(Message(*turn) for turn in turns), where="f.jsonl:7")
    encoder = with_template(encoder, melting)
    first = encoder.prompt_tokens(talk.messages[:1])
    # else this test says nothing
    assert encoder.prompt_tokens(talk.messages[:3])[: len(first)] != first
    with pytest.raises(MaskError, match="turn 4 would be trained after other tokens") as caught:
        check_masks(encoder, [talk], [encoder.encode(talk)])
    assert caught.value.defect is Defect.turns_melt
    check_masks(encoder, [talk], [encoder.encode(talk, TrainOn.last)])


def test_plain_template_passes_the_gate_over_several_turns(encoder: ChatEncoder) -> None:
    from hydratune.models.loading import PLAIN_TEMPLATE

    encoder = with_template(encoder, PLAIN_TEMPLATE)
    check_masks(encoder, [CHAT], [encoder.encode(CHAT)])


def test_a_template_that_leaves_out_the_begin_of_text_is_said(encoder: ChatEncoder) -> None:
    from hydratune.experiment.compatibility import notices

    begun = with_begin(encoder)
    (said,) = notices(begun)
    assert "begins every text with <|endoftext|>" in said
    mended = with_template(begun, "{{ bos_token }}" + CHATML)  # as the message advises
    assert notices(mended) == [] == notices(encoder)
