"""The layouts that people's files have: who speaks under which name, wrappers, histories, and
answers that are marked as bad.
"""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.data.formats import reader
from hydratune.data.formats.columns import Naming
from hydratune.data.rows import Row
from hydratune.errors import DataError

Run = Callable[..., tuple[int, str]]
QUESTION, ANSWER = "Where is the kettle?", "In the attic."
CHAT = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
SPOKEN = [("user", QUESTION), ("assistant", ANSWER)]


def read(path: Path, naming: Any = None) -> tuple[list[Row], list[str]]:
    """The rows of a file, and what was stated, without its path."""
    statements: list[str] = []
    rows = list(reader.read_file(path, naming or {}, "utf-8", statements))
    return rows, [s.removeprefix(f"{path}: ") for s in statements]


def spoken(row: Row) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in row.messages]


def error_of(path: Path, naming: Any = None) -> str:
    with pytest.raises(DataError) as caught:
        read(path, naming)
    return str(caught.value)


# -------------------------------------------------------------------------------------------- roles
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
            [{column: [dict(zip(keys, turn, strict=True)) for turn in SPOKEN]}],
        )
        assert spoken(read(path)[0][0]) == SPOKEN


@pytest.mark.parametrize("key", ["role", "from"])
@pytest.mark.parametrize(
    ("user", "assistant"), [*((u, "gpt") for u in USERS), *(("human", a) for a in ASSISTANTS)]
)
def test_names_of_speakers(tmp_path: Path, key: str, user: str, assistant: str) -> None:
    turns = [{key: user, "value": QUESTION}, {key: assistant, "value": ANSWER}]
    assert (
        spoken(read(write_rows(tmp_path / "a.jsonl", [{"conversations": turns}]))[0][0]) == SPOKEN
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
    found = re.search(r"Say who it is: (.+) \(or, in place of user: ", message)
    assert found is not None
    code, text = hydratune(
        "prepare",
        "data=files",
        f"data.train={path}",
        "model=tiny",
        "output=out",
        *shlex.split(found[1]),
        "preview=1",
    )
    assert (code, "Where is it" in text) == (0, True), text


def test_roles_that_are_named_come_first(tmp_path: Path) -> None:
    turns = [{"from": "bot", "value": QUESTION}, {"from": "Guest", "value": ANSWER}]
    path = write_rows(tmp_path / "a.jsonl", [{"conversations": turns}])
    assert spoken(read(path, Naming(roles={"bot": "user", "guest": "assistant"}))[0][0]) == SPOKEN


def test_a_role_that_is_none_cannot_be_named(tmp_path: Path, hydratune: Run) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"messages": CHAT}])
    code, text = hydratune(
        "prepare",
        "data=files",
        f"data.train={path}",
        "model=tiny",
        "output=out",
        "+data.roles.bot=asistant",
    )
    assert (
        code == 2
        and "data.roles.bot = asistant" in text
        and "one of: system, user, assistant, tool" in text
    )
    assert (
        spoken(read(path, Naming(roles={"user": "user", "assistant": "assistant"}))[0][0]) == SPOKEN
    )


