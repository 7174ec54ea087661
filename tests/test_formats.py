import json
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.data.formats import reader
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError

QUESTION, ANSWER = "What is the capital of France?", 'Paris, "of course".\nSince 987.'
LAYOUTS: dict[str, dict[str, Any]] = {
    "messages": {
        "messages": [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": ANSWER},
        ]
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]
    },
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
    return list(reader.read_file(*args))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "layout", [name for name in LAYOUTS if name != "conversational prompt/completion"]
)
def test_every_layout_in_every_file_type_gives_the_same_row(
    tmp_path: Path, layout: str, kind: str
) -> None:
    (row,) = read_file(write_rows(tmp_path / f"rows.{kind}", [LAYOUTS[layout]]), {})
    assert [(m.role, m.content) for m in row.messages] == [
        ("user", QUESTION),
        ("assistant", ANSWER),
    ]


def test_prompt_and_completion_may_be_lists_of_turns(tmp_path: Path) -> None:
    (row,) = read_file(
        write_rows(tmp_path / "rows.jsonl", [LAYOUTS["conversational prompt/completion"]]), {}
    )
    assert [(m.role, m.content) for m in row.messages] == [
        ("user", QUESTION),
        ("assistant", ANSWER),
    ]


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
    path = write_rows(
        tmp_path / "rows.jsonl", [{"system": "s", "instruction": "i", "input": "x", "output": "o"}]
    )
    (row,) = read_file(path, {})
    assert [(m.role, m.content) for m in row.messages] == [
        ("system", "s"),
        ("user", "i\n\nx"),
        ("assistant", "o"),
    ]


def test_rare_line_separators_stay_in_their_cell(tmp_path: Path) -> None:
    text = "one\u2028two\x0cthree\x85four"
    for kind in ("csv", "jsonl"):
        (row,) = read_file(
            write_rows(tmp_path / f"rows.{kind}", [{"prompt": "q", "completion": text}]), {}
        )
        assert row.answer == text


def test_alpaca_input_is_kept_where_only_some_rows_have_it(tmp_path: Path) -> None:
    records = [
        {"instruction": "i", "output": "o"},
        {"instruction": "i", "input": "x", "output": "o"},
    ]
    assert [
        r.prompt[0].content for r in read_file(write_rows(tmp_path / "rows.jsonl", records), {})
    ] == ["i", "i\n\nx"]


def test_openai_content_parts_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    records = [
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "b"}]}
    ]
    assert (
        read_file(write_rows(tmp_path / "rows.jsonl", records), {})[0].prompt[0].content == "hello"
    )


def test_answer_that_is_an_object_becomes_json(tmp_path: Path) -> None:
    (row,) = read_file(
        write_rows(tmp_path / "rows.jsonl", [{"prompt": "p", "completion": {"a": 1}}]), {}
    )
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
        (
            "a.jsonl",
            b'{"prompt": "a", "completion": "b"}\n{"prompt": "caf\xe9"',
            r"a\.jsonl:2: not utf-8",
        ),
        (
            "a.jsonl",
            b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", \n',
            r"a\.jsonl:2: broken JSON",
        ),
        ("a.jsonl", b'["a"]\n', "must be a JSON object"),
        ("a.jsonl", b'{"foo": "a", "bar": "b"}\n', "no known layout in the columns foo, bar"),
        ("a.jsonl", b'{"prompt": "a", "completion": null}\n', "completion is empty"),
        ("a.jsonl", b'{"prompt": "a", "completion": " "}\n', "answer is empty"),
        ("a.jsonl", turns("user"), "no assistant turn"),
        ("a.jsonl", turns("user", "assistant", "user"), "last turn must be the assistant"),
        ("a.jsonl", turns("assistant"), "out of order"),
        ("a.jsonl", turns("user", "user", "assistant"), "out of order"),
        ("a.jsonl", turns("user", "system", "assistant"), "system turn can only come first"),
        ("a.jsonl", turns("narrator", "assistant"), "unknown role 'narrator'"),
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
def test_bad_file_is_refused_with_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_file(tmp_path / name, {})


