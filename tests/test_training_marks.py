"""Marks in a turn that say whether it is trained, or that its answer is bad."""

from pathlib import Path
from typing import Any

import pytest

from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.settings.data import TrainOn
from row_files import ASSISTANT_TURN, USER_TURN, read_chat, refusal_of, write_and_read

WRONG = {"role": "assistant", "content": "WRONG"}
UNTRAINED_MARKS: list[dict[str, Any]] = [
    {key: False}
    for key in (
        "train",
        "training",
        "trained",
        "trainable",
        "is_trainable",
        "train_on_turn",
        "loss",
    )
]
UNTRAINED_MARKS += [
    {"weight": 0},
    {"weight": 0.0},
    {"loss": 0},
    {"loss_weight": 0},
    {"loss_scale": 0.0},
    {"masked": True},
    {"loss": False, "weight": 0},
]
TRAINED_MARKS: list[dict[str, Any]] = [
    {"train": True},
    {"loss": True},
    {"weight": 1},
    {"training": True},
    {"masked": False},
    {"loss": None},
    {},
]


@pytest.mark.parametrize("mark", UNTRAINED_MARKS)
@pytest.mark.parametrize("layout", ["messages", "sharegpt"])
def test_turns_marked_as_untrained_are_context(
    tmp_path: Path, mark: dict[str, Any], layout: str, encoder: ChatEncoder
) -> None:
    turns = [USER_TURN, {**WRONG, **mark}, USER_TURN, ASSISTANT_TURN]
    record: dict[str, Any] = {"messages": turns}
    if layout == "sharegpt":
        renamed = [
            {"from": t["role"], "value": t["content"], **{k: v for k, v in t.items() if k in mark}}
            for t in turns
        ]
        record = {"conversations": renamed}
    (row,), statements = write_and_read(tmp_path / "a.jsonl", [record])
    assert [m.train for m in row.messages if m.role == "assistant"] == [False, True] and len(
        statements
    ) == 1
    example = encoder.encode(row, TrainOn.all)
    trained = encoder.decode(
        [t for t, is_target in zip(example.ids, example.loss_mask, strict=True) if is_target]
    )
    assert "WRONG" not in trained and "In the attic." in trained


@pytest.mark.parametrize("mark", TRAINED_MARKS)
def test_turns_marked_as_trained_are_trained(tmp_path: Path, mark: dict[str, Any]) -> None:
    assert [
        m.train
        for m in read_chat(tmp_path / "a.jsonl", USER_TURN, {**ASSISTANT_TURN, **mark}).messages
        if m.role == "assistant"
    ] == [True]


@pytest.mark.parametrize("mark", UNTRAINED_MARKS)
def test_a_row_whose_turns_are_all_context_is_refused(tmp_path: Path, mark: dict[str, Any]) -> None:
    assert "nothing to learn" in refusal_of(
        tmp_path / "a.jsonl", USER_TURN, {**ASSISTANT_TURN, **mark}
    )


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        (
            {"loss": False, "train": True},
            "train and loss of the assistant turn say opposite things",
        ),
        (
            {"masked": True, "weight": 1},
            "weight and masked of the assistant turn say opposite things",
        ),
        ({"weight": 0.5}, "weight of the assistant turn must be 0"),
        ({"loss": 0.37}, "loss of the assistant turn must be true or false"),
        ({"loss": "no"}, "loss of the assistant turn must be true or false"),
        *[
            ({key: value}, f"{key} of the assistant turn looks like a mark of what is trained")
            for key, value in (
                ("mask", True),
                ("mask", 0),
                ("loss_mask", 1),
                ("no_loss", True),
                ("ignore", True),
                ("skipLoss", "true"),
                ("train_detail", [{"begin_offset": 0, "end_offset": 3, "train": False}]),
                ("excluded", True),
                ("trainOnTurn", False),
                ("sample_weight", 0.5),
            )
        ],
    ],
)
def test_unclear_marks_are_refused(tmp_path: Path, mark: dict[str, Any], words: str) -> None:
    assert words in refusal_of(
        tmp_path / "a.jsonl", USER_TURN, WRONG, USER_TURN, {**ASSISTANT_TURN, **mark}
    )


def test_the_advice_for_an_unclear_mark_works(tmp_path: Path) -> None:
    assert "write train: true or train: false instead, and take mask out" in refusal_of(
        tmp_path / "a.jsonl", USER_TURN, {**ASSISTANT_TURN, "mask": True}
    )
    for train in (True, False):
        row = read_chat(
            tmp_path / "b.jsonl", USER_TURN, {**WRONG, "train": train}, USER_TURN, ASSISTANT_TURN
        )
        assert row.messages[1].train is train


def test_only_assistant_turns_can_be_trained(tmp_path: Path) -> None:
    assert "marked as trained (loss: True); only assistant turns can be" in refusal_of(
        tmp_path / "a.jsonl", {**USER_TURN, "loss": True}, ASSISTANT_TURN
    )
    assert (
        read_chat(tmp_path / "b.jsonl", {**USER_TURN, "loss": False, "weight": 0}, ASSISTANT_TURN)
        .messages[1]
        .train
    )


def test_nan_marks_count_as_missing(tmp_path: Path) -> None:
    assert (
        read_chat(
            tmp_path / "a.jsonl",
            USER_TURN,
            {**ASSISTANT_TURN, "loss": float("nan"), "weight": float("nan")},
        )
        .messages[1]
        .train
    )


@pytest.mark.parametrize(
    "mark",
    [
        *(
            {key: False}
            for key in (
                "label",
                "correct",
                "is_correct",
                "learn",
                "include",
                "is_target",
                "isGood",
                "kto_label",
            )
        ),
        *({key: True} for key in ("rejected", "error", "bad", "has_error", "hallucinated")),
        {"rating": "bad"},
        {"feedback": "negative"},
        {"label": 0},
    ],
)
def test_the_fix_for_turns_marked_as_bad_works(tmp_path: Path, mark: dict[str, Any]) -> None:
    message = refusal_of(
        tmp_path / "a.jsonl", USER_TURN, {**WRONG, **mark}, USER_TURN, ASSISTANT_TURN
    )
    assert (
        f"{next(iter(mark))} = " in message
        and 'write "train": false into the turn' in message
        and 'or "train": true if' in message
    )
    for train in (False, True):
        row = read_chat(
            tmp_path / "b.jsonl",
            USER_TURN,
            {**WRONG, **mark, "train": train},
            USER_TURN,
            ASSISTANT_TURN,
        )
        assert [m.train for m in row.messages] == [True, train, True, True]


@pytest.mark.parametrize(
    "mark", [{"label": True}, {"rejected": False}, {"rating": 5}, {"error": None}, {"error": False}]
)
def test_turns_not_marked_as_bad_are_trained(tmp_path: Path, mark: dict[str, Any]) -> None:
    assert (
        read_chat(
            tmp_path / "a.jsonl",
            {**USER_TURN, "correct": False, "error": True},
            {**ASSISTANT_TURN, **mark},
        ).answer
        == "In the attic."
    )


def test_marks_in_the_meta_data_of_turns_are_refused(tmp_path: Path) -> None:
    for mark in ({"train": False}, {"correct": False}, {"loss_mask": 0}):
        assert next(iter(mark)) in refusal_of(
            tmp_path / "a.jsonl", USER_TURN, {**WRONG, "meta": mark}, USER_TURN, ASSISTANT_TURN
        )
    assert (
        read_chat(
            tmp_path / "b.jsonl",
            USER_TURN,
            {**ASSISTANT_TURN, "meta": {"lang": "de", "correct": True}},
        ).answer
        == "In the attic."
    )
