"""Rows that are longer than data.max_length: dropped, cut or refused."""

import pytest

from chat_templates import chat_row, trained_text
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.examples import encode_split
from hydratune.data.mask_check import check_masks
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.data import DataConfig, Overlength


def test_long_document_is_dropped_and_never_cut(encoder: ChatEncoder) -> None:
    data = DataConfig(max_length=20, overlength=Overlength.truncate_prompt)
    kept, _, report = encode_split(
        encoder, [chat_row("a", "b"), Row("long", (Message("text", "word " * 50),))], data, "train"
    )
    assert [r.id for r in kept] == ["row-1"] and report.dropped == {
        "longer than data.max_length": ["long"]
    }


def long_rows(encoder: ChatEncoder) -> list[Row]:
    return [chat_row("short", "b"), chat_row("start " + "word " * 200 + "finish", "the answer")]


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
    _, _, report = encode_split(
        encoder, [chat_row("a", "b"), chat_row("a", "word " * 100)], data, "train"
    )
    assert report.kept == 1


def test_overlength_error_states_count_and_longest(encoder: ChatEncoder) -> None:
    with pytest.raises(
        DataError, match=r"1 of 2 train rows is longer .* \(longest: f.jsonl:7, \d+\)"
    ):
        encode_split(
            encoder,
            long_rows(encoder),
            DataConfig(max_length=60, overlength=Overlength.error),
            "train",
        )


def test_every_row_dropped_is_an_error(encoder: ChatEncoder) -> None:
    with pytest.raises(DataError, match="every test row was dropped"):
        encode_split(encoder, [chat_row("word " * 100, "b")], DataConfig(max_length=20), "test")
