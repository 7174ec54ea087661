"""Which examples the rows of a split give: one for each assistant turn, parts of long documents,
thoughts in answers.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL, write_rows
from hydratune.data import thoughts
from hydratune.data.encoding.document_parts import split_document
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.errors import Defect, MaskError
from hydratune.data.encoding.examples import encode_split, split_turns
from hydratune.data.mask_check import check_masks
from hydratune.data.rows import Message, Row, stable_hash
from hydratune.errors import DataError
from hydratune.settings.data import DataConfig, Overlength, TrainOn

# writes a block of thoughts, if only an empty one, in the last turn and nowhere else
LAST_THINKS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and"
    " loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m['content']"
    " }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
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
PLAIN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = Row(
    "talk",
    (
        Message("user", "What is the capital of France?"),
        Message("assistant", "Paris"),
        Message("user", "And of Spain?"),
        Message("assistant", "Madrid"),
    ),
    where="f.jsonl:7",
)


def under(encoder: ChatEncoder, template: str) -> ChatEncoder:
    tokenizer: Any = copy.deepcopy(encoder.tokenizer)
    tokenizer.chat_template = template
    return ChatEncoder(tokenizer, encoder.turn_end_ids)


def halves(encoder: ChatEncoder, example: Encoded) -> tuple[str, str]:
    """The text that is read and the text that is trained, where one follows the other."""
    start = example.loss_mask.index(True)
    assert all(example.loss_mask[start:])
    return encoder.decode(example.ids[:start]), encoder.decode(example.ids[start:])


# ------------------------------------------------------------------------ one example for each turn
def test_each_turn_is_an_example_with_the_history_that_inference_sends(
    encoder: ChatEncoder,
) -> None:
    encoder = under(encoder, LAST_THINKS)
    with pytest.raises(MaskError, match=r"data\.train_on=each"):
        encoder.encode(TALK)
    kept, examples, report = encode_split(
        encoder, [TALK], DataConfig(train_on=TrainOn.each), "train"
    )
    check_masks(encoder, kept, examples)
    assert [halves(encoder, example)[1] for example in examples] == [
        f"<think>\n\n</think>\n\n{city}<|im_end|>" for city in ("Paris", "Madrid")
    ]
    assert [halves(encoder, example)[0] for example in examples] == [
        encoder.render(TALK.messages[:1], generation_prompt=True),
        encoder.render(TALK.messages[:3], generation_prompt=True),
    ]
    assert [(row.id, row.group) for row in kept] == [("talk[2]", "talk"), ("talk[4]", "talk")]
    assert report.summary()["parted"] == {"rows": 1, "examples": 2} and (
        report.rows,
        report.kept,
    ) == (1, 2)


def test_each_leaves_out_context_turns_and_keeps_single_turns_as_they_are() -> None:
    context = replace(
        TALK,
        messages=(TALK.messages[0], replace(TALK.messages[1], train=False), *TALK.messages[2:]),
    )
    assert split_turns(context) == [context]
    assert split_turns(replace(TALK, messages=TALK.messages[:2])) == [
        replace(TALK, messages=TALK.messages[:2])
    ]


def test_test_rows_are_asked_their_last_turn_only(encoder: ChatEncoder) -> None:
    kept, examples, _ = encode_split(
        under(encoder, LAST_THINKS), [TALK], DataConfig(train_on=TrainOn.each), "test"
    )
    assert [row.id for row in kept] == ["talk"] and len(examples) == 1


@pytest.mark.parametrize("train_on", ["each", "last"])
def test_advice_for_templates_that_rewrite_history_works_when_typed(
    hydratune: Callable[..., tuple[int, str]], tmp_path: Path, train_on: str
) -> None:
    template = tmp_path / "last.jinja"
    template.write_text(LAST_THINKS)
    rows = [
        {
            "messages": [
                {**m.turn(), "content": f"{m.content} {stable_hash([i, n])}"}
                for n, m in enumerate(TALK.messages)
            ]
        }
        for i in range(16)
    ]
    run = tmp_path / "run"
    small = [option for option in SMALL if "baselines" not in option]
    command = [
        "train",
        *small,
        "data=files",
        f"data.train={write_rows(tmp_path / 'rows.jsonl', rows)}",
        f"hydra.run.dir={run}",
    ]
    command += [f"model.chat_template={template}", "evaluation.baselines=[]"]
    code, text = hydratune(*command)
    assert code == 2 and "rows.jsonl:" in text and f"data.train_on={train_on}" in text
    code, text = hydratune(*command, f"data.train_on={train_on}")
    assert code == 0, text
    splits = json.loads((run / "data.json").read_text())["splits"]
    assert splits["train"]["kept"] == splits["train"]["rows"] * (2 if train_on == "each" else 1)
    assert ("one for each assistant turn" in text) == (train_on == "each")


def test_empty_answer_in_the_middle_is_refused_unless_it_is_context(encoder: ChatEncoder) -> None:
    empty = replace(
        TALK, messages=(TALK.messages[0], Message("assistant", " \n"), *TALK.messages[2:])
    )
    with pytest.raises(
        MaskError, match=r'f\.jsonl:7: turn 2, the assistant\'s, is empty.*"train": false'
    ) as caught:
        encoder.encode(empty)
    assert caught.value.defect is Defect.answer_empty
    context = replace(
        empty,
        messages=(empty.messages[0], replace(empty.messages[1], train=False), *empty.messages[2:]),
    )
    assert encoder.encode(context) == encoder.encode(empty, TrainOn.last)


# ----------------------------------------------------------------------------------- long documents
DOCUMENT = Row(
    "book",
    (Message("text", " ".join(f"word{stable_hash(i)[:4]}" for i in range(120))),),
    where="f.jsonl:7",
)


@pytest.mark.parametrize("overlap", [0, 7, 20])
def test_long_document_is_trained_in_parts_every_character_once(
    encoder: ChatEncoder, overlap: int
) -> None:
    parts = split_document(encoder, DOCUMENT, 64, overlap)
    examples = [encoder.encode(part) for part in parts]
    check_masks(encoder, parts, examples)
    assert len(parts) > 5 and all(len(example.ids) <= 64 for example in examples)
    assert "".join(part.answer for part in parts) == DOCUMENT.text
    assert all(part.answer[0] == " " for part in parts[1:])  # cut between words
    ends = [example.ids[-1] in encoder.turn_end_ids for example in examples]
    assert ends == [False] * (len(parts) - 1) + [True]
    for before, part, example in zip(parts, parts[1:], examples[1:], strict=False):
        context = part.text.removesuffix(part.answer)
        read, trained = halves(encoder, example)
        if overlap:
            assert before.text.endswith(context) and context
            assert read == context and trained.removesuffix("<|im_end|>") == part.answer
            assert abs(example.loss_mask.index(True) - overlap) <= 1
        else:
            assert not context and example.loss_mask.index(True) == 1


def test_only_documents_are_split_and_the_rest_is_dropped_with_a_count(
    encoder: ChatEncoder,
) -> None:
    data = DataConfig(max_length=64, overlength=Overlength.split, split_overlap=8)
    long_talk = Row("long", (Message("user", "word " * 100), Message("assistant", "b")))
    kept, _, report = encode_split(encoder, [DOCUMENT, TALK, long_talk], data, "train")
    assert "talk" in [row.id for row in kept] and report.dropped == {
        "longer than data.max_length": ["long"]
    }
    assert report.parted["book"] == len(kept) - 1 and {row.group for row in kept} == {"book", None}
    assert any(
        "parts of documents longer than data.max_length" in said
        for said in report.statements("train", data)
    )


def test_characters_of_many_tokens_are_never_cut(encoder: ChatEncoder) -> None:
    text = "🙂🙃日本語" * 40
    parts = split_document(encoder, Row("emoji", (Message("text", text),)), 40, 8)
    assert "".join(part.answer for part in parts) == text
    check_masks(encoder, parts, [encoder.encode(part) for part in parts])


def test_advice_about_length_names_nothing_that_is_in_force(encoder: ChatEncoder) -> None:
    talk = replace(
        TALK, messages=(Message("user", "word " * 100), Message("assistant", "word " * 100))
    )
    for rows, policy, advice in (
        ([DOCUMENT], Overlength.drop, "data.overlength=split"),
        ([DOCUMENT], Overlength.error, "data.overlength=drop or data.overlength=split"),
        ([talk], Overlength.drop, "data.overlength=truncate_prompt"),
        ([talk], Overlength.truncate_prompt, ""),
        ([talk], Overlength.split, "data.overlength=truncate_prompt"),
    ):
        with pytest.raises(DataError) as caught:
            encode_split(
                encoder,
                rows,
                DataConfig(max_length=64, overlength=policy, split_overlap=8),
                "train",
            )
        assert str(caught.value).partition("set ")[2] == advice, policy


def test_documents_are_split_trained_and_measured_from_the_command_line(
    hydratune: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    rows = [
        {"text": " ".join(f"word{stable_hash([i, n])[:4]}" for n in range(60))} for i in range(12)
    ]
    run = tmp_path / "run"
    small = [option for option in SMALL if "baselines" not in option and "max_length" not in option]
    command = [
        "train",
        *small,
        "data=files",
        f"data.train={write_rows(tmp_path / 'rows.jsonl', rows)}",
        f"hydra.run.dir={run}",
    ]
    command += ["evaluation.baselines=[base]", "model.chat_template=plain", "data.max_length=64"]
    code, text = hydratune(*command)
    assert code == 2 and "data.overlength=split" in text
    code, text = hydratune(*command, "data.overlength=split", "data.split_overlap=40")
    assert code == 2 and "data.split_overlap=30 or less" in " ".join(text.split())
    code, text = hydratune(*command, "data.overlength=split", "data.split_overlap=8")
    assert code == 0, text
    predictions = [
        json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()
    ]
    values = json.loads((run / "metrics.json").read_text())
    assert len(predictions) > 3 and all(p["nll"] > 0 for p in predictions)
    assert values["eval/nll"] == pytest.approx(
        sum(p["nll"] for p in predictions) / sum(p["answer_tokens"] for p in predictions)
    )
    code, text = hydratune("evaluate", f"run={run}", "source=adapter")
    assert code == 0, text


# ------------------------------------------------------------------------------ thoughts in answers
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
def test_thoughts_are_parted_from_the_answer(
    content: str, opened: bool, expected: tuple[str, str] | None
) -> None:
    assert thoughts.split_thoughts(content, opened=opened) == expected


def asked(content: str) -> Row:
    return Row("row", (Message("user", "Where?"), Message("assistant", content)), where="f.jsonl:7")


@pytest.mark.parametrize(
    "content", ["T\n</think>\n\nA", "<think>\nT\n</think>\n\nA", "<think>T</think>A"]
)
@pytest.mark.parametrize("template", [OPENS, OPENS_AND_DROPS])
def test_thought_that_the_prompt_opens_is_closed_once(
    encoder: ChatEncoder, template: str, content: str
) -> None:
    encoder, row = under(encoder, template), asked(content)
    example = encoder.encode(row)
    check_masks(encoder, [row], [example])
    # the row's text, where the template writes none
    own = content.removeprefix("<think>").lstrip("\n")
    trained = own if template is OPENS_AND_DROPS else "T\n</think>\n\nA"
    assert halves(encoder, example) == (
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
        under(encoder, OPENS_AND_DROPS).encode(asked("A"))
    assert caught.value.defect is Defect.prompt_differs
    for way in (asked("thoughts</think>A"), asked("A")):  # both ways that the message names
        template = (
            OPENS_AND_DROPS
            if "</think>" in way.answer
            else OPENS_AND_DROPS.replace("<think>\n", "")
        )
        assert halves(under(encoder, template), under(encoder, template).encode(way))[1].endswith(
            "A<|im_end|>"
        )


@pytest.mark.parametrize("content", ["<think>\nT\n</think>\n\nA", "<think>T</think>A"])
def test_template_that_wants_thoughts_apart_gets_them_apart(
    encoder: ChatEncoder, content: str
) -> None:
    encoder = under(encoder, LAST_THINKS)
    assert (
        halves(encoder, encoder.encode(asked(content)))[1] == "<think>\nT\n</think>\n\nA<|im_end|>"
    )


def test_thoughts_stay_in_the_text_where_the_template_knows_none(encoder: ChatEncoder) -> None:
    row = asked("<think>T</think>A")
    encoder = under(encoder, PLAIN_CHAT)
    assert halves(encoder, encoder.encode(row))[1] == "<think>T</think>A<|im_end|>"
    assert (
        encoder.reference_answer(row) == "A" == encoder.extract_answer(row, "<think>other</think>A")
    )


def test_doubled_close_is_refused_with_a_way_that_works(encoder: ChatEncoder) -> None:
    quoting = asked("<think>T</think>Write </think> at the end")
    encoder = under(encoder, OPENS)
    with pytest.raises(
        MaskError, match="close it twice; put the thoughts of the row into reasoning_content"
    ) as caught:
        encoder.encode(quoting)
    assert caught.value.defect is Defect.thinking_doubled
    apart = Row(
        "row",
        (quoting.messages[0], Message("assistant", "Write </think> at the end", reasoning="T")),
    )
    assert (
        halves(encoder, encoder.encode(apart))[1]
        == "T\n</think>\n\nWrite </think> at the end<|im_end|>"
    )


SEED = OPENS.replace("think>", "seed:think>")
OWN_TAG = OPENS.replace("think>", "musing>")  # a name that nobody knows
NO_THINKING = PLAIN_CHAT.replace(
    "<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif"
).replace(
    "{{ m['content'] }}",
    "{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}",
)


@pytest.mark.parametrize(("template", "tag"), [(SEED, "seed:think"), (OWN_TAG, "musing")])
def test_thought_of_any_tag_that_the_prompt_opens_is_closed_once(
    encoder: ChatEncoder, template: str, tag: str
) -> None:
    encoder, row = under(encoder, template), asked(f"T\n</{tag}>\n\nA")
    assert halves(encoder, encoder.encode(row))[1] == f"T\n</{tag}>\n\nA<|im_end|>"
    assert encoder.reference_answer(row) == "A"


def test_thoughts_apart_are_written_where_the_template_opens_them_and_drops_them(
    encoder: ChatEncoder,
) -> None:
    encoder = under(encoder, OPENS_AND_DROPS)
    row = Row("row", (Message("user", "Where?"), Message("assistant", "A", reasoning="T")))
    example = encoder.encode(row)
    check_masks(encoder, [row], [example])
    assert (
        halves(encoder, example)[1] == "T\n</think>\n\nA<|im_end|>"
        and encoder.reference_answer(row) == "A"
    )


def test_prompt_that_has_closed_an_empty_thought_takes_no_second_one(encoder: ChatEncoder) -> None:
    encoder = under(encoder, NO_THINKING)
    with pytest.raises(MaskError, match="has a thought that is closed already") as caught:
        encoder.encode(asked("<think>T</think>A"))
    assert caught.value.defect is Defect.thinking_doubled
    for content in ("A", "<think>\n\n</think>\n\nA"):
        read, trained = halves(encoder, encoder.encode(asked(content)))
        assert read.count("</think>") == 1 and trained == "A<|im_end|>"


def test_answer_of_thoughts_alone_is_empty(encoder: ChatEncoder) -> None:
    talk = replace(
        TALK,
        messages=(TALK.messages[0], Message("assistant", "<think>T</think>\n"), *TALK.messages[2:]),
    )
    with pytest.raises(MaskError, match="turn 2, the assistant's, says nothing after its thoughts"):
        encoder.encode(talk)


def test_tags_around_thoughts_are_no_special_tokens_of_the_text(encoder: ChatEncoder) -> None:
    from hydratune.data.tokens import with_special_tokens

    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    rows = [
        asked("<think>T</think>A"),
        asked("T</think>A"),
        asked("<think>a</think>b</think>c"),
        Row("user", (Message("user", "<think>"),)),
    ]
    assert [token for _, token in with_special_tokens(tokenizer, rows)] == ["<think>", "<think>"]


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
    ("shown", "right"),
    [(ALL_CALLS, True), (FIRST_CALL, False), (ONLY_KEYS, False), (CUT_VALUES, False)],
)
def test_every_argument_of_every_call_is_written(
    encoder: ChatEncoder, shown: str, right: bool
) -> None:
    encoder = under(encoder, CALLS.replace("SHOWN", shown))
    places = ("Rome, near the old harbour, behind it", 'the "Oslo" fjord\nat night, in the rain')
    calls = tuple(
        {
            "type": "function",
            "function": {"name": "weather", "arguments": {"place": place, "days": 2}},
        }
        for place in places
    )
    row = Row(
        "row",
        (Message("user", "Rain?"), Message("assistant", "", tool_calls=calls)),
        where="f.jsonl:7",
    )
    if not right:
        with pytest.raises(MaskError, match=r"f\.jsonl:7: the chat template leaves out") as caught:
            encoder.encode(row)
        assert caught.value.defect is Defect.calls_ignored
        return
    example = encoder.encode(row)
    check_masks(encoder, [row], [example])
    assert halves(encoder, example)[1].count("[weather{") == 2


def test_document_that_the_tokenizer_does_not_write_is_refused(encoder: ChatEncoder) -> None:
    from tokenizers.normalizers import Lowercase

    lower = under(encoder, PLAIN_CHAT)
    lower.tokenizer.backend_tokenizer.normalizer = Lowercase()
    with pytest.raises(
        MaskError,
        match=(
            r"f\.jsonl:7: the tokenizer does not write the text as it is \('Once' becomes 'once'\)"
        ),
    ) as caught:
        lower.encode(Row("text", (Message("text", "Once"),), where="f.jsonl:7"))
    assert caught.value.defect is Defect.tokens_differ


def test_history_that_ends_turns_otherwise_is_said_to_be_rewritten(encoder: ChatEncoder) -> None:
    other_end = PLAIN_CHAT.replace(
        "{{ m['content'] }}<|im_end|>",
        "{{ m['content'] }}{% if loop.last or m['role'] == 'user' %}<|im_end|>{% else"
        " %}<|endoftext|>{% endif %}",
    )
    with pytest.raises(MaskError, match="rewrites earlier turns") as caught:
        under(encoder, other_end).encode(TALK)
    assert caught.value.defect is Defect.history_rewritten


def test_system_turn_that_a_template_refuses_is_to_go_into_the_first_question(
    encoder: ChatEncoder,
) -> None:
    refusing = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported')"
        " }}{% endif %}" + PLAIN_CHAT
    )
    with pytest.raises(MaskError, match="put that text at the beginning of the first user turn"):
        under(encoder, refusing).encode(
            replace(TALK, messages=(Message("system", "Be terse."), *TALK.messages))
        )


def test_generation_prompt_that_ends_in_a_space_is_said(encoder: ChatEncoder) -> None:
    from hydratune.experiment.compatibility import notices

    spaced = PLAIN_CHAT.replace("assistant\n{% endif", "assistant: {% endif").replace(
        "{{ m['role'] }}\n", "{{ m['role'] }}: "
    )
    assert "ends in a space" in notices(under(encoder, spaced))[0]
    assert notices(under(encoder, spaced.replace(": ", ":"))) == []


def test_thought_that_nothing_opens_is_refused_and_both_ways_out_work(encoder: ChatEncoder) -> None:
    encoder = under(encoder, PLAIN_CHAT)
    with pytest.raises(
        MaskError,
        match=r"closes a thought \(</think>\) that nothing opens.*begin the answer with <think>",
    ) as caught:
        encoder.encode(asked("T\n</think>\n\nA"))
    assert caught.value.defect is Defect.thinking_unopened
    assert (
        halves(encoder, encoder.encode(asked("<think>T\n</think>\n\nA")))[1]
        == "<think>T\n</think>\n\nA<|im_end|>"
    )
    shown = under(encoder, LAST_THINKS)
    apart = Row("row", (Message("user", "Where?"), Message("assistant", "A", reasoning="T")))
    assert halves(shown, shown.encode(apart))[1] == "<think>\nT\n</think>\n\nA<|im_end|>"
    prose = asked("Write </think> where the thought ends.")  # a word about tags
    assert (
        halves(encoder, encoder.encode(prose))[1]
        == "Write </think> where the thought ends.<|im_end|>"
    )
