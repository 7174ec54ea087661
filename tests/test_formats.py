import json
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.data import formats
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError

QUESTION, ANSWER = "What is the capital of France?", 'Paris, "of course".\nSince 987.'
LAYOUTS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]},
    "sharegpt": {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
    "alpaca": {"instruction": QUESTION, "input": "", "output": ANSWER},
    "prompt/completion": {"prompt": QUESTION, "completion": ANSWER},
    "prompt/response": {"prompt": QUESTION, "response": ANSWER},
    "question/answer": {"question": QUESTION, "answer": ANSWER},
    "instruction/output": {"instruction": QUESTION, "output": ANSWER},
    "conversational prompt/completion": {
        "prompt": [{"role": "user", "content": QUESTION}],
        "completion": [{"role": "assistant", "content": ANSWER}],
    },
}
TYPES = ("jsonl", "json", "csv", "tsv", "parquet")


def read_file(*args: Any) -> list[Row]:
    return list(formats.read_file(*args))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "conversational prompt/completion"])
def test_every_layout_in_every_file_type_gives_the_same_row(tmp_path: Path, layout: str, kind: str) -> None:
    (row,) = read_file(write_rows(tmp_path / f"rows.{kind}", [LAYOUTS[layout]]), {})
    assert [(m.role, m.content) for m in row.messages] == [("user", QUESTION), ("assistant", ANSWER)]


def test_prompt_and_completion_may_be_lists_of_turns(tmp_path: Path) -> None:
    (row,) = read_file(write_rows(tmp_path / "rows.jsonl", [LAYOUTS["conversational prompt/completion"]]), {})
    assert [(m.role, m.content) for m in row.messages] == [("user", QUESTION), ("assistant", ANSWER)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a \\ud83d", "completion": "b"}', "half a character"),
        ('{"prompt": ' + "[" * 200_000, "nested too deeply"),
    ],
)
def test_strange_text_is_refused_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' + line + "\n")
    with pytest.raises(DataError, match=words) as caught:
        read_file(tmp_path / "rows.jsonl", {})
    assert "rows.jsonl:2" in str(caught.value)


def test_what_was_recognised_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        read_file(write_rows(tmp_path / "rows.jsonl", [LAYOUTS["alpaca"]]), {})
    assert "read as alpaca" in caplog.text


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.csv", [{"frage": "a", "antwort": "b", "kunde": "c"}])
    (row,) = read_file(path, {"prompt": "frage", "completion": "antwort", "group": "kunde"})
    assert (row.prompt[0].content, row.answer, row.group) == ("a", "b", "c")
    with pytest.raises(DataError, match="no such column"):
        read_file(path, {"prompt": "question"})


def test_system_column_and_alpaca_input(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"system": "s", "instruction": "i", "input": "x", "output": "o"}])
    (row,) = read_file(path, {})
    assert [(m.role, m.content) for m in row.messages] == [("system", "s"), ("user", "i\n\nx"), ("assistant", "o")]


def test_rare_line_separators_stay_in_their_cell(tmp_path: Path) -> None:
    text = "one\u2028two\x0cthree\x85four"
    for kind in ("csv", "jsonl"):
        (row,) = read_file(write_rows(tmp_path / f"rows.{kind}", [{"prompt": "q", "completion": text}]), {})
        assert row.answer == text


def test_alpaca_input_is_kept_where_only_some_rows_have_it(tmp_path: Path) -> None:
    records = [{"instruction": "i", "output": "o"}, {"instruction": "i", "input": "x", "output": "o"}]
    assert [r.prompt[0].content for r in read_file(write_rows(tmp_path / "rows.jsonl", records), {})] == ["i", "i\n\nx"]


