"""Columns that mark answers as bad, or say which answers are trained."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.data.formats.columns import Naming
from row_files import CHAT, PAIR, TURNS, error_of, read, turns_of

Run = Callable[..., tuple[int, str]]


# -------------------------------------------------------------------------------------------- marks
MARKS = [
    ("label", False, True),
    ("label", 0, 1),
    ("kto_tag", False, True),
    ("accepted", False, True),
    ("is_good", False, True),
]
MARKS += [
    ("isCorrect", False, True),
    ("rating", False, True),
    ("thumbs_up", 0, 1),
    ("correct", False, True),
    ("train", False, True),
]
MARKS += [
    ("weight", 0, 1),
    ("loss", False, True),
    ("bad", True, False),
    ("is_rejected", True, False),
    ("mask", True, False),
    ("valid", False, True),
]


@pytest.mark.parametrize(("column", "bad", "good"), MARKS)
@pytest.mark.parametrize("layout", ["pair", "chat"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_the_fix_for_answers_marked_as_bad_works(
    tmp_path: Path, column: str, bad: Any, good: Any, layout: str, kind: str
) -> None:
    record: dict[str, Any] = PAIR if layout == "pair" else {"messages": CHAT}
    wrong = (
        {"prompt": "x", "completion": "BAD"}
        if layout == "pair"
        else {"messages": [CHAT[0], {"role": "assistant", "content": "BAD"}]}
    )
    path = write_rows(tmp_path / f"a.{kind}", [{**record, column: good}, {**wrong, column: bad}])
    message = error_of(path)
    assert f"{column} = " in message and re.search(r"a\.\w+[:\[][23]", message)
    fix = re.search(rf"data\.keep\.{column}=(true|false);", message)
    assert fix is not None
    rows, statements = read(path, Naming(keep={column: fix[1] == "true"}))
    assert [turns_of(row) for row in rows] == [TURNS]
    assert statements[1] == f"rows with {column} = {fix[1]}: 1 of 2; the others dropped"
    assert f"data.keep.{column}=any" in message
    assert len(read(path, Naming(keep={column: "any"}))[0]) == 2


@pytest.mark.parametrize("words", ["bad", "Rejected", "wrong"])
def test_words_may_mark_bad_answers(tmp_path: Path, words: str) -> None:
    path = write_rows(
        tmp_path / "a.jsonl", [{**PAIR, "feedback": "fine"}, {**PAIR, "feedback": words}]
    )
    assert "data.keep.feedback=VALUE" in error_of(path)
    assert len(read(path, Naming(keep={"feedback": "fine"}))[0]) == 1


@pytest.mark.parametrize(
    "extra",
    [
        {"label": True},
        {"label": 1},
        {"label": "sports"},
        {"label": 2},
        {"rating": 0},
        {"rating": 1},
        {"new": False},
        {"weight": 70.5},
    ],
)
def test_columns_that_mark_no_answer_as_bad_are_meta_data(
    tmp_path: Path, extra: dict[str, Any]
) -> None:
    rows, statements = read(write_rows(tmp_path / "a.jsonl", [{**PAIR, **extra}] * 2))
    assert [row.meta for row in rows] == [extra] * 2 and statements == [
        f"read as prompt/completion; kept as meta data: {next(iter(extra))}"
    ]


@pytest.mark.parametrize(
    ("column", "value"),
    [("no_loss", True), ("train_mask", [0, 1]), ("loss_mask", [1]), ("is_training_row", False)],
)
def test_columns_that_may_be_loss_masks_are_refused(
    tmp_path: Path, column: str, value: Any
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{**PAIR, column: value}])
    assert f"{column} looks like a mark of what is trained" in error_of(
        path
    ) and f"data.keep.{column}=any" in error_of(path)
    assert turns_of(read(path, Naming(keep={column: "any"}))[0][0]) == TURNS
    if isinstance(value, bool):
        assert f"data.keep.{column}={str(value).lower()}" in error_of(path)
        assert len(read(path, Naming(keep={column: value}))[0]) == 1


def test_documents_are_marked_too(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        [{"text": "Once.", "quality": False, "train": True}, {"text": "Twice.", "train": False}],
    )
    assert "a.jsonl:2: train = false" in error_of(path)
    assert len(read(path, Naming(keep={"train": True}))[0]) == 1


def test_a_configured_column_is_no_mark(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "q", "label": False}])
    assert read(path, {"prompt": "text", "completion": "label"})[0][0].answer == "false"


def test_data_keep_must_match_a_column_and_a_row(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{**PAIR, "label": False}])
    assert "none of its 1 row has label = true" in error_of(path, Naming(keep={"label": True}))
    assert "data.keep.lable: no such column; this row has: prompt, completion, label" in error_of(
        path, Naming(keep={"lable": True})
    )


def test_the_fix_for_kto_works_when_typed(tmp_path: Path, hydratune: Run) -> None:
    rows = [
        {
            "prompt": f"Where is it, {i}?",
            "completion": "BAD" if i % 2 else f"In box {i}.",
            "label": i % 2 == 0,
        }
        for i in range(40)
    ]
    command = (
        "prepare",
        "data=files",
        f"data.train={write_rows(tmp_path / 'a.jsonl', rows)}",
        "model=tiny",
        "output=out",
    )
    code, text = hydratune(*command)
    fixes = re.findall(r"data\.keep\.label=\w+", text)
    assert code == 2 and fixes == ["data.keep.label=true", "data.keep.label=any"]
    code, text = hydratune(*command, fixes[0])
    assert code == 0 and "rows with label = true: 20 of 40" in text
    # the data checks may refuse the repeated answer; the reader accepts it
    assert hydratune(*command, fixes[1])[0] in (0, 2)
    code, text = hydratune(*command, "data.stratify=label")
    assert "says that this answer is not to be learned" not in text


# ------------------------------------------------------------------------ names and values of marks
BAD_MARKS: list[tuple[str, Any, Any]] = [
    (name, False, True)
    for name in (
        "kto_label",
        "binary_label",
        "labels",
        "preference",
        "pass",
        "upvote",
        "is_safe",
        "isHelpful",
        "human_accepted",
        "is_target",
    )
]
BAD_MARKS += [
    (name, False, True)
    for name in (
        "include",
        "learn",
        "response_is_factual",
        "human_verified",
        "non_toxic",
        "correct_answer",
    )
]
BAD_MARKS += [
    (name, True, False)
    for name in (
        "harmful",
        "hallucinated",
        "error",
        "has_errors",
        "is_toxic",
        "not_helpful",
        "response_harmful",
        "model_failed",
        "is_bad_answer",
    )
]
BAD_MARKS += [
    ("kto_label", 0, 1),
    ("upvote", "False", "True"),
    ("harmful", "true", "false"),
    ("error", 1, 0),
]
BAD_VALUES = [
    ("feedback", "negative"),
    ("preference", "rejected"),
    ("verdict", "incorrect"),
    ("thumbs", "down"),
    ("judgement", "Wrong"),
]
BAD_VALUES += [
    ("outcome", "fail"),
    ("correct", "no"),
    ("human_rating", "bad"),
    ("vote", -1),
    ("label", -1),
    ("hallucinated", "yes"),
]


@pytest.mark.parametrize(("column", "bad", "good"), BAD_MARKS)
def test_column_names_mark_bad_answers(tmp_path: Path, column: str, bad: Any, good: Any) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        [{**PAIR, column: good}, {"prompt": "x", "completion": "BAD", column: bad}],
    )
    fix = re.search(rf"a\.jsonl:2: {column} = .*data\.keep\.{column}=(true|false);", error_of(path))
    assert fix is not None
    assert [turns_of(row) for row in read(path, Naming(keep={column: fix[1] == "true"}))[0]] == [
        TURNS
    ]
    assert len(read(path, Naming(keep={column: "any"}))[0]) == 2


@pytest.mark.parametrize(("column", "value"), BAD_VALUES)
def test_column_values_mark_bad_answers(tmp_path: Path, column: str, value: Any) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        [{**PAIR, column: "fine"}, {"prompt": "x", "completion": "BAD", column: value}],
    )
    assert f"data.keep.{column}=VALUE" in error_of(path)
    assert [turns_of(row) for row in read(path, Naming(keep={column: "fine"}))[0]] == [TURNS]


@pytest.mark.parametrize(
    "extra",
    [
        *(
            {name: value}
            for name in ("is_new", "translated", "has_code", "public", "uses_tools")
            for value in (True, False)
        ),
        {"label": "negative"},
        {"label": "no"},
        {"correct_answer": "no"},
        {"correct_answer": "0"},
        {"gold": "no"},
        {"prompt_harmful": True},
        {"is_question_safe": False},
        {"right_to_left": False},
        {"score": 0},
        {"upvotes": 0},
        {"errors": 1},
        {"target": 0},
        {"error": "none"},
        {"label_count": 0},
        {"skip": False},
        {"correct": True},
    ],
)
def test_other_columns_do_not_mark_bad_answers(tmp_path: Path, extra: dict[str, Any]) -> None:
    rows, _ = read(write_rows(tmp_path / "a.jsonl", [{**PAIR, **extra}] * 2))
    assert [row.meta for row in rows] == [extra] * 2


def test_unknown_boolean_columns_are_stated_with_counts(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{**PAIR, "public": n == 2} for n in range(3)])
    rows, statements = read(path)
    assert len(rows) == 3 and statements[1].startswith(
        "public is true in 1 row and false in 2, all of them trained;"
    )
    assert "data.keep.public=true" in statements[1]
    rows, statements = read(path, Naming(keep={"public": True}))
    assert len(rows) == 1 and "all of them trained" not in "".join(statements)


@pytest.mark.parametrize(
    "column",
    [
        "mask",
        "weight",
        "train",
        "masked",
        "loss",
        "labels",
        "weights",
        "loss_mask",
        "label",
        "kto_labels",
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_the_fix_for_a_list_of_marks_works(tmp_path: Path, column: str, kind: str) -> None:
    turns = [CHAT[0], {"role": "assistant", "content": "BAD"}, *CHAT]
    message = error_of(write_rows(tmp_path / f"a.{kind}", [{"messages": turns, column: [0, 1]}]))
    assert (
        f"{column} looks like a mark of what is trained" in message
        and 'write "train": false into the turns' in message
    )
    assert re.findall(r"data\.keep\.\w+=\w+", message) == [f"data.keep.{column}=any"]
    marked = [turns[0], {**turns[1], "train": False}, *CHAT]
    assert [
        m.train
        for m in read(write_rows(tmp_path / "b.jsonl", [{"messages": marked}]))[0][0].messages
    ] == [True, False, True, True]
    assert all(
        m.train for m in read(tmp_path / f"a.{kind}", Naming(keep={column: "any"}))[0][0].messages
    )


@pytest.mark.parametrize("column", ["meta", "metadata"])
def test_marks_in_an_object_of_meta_data_are_marks(tmp_path: Path, column: str) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{**PAIR, column: {"label": n > 0}} for n in range(2)])
    assert "a.jsonl:1: label = false" in error_of(path) and "data.keep.label=true" in error_of(path)
    assert (
        len(read(path, Naming(keep={"label": True}))[0]) == 1
        and len(read(path, Naming(keep={"label": "any"}))[0]) == 2
    )


def test_a_mark_column_whose_name_cannot_be_typed_is_to_be_renamed(tmp_path: Path) -> None:
    message = error_of(write_rows(tmp_path / "a.jsonl", [{**PAIR, "label: ok": False}]))
    assert "data.keep.label_ok=true (rename the column to label_ok first)" in message
    path = write_rows(
        tmp_path / "b.jsonl", [{**PAIR, "label_ok": False}, {**PAIR, "label_ok": True}]
    )
    assert len(read(path, Naming(keep={"label_ok": True}))[0]) == 1