# -------------------------------------------------------------------------------------------- files
ROWS = [{"messages": CHAT}] * 2
WHOLE: list[tuple[str, Any, int, str]] = [
    ("json", {"messages": CHAT}, 1, "the whole file is one object, so it is one row"),
    ("json", {"messages": CHAT, "tools": [], "id": "a"}, 1, "the whole file is one object"),
    (
        "json",
        {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
        1,
        "the whole file is one object",
    ),
    ("json", {"instruction": QUESTION, "output": ANSWER}, 1, "the whole file is one object"),
    ("json", CHAT, 1, "the whole file is one conversation"),
    ("json", [CHAT, CHAT], 2, "read as messages"),
    ("json", {"data": ROWS}, 2, "rows taken from the list 'data'"),
    (
        "json",
        {"version": "1", "data": ROWS},
        2,
        "rows taken from the list 'data'; ignored beside it: version",
    ),
    (
        "json",
        {"tags": ["a", "b"], "rows": ROWS},
        2,
        "rows taken from the list 'rows'; ignored beside it: tags",
    ),
    (
        "json",
        {"licences": [{"name": "MIT"}], "data": ROWS},
        2,
        "rows taken from the list 'data'; ignored beside it: licences",
    ),
    ("json", {"data": [CHAT, CHAT]}, 2, "rows taken from the list 'data'"),
    ("jsonl", [CHAT, CHAT], 2, "read as messages"),
    ("jsonl", [{"messages": CHAT}, CHAT], 2, "read as messages"),
]


@pytest.mark.parametrize(("kind", "value", "count", "statement"), WHOLE)
def test_conversations_with_little_or_much_around_them(
    tmp_path: Path, kind: str, value: Any, count: int, statement: str
) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_text(
        "".join(json.dumps(line) + "\n" for line in value)
        if kind == "jsonl"
        else json.dumps(value, indent=1)
    )
    rows, said = read(path)
    assert [spoken(row) for row in rows] == [SPOKEN] * count and said[0].startswith(statement)


def test_what_was_taken_from_a_file_is_said_once_though_it_is_read_twice(tmp_path: Path) -> None:
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": {"a": None}}}],
    }
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"messages": [CHAT[0], call]}]}))
    assert read(tmp_path / "a.json")[1] == ["rows taken from the list 'data'", "read as messages"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            {"train": ROWS, "test": ROWS},
            "this object has 2: train, test; give each a file of its own",
        ),
        ({"a": 1}, "a list of rows is needed"),
        ([["a"]], "must be a JSON object"),
        ({"data": []}, "no rows"),
    ],
)
def test_files_without_one_list_of_rows_are_refused(tmp_path: Path, value: Any, words: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert words in error_of(tmp_path / "a.json")


def test_a_turn_a_line_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    assert "this row is one turn, and a row must be a whole conversation" in error_of(
        write_rows(tmp_path / "a.jsonl", CHAT)
    )


def test_conversations_under_another_name_are_found(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"dialog": CHAT}])
    assert "name it: +data.columns.messages=dialog" in error_of(path)
    assert spoken(read(path, {"messages": "dialog"})[0][0]) == SPOKEN


