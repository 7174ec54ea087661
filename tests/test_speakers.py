"""Names of speakers, and how they become roles."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import write_rows
from hydratune.data.formats.columns import Naming
from row_files import ANSWER, CHAT, QUESTION, TURNS, error_of, read, turns_of

Run = Callable[..., tuple[int, str]]
USERS = ("user", "User", "USER", "human", "Human", "prompter")
ASSISTANTS = (
    "assistant",
    "Assistant",
    "gpt",
    "GPT",
    "chatgpt",
    "ChatGPT",
    "bing",
    "bard",
    "model",
    "bot",
    "Bot",
    "ai",
    "gpt4",
    "GPT-4",
)


@pytest.mark.parametrize("column", ["messages", "conversations"])
@pytest.mark.parametrize(
    "keys",
    [
        ("role", "content"),
        ("from", "value"),
        ("role", "value"),
        ("from", "content"),
        ("role", "text"),
    ],
)
def test_either_column_has_turns_under_either_keys(
    tmp_path: Path, column: str, keys: tuple[str, str]
) -> None:
    for kind in ("jsonl", "json", "csv", "parquet"):
        path = write_rows(
            tmp_path / f"a.{kind}",
            [{column: [dict(zip(keys, turn, strict=True)) for turn in TURNS]}],
        )
        assert turns_of(read(path)[0][0]) == TURNS


@pytest.mark.parametrize("key", ["role", "from"])
@pytest.mark.parametrize(
    ("user", "assistant"), [*((u, "gpt") for u in USERS), *(("human", a) for a in ASSISTANTS)]
)
def test_names_of_speakers(tmp_path: Path, key: str, user: str, assistant: str) -> None:
    turns = [{key: user, "value": QUESTION}, {key: assistant, "value": ANSWER}]
    assert (
        turns_of(read(write_rows(tmp_path / "a.jsonl", [{"conversations": turns}]))[0][0]) == TURNS
    )


@pytest.mark.parametrize(
    "name",
    [
        "tool",
        "Tool",
        "observation",
        "Observation",
        "function",
        "function_response",
        "tool_response",
        "tool-response",
        "tool_result",
        "ipython",
    ],
)
def test_names_of_tools(tmp_path: Path, name: str) -> None:
    turns = [
        CHAT[0],
        {"role": "tool_call", "content": '{"name": "f"}'},
        {"role": name, "content": "grey"},
        CHAT[1],
    ]
    row = read(write_rows(tmp_path / "a.jsonl", [{"messages": turns}]))[0][0]
    assert [m.role for m in row.messages] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize(
    "name",
    [
        "narrator",
        "Narrator",
        "speaker-1",
        "role 2",
        "Mr. X",
        "0",
        "Größe",
        "用户",
        "a=b",
        "x,y",
        "it's",
        'a"b',
    ],
)
def test_the_fix_for_an_unknown_role_works_when_typed(
    tmp_path: Path, hydratune: Run, name: str
) -> None:
    rows = [
        {
            "conversations": [
                {"from": name, "value": f"Where is it, {i}?"},
                {"from": "gpt", "value": f"In box {i}."},
            ]
        }
        for i in range(20)
    ]
    path = write_rows(tmp_path / "a.jsonl", rows)
    message = error_of(path)
    assert f"a.jsonl:1: unknown role {name!r}" in message
    fix = re.search(r"Say who it is: (.+) \(or, in place of user: ", message)
    assert fix is not None
    code, text = hydratune(
        "prepare",
        "data=files",
        f"data.train={path}",
        "model=tiny",
        "output=out",
        *shlex.split(fix[1]),
        "preview=1",
    )
    assert (code, "Where is it" in text) == (0, True), text


def test_configured_roles_take_precedence(tmp_path: Path) -> None:
    turns = [{"from": "bot", "value": QUESTION}, {"from": "Guest", "value": ANSWER}]
    path = write_rows(tmp_path / "a.jsonl", [{"conversations": turns}])
    assert turns_of(read(path, Naming(roles={"bot": "user", "guest": "assistant"}))[0][0]) == TURNS


def test_an_invalid_role_is_refused(tmp_path: Path, hydratune: Run) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"messages": CHAT}])
    code, text = hydratune(
        "prepare",
        "data=files",
        f"data.train={path}",
        "model=tiny",
        "output=out",
        "data.roles.bot=asistant",
    )
    assert (
        code == 2
        and "data.roles.bot = asistant" in text
        and "one of: system, user, assistant, tool" in text
    )
    assert (
        turns_of(read(path, Naming(roles={"user": "user", "assistant": "assistant"}))[0][0])
        == TURNS
    )


@pytest.mark.parametrize(
    "names",
    [("Dr. Who 3", "Ada B 4 Turbo"), ("A, the first", "b.c"), ("用户", "Größe"), ("0", "1")],
)
def test_several_speakers_may_have_one_role(
    tmp_path: Path, hydratune: Run, names: tuple[str, str]
) -> None:
    rows = [
        {
            "conversations": [
                {"from": "human", "value": f"Where is it, {i}?"},
                {"from": names[i % 2], "value": f"In box {i}."},
            ]
        }
        for i in range(20)
    ]
    path = write_rows(tmp_path / "a.jsonl", rows)
    command = (
        "prepare",
        "data=files",
        f"data.train={path}",
        "model=tiny",
        "output=out",
        "preview=1",
    )
    typed: list[str] = []
    for _ in names:
        code, text = hydratune(*command, *typed)
        match = re.search(r"Say who it is: (.+?) \(or, in place of user", " ".join(text.split()))
        assert code == 2 and match is not None, text
        fix = shlex.split(match[1])[0]
        fix = (
            fix.removesuffix("=user") + "=assistant"
            if fix.endswith("=user")
            else fix.replace("roles.user=", "roles.assistant=")
        )
        lists = [option for option in typed if option.startswith("data.roles.assistant=[")]
        if lists and fix.startswith("data.roles.assistant=["):  # one list with both
            typed = [lists[0].removesuffix("]") + "," + fix.partition("[")[2]]
        else:
            typed.append(fix)
    code, text = hydratune(*command, *typed)
    assert (code, "Where is it" in text) == (0, True), text


@pytest.mark.parametrize(
    "name",
    [
        "gpt-4o",
        "GPT 4 Turbo",
        "gpt-3.5-turbo",
        "claude-3",
        "Claude 3 Opus",
        "claude-instant",
        "llama-3",
        "qwen2.5",
    ],
)
def test_versions_of_models_are_assistants(tmp_path: Path, name: str) -> None:
    turns = [{"from": "human", "value": QUESTION}, {"from": name, "value": ANSWER}]
    assert (
        turns_of(read(write_rows(tmp_path / "a.jsonl", [{"conversations": turns}]))[0][0]) == TURNS
    )
    assert "unknown role 'phil'" in error_of(
        write_rows(tmp_path / "b.jsonl", [{"conversations": [{"from": "phil", "value": "a"}]}])
    )