def test_openai_content_parts_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    records = [{"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "b"}]}]
    assert read_file(write_rows(tmp_path / "rows.jsonl", records), {})[0].prompt[0].content == "hello"


def test_answer_that_is_an_object_becomes_json(tmp_path: Path) -> None:
    (row,) = read_file(write_rows(tmp_path / "rows.jsonl", [{"prompt": "p", "completion": {"a": 1}}]), {})
    assert row.answer == '{"a": 1}'


def test_stated_encoding_is_used(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"prompt": "café", "completion": "b"}\n'.encode("latin-1"))
    assert read_file(path, {}, "latin-1")[0].prompt[0].content == "café"


def turns(*roles: str) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": "x"} for role in roles]}).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b"\n\n", "no rows"),
        ("a.docx", b"hello", "unknown file type"),
        ("a.jsonl", b"\x89PNG\r\n\x00\x00\x00", "binary"),
        ("a.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": "caf\xe9"', r"a\.jsonl:2: not utf-8"),
        ("a.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", \n', r"a\.jsonl:2: broken JSON"),
        ("a.jsonl", b'["a"]\n', "must be a JSON object"),
        ("a.jsonl", b'{"foo": "a", "bar": "b"}\n', "no known layout in the columns foo, bar"),
        ("a.jsonl", b'{"prompt": "a", "completion": null}\n', "completion is empty"),
        ("a.jsonl", b'{"prompt": "a", "completion": " "}\n', "answer is empty"),
        ("a.jsonl", turns("user"), "no assistant turn"),
        ("a.jsonl", turns("user", "assistant", "user"), "last turn must be the assistant"),
        ("a.jsonl", turns("assistant"), "out of order"),
        ("a.jsonl", turns("user", "user", "assistant"), "out of order"),
        ("a.jsonl", turns("user", "system", "assistant"), "system turn can only come first"),
        ("a.jsonl", turns("human", "assistant"), "unknown role 'human'"),
        ("a.jsonl", b'{"messages": []}', "at least one turn"),
        ("a.jsonl", b'{"messages": [{"text": "a"}]}', "needs 'role' and 'content'"),
        ("a.json", b'{"prompt": "a"}\n{"prompt": "b"}', "name it .jsonl"),
        ("a.json", b'{"a": 1}', "list of rows"),
        ("a.csv", b"prompt,completion\na,b,c\n", r"a\.csv:2: more cells"),
        ("a.csv", b"prompt,completion\na\n", r"a\.csv:2: fewer cells"),
        ("a.csv", b'prompt,completion\na,"b\n', "broken CSV"),
        ("a.parquet", b"PAR1 but not really", "not a readable Parquet"),
    ],
)
def test_bad_file_is_refused_with_its_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_file(tmp_path / name, {})


def test_columns_that_are_named_win_over_a_known_layout(tmp_path: Path) -> None:
    record = {"instruction": "wrong", "output": "wrong", "question": QUESTION, "answer": ANSWER, "customer": "c1"}
    file = write_rows(tmp_path / "rows.csv", [record])
    (row,) = read_file(file, {"prompt": "question", "completion": "answer", "group": "customer"})
    assert [m.content for m in row.messages] == [QUESTION, ANSWER] and row.group == "c1"
    (row,) = read_file(file, {"group": "customer"})  # names no text column: the layout is recognised
    assert [m.content for m in row.messages] == ["wrong", "wrong"] and row.group == "c1"


def test_wrong_encoding_and_wrong_delimiter_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("prompt,completion\na,b\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"data\.encoding=utf-16"):
        read_file(tmp_path / "a.csv", {})
    assert read_file(tmp_path / "a.csv", {}, "utf-16")[0].answer == "b"
    (tmp_path / "b.csv").write_text("prompt;completion\na;b\n")
    with pytest.raises(DataError, match="semicolons"):
        read_file(tmp_path / "b.csv", {})


TOOL = {
    "name": "weather",
    "description": "of the coming days",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
AGENT: list[dict[str, Any]] = [
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **CALL}]},
    {"role": "tool", "content": "no", "tool_call_id": "c1", "name": "weather"},
    {"role": "assistant", "content": "No.", "reasoning_content": "It said no."},
]


def one(path: Path, record: dict[str, Any], columns: dict[str, str] | None = None) -> Row:
    (row,) = read_file(write_rows(path, [record]), columns or {})
    return row


@pytest.mark.parametrize("arguments", [{"city": "Zürich"}, '{"city": "Zürich"}'])
def test_tool_calls_reach_the_template_as_objects(tmp_path: Path, arguments: Any) -> None:
    turns = [dict(turn) for turn in AGENT]
    turns[1] = {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "weather", "arguments": arguments}}]}
    row = one(tmp_path / "a.jsonl", {"messages": turns, "tools": [TOOL]})
    assert row.messages[1].turn() == {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **CALL}]}
    assert row.messages[2].turn() == AGENT[2]
    assert row.messages[3].turn() == AGENT[3]
    assert row.tools == ({"type": "function", "function": TOOL},)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_tools_may_be_json_text(tmp_path: Path, kind: str) -> None:
    record = {"messages": json.dumps(AGENT), "tools": json.dumps([{"type": "function", "function": TOOL}])}
    row = one(tmp_path / f"a.{kind}", record)
    assert row.tools == ({"type": "function", "function": TOOL},)
    assert row.messages[1].tool_calls == ({"id": "c1", **CALL},)