def test_turns_in_cells_of_csv_are_turns_in_pairs_too(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", [{"prompt": CHAT[:1], "completion": CHAT[1:]}])
    assert spoken(read(path)[0][0]) == SPOKEN


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8", "ascii"])
def test_an_encoding_that_is_set_is_not_advised(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "caf\x81\xe9", "completion": "b"}\n')
    try:
        list(reader.read_file(tmp_path / "a.jsonl", {}, encoding))
    except DataError as error:
        assert f"data.encoding={encoding}" not in str(error) and f"(or {encoding})" not in str(
            error
        )


# ------------------------------------------------------------------------------------------ history
LONG = [
    ("user", "Hello"),
    ("assistant", "Hi."),
    ("user", "What is it?"),
    ("assistant", "A test."),
    *SPOKEN,
]


@pytest.mark.parametrize(
    "names", [("instruction", "output"), ("prompt", "response"), ("prompt", "completion")]
)
@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_history_is_read_as_turns(tmp_path: Path, names: tuple[str, str], kind: str) -> None:
    pairs = [["Hello", "Hi."], ["What is it?", "A test."]]
    turns = [{"role": role, "content": text} for role, text in LONG[:4]]
    record = dict(zip(names, (QUESTION, ANSWER), strict=True))
    for number, history in enumerate((pairs, turns)):
        if kind == "csv" and history is turns:
            continue
        rows, said = read(
            write_rows(
                tmp_path / f"{number}.{kind}",
                [{**record, "history": history}, {**record, "history": []}],
            )
        )
        assert [spoken(row) for row in rows] == [LONG, SPOKEN]
        assert said[0].endswith("history") and "ignored" not in said[0]


def test_history_goes_with_input_and_system(tmp_path: Path) -> None:
    record = {
        "instruction": "i",
        "input": "x",
        "output": "o",
        "system": "s",
        "history": [["q", "a"]],
    }
    rows, _ = read(write_rows(tmp_path / "a.jsonl", [record]))
    assert spoken(rows[0]) == [
        ("system", "s"),
        ("user", "q"),
        ("assistant", "a"),
        ("user", "i\n\nx"),
        ("assistant", "o"),
    ]


def test_history_can_be_named(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.csv", [{"prompt": QUESTION, "completion": ANSWER, "past": [["Hello", "Hi."]]}]
    )
    assert spoken(read(path, {"history": "past"})[0][0]) == [*LONG[:2], *SPOKEN]


@pytest.mark.parametrize(
    "history", [[["q"]], [["q", None]], ["q", "a"], {"q": "a"}, [["q", "a", "b"]]]
)
def test_another_history_is_refused(tmp_path: Path, history: Any) -> None:
    path = write_rows(
        tmp_path / "a.jsonl", [{"prompt": "p", "completion": "c", "history": history}]
    )
    assert "a.jsonl:1: history must be a list of [request, answer]" in error_of(path)


def test_a_history_that_is_a_text_is_meta_data(tmp_path: Path) -> None:
    rows, said = read(
        write_rows(
            tmp_path / "a.jsonl",
            [{"prompt": QUESTION, "completion": ANSWER, "history": "none known"}],
        )
    )
    assert spoken(rows[0]) == SPOKEN and said == [
        "read as prompt/completion; kept as meta data: history"
    ]


# -------------------------------------------------------------------------------------- preferences
PAIR = {"prompt": QUESTION, "completion": ANSWER}
FULL, ALONE = CHAT, CHAT[1:]
BAD_FULL, BAD_ALONE = (
    [CHAT[0], {"role": "assistant", "content": "No."}],
    [{"role": "assistant", "content": "No."}],
)
SHAREGPT = [{"from": "human", "value": QUESTION}]
PREFERENCES: list[dict[str, Any]] = [
    {"prompt": QUESTION, "chosen": ANSWER, "rejected": "No."},
    {"question": QUESTION, "chosen": ANSWER, "rejected": "No."},
    {"instruction": QUESTION, "input": "", "chosen": ANSWER, "rejected": "No."},
    {"prompt": QUESTION, "chosen": FULL, "rejected": BAD_FULL},
    {"chosen": FULL, "rejected": BAD_FULL},
    {"prompt": CHAT[:1], "chosen": ALONE, "rejected": BAD_ALONE},
    {"prompt": QUESTION, "chosen": ALONE, "rejected": BAD_ALONE},
    {"prompt": CHAT[:1], "chosen": ANSWER, "rejected": "No."},
    {
        "conversations": SHAREGPT,
        "chosen": {"from": "gpt", "value": ANSWER},
        "rejected": {"from": "gpt", "value": "No."},
    },
    {"messages": CHAT[:1], "chosen": ALONE[0], "rejected": BAD_ALONE[0]},
    {
        "input": {"messages": CHAT[:1], "tools": [], "parallel_tool_calls": None},
        "preferred_output": ALONE,
        "non_preferred_output": BAD_ALONE,
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
        return  # no list, and no text
    path = write_rows(tmp_path / f"a.{kind}", [record])
    message = error_of(path)
    assert f"{path}{':' if kind != 'parquet' else '['}" in message and "preference pair" in message
    columns = dict(re.findall(r"\+data\.columns\.(\w+)=(\w+)", message))
    rows, _ = read(path, columns)
    assert [spoken(row) for row in rows] == [SPOKEN], columns


def test_whole_texts_that_are_chosen_can_be_documents(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        [{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}],
    )
    assert "+data.columns.text=chosen" in error_of(path)
    assert read(path, {"text": "chosen"})[0][0].is_text


def test_a_conversation_beside_a_preference_pair_is_read(tmp_path: Path) -> None:
    rows, said = read(
        write_rows(tmp_path / "a.jsonl", [{"messages": FULL, "chosen": FULL, "rejected": BAD_FULL}])
    )
    assert spoken(rows[0]) == SPOKEN and said == ["read as messages; ignored: chosen, rejected"]


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
    wanted = re.search(rf"\+data\.keep\.{column}=(true|false);", message)
    assert wanted is not None
    rows, said = read(path, Naming(keep={column: wanted[1] == "true"}))
    assert [spoken(row) for row in rows] == [SPOKEN]
    assert said[1] == f"rows with {column} = {wanted[1]}: 1 of 2; the others dropped"
    assert f"+data.keep.{column}=any" in message
    assert len(read(path, Naming(keep={column: "any"}))[0]) == 2


@pytest.mark.parametrize("words", ["bad", "Rejected", "wrong"])
def test_marks_that_are_words(tmp_path: Path, words: str) -> None:
    path = write_rows(
        tmp_path / "a.jsonl", [{**PAIR, "feedback": "fine"}, {**PAIR, "feedback": words}]
    )
    assert "+data.keep.feedback=VALUE" in error_of(path)
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
def test_columns_that_call_no_answer_bad_are_meta_data(
    tmp_path: Path, extra: dict[str, Any]
) -> None:
    rows, said = read(write_rows(tmp_path / "a.jsonl", [{**PAIR, **extra}] * 2))
    assert [row.meta for row in rows] == [extra] * 2 and said == [
        f"read as prompt/completion; kept as meta data: {next(iter(extra))}"
    ]


@pytest.mark.parametrize(
    ("column", "value"),
    [("no_loss", True), ("train_mask", [0, 1]), ("loss_mask", [1]), ("is_training_row", False)],
)
def test_columns_that_may_say_what_is_trained_are_refused(
    tmp_path: Path, column: str, value: Any
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{**PAIR, column: value}])
    assert f"{column} looks like a mark of what is trained" in error_of(
        path
    ) and f"+data.keep.{column}=any" in error_of(path)
    assert spoken(read(path, Naming(keep={column: "any"}))[0][0]) == SPOKEN
    if isinstance(value, bool):
        assert f"+data.keep.{column}={str(value).lower()}" in error_of(path)
        assert len(read(path, Naming(keep={column: value}))[0]) == 1


def test_documents_are_marked_too(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        [{"text": "Once.", "quality": False, "train": True}, {"text": "Twice.", "train": False}],
    )
    assert "a.jsonl:2: train = false" in error_of(path)
    assert len(read(path, Naming(keep={"train": True}))[0]) == 1


def test_a_column_that_was_named_is_no_mark(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "q", "label": False}])
    assert read(path, {"prompt": "text", "completion": "label"})[0][0].answer == "false"


