"""The loss mask: which tokens of conversations and documents are trained."""

import pytest

from chat_templates import CHAT, CHATML, DOCUMENT, chat_row, trained_text, with_begin, with_template
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.errors import Defect, MaskError
from hydratune.data.mask_check import check_masks, trained_spans
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.data import TrainOn

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
    single = chat_row("What is the capital of France?", "Paris")
    example = encoder.encode(single)
    assert list(example.ids[: example.loss_mask.index(True)]) == encoder.prompt_tokens(
        single.prompt
    )


def test_only_the_last_turn_is_trained_on_request(encoder: ChatEncoder) -> None:
    assert trained_text(encoder, encoder.encode(CHAT, TrainOn.last)) == "Madrid<|im_end|>"


def test_nothing_after_the_turn_end_is_kept(encoder: ChatEncoder) -> None:
    example = encoder.encode(chat_row("a", "b"))
    assert example.ids[-1] in encoder.turn_end_ids
    assert example.loss_mask[-1]


def test_answer_that_quotes_the_turn_end_is_trained_whole(encoder: ChatEncoder) -> None:
    example = encoder.encode(chat_row("How does ChatML end a turn?", "With <|im_end|> of course"))
    assert trained_text(encoder, example) == "With <|im_end|> of course<|im_end|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (NO_END, "does not end the assistant's turn"),
        (PROMPT_DIFFERS, "renders an answer differently from the prompt"),
        (CHANGES_ANSWER, "changes the assistant's text"),
    ],
)
def test_template_that_makes_a_correct_mask_impossible_is_refused(
    encoder: ChatEncoder, template: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        with_template(encoder, template).encode(chat_row("a", "some answer"))
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
        with_template(encoder, template).encode(chat_row("a", "b"))


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
        lower.encode(chat_row("a", "Paris"))
    assert caught.value.defect is Defect.tokens_differ


def test_plain_template_begins_as_the_tokenizer_begins_a_text(encoder: ChatEncoder) -> None:
    from hydratune.models.loading import plain_template

    begins_itself = with_begin(encoder)
    for chat_encoder, opening in ((begins_itself, "<|endoftext|>"), (encoder, "")):
        plain = with_template(chat_encoder, plain_template(chat_encoder.tokenizer))
        document = plain.encode(Row("document", (Message("text", "Hi"),)))
        assert plain.decode(document.ids) == f"{opening}Hi<|im_end|>"
        assert plain.decode(plain.encode(chat_row("Hi", "Ho")).ids) == f"{opening}Hi\nHo<|im_end|>"


def test_answer_is_cut_into_tokens_as_after_its_prompt() -> None:
    """The candidates of a canary, which are compared with the trained answer, are cut so too."""
    from generated_formats import FORMATS
    from generated_tokenizers import END, tokenizer

    sentencepiece = tokenizer("SentencePiece, first", adds_begin=False)
    sentencepiece.chat_template = FORMATS["ChatML"].jinja
    encoder = ChatEncoder(sentencepiece, frozenset({sentencepiece.convert_tokens_to_ids(END)}))
    question_row = chat_row("Where?", "Oskar left")
    example = encoder.encode(question_row)
    assert encoder.answer_tokens(question_row, "Oskar left") == list(
        example.ids[example.loss_mask.index(True) : -1]
    )
    assert encoder.answer_tokens(question_row, "Oskar left") != sentencepiece.encode(
        "Oskar left", add_special_tokens=False
    )


def test_document_is_trained_whole_after_the_begin_of_text(encoder: ChatEncoder) -> None:
    begins_itself = with_begin(encoder)
    example = begins_itself.encode(DOCUMENT)
    assert (
        begins_itself.decode(example.ids)
        == "<|endoftext|>Once upon a time there was a café.<|im_end|>"
    )
    assert trained_text(begins_itself, example) == "Once upon a time there was a café.<|im_end|>"
    check_masks(begins_itself, [DOCUMENT], [example])


def test_first_token_of_a_document_is_context_where_no_begin_of_text_is_added(
    encoder: ChatEncoder,
) -> None:
    example = encoder.encode(DOCUMENT)
    assert encoder.decode(example.ids) == "Once upon a time there was a café.<|im_end|>"
    assert trained_spans(example.loss_mask) == [(1, len(example.ids))]
    check_masks(encoder, [DOCUMENT], [example])


def test_a_template_without_the_begin_of_text_is_reported(encoder: ChatEncoder) -> None:
    from hydratune.experiment.compatibility import notices

    begins_itself = with_begin(encoder)
    (notice,) = notices(begins_itself)
    assert "begins every text with <|endoftext|>" in notice
    fixed = with_template(begins_itself, "{{ bos_token }}" + CHATML)  # as the message advises
    assert notices(fixed) == [] == notices(encoder)
