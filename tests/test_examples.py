"""Which examples the rows of a split give: one for each assistant turn, parts of long documents."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chat_templates import LAST_THINKS, TALK, prompt_and_trained, with_template
from conftest import SMALL, write_rows
from hydratune.data.encoding.document_parts import split_document
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.errors import Defect, MaskError
from hydratune.data.encoding.examples import encode_split, split_turns
from hydratune.data.mask_check import check_masks
from hydratune.data.rows import Message, Row, stable_hash
from hydratune.errors import DataError
from hydratune.settings.data import DataConfig, Overlength, TrainOn


# ------------------------------------------------------------------------ one example for each turn
def test_each_turn_is_an_example_with_the_history_that_inference_sends(
    encoder: ChatEncoder,
) -> None:
    encoder = with_template(encoder, LAST_THINKS)
    with pytest.raises(MaskError, match=r"data\.train_on=each"):
        encoder.encode(TALK)
    kept, examples, report = encode_split(
        encoder, [TALK], DataConfig(train_on=TrainOn.each), "train"
    )
    check_masks(encoder, kept, examples)
    assert [prompt_and_trained(encoder, example)[1] for example in examples] == [
        f"<think>\n\n</think>\n\n{city}<|im_end|>" for city in ("Paris", "Madrid")
    ]
    assert [prompt_and_trained(encoder, example)[0] for example in examples] == [
        encoder.render(TALK.messages[:1], generation_prompt=True),
        encoder.render(TALK.messages[:3], generation_prompt=True),
    ]
    assert [(row.id, row.group) for row in kept] == [("talk[2]", "talk"), ("talk[4]", "talk")]
    assert report.summary()["parted"] == {"rows": 1, "examples": 2} and (
        report.rows,
        report.kept,
    ) == (1, 2)


def test_each_drops_context_turns_and_keeps_single_turns_as_they_are() -> None:
    context = replace(
        TALK,
        messages=(TALK.messages[0], replace(TALK.messages[1], train=False), *TALK.messages[2:]),
    )
    assert split_turns(context) == [context]
    assert split_turns(replace(TALK, messages=TALK.messages[:2])) == [
        replace(TALK, messages=TALK.messages[:2])
    ]


def test_test_rows_give_one_example_of_their_last_turn(encoder: ChatEncoder) -> None:
    kept, examples, _ = encode_split(
        with_template(encoder, LAST_THINKS), [TALK], DataConfig(train_on=TrainOn.each), "test"
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
    for previous, part, example in zip(parts, parts[1:], examples[1:], strict=False):
        context = part.text.removesuffix(part.answer)
        read, trained = prompt_and_trained(encoder, example)
        if overlap:
            assert previous.text.endswith(context) and context
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
        "parts of documents longer than data.max_length" in statement
        for statement in report.statements("train", data)
    )


def test_characters_of_many_tokens_are_never_cut(encoder: ChatEncoder) -> None:
    text = "🙂🙃日本語" * 40
    parts = split_document(encoder, Row("emoji", (Message("text", text),)), 40, 8)
    assert "".join(part.answer for part in parts) == text
    check_masks(encoder, parts, [encoder.encode(part) for part in parts])


def test_advice_about_length_names_no_setting_that_is_already_set(encoder: ChatEncoder) -> None:
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