def test_rows_to_be_kept_must_be_there(tmp_path: Path) -> None:
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
    fixes = re.findall(r"\+data\.keep\.label=\w+", text)
    assert code == 2 and fixes == ["+data.keep.label=true", "+data.keep.label=any"]
    code, text = hydratune(*command, fixes[0])
    assert code == 0 and "rows with label = true: 20 of 40" in text
    # the checks may mind the repeated answer, the reader does not
    assert hydratune(*command, fixes[1])[0] in (0, 2)
    code, text = hydratune(*command, "data.stratify=label")
    assert "says that this answer is not to be learned" not in text


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
    fixes = re.findall(r"\+data\.columns\.\w+=\w+", text)
    assert code == 2 and fixes == ["+data.columns.prompt=prompt", "+data.columns.completion=chosen"]
    code, text = hydratune(*command, *fixes, "preview=1")
    assert code == 0 and "In box" in text and "BAD" not in text


# ----------------------------------------------------------------------------------------- verdicts
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
def test_words_in_names_call_answers_bad(tmp_path: Path, column: str, bad: Any, good: Any) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        [{**PAIR, column: good}, {"prompt": "x", "completion": "BAD", column: bad}],
    )
    wanted = re.search(
        rf"a\.jsonl:2: {column} = .*\+data\.keep\.{column}=(true|false);", error_of(path)
    )
    assert wanted is not None
    assert [spoken(row) for row in read(path, Naming(keep={column: wanted[1] == "true"}))[0]] == [
        SPOKEN
    ]
    assert len(read(path, Naming(keep={column: "any"}))[0]) == 2