def test_columns_that_are_named_win_over_a_known_layout(tmp_path: Path) -> None:
    record = {
        "instruction": "wrong",
        "output": "wrong",
        "question": QUESTION,
        "answer": ANSWER,
        "customer": "c1",
    }
    file = write_rows(tmp_path / "rows.csv", [record])
    (row,) = read_file(file, {"prompt": "question", "completion": "answer", "group": "customer"})
    assert [m.content for m in row.messages] == [QUESTION, ANSWER] and row.group == "c1"
    # names no text column: the layout is recognised
    (row,) = read_file(file, {"group": "customer"})
    assert [m.content for m in row.messages] == ["wrong", "wrong"] and row.group == "c1"


def test_wrong_encoding_and_wrong_delimiter_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("prompt,completion\na,b\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"data\.encoding=utf-16"):
        read_file(tmp_path / "a.csv", {})
    assert read_file(tmp_path / "a.csv", {}, "utf-16")[0].answer == "b"
    (tmp_path / "b.csv").write_text("prompt;completion\na;b\n")
    with pytest.raises(DataError, match="semicolons"):
        read_file(tmp_path / "b.csv", {})


def test_utf_16_is_stated_and_the_file_has_no_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion\na,bcd\n")  # an even number of bytes
    with pytest.raises(DataError, match=r"a\.csv: not utf-16; save the file as UTF-8"):
        read_file(tmp_path / "a.csv", {}, "utf-16")


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
    turns[1] = {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "function": {"name": "weather", "arguments": arguments}}],
    }
    row = one(tmp_path / "a.jsonl", {"messages": turns, "tools": [TOOL]})
    assert row.messages[1].turn() == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", **CALL}],
    }
    assert row.messages[2].turn() == AGENT[2]
    assert row.messages[3].turn() == AGENT[3]
    assert row.tools == ({"type": "function", "function": TOOL},)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_tools_may_be_json_text(tmp_path: Path, kind: str) -> None:
    record = {
        "messages": json.dumps(AGENT),
        "tools": json.dumps([{"type": "function", "function": TOOL}]),
    }
    row = one(tmp_path / f"a.{kind}", record)
    assert row.tools == ({"type": "function", "function": TOOL},)
    assert row.messages[1].tool_calls == ({"id": "c1", **CALL},)


def test_parquet_structs_fill_turns_with_null_and_that_is_no_value(tmp_path: Path) -> None:
    row = one(tmp_path / "a.parquet", {"messages": AGENT})
    assert [message.turn() for message in row.messages] == [
        {**turn, "content": turn["content"] or ""} for turn in AGENT
    ]


def test_parquet_tools_whose_schemas_were_filled_with_null_lose_the_nulls(tmp_path: Path) -> None:
    other = {
        **TOOL,
        "name": "time",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}},
    }
    row = one(tmp_path / "a.parquet", {"messages": AGENT, "tools": [TOOL, other]})
    assert row.tools == tuple({"type": "function", "function": tool} for tool in (TOOL, other))


def test_sharegpt_with_calls_and_a_system_column(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Rain?"},
        {
            "from": "function_call",
            "value": json.dumps({"name": "weather", "arguments": {"city": "Zürich"}}),
        },
        {"from": "observation", "value": "no"},
        {"from": "gpt", "value": "No."},
    ]
    row = one(
        tmp_path / "a.jsonl",
        {"conversations": turns, "tools": json.dumps([TOOL]), "system": "Be terse."},
    )
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
    turns += [
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d", "train": False},
    ]  # type: ignore[dict-item]
    row = one(tmp_path / "a.jsonl", {"messages": turns})
    assert (row.prompt[-1].content, row.answer) == ("a", "b")