def test_parquet_structs_fill_turns_with_null_and_that_is_no_value(tmp_path: Path) -> None:
    row = one(tmp_path / "a.parquet", {"messages": AGENT})
    assert [message.turn() for message in row.messages] == [{**turn, "content": turn["content"] or ""} for turn in AGENT]


def test_parquet_tools_whose_schemas_were_filled_with_null_are_refused(tmp_path: Path) -> None:
    other = {**TOOL, "name": "time", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}
    with pytest.raises(DataError, match=r"a\.parquet\[1\]: the parameters of the tool weather hold null .* store the tools as JSON text"):
        one(tmp_path / "a.parquet", {"messages": AGENT, "tools": [TOOL, other]})


def test_sharegpt_with_calls_and_a_system_column(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Rain?"},
        {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"city": "Zürich"}})},
        {"from": "observation", "value": "no"},
        {"from": "gpt", "value": "No."},
    ]
    row = one(tmp_path / "a.jsonl", {"conversations": turns, "tools": json.dumps([TOOL]), "system": "Be terse."})
    assert [m.role for m in row.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert row.messages[2].tool_calls == (CALL,) and row.messages[2].content == ""
    assert row.tools == ({"type": "function", "function": TOOL},)


@pytest.mark.parametrize("context", [{"train": False}, {"weight": 0}])
def test_turns_marked_as_context_are_not_trained(tmp_path: Path, context: dict[str, Any]) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **context}] * 2
    turns += [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c", "weight": 1}]
    row = one(tmp_path / "a.jsonl", {"messages": turns})
    assert [m.train for m in row.messages if m.role == "assistant"] == [False, False, True]


def test_turns_after_the_last_trained_one_are_left_out(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    turns += [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "train": False}]  # type: ignore[dict-item]
    row = one(tmp_path / "a.jsonl", {"messages": turns})
    assert (row.prompt[-1].content, row.answer) == ("a", "b")


def test_rows_that_differ_in_their_calls_have_different_ids(tmp_path: Path) -> None:
    turns = [AGENT[0], {"role": "assistant", "tool_calls": [{"function": {"name": "time", "arguments": {}}}]}]
    ids = {one(tmp_path / f"{i}.jsonl", {"messages": messages}).id for i, messages in enumerate((AGENT[:2], turns))}
    assert len(ids) == 2


def test_text_column_alone_is_a_document(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        row = one(tmp_path / "a.jsonl", {"text": "Once upon a time", "source": "a book", "id": 7})
    assert row.is_text and row.answer == "Once upon a time" and row.prompt == () and row.id == "7"
    assert "read as text" in caplog.text
    assert one(tmp_path / "b.csv", {"body": "Once", "label": "x"}, {"text": "body"}).is_text
    with pytest.raises(DataError, match="no known layout in the columns text, prompt"):
        one(tmp_path / "c.jsonl", {"text": "a", "prompt": "b"})


def test_documents_are_split_by_their_text() -> None:
    from hydratune.data.splits import place

    documents = [Row(str(i), (Message("text", f"document {i}"),)) for i in range(50)]
    assert len({place(document) for document in documents}) == 50


def changed(number: int, **keys: Any) -> dict[str, Any]:
    """AGENT with one turn changed."""
    return {"messages": [{**turn, **(keys if i == number else {})} for i, turn in enumerate(AGENT)]}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (changed(1, tool_calls="[{"), "a tool call is a text that is not JSON"),
        (changed(1, tool_calls=7), "tool_calls must be a list"),
        (changed(1, tool_calls=[{"function": {"arguments": {}}}]), "a tool call needs"),
        (
            changed(1, tool_calls=[{"name": "weather", "arguments": "{city: Zürich}"}]),
            "arguments of the call to weather is a text",
        ),
        (changed(1, tool_calls=[{"name": "weather", "arguments": [1]}]), "arguments of the call to weather must be an object"),
        (changed(1, tool_calls=[{"id": 7, "name": "weather"}]), "id of the call to weather must be a text"),
        (changed(1, tool_calls=[]), "content of the assistant turn is empty"),
        (changed(0, tool_calls=[CALL]), "tool_calls on the user turn"),
        (changed(0, thinking="hm"), "thinking on the user turn"),
        (changed(3, thinking=True, reasoning_content=None), "thinking of the assistant turn must be a text, this is bool"),
        (changed(2, tool_call_id=7), "tool_call_id of the tool turn must be a text"),
        (changed(3, tool_call_id="c1"), "tool_call_id on the assistant turn"),
        (changed(3, train="no"), "train of the assistant turn must be true or false"),
        (changed(3, weight=0.5), "weight of the assistant turn must be 0"),
        (changed(3, weight=0, train=True), "say opposite things"),
        (changed(0, weight=1), "only assistant turns can be"),
        ({"messages": [{**t, "train": False} for t in AGENT]}, "every assistant turn is marked as context"),
        ({"messages": [AGENT[0], AGENT[2], AGENT[3]]}, "a tool turn must follow an assistant turn with tool_calls"),
        ({"messages": [AGENT[0], AGENT[3], AGENT[2], AGENT[3]]}, "a tool turn must follow an assistant turn with tool_calls"),
        ({"messages": AGENT, "tools": "weather"}, "tools is a text that is not JSON"),
        ({"messages": AGENT, "tools": {"name": "weather"}}, "tools must be a list of functions"),
        ({"messages": AGENT, "tools": ["weather"]}, "a tool needs a name"),
        ({"messages": AGENT, "tools": [{"name": "\ud83d"}]}, "tools holds half a character"),
        (changed(1, tool_calls=[{"name": "a", "arguments": {"b": "\ud83d"}}]), "the assistant turn holds half a character"),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "b"}]},
            "a tool call is a text that is not",
        ),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": ""}]}, "holds no call"),
        ({"messages": [{"role": "system", "content": "a"}, *AGENT], "system": "b"}, "own system turn differ"),
        ({"messages": [{"role": "text", "content": "a"}, AGENT[0]]}, "stands alone in its row"),
        ({"text": "a", "system": "b"}, "stands alone in its row"),
        ({"text": "a", "tools": [TOOL]}, "cannot have tools"),
        ({"text": " "}, "the text is empty"),
        ({"text": None}, "text is empty"),
    ],
)
def test_wrong_turn_is_refused_with_its_place(tmp_path: Path, record: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        one(tmp_path / "rows.jsonl", record)
    assert "rows.jsonl:1: " in str(caught.value)