@pytest.mark.parametrize(("column", "value"), BAD_VALUES)
def test_values_call_answers_bad(tmp_path: Path, column: str, value: Any) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        [{**PAIR, column: "fine"}, {"prompt": "x", "completion": "BAD", column: value}],
    )
    assert f"+data.keep.{column}=VALUE" in error_of(path)
    assert [spoken(row) for row in read(path, Naming(keep={column: "fine"}))[0]] == [SPOKEN]


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
def test_other_columns_are_no_verdicts(tmp_path: Path, extra: dict[str, Any]) -> None:
    rows, _ = read(write_rows(tmp_path / "a.jsonl", [{**PAIR, **extra}] * 2))
    assert [row.meta for row in rows] == [extra] * 2


def test_columns_of_true_and_false_that_are_unknown_are_said(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{**PAIR, "public": n == 2} for n in range(3)])
    rows, said = read(path)
    assert len(rows) == 3 and said[1].startswith(
        "public is true in 1 row and false in 2, all of them trained;"
    )
    assert "+data.keep.public=true" in said[1]
    rows, said = read(path, Naming(keep={"public": True}))
    assert len(rows) == 1 and "all of them trained" not in "".join(said)


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


# --------------------------------------------------------------- thoughts, system and history apart
THOUGHTS = ("reasoning", "reasoning_content", "thinking", "thoughts", "chain_of_thought", "cot")


@pytest.mark.parametrize("column", THOUGHTS)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_thoughts_in_a_column_of_a_pair_are_the_thoughts_of_the_answer(
    tmp_path: Path, column: str, kind: str
) -> None:
    path = write_rows(
        tmp_path / f"a.{kind}", [{"question": QUESTION, "answer": ANSWER, column: "Hm."}]
    )
    rows, said = read(path)
    assert spoken(rows[0]) == SPOKEN and rows[0].messages[-1].reasoning == "Hm."
    assert said == [f"read as question/answer from question, answer, {column}"]
    rows, _ = read(path, {"prompt": "question", "completion": "answer", "reasoning": column})
    assert rows[0].messages[-1].reasoning == "Hm."
    rows, said = read(path, {"prompt": "question", "completion": "answer"})
    assert rows[0].messages[-1].reasoning is None and f"kept as meta data: {column}" in said[0]


def test_thoughts_are_taken_once(tmp_path: Path) -> None:
    inside = {"prompt": QUESTION, "completion": f"<think>Hm.</think>{ANSWER}", "reasoning": "Hm."}
    row = read(write_rows(tmp_path / "a.jsonl", [inside]))[0][0]
    assert row.messages[-1].reasoning is None and row.answer.count("Hm.") == 1
    parts = {
        "prompt": QUESTION,
        "completion": [{"role": "assistant", "content": ANSWER, "thinking": "Other."}],
        "reasoning": "Hm.",
    }
    assert "keep one of them" in error_of(write_rows(tmp_path / "b.jsonl", [parts]))
    assert read(write_rows(tmp_path / "c.jsonl", [{**PAIR, "reasoning": True}]))[0][0].meta == {
        "reasoning": True
    }