def test_rows_that_differ_in_their_calls_have_different_ids(tmp_path: Path) -> None:
    turns = [
        AGENT[0],
        {"role": "assistant", "tool_calls": [{"function": {"name": "time", "arguments": {}}}]},
    ]
    ids = {
        one(tmp_path / f"{i}.jsonl", {"messages": messages}).id
        for i, messages in enumerate((AGENT[:2], turns))
    }
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
        (
            changed(1, tool_calls=[{"name": "weather", "arguments": [1]}]),
            "arguments of the call to weather must be an object",
        ),
        (
            changed(1, tool_calls=[{"id": 7, "name": "weather"}]),
            "id of the call to weather must be a text",
        ),
        (changed(1, tool_calls=[]), "content of the assistant turn is empty"),
        (changed(0, tool_calls=[CALL]), "tool_calls on the user turn"),
        (changed(0, thinking="hm"), "thinking on the user turn"),
        (
            changed(3, thinking=True, reasoning_content=None),
            "thinking of the assistant turn must be a text, this is bool",
        ),
        (changed(2, tool_call_id=7), "tool_call_id of the tool turn must be a text"),
        (changed(3, tool_call_id="c1"), "tool_call_id on the assistant turn"),
        (changed(3, train="no"), "train of the assistant turn must be true or false"),
        (changed(3, weight=0.5), "weight of the assistant turn must be 0"),
        (changed(3, weight=0, train=True), "say opposite things"),
        (changed(0, weight=1), "only assistant turns can be"),
        (
            {"messages": [{**t, "train": False} for t in AGENT]},
            "every assistant turn is marked as context",
        ),
        (
            {"messages": [AGENT[0], AGENT[2], AGENT[3]]},
            "a tool turn must follow an assistant turn with tool_calls",
        ),
        (
            {"messages": [AGENT[0], AGENT[3], AGENT[2], AGENT[3]]},
            "a tool turn must follow an assistant turn with tool_calls",
        ),
        ({"messages": AGENT, "tools": "weather"}, "tools is a text that is not JSON"),
        ({"messages": AGENT, "tools": {"name": "weather"}}, "tools must be a list of functions"),
        ({"messages": AGENT, "tools": ["weather"]}, "a tool needs a name"),
        ({"messages": AGENT, "tools": [{"name": "\ud83d"}]}, "tools holds half a character"),
        (
            changed(1, tool_calls=[{"name": "a", "arguments": {"b": "\ud83d"}}]),
            "the assistant turn holds half a character",
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "a"},
                    {"from": "function_call", "value": "b"},
                ]
            },
            "a tool call is a text that is not",
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "a"},
                    {"from": "function_call", "value": ""},
                ]
            },
            "holds no call",
        ),
        (
            {"messages": [{"role": "system", "content": "a"}, *AGENT], "system": "b"},
            "own system turn differ",
        ),
        ({"messages": [{"role": "text", "content": "a"}, AGENT[0]]}, "stands alone in its row"),
        ({"text": "a", "system": "b"}, "stands alone in its row"),
        ({"text": "a", "tools": [TOOL]}, "cannot have tools"),
        ({"text": " "}, "the text is empty"),
        ({"text": None}, "text is empty"),
    ],
)
def test_wrong_turn_is_refused_with_its_place(
    tmp_path: Path, record: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        one(tmp_path / "rows.jsonl", record)
    assert "rows.jsonl:1: " in str(caught.value)


def said(path: Path, columns: dict[str, str] | None = None) -> list[str]:
    """What reading a file states, without its path."""
    statements: list[str] = []
    read_file(path, columns or {}, "utf-8", statements)
    return [s.removeprefix(f"{path}: ") for s in statements]


PAIR = {"prompt": "p", "completion": "c"}


@pytest.mark.parametrize(
    ("record", "prompt", "statement"),
    [
        (
            {"instruction": "i", "context": "x", "response": "r"},
            "i\n\nx",
            "instruction/response from instruction, context, response",
        ),
        (
            {"instruction": "i", "input": "x", "response": "r"},
            "i\n\nx",
            "instruction/response from instruction, input, response",
        ),
        (
            {"instruction": "i", "context": "x", "output": "r"},
            "i\n\nx",
            "alpaca from instruction, context, output",
        ),
        (
            {"question": "i", "context": "x", "answer": "r"},
            "i\n\nx",
            "question/answer from question, context, answer",
        ),
        (
            {"prompt": "i", "context": "x", "completion": "r"},
            "i",
            "prompt/completion; kept as meta data: context",
        ),
        (
            {"input": "i", "context": "x", "output": "r"},
            "i",
            "input/output; kept as meta data: context",
        ),
    ],
)
def test_context_belongs_to_an_instruction(
    tmp_path: Path, record: dict[str, Any], prompt: str, statement: str
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [record])
    assert read_file(path, {})[0].prompt[0].content == prompt
    assert said(path) == [f"read as {statement}"]


def test_context_can_be_named(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl", [{"q": "q", "about": "x", "a": "a", "input": "not named"}]
    )
    names = {"prompt": "q", "completion": "a", "context": "about"}
    assert read_file(path, names)[0].prompt[0].content == "q\n\nx"
    assert said(path, names) == [
        "read as prompt/completion from q, about, a; kept as meta data: input"
    ]


def test_context_alone_can_be_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{**PAIR, "passage": "x"}])
    assert read_file(path, {"context": "passage"})[0].prompt[0].content == "p\n\nx"
    assert said(path, {"context": "passage"}) == [
        "read as prompt/completion from prompt, completion, passage"
    ]


