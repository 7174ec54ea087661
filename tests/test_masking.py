from typing import Any

import pytest

from hydratune.config import DataConfig, Overlength, TrainOn
from hydratune.data.gate import gate
from hydratune.data.masking import ChatEncoder, Encoded
from hydratune.data.preview import coloured
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}<|endoftext|>\n\n{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|endoftext|>\n\n{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}<|im_end|>{% else %}"
    "[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
NO_END = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
REWRITES_HISTORY = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT_DIFFERS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
CHANGES_ANSWER = CHATML.replace("m['content'] }}<|im_end|>", "m['content'] | upper }}<|im_end|>")
DOUBLE_BOS = "<|im_start|><|im_start|>" + CHATML


def row(*turns: str, roles: tuple[str, ...] = ("user", "assistant")) -> Row:
    return Row("row-1", tuple(Message(roles[i % len(roles)], text) for i, text in enumerate(turns)), where="f.jsonl:7")


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
    return str(encoder.tokenizer.decode([t for t, m in zip(example.ids, example.trained, strict=True) if m]))


@pytest.mark.parametrize("template", [CHATML, LLAMA3, MISTRAL])
def test_exactly_the_answers_and_their_turn_ends_are_trained(encoder: ChatEncoder, template: str) -> None:
    encoder = with_template(encoder, template)
    example = encoder.encode(CHAT)
    assert trained_text(encoder, example).split("<|im_end|>") == [*_answers(template), ""]
    gate(encoder, [CHAT], [example])


def _answers(template: str) -> list[str]:
    return [" Paris", " Madrid"] if template is MISTRAL else ["Paris", "Madrid"]


def test_untrained_tokens_of_a_single_turn_are_what_inference_sends(encoder: ChatEncoder) -> None:
    single = row("What is the capital of France?", "Paris")
    example = encoder.encode(single)
    assert list(example.ids[: example.trained.index(True)]) == encoder.prompt(single.prompt)


def test_only_the_last_turn_is_trained_on_request(encoder: ChatEncoder) -> None:
    assert trained_text(encoder, encoder.encode(CHAT, TrainOn.last)) == "Madrid<|im_end|>"


def test_nothing_after_the_turn_end_is_kept(encoder: ChatEncoder) -> None:
    example = encoder.encode(row("a", "b"))
    assert example.ids[-1] in encoder.turn_end_ids
    assert example.trained[-1]


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
def test_template_that_makes_an_honest_mask_impossible_is_refused(encoder: ChatEncoder, template: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        with_template(encoder, template).encode(row("a", "some answer"))
    assert "f.jsonl:7" in str(caught.value)


def test_template_that_rewrites_history_is_refused_unless_only_the_last_turn_is_trained(encoder: ChatEncoder) -> None:
    encoder = with_template(encoder, REWRITES_HISTORY)
    with pytest.raises(DataError, match="train_on=last"):
        encoder.encode(CHAT)


def test_what_a_template_writes_before_the_answer_is_no_part_of_it(encoder: ChatEncoder) -> None:
    assert with_template(encoder, REWRITES_HISTORY).preamble(CHAT) == "<think></think>"
    assert with_template(encoder, MISTRAL).preamble(CHAT) == " "
    assert encoder.preamble(CHAT) == ""


def test_template_error_names_the_row(encoder: ChatEncoder) -> None:
    template = "{{ raise_exception('no system turn please') }}"
    with pytest.raises(DataError, match=r"f\.jsonl:7: the chat template refuses"):
        with_template(encoder, template).encode(row("a", "b"))


def test_gate_refuses_every_broken_mask(encoder: ChatEncoder) -> None:
    good_row = row("a long enough question of the user", "the answer")
    good = encoder.encode(good_row)
    nothing = Encoded(good.ids, (False,) * len(good.ids))
    everything = Encoded(good.ids, (True,) * len(good.ids))
    no_end = Encoded(good.ids, (*good.trained[:-1], False))
    for broken, message in (
        (nothing, "no token"),
        (no_end, "turn-end token is not trained"),
        (everything, "a token of a user, system, tool or context turn is trained"),
    ):
        with pytest.raises(DataError, match=message):
            gate(encoder, [good_row], [broken])
    gate(encoder, [good_row], [good])


def test_gate_refuses_a_trained_user_turn(encoder: ChatEncoder) -> None:
    good = encoder.encode(CHAT)
    with pytest.raises(DataError, match="a token of a user, system, tool or context turn is trained"):
        gate(encoder, [CHAT], [Encoded(good.ids, (True,) * len(good.ids))])


def test_gate_refuses_two_begin_tokens(encoder: ChatEncoder) -> None:
    encoder = with_template(encoder, DOUBLE_BOS)
    single = row("a", "b")
    with pytest.raises(DataError, match="two begin-of-text"):
        gate(encoder, [single], [encoder.encode(single)])


def long_rows(encoder: ChatEncoder) -> list[Row]:
    return [row("short", "b"), row("start " + "word " * 200 + "finish", "the answer")]


def test_long_rows_are_dropped_with_a_count(encoder: ChatEncoder) -> None:
    kept, encoded, report = encoder.encode_all(long_rows(encoder), DataConfig(max_length=60), "train")
    assert [len(kept), len(encoded), report.kept] == [1, 1, 1]
    assert report.summary()["dropped"] == {"longer than data.max_length": {"count": 1, "ids": ["row-1"]}}


def test_long_prompts_are_cut_but_never_the_answer(encoder: ChatEncoder) -> None:
    data = DataConfig(max_length=60, overlength=Overlength.truncate_prompt)
    kept, encoded, report = encoder.encode_all(long_rows(encoder), data, "train")
    assert len(kept) == 2 and report.truncated == ["row-1"]
    assert len(encoded[1].ids) <= 60
    assert kept[1].prompt[-1].content.endswith("finish") and "start" not in kept[1].prompt[-1].content
    assert trained_text(encoder, encoded[1]) == "the answer<|im_end|>"
    gate(encoder, kept, encoded)


def test_answer_longer_than_the_limit_is_dropped_even_when_prompts_are_cut(encoder: ChatEncoder) -> None:
    data = DataConfig(max_length=60, overlength=Overlength.truncate_prompt)
    _, _, report = encoder.encode_all([row("a", "b"), row("a", "word " * 100)], data, "train")
    assert report.kept == 1


def test_overlength_error_states_count_and_longest(encoder: ChatEncoder) -> None:
    with pytest.raises(DataError, match=r"1 of 2 train rows are longer .* \(longest: f.jsonl:7, \d+\)"):
        encoder.encode_all(long_rows(encoder), DataConfig(max_length=60, overlength=Overlength.error), "train")


def test_every_row_dropped_is_an_error(encoder: ChatEncoder) -> None:
    with pytest.raises(DataError, match="every test row was dropped"):
        encoder.encode_all([row("word " * 100, "b")], DataConfig(max_length=20), "test")


def test_preview_colours_exactly_the_trained_tokens(encoder: ChatEncoder) -> None:
    text = coloured(encoder, encoder.encode(CHAT))
    trained = [text.plain[span.start : span.end] for span in text.spans if "green" in str(span.style)]
    assert trained == ["Paris<|im_end|>", "Madrid<|im_end|>"]


def test_gate_compares_every_turn_with_what_inference_sends(encoder: ChatEncoder) -> None:
    """With a space before an answer, it melts into the answer's first word in the conversation, and stays alone at its end."""
    melting = "{% for m in messages %}{{ m['content'] }}{{ eos_token if m['role'] == 'assistant' else ' ' }}{% endfor %}"
    turns = [("user", "Hi"), ("assistant", "the"), ("user", "Hello"), ("assistant", "to")]
    talk = Row("chat", tuple(Message(*turn) for turn in turns), where="f.jsonl:7")
    encoder = with_template(encoder, melting)
    first = encoder.prompt(talk.messages[:1])
    assert encoder.prompt(talk.messages[:3])[: len(first)] != first  # else this test says nothing
    with pytest.raises(DataError, match="turn 4 would be trained after other tokens"):
        gate(encoder, [talk], [encoder.encode(talk)])
    gate(encoder, [talk], [encoder.encode(talk, TrainOn.last)])


def test_plain_template_passes_the_gate_over_several_turns(encoder: ChatEncoder) -> None:
    from hydratune.models.sources import PLAIN_TEMPLATE

    encoder = with_template(encoder, PLAIN_TEMPLATE)
    gate(encoder, [CHAT], [encoder.encode(CHAT)])