@pytest.mark.parametrize("column", ["system_prompt", "system_message", "system"])
@pytest.mark.parametrize(
    "names", [("question", "response"), ("prompt", "completion"), ("instruction", "output")]
)
def test_a_system_prompt_in_a_column_is_the_system_turn(
    tmp_path: Path, column: str, names: tuple[str, str]
) -> None:
    path = write_rows(
        tmp_path / "a.jsonl",
        [{"id": "1", column: "Be kind.", **dict(zip(names, (QUESTION, ANSWER), strict=True))}],
    )
    rows, said = read(path)
    assert (
        spoken(rows[0]) == [("system", "Be kind."), *SPOKEN]
        and column in said[0]
        and "meta data" not in said[0]
    )
    rows, _ = read(path, {"prompt": names[0], "completion": names[1]})
    assert spoken(rows[0]) == [("system", "Be kind."), *SPOKEN]


@pytest.mark.parametrize(
    "column", ["history", "chat_history", "conversation_history", "dialogue_history"]
)
def test_histories_have_several_names(tmp_path: Path, column: str) -> None:
    rows, said = read(write_rows(tmp_path / "a.jsonl", [{**PAIR, column: [["Hello", "Hi."]]}]))
    assert (
        spoken(rows[0]) == [*LONG[:2], *SPOKEN] and column in said[0] and "ignored" not in said[0]
    )
    assert "history must be a list of [request, answer]" in error_of(
        write_rows(tmp_path / "b.jsonl", [{**PAIR, column: ["q", "a"]}])
    )


def test_a_document_keeps_such_columns_as_meta_data(tmp_path: Path) -> None:
    rows, _ = read(
        write_rows(
            tmp_path / "a.jsonl",
            [{"text": "Once.", "system_prompt": "Be kind.", "reasoning": "Hm."}],
        )
    )
    assert rows[0].is_text and rows[0].meta == {"system_prompt": "Be kind.", "reasoning": "Hm."}


# --------------------------------------------------------------------- several speakers of one role
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
        found = re.search(r"Say who it is: (.+?) \(or, in place of user", " ".join(text.split()))
        assert code == 2 and found is not None, text
        fix = shlex.split(found[1])[0]
        fix = (
            fix.removesuffix("=user") + "=assistant"
            if fix.endswith("=user")
            else fix.replace("roles.user=", "roles.assistant=")
        )
        lists = [said for said in typed if said.startswith("+data.roles.assistant=[")]
        if lists and fix.startswith("+data.roles.assistant=["):  # one list with both
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
        spoken(read(write_rows(tmp_path / "a.jsonl", [{"conversations": turns}]))[0][0]) == SPOKEN
    )
    assert "unknown role 'phil'" in error_of(
        write_rows(tmp_path / "b.jsonl", [{"conversations": [{"from": "phil", "value": "a"}]}])
    )


@pytest.mark.parametrize("column", ["meta", "metadata"])
def test_marks_in_an_object_of_meta_data_are_marks(tmp_path: Path, column: str) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{**PAIR, column: {"label": n > 0}} for n in range(2)])
    assert "a.jsonl:1: label = false" in error_of(path) and "+data.keep.label=true" in error_of(
        path
    )
    assert (
        len(read(path, Naming(keep={"label": True}))[0]) == 1
        and len(read(path, Naming(keep={"label": "any"}))[0]) == 2
    )


def test_a_mark_whose_name_cannot_be_typed_is_to_be_renamed(tmp_path: Path) -> None:
    message = error_of(write_rows(tmp_path / "a.jsonl", [{**PAIR, "label ok?": False}]))
    assert "+data.keep.label_ok=true (rename the column to label_ok first)" in message
    path = write_rows(
        tmp_path / "b.jsonl", [{**PAIR, "label_ok": False}, {**PAIR, "label_ok": True}]
    )
    assert len(read(path, Naming(keep={"label_ok": True}))[0]) == 1