@pytest.mark.parametrize(
    "columns",
    [{"text": "prompt", "context": "completion"}, {**{n: n for n in PAIR}, "question": "prompt"}],
)
def test_named_column_without_a_place_is_refused(tmp_path: Path, columns: dict[str, str]) -> None:
    with pytest.raises(
        DataError, match=r"data\.columns\.(context|question) has no place in rows read as"
    ):
        one(tmp_path / "rows.jsonl", PAIR, columns)


@pytest.mark.parametrize("absent", [None, "", float("nan")])
@pytest.mark.parametrize("column", ["input", "context", "system", "id", "group"])
def test_empty_optional_column_is_absent(tmp_path: Path, column: str, absent: Any) -> None:
    record = {"instruction": "i", "output": "o"}
    bare, row = (
        one(tmp_path / "a.jsonl", record),
        one(tmp_path / "b.jsonl", {**record, column: absent}),
    )
    assert (row.messages, row.id, row.group, row.meta) == (bare.messages, bare.id, None, {})


@pytest.mark.parametrize("label", ["label", "Category", "target", "answer"])
def test_label_beside_a_text_is_not_dropped(tmp_path: Path, label: str) -> None:
    path = write_rows(tmp_path / "rows.csv", [{"text": "good", label: "positive"}])
    with pytest.raises(DataError, match=rf"rows\.csv:2: .*data\.columns\.completion={label}"):
        read_file(path, {})
    assert read_file(path, {"prompt": "text", "completion": label})[0].answer == "positive"
    assert read_file(path, {"text": "text"})[0].meta == {label: "positive"}


def test_other_columns_are_meta_data_or_said_to_be_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extra = {
        "intent": "buy",
        "stars": 4,
        "score": 0.5,
        "new": True,
        "note": "x" * 201,
        "tags": ["a"],
        "gone": None,
    }
    path = write_rows(
        tmp_path / "rows.jsonl",
        [{**PAIR, **extra, "meta": {"lang": "de", "intent": "not this", "deep": {"a": 1}}}],
    )
    with caplog.at_level("INFO"):
        (statement,) = said(path)
    assert (
        statement
        == "read as prompt/completion; kept as meta data: intent, stars, score, new, lang; ignored:"
        " note, tags, deep"
    )
    assert caplog.messages == [f"{path}: {statement}"]
    (row,) = read_file(path, {})
    assert row.meta == {"intent": "buy", "stars": 4, "score": 0.5, "new": True, "lang": "de"}
    assert row.content_hash == one(tmp_path / "bare.jsonl", PAIR).content_hash


def test_columns_of_later_rows_are_said_too(tmp_path: Path) -> None:
    records = [{**PAIR, "note": "short"}, {**PAIR, "note": "x" * 201, "intent": "buy"}]
    assert said(write_rows(tmp_path / "rows.jsonl", records)) == [
        "read as prompt/completion; kept as meta data: note, intent; ignored: note (in some rows)"
    ]


def test_meta_data_may_be_json_text(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "rows.csv",
        [{**PAIR, "metadata": '{"intent": "buy"}'}, {**PAIR, "metadata": "free words"}],
    )
    assert [row.meta for row in read_file(path, {})] == [
        {"intent": "buy"},
        {"metadata": "free words"},
    ]


def test_what_is_no_label_or_means_something_else_in_meta_data_is_ignored(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl", [{**PAIR, "score": float("inf"), "encoding": "latin-1"}]
    )
    assert read_file(path, {})[0].meta == {}
    assert said(path) == ["read as prompt/completion; ignored: score, encoding"]


def test_stratum_is_found_in_a_column(tmp_path: Path) -> None:
    from hydratune.data.splits import stratum

    assert stratum(one(tmp_path / "a.jsonl", {**PAIR, "intent": "buy"}), "intent") == "buy"
    assert (
        stratum(one(tmp_path / "b.jsonl", {**PAIR, "meta": {"intent": "sell"}}), "intent") == "sell"
    )


