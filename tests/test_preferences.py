"""Preference pairs: they are refused with a fix that trains the chosen answers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from row_files import ANSWER, CHAT, QUESTION, TURNS, error_of, read, turns_of

Run = Callable[..., tuple[int, str]]
CHOSEN_CHAT, CHOSEN_ANSWER = CHAT, CHAT[1:]
REJECTED_CHAT, REJECTED_ANSWER = (
    [CHAT[0], {"role": "assistant", "content": "No."}],
    [{"role": "assistant", "content": "No."}],
)
SHAREGPT = [{"from": "human", "value": QUESTION}]
PREFERENCES: list[dict[str, Any]] = [
    {"prompt": QUESTION, "chosen": ANSWER, "rejected": "No."},
    {"question": QUESTION, "chosen": ANSWER, "rejected": "No."},
    {"instruction": QUESTION, "input": "", "chosen": ANSWER, "rejected": "No."},
    {"prompt": QUESTION, "chosen": CHOSEN_CHAT, "rejected": REJECTED_CHAT},
    {"chosen": CHOSEN_CHAT, "rejected": REJECTED_CHAT},
    {"prompt": CHAT[:1], "chosen": CHOSEN_ANSWER, "rejected": REJECTED_ANSWER},
    {"prompt": QUESTION, "chosen": CHOSEN_ANSWER, "rejected": REJECTED_ANSWER},
    {"prompt": CHAT[:1], "chosen": ANSWER, "rejected": "No."},
    {
        "conversations": SHAREGPT,
        "chosen": {"from": "gpt", "value": ANSWER},
        "rejected": {"from": "gpt", "value": "No."},
    },
    {"messages": CHAT[:1], "chosen": CHOSEN_ANSWER[0], "rejected": REJECTED_ANSWER[0]},
    {
        "input": {"messages": CHAT[:1], "tools": [], "parallel_tool_calls": None},
        "preferred_output": CHOSEN_ANSWER,
        "non_preferred_output": REJECTED_ANSWER,
    },
    {"prompt": QUESTION, "accepted": ANSWER, "rejected": "No."},
    {"prompt": QUESTION, "chosen_response": ANSWER, "rejected_response": "No."},
]


@pytest.mark.parametrize("record", PREFERENCES)
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_the_fix_for_preference_pairs_trains_the_chosen_answers(
    tmp_path: Path, record: dict[str, Any], kind: str
) -> None:
    if kind == "csv" and any(isinstance(value, dict) for value in record.values()):
        return  # a cell that is neither a list nor a text
    path = write_rows(tmp_path / f"a.{kind}", [record])
    message = error_of(path)
    assert f"{path}{':' if kind != 'parquet' else '['}" in message and "preference pair" in message
    columns = dict(re.findall(r"data\.columns\.(\w+)=(\w+)", message))
    rows, _ = read(path, columns)
    assert [turns_of(row) for row in rows] == [TURNS], columns


def test_chosen_transcripts_can_be_read_as_documents(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        [{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}],
    )
    assert "data.columns.text=chosen" in error_of(path)
    assert read(path, {"text": "chosen"})[0][0].is_text


def test_a_conversation_beside_a_preference_pair_is_read(tmp_path: Path) -> None:
    rows, statements = read(
        write_rows(
            tmp_path / "a.jsonl",
            [{"messages": CHOSEN_CHAT, "chosen": CHOSEN_CHAT, "rejected": REJECTED_CHAT}],
        )
    )
    assert turns_of(rows[0]) == TURNS and statements == [
        "read as messages; ignored: chosen, rejected"
    ]


def test_the_fix_for_preference_pairs_works_when_typed(tmp_path: Path, hydratune: Run) -> None:
    rows = [
        {"prompt": f"Where is it, {i}?", "chosen": f"In box {i}.", "rejected": f"BAD {i}"}
        for i in range(20)
    ]
    command = (
        "prepare",
        "data=files",
        f"data.train={write_rows(tmp_path / 'a.jsonl', rows)}",
        "model=tiny",
        "output=out",
    )
    code, text = hydratune(*command)
    fixes = re.findall(r"data\.columns\.\w+=\w+", text)
    assert code == 2 and fixes == ["data.columns.prompt=prompt", "data.columns.completion=chosen"]
    code, text = hydratune(*command, *fixes, "preview=1")
    assert code == 0 and "In box" in text and "BAD" not in text