IMAGE = {"type": "image_url", "image_url": {"url": "http://x/0.png"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
BAD_CONTENT: list[tuple[dict[str, Any], str]] = [
    ({"instruction": "i", "input": {"k": 1}, "output": "o"}, "input must be a text, this is dict"),
    ({"instruction": ["i"], "output": "o"}, "instruction must be a text, this is list"),
    ({"prompt": {"a": 1}, "completion": "c"}, "prompt must be a text, this is dict"),
    ({"prompt": True, "completion": "c"}, "prompt must be a text, this is bool"),
    ({"prompt": float("inf"), "completion": "c"}, "prompt is not a finite number"),
    ({"prompt": "p", "completion": {"a": float("nan")}}, "completion cannot be written as JSON"),
    ({"text": ["a"]}, "text must be a text, this is list"),
    (
        changed(0, content=[{"type": "text", "text": "what"}, IMAGE]),
        "'image_url'; images cannot be trained on",
    ),
    (changed(0, content=[SOUND]), "'input_audio'; sounds cannot be trained on"),
    (changed(3, content=[IMAGE]), "'image_url'; images cannot be trained on"),
    (changed(0, content=[{"type": "text", "text": None}]), "of type 'text' that is not text"),
    (
        changed(0, content=[{"type": "thinking", "thinking": "a"}]),
        "of type 'thinking' that is not text",
    ),
    (changed(0, content={"a": 1}), "content of the user turn must be a text, this is dict"),
    ({**PAIR, "id": [1]}, "id must be a text or a number, this is list"),
    ({**PAIR, "group": "\ud83d"}, "group holds half a character"),
    ({**PAIR, "label": "\ud83d"}, "meta data holds half a character"),
]


@pytest.mark.parametrize(("record", "words"), BAD_CONTENT)
def test_content_that_is_not_text_is_refused_with_its_place(
    tmp_path: Path, record: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        one(tmp_path / "rows.jsonl", record)
    assert "rows.jsonl:1: " in str(caught.value)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ({"a": "ü"}, '{"a": "ü"}'),
        (["a", 1], '["a", 1]'),
        ([], "[]"),
        ([{"type": "file", "name": "a"}], '[{"type": "file", "name": "a"}]'),
        ([{"type": "PERSON", "text": "Bob"}], '[{"type": "PERSON", "text": "Bob"}]'),
        (True, "true"),
    ],
)
def test_answers_that_become_json_are_counted(tmp_path: Path, completion: Any, answer: str) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl",
        [{"prompt": "p", "completion": c} for c in (completion, "text", completion)],
    )
    assert [row.answer for row in read_file(path, {})] == [answer, "text", answer]
    assert said(path)[1:] == ["answers that are objects, lists, true or false became JSON (2 rows)"]


def test_numbers_are_text(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": 7, "completion": 0.5}])
    (row,) = read_file(path, {})
    assert (row.prompt[0].content, row.answer) == ("7", "0.5") and len(said(path)) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"prompt": "p", "completion": "c"}\n{"prompt": "p", "completion": '
            + b"1" * 5000
            + b"}",
            r"a\.jsonl:2: .*digits",
        ),
        (
            "a.json",
            b'[{"prompt": "p",\n"completion": ' + b"1" * 5000 + b"}]",
            r"a\.json:2: .*digits",
        ),
        (
            "a.csv",
            b"prompt,completion\rhello a,b\r",
            r"a\.csv:1: broken CSV .*save the file with line feeds",
        ),
        (
            "a.csv",
            b"prompt,completion\nhello a,b\na\rb,c\n",
            r"a\.csv:3: broken CSV .*save the file with line feeds",
        ),
        ("a.csv", b"prompt|completion\na|b\n", r"a\.csv:1: the columns are separated by pipes"),
        (
            "a.csv",
            b"\nprompt\tcompletion\na\tb\n",
            r"a\.csv:2: the columns are separated by tabs; .* with commas",
        ),
        (
            "a.tsv",
            b"prompt,completion\na,b\n",
            r"a\.tsv:1: the columns are separated by commas; .* with tabs",
        ),
        (
            "a.tsv",
            b'prompt\tcompletion\nx\ty\n5\t"good\n7" x\ty\n',
            r"a\.tsv:3: broken CSV .*quotes inside it are doubled",
        ),
        ("a.csv", "prompt,completion\na,b\n".encode("utf-16-le"), r"data\.encoding=utf-16-le"),
        ("a.csv", "prompt,completion\na,b\n".encode("utf-16-be"), r"data\.encoding=utf-16-be"),
        ("a.jsonl.gz", b"\x1f\x8b", "unpack it first"),
        ("a.zip", b"PK", "unpack it first"),
        ("a.xlsx", b"PK", "export the sheet as CSV"),
        (
            "a.jsonl",
            b'{"prompt": "p", "completion": "x", "completion": "y"}',
            r"a\.jsonl:1: the key 'completion' occurs twice",
        ),
        (
            "a.jsonl",
            b'{"prompt": "p", "completion": {"a": 1, "a": 2}}',
            r"a\.jsonl:1: the key 'a' occurs twice",
        ),
        (
            "a.json",
            b'[{"prompt": "p", "completion": "x", "completion": "y"}]',
            r"a\.json: the key 'completion' occurs twice",
        ),
        (
            "a.jsonl",
            b'{"prompt": "p", "completion": "c"}\n{"question": "p", "completion": "c"}',
            r"a\.jsonl:2: no column 'prompt' in this row; it has: question, completion",
        ),
        (
            "a.jsonl",
            b'{"prompt": "p", "completion": "c"}\n{"prompt": null, "completion": "c"}',
            r"a\.jsonl:2: prompt is empty \(null\)",
        ),
    ],
)
def test_broken_file_says_where_and_what_to_do(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_file(tmp_path / name, {})


@pytest.mark.parametrize("encoding", ["hex", "rot13", "klingon", "a\0b", "undefined"])
def test_encoding_that_is_none_is_refused(tmp_path: Path, encoding: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [PAIR])
    with pytest.raises(DataError, match=r"rows\.jsonl: .*data\.encoding"):
        read_file(path, {}, encoding)


@pytest.mark.parametrize(
    ("written", "stated"),
    [
        ("utf-16", "utf-16-le"),
        ("utf-16", "UTF16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-8-sig", "utf-8"),
    ],
)
def test_byte_order_mark_is_not_part_of_the_first_column(
    tmp_path: Path, written: str, stated: str
) -> None:
    (tmp_path / "a.csv").write_bytes("prompt,completion\na,b\n".encode(written))
    assert read_file(tmp_path / "a.csv", {}, stated)[0].answer == "b"


def test_empty_lines_before_a_header_are_skipped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\n\nprompt,completion\n\n"a\nb",c\nd,e\n')
    rows = read_file(tmp_path / "a.csv", {})
    assert [(row.prompt[0].content, row.where.rpartition(":")[2]) for row in rows] == [
        ("a\nb", "5"),
        ("d", "7"),
    ]


def test_quote_inside_a_cell_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('prompt\tcompletion\n5" nails\tsay "x"\n')
    (row,) = read_file(tmp_path / "a.tsv", {})
    assert (row.prompt[0].content, row.answer) == ('5" nails', 'say "x"')


def test_developer_is_the_system(tmp_path: Path) -> None:
    roles = [{"role": role, "content": "x"} for role in ("developer", "user", "assistant")]
    assert one(tmp_path / "a.jsonl", {"messages": roles}).messages[0].role == "system"


@pytest.mark.parametrize(
    ("columns", "missing"),
    [
        ({"prompt": "prompt"}, "completion"),
        ({"completion": "prompt", "group": "prompt"}, "prompt"),
        ({"instruction": "prompt"}, "output"),
        ({"answer": "prompt"}, "question"),
    ],
)
def test_half_of_a_named_pair_is_refused(
    tmp_path: Path, columns: dict[str, str], missing: str
) -> None:
    with pytest.raises(DataError, match=rf"but not {missing}, .*\+data\.columns\.{missing}=YOURS"):
        one(tmp_path / "a.jsonl", PAIR, columns)


def test_ids_of_parquet_are_whole_numbers_or_absent(tmp_path: Path) -> None:
    records = [{**PAIR, "id": i, "group": i} for i in (2.0, float("nan"), 2.5)]
    rows = read_file(write_rows(tmp_path / "a.parquet", records), {})
    assert [(row.id, row.group) for row in rows] == [
        ("2", "2"),
        (rows[1].content_hash, None),
        ("2.5", "2.5"),
    ]


@pytest.mark.parametrize(("count", "words"), [(1, "1 row: "), (3, "3 rows: ")])
def test_rows_whose_last_turns_are_left_out_are_counted(
    tmp_path: Path, count: int, words: str
) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    context = [*turns, turns[0], {**turns[1], "weight": 0}]
    path = write_rows(
        tmp_path / "rows.jsonl", [{"messages": turns}, *[{"messages": context}] * count]
    )
    assert said(path) == ["read as messages", f"{words}turns after the last trained one dropped"]
