"""What the turns of a conversation hold besides a text: parts, thoughts, calls, marks of what is
trained, nulls of typed columns.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.errors import MaskError
from hydratune.data.formats import reader
from hydratune.data.formats.columns import Naming
from hydratune.data.rows import Message, Row
from hydratune.errors import DataError
from hydratune.settings.data import TrainOn

ASK = {"role": "user", "content": "Where is the kettle?"}
SAID = {"role": "assistant", "content": "In the attic."}


def read(
    path: Path, records: list[dict[str, Any]], naming: Any = None
) -> tuple[list[Row], list[str]]:
    """The rows of a file, and what was stated, without its path."""
    statements: list[str] = []
    rows = list(reader.read_file(write_rows(path, records), naming or {}, "utf-8", statements))
    return rows, [s.removeprefix(f"{path}: ") for s in statements]


def chat(path: Path, *turns: dict[str, Any], **columns: Any) -> Row:
    return read(path, [{"messages": list(turns), **columns}])[0][0]


def refused(path: Path, *turns: dict[str, Any], **columns: Any) -> str:
    with pytest.raises(DataError) as caught:
        chat(path, *turns, **columns)
    assert f"{path}:1: " in str(caught.value)
    return str(caught.value)


def plain(message: Message) -> dict[str, Any]:
    return message.turn()


# -------------------------------------------------------------------------------------------- parts
TEXT = {"type": "text", "text": "In the attic."}
CALL = {"type": "function", "function": {"name": "find", "arguments": {"thing": "kettle"}}}
ANSWER_PARTS: list[tuple[Any, dict[str, Any]]] = [
    (
        [{"type": "thinking", "thinking": "Hm.", "signature": "abc"}, TEXT],
        {"content": "In the attic.", "reasoning_content": "Hm."},
    ),
    (
        [{"type": "reasoning", "text": "Hm."}, TEXT],
        {"content": "In the attic.", "reasoning_content": "Hm."},
    ),
    (
        [{"type": "reasoning", "reasoning": "Hm."}, TEXT],
        {"content": "In the attic.", "reasoning_content": "Hm."},
    ),
    (
        [{"type": "reasoning_content", "reasoning_content": "Hm."}, TEXT],
        {"content": "In the attic.", "reasoning_content": "Hm."},
    ),
    (
        [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}, TEXT],
        {"content": "In the attic.", "reasoning_content": "Hm."},
    ),
    (
        [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, TEXT],
        {"content": "In the attic.", "reasoning_content": "Hm."},
    ),
    ([{"type": "refusal", "refusal": "I cannot say."}], {"content": "I cannot say."}),
    (
        [TEXT, {"type": "tool_use", "id": "t1", "name": "find", "input": {"thing": "kettle"}}],
        {"content": "In the attic.", "tool_calls": [{"id": "t1", **CALL}]},
    ),
    (
        [
            {
                "type": "tool-call",
                "toolCallId": "t1",
                "toolName": "find",
                "args": {"thing": "kettle"},
            }
        ],
        {"content": "", "tool_calls": [{"id": "t1", **CALL}]},
    ),
    (
        [
            {
                "type": "function_call",
                "call_id": "t1",
                "name": "find",
                "arguments": '{"thing": "kettle"}',
            }
        ],
        {"content": "", "tool_calls": [{"id": "t1", **CALL}]},
    ),
    (
        [
            {
                "type": "tool_call",
                "id": "t1",
                "function": {"name": "find", "arguments": {"thing": "kettle"}},
            }
        ],
        {"content": "", "tool_calls": [{"id": "t1", **CALL}]},
    ),
    (["In the ", {"type": "text", "text": "attic."}], {"content": "In the attic."}),
    ({"type": "text", "text": "In the attic."}, {"content": "In the attic."}),
    (
        [{"type": "output_text", "text": "In the attic.", "annotations": []}],
        {"content": "In the attic."},
    ),
    (
        [{"type": "text", "text": ""}, {"type": "thinking", "thinking": "Hm."}, TEXT],
        {"content": "In the attic.", "reasoning_content": "Hm."},
    ),
]


@pytest.mark.parametrize(("content", "turn"), ANSWER_PARTS)
def test_parts_of_an_answer_become_what_the_template_has(
    tmp_path: Path, content: Any, turn: dict[str, Any]
) -> None:
    row = chat(tmp_path / "a.jsonl", ASK, {"role": "assistant", "content": content})
    assert plain(row.messages[1]) == {"role": "assistant", **turn}


@pytest.mark.parametrize(
    ("content", "turn"),
    [case for case in ANSWER_PARTS if isinstance(case[0], list) and isinstance(case[0][0], dict)],
)
def test_a_completion_of_parts_is_read_alike(
    tmp_path: Path, content: Any, turn: dict[str, Any]
) -> None:
    (row,), _ = read(tmp_path / "a.jsonl", [{"prompt": "Where?", "completion": content}])
    assert plain(row.messages[1]) == {"role": "assistant", **turn}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            [{"type": "redacted_thinking", "data": "xyz"}, TEXT],
            "'redacted_thinking'; it is encrypted",
        ),
        (
            [{"type": "server_tool_use", "id": "t", "name": "search", "input": {}}, TEXT],
            "'server_tool_use' that is not text",
        ),
        ([{"type": "image", "source": {}}], "'image'; images cannot be trained on"),
        ([TEXT, {"type": "thinking", "thinking": "Hm."}], "thoughts after text"),
        ([{"type": "tool_use", "id": "t", "name": "find", "input": {}}, TEXT], "text after calls"),
        (
            [{"type": "tool_result", "tool_use_id": "t", "content": "x"}],
            "results belong in a turn of the tool",
        ),
        ([{"type": "PERSON", "text": "Bob"}], "'PERSON' that is not text"),
        ([{"type": "text", "text": None}], "'text' that is not text"),
        ([{"type": "thinking", "thinking": {"a": 1}}, TEXT], "'thinking' that is not text"),
        ([{"text": "In the attic."}], "list of objects without a type"),
        ([{"toolUse": {"name": "find"}}], "list of objects without a type"),
        ([TEXT, {"a": 1}], "one of them has no type"),
    ],
)
def test_parts_that_no_template_has_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    assert words in refused(tmp_path / "a.jsonl", ASK, {"role": "assistant", "content": content})


def test_what_the_refusals_of_parts_advise_works(tmp_path: Path) -> None:
    entities = [{"type": "PERSON", "text": "Bob"}]
    assert "store the answer as a text if it is JSON" in refused(
        tmp_path / "a.jsonl", ASK, {"role": "assistant", "content": entities}
    )
    assert chat(
        tmp_path / "b.jsonl", ASK, {"role": "assistant", "content": json.dumps(entities)}
    ).answer == json.dumps(entities)
    hidden = [{"type": "redacted_thinking", "data": "xyz"}, TEXT]
    assert "take the part out" in refused(
        tmp_path / "c.jsonl", ASK, {"role": "assistant", "content": hidden}
    )
    assert (
        chat(tmp_path / "d.jsonl", ASK, {"role": "assistant", "content": hidden[1:]}).answer
        == "In the attic."
    )
    assert '{"type": "text", "text": "..."}' in refused(
        tmp_path / "e.jsonl", ASK, {"role": "assistant", "content": [{"text": "x"}]}
    )


def test_an_object_in_an_answer_column_is_still_json(tmp_path: Path) -> None:
    for completion in (
        [{"type": "PERSON", "text": "Bob"}],
        [{"text": "Bob"}],
        {"type": "text", "text": "Bob"},
        [{"type": "thinking"}],
    ):
        (row,), said = read(tmp_path / "a.jsonl", [{"prompt": "p", "completion": completion}])
        assert row.answer == json.dumps(completion) and "became JSON (1 row)" in said[1]
    row = chat(tmp_path / "b.jsonl", ASK, {"role": "assistant", "content": {"room": "attic"}})
    assert row.answer == '{"room": "attic"}'


def test_results_in_a_user_turn_become_turns_of_the_tool(tmp_path: Path) -> None:
    use = {
        "role": "assistant",
        "content": [
            {"type": "tool_use", "id": t, "name": "find", "input": {"thing": "kettle"}}
            for t in ("t1", "t2")
        ],
    }
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": "attic"},
        {
            "type": "tool_result",
            "tool_use_id": "t2",
            "content": [{"type": "text", "text": "gar"}, {"type": "text", "text": "age"}],
        },
    ]
    row = chat(tmp_path / "a.jsonl", ASK, use, {"role": "user", "content": results}, SAID)
    assert [plain(m) for m in row.messages[2:]] == [
        {"role": "tool", "content": "attic", "tool_call_id": "t1"},
        {"role": "tool", "content": "garage", "tool_call_id": "t2"},
        SAID,
    ]
    row = chat(
        tmp_path / "b.jsonl",
        ASK,
        use,
        {"role": "user", "content": [*results, {"type": "text", "text": "So?"}]},
        SAID,
    )
    assert [m.role for m in row.messages] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "user",
        "assistant",
    ]
    row = chat(
        tmp_path / "c.jsonl",
        ASK,
        use,
        {"role": "tool", "content": results[:1]},
        {"role": "tool", "content": results[1:]},
        SAID,
    )
    assert [m.role for m in row.messages] == ["user", "assistant", "tool", "tool", "assistant"]
    nothing = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1"}]}
    assert plain(chat(tmp_path / "e.jsonl", ASK, use, nothing, SAID).messages[2]) == {
        "role": "tool",
        "content": "",
        "tool_call_id": "t1",
    }
    assert "results come first" in refused(
        tmp_path / "d.jsonl",
        ASK,
        use,
        {"role": "user", "content": [{"type": "text", "text": "So?"}, *results]},
        SAID,
    )


def test_a_refusal_beside_an_empty_content_is_the_answer(tmp_path: Path) -> None:
    rows, said = read(
        tmp_path / "a.jsonl",
        [{"messages": [ASK, {"role": "assistant", "content": None, "refusal": "I cannot say."}]}],
    )
    assert rows[0].answer == "I cannot say." and said[1:] == [
        "1 refusal read as the text of the answer"
    ]


# -------------------------------------------------------------------------------------------- marks
WRONG = {"role": "assistant", "content": "WRONG"}
FALSE: list[dict[str, Any]] = [
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
FALSE += [
    {"weight": 0},
    {"weight": 0.0},
    {"loss": 0},
    {"loss_weight": 0},
    {"loss_scale": 0.0},
    {"masked": True},
    {"loss": False, "weight": 0},
]
TRUE: list[dict[str, Any]] = [
    {"train": True},
    {"loss": True},
    {"weight": 1},
    {"training": True},
    {"masked": False},
    {"loss": None},
    {},
]


@pytest.mark.parametrize("mark", FALSE)
@pytest.mark.parametrize("layout", ["messages", "sharegpt"])
def test_turns_that_are_marked_are_context(
    tmp_path: Path, mark: dict[str, Any], layout: str, encoder: ChatEncoder
) -> None:
    turns = [ASK, {**WRONG, **mark}, ASK, SAID]
    record: dict[str, Any] = {"messages": turns}
    if layout == "sharegpt":
        renamed = [
            {"from": t["role"], "value": t["content"], **{k: v for k, v in t.items() if k in mark}}
            for t in turns
        ]
        record = {"conversations": renamed}
    (row,), said = read(tmp_path / "a.jsonl", [record])
    assert [m.train for m in row.messages if m.role == "assistant"] == [False, True] and len(
        said
    ) == 1
    example = encoder.encode(row, TrainOn.all)
    trained = encoder.decode(
        [t for t, is_target in zip(example.ids, example.loss_mask, strict=True) if is_target]
    )
    assert "WRONG" not in trained and "In the attic." in trained


@pytest.mark.parametrize("mark", TRUE)
def test_turns_that_are_marked_as_trained_are(tmp_path: Path, mark: dict[str, Any]) -> None:
    assert [
        m.train
        for m in chat(tmp_path / "a.jsonl", ASK, {**SAID, **mark}).messages
        if m.role == "assistant"
    ] == [True]


@pytest.mark.parametrize("mark", FALSE)
def test_a_row_whose_turns_are_all_context_is_refused(tmp_path: Path, mark: dict[str, Any]) -> None:
    assert "nothing to learn" in refused(tmp_path / "a.jsonl", ASK, {**SAID, **mark})


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
def test_marks_that_are_unclear_are_refused(
    tmp_path: Path, mark: dict[str, Any], words: str
) -> None:
    assert words in refused(tmp_path / "a.jsonl", ASK, WRONG, ASK, {**SAID, **mark})


def test_what_the_refusal_of_an_unclear_mark_advises_works(tmp_path: Path) -> None:
    assert "write train: true or train: false instead, and take mask out" in refused(
        tmp_path / "a.jsonl", ASK, {**SAID, "mask": True}
    )
    for train in (True, False):
        row = chat(tmp_path / "b.jsonl", ASK, {**WRONG, "train": train}, ASK, SAID)
        assert row.messages[1].train is train


def test_only_assistant_turns_can_be_trained(tmp_path: Path) -> None:
    assert "marked as trained (loss: True); only assistant turns can be" in refused(
        tmp_path / "a.jsonl", {**ASK, "loss": True}, SAID
    )
    assert chat(tmp_path / "b.jsonl", {**ASK, "loss": False, "weight": 0}, SAID).messages[1].train


def test_unknown_keys_of_turns_are_named_once_with_counts(tmp_path: Path) -> None:
    odd = {"timestamp": 3, "lang": "de", "refusal": None, "annotations": [], "extra": {}}
    turns = [{**ASK, **odd}, {**SAID, "content": [{**TEXT, "citations": [1]}], "timestamp": 4}]
    _, said = read(tmp_path / "a.jsonl", [{"messages": turns}] * 3)
    assert said[1:] == [
        "keys of turns ignored, with the number of turns: timestamp (6), lang (3),"
        " text.citations (3)"
    ]


@pytest.mark.parametrize("key", ["images", "audio", "video", "tools", "functions"])
def test_keys_of_turns_that_cannot_be_left_out_are_refused(tmp_path: Path, key: str) -> None:
    assert f"{key} of the user turn" in refused(tmp_path / "a.jsonl", {**ASK, key: ["x"]}, SAID)
    chat(tmp_path / "b.jsonl", {**ASK, key: None}, SAID)


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (
            {**SAID, "reasoning": "a", "thinking": "b"},
            "thinking and reasoning of the assistant turn differ",
        ),
        ({**SAID, "value": "other"}, "content and value of a turn differ"),
        ({**SAID, "refusal": "No."}, "content and refusal of the assistant turn are both there"),
        ({**SAID, "from": "user"}, "role and from of a turn differ"),
        (
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "a"}, TEXT],
                "thinking": "b",
            },
            "both in its content and beside it",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(
    tmp_path: Path, turn: dict[str, Any], words: str
) -> None:
    assert words in refused(tmp_path / "a.jsonl", ASK, turn)


# -------------------------------------------------------------------------------------------- nulls
def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": "x",
            "parameters": {"type": "object", "properties": properties},
        },
    }


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


TOWN = {"type": "string", "description": "a town"}
SHARE = {"type": "string", "description": "a share", "enum": ["ABC"]}
WEATHER, PRICE = tool("weather", town=TOWN), tool("price", ticker=SHARE)


def asked(*calls: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return {
        "messages": [ASK, {"role": "assistant", "content": "", "tool_calls": list(calls)}],
        **columns,
    }


BOTH = [
    asked(call("weather", town="Ulm"), tools=[WEATHER]),
    asked(call("price", ticker="ABC"), tools=[PRICE]),
]


def as_jsonl(path: Path) -> Path:
    """JSON lines as pandas and the datasets library write them from a Parquet file."""
    import pyarrow.parquet

    lines = [json.dumps(record) for record in pyarrow.parquet.read_table(path).to_pylist()]
    path.with_suffix(".jsonl").write_text("".join(line + "\n" for line in lines))
    return path.with_suffix(".jsonl")


def check_both(rows: list[Row]) -> None:
    assert [plain(row.messages[1])["tool_calls"] for row in rows] == [
        [call("weather", town="Ulm")],
        [call("price", ticker="ABC")],
    ]
    assert [row.tools for row in rows] == [(WEATHER,), (PRICE,)]


def test_typed_columns_give_no_call_the_arguments_of_another(tmp_path: Path) -> None:
    rows, said = read(tmp_path / "a.parquet", BOTH)
    check_both(rows)
    assert said[1].startswith("2 null arguments of tool calls dropped") and said[2].startswith(
        "2 nulls in the schemas of tools dropped"
    )


def test_json_lines_written_from_a_typed_column_are_read_alike(tmp_path: Path) -> None:
    path = as_jsonl(write_rows(tmp_path / "a.parquet", BOTH))
    assert '"ticker": null' in path.read_text()
    check_both(list(reader.read_file(path, {})))


def test_data_sets_of_the_datasets_library_are_read_alike(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(BOTH).save_to_disk(tmp_path / "saved")
    opened = reader.open_hub(str(tmp_path / "saved"), None, "train", None)
    check_both(list(reader.read_hub(opened, "saved", "train", {})))
    datasets.Dataset.from_list(BOTH).to_json(tmp_path / "b.jsonl")
    check_both(list(reader.read_file(tmp_path / "b.jsonl", {})))


def test_json_lines_padded_before_they_were_split_are_known_by_the_tools(tmp_path: Path) -> None:
    padded = [asked(call("weather", town="Ulm", ticker=None), tools=[WEATHER, PRICE])]
    (row,), said = read(tmp_path / "a.jsonl", padded)
    assert row.messages[1].tool_calls == (call("weather", town="Ulm"),) and said[1].startswith(
        "1 null argument of"
    )


@pytest.mark.parametrize(
    "calls",
    [
        # other calls have other keys
        [call("weather", town="Ulm"), call("price", ticker="ABC", town=None)],
        # its own argument
        [call("weather", town="Ulm", unit=None), call("weather", town="Bonn", unit="C")],
        [call("weather", town=None)],
        [call("weather", town="Ulm", unit=None)],
    ],
)
@pytest.mark.parametrize("tools", [{}, {"tools": [tool("weather", town=TOWN, unit=TOWN), PRICE]}])
def test_null_that_a_model_wrote_stays(
    tmp_path: Path, calls: list[dict[str, Any]], tools: dict[str, Any]
) -> None:
    rows, said = read(tmp_path / "a.jsonl", [asked(c, **tools) for c in calls])
    assert [row.messages[1].tool_calls for row in rows] == [(c,) for c in calls] and len(said) == 1


def test_json_text_in_parquet_keeps_its_nulls(tmp_path: Path) -> None:
    texts = [
        {"function": {"name": n, "arguments": json.dumps(a)}}
        for n, a in (("weather", {"town": None}), ("price", {"ticker": "ABC"}))
    ]
    rows, said = read(tmp_path / "a.parquet", [asked(text) for text in texts])
    assert [row.messages[1].tool_calls for row in rows] == [
        (call("weather", town=None),),
        (call("price", ticker="ABC"),),
    ] and len(said) == 1


def test_a_required_argument_that_is_null_stays(tmp_path: Path) -> None:
    nullable = tool("weather", town={"type": ["string", "null"]}, unit=TOWN)
    nullable["function"]["parameters"]["required"] = ["town"]
    (row,), _ = read(
        tmp_path / "a.parquet", [asked(call("weather", town=None, unit=None), tools=[nullable])]
    )
    assert row.messages[1].tool_calls == (call("weather", town=None),)


def test_nested_arguments_lose_the_keys_of_others(tmp_path: Path) -> None:
    calls = [
        call("find", where={"room": "attic"}, many=[{"a": 1}]),
        call("find", where={"box": 3}, many=[{"b": 2}, {"a": 3}]),
    ]
    rows, _ = read(tmp_path / "a.parquet", [asked(c) for c in calls])
    assert [row.messages[1].tool_calls for row in rows] == [(c,) for c in calls]


def test_maps_are_objects(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    arguments = pyarrow.map_(pyarrow.string(), pyarrow.string())
    function = pyarrow.struct([("name", pyarrow.string()), ("arguments", arguments)])
    turn = pyarrow.struct(
        [
            ("role", pyarrow.string()),
            ("content", pyarrow.string()),
            ("tool_calls", pyarrow.list_(pyarrow.struct([("function", function)]))),
        ]
    )
    given = [
        {
            "role": "assistant",
            "tool_calls": [{"function": {"name": "f", "arguments": [("a", "1"), ("b", None)]}}],
        }
    ]
    table = pyarrow.Table.from_pylist(
        [{"messages": [ASK, *given]}], pyarrow.schema([("messages", pyarrow.list_(turn))])
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (row,) = reader.read_file(tmp_path / "a.parquet", {})
    assert row.messages[1].tool_calls == (call("f", a="1", b=None),)


def test_nulls_of_answers_stay(tmp_path: Path) -> None:
    records = [
        {"prompt": "p", "completion": {"date": None, "sum": 3}},
        {"prompt": "q", "completion": {"date": "today", "sum": None}},
    ]
    rows, _ = read(tmp_path / "a.parquet", records)
    assert [json.loads(row.answer) for row in rows] == [r["completion"] for r in records]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_schemas_have_no_null_keywords(tmp_path: Path, kind: str) -> None:
    parameters = {
        "type": "object",
        "properties": {
            "town": {**TOWN, "enum": None, "default": "x"},
            "gone": None,
            "list": {"type": "array", "items": {**TOWN, "enum": None}},
        },
        "required": ["town"],
        "additionalProperties": None,
    }
    given = {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "x",
            "strict": None,
            "parameters": parameters,
        },
    }
    text = json.dumps([given]) if kind == "parquet" else [given]
    (row,), said = read(tmp_path / f"a.{kind}", [asked(call("weather", town="Ulm"), tools=text)])
    expected = {"town": {**TOWN, "default": "x"}, "list": {"type": "array", "items": TOWN}}
    assert row.tools[0]["function"]["parameters"] == {
        "type": "object",
        "properties": expected,
        "required": ["town"],
    }
    assert "strict" not in row.tools[0]["function"] and said[1].startswith("5 nulls in the schemas")


def test_null_that_a_schema_may_have_stays(tmp_path: Path) -> None:
    nullable = tool("weather", town={**TOWN, "default": None, "enum": ["Ulm", None], "const": None})
    assert chat(tmp_path / "a.jsonl", ASK, SAID, tools=[nullable]).tools == (nullable,)


def test_required_property_without_a_schema_is_refused(tmp_path: Path) -> None:
    broken = tool("weather", town=None)
    broken["function"]["parameters"]["required"] = ["town"]
    assert "hold null where a JSON schema belongs, for town" in refused(
        tmp_path / "a.jsonl", ASK, SAID, tools=[broken]
    )
    broken["function"]["parameters"]["required"] = []
    chat(tmp_path / "b.jsonl", ASK, SAID, tools=[broken])


def test_nulls_of_answers_that_are_typed_are_counted(tmp_path: Path) -> None:
    records = [{"prompt": "p", "completion": {"a": 1}}, {"prompt": "q", "completion": {"b": 1}}]
    _, said = read(tmp_path / "a.parquet", records)
    assert (
        said[2].startswith("2 nulls in answers kept")
        and "store the answers as JSON text" in said[2]
    )
    rows, said = read(
        tmp_path / "b.parquet", [{**r, "completion": json.dumps(r["completion"])} for r in records]
    )
    assert [row.answer for row in rows] == ['{"a": 1}', '{"b": 1}'] and len(said) == 1


# ---------------------------------------------------------------------------------- calls and tools
ARGUMENTS = '{"town": "Attic \\"Zürich\\""}'
BEGIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name }}"
)
END = (
    "{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{"
    " '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = {
    "concatenates": "{{ c.function.arguments + '' }}",
    "prints": "{{ c.function.arguments }}",
    "tojson": "{{ c.function.arguments | tojson }}",
    "either": (
        "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}{{"
        " c.function.arguments | tojson }}{% endif %}"
    ),
    "items": "{% for k, v in c.function.arguments | items %}{{ k + '=' + v }}{% endfor %}",
}


@pytest.fixture
def templated(encoder: ChatEncoder) -> Callable[[str], ChatEncoder]:
    import copy

    def make(template: str) -> ChatEncoder:
        tokenizer = copy.deepcopy(encoder.tokenizer)
        tokenizer.chat_template = BEGIN + template + END
        return ChatEncoder(tokenizer, encoder.turn_end_ids)

    return make


@pytest.mark.parametrize("given", [ARGUMENTS, json.loads(ARGUMENTS)])
@pytest.mark.parametrize("template", TEMPLATES)
def test_arguments_are_given_as_the_template_takes_them(
    tmp_path: Path, templated: Callable[[str], ChatEncoder], template: str, given: Any
) -> None:
    asking = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "weather", "arguments": given}}],
    }
    row = chat(tmp_path / "a.jsonl", ASK, asking, {"role": "tool", "content": "grey"}, SAID)
    chosen = templated(TEMPLATES[template])
    example = chosen.encode(row, TrainOn.all)
    trained = chosen.decode(
        [t for t, is_target in zip(example.ids, example.loss_mask, strict=True) if is_target]
    )
    shown = 'town=Attic "Zürich"' if template == "items" else ARGUMENTS
    assert trained == f"<call>weather{shown}<|im_end|>In the attic.<|im_end|>"


def test_a_template_that_takes_neither_form_refuses_the_row(
    tmp_path: Path, templated: Callable[[str], ChatEncoder]
) -> None:
    row = chat(tmp_path / "a.jsonl", ASK, asked(call("weather", town="Ulm"))["messages"][1])
    with pytest.raises(MaskError, match=r"a\.jsonl:1: the chat template refuses this conversation"):
        templated("{{ c.function.arguments + 1 }}").encode(row, TrainOn.all)


def test_parallel_calls_in_any_layout_are_one_turn(tmp_path: Path) -> None:
    calls = [call("weather", town=town) for town in ("Ulm", "Bonn")]
    texts = [json.dumps(c["function"]) for c in calls]
    results = [{"role": "tool", "content": "grey"}, {"role": "tool", "content": "blue"}]
    one_turn = [ASK, {"role": "assistant", "content": "", "tool_calls": calls}, *results, SAID]
    expected = [plain(m) for m in chat(tmp_path / "a.jsonl", *one_turn).messages]
    assert expected[1]["tool_calls"] == calls
    for call_name, result_name in (
        ("function_call", "observation"),
        ("tool_call", "tool_response"),
        ("Function-Call", "function_response"),
    ):
        turns = [
            ASK,
            *({"role": call_name, "content": text} for text in texts),
            *({**r, "role": result_name} for r in results),
            SAID,
        ]
        assert [plain(m) for m in chat(tmp_path / "b.jsonl", *turns).messages] == expected
        renamed = [{"from": turn["role"], "value": turn["content"]} for turn in turns]
        rows, said = read(tmp_path / "c.jsonl", [{"conversations": renamed}])
        assert [plain(m) for m in rows[0].messages] == expected
        assert said[1:] == ["1 call put into the assistant turn before, as calls made together"]
    together = [
        ASK,
        {"role": "tool_call", "content": json.dumps([c["function"] for c in calls])},
        *results,
        SAID,
    ]
    assert [plain(m) for m in chat(tmp_path / "d.jsonl", *together).messages] == expected


def test_a_call_after_a_text_belongs_to_its_turn(tmp_path: Path) -> None:
    calls = {"role": "tool_call", "content": {"name": "weather", "arguments": {"town": "Ulm"}}}
    row = chat(
        tmp_path / "a.jsonl",
        ASK,
        {**SAID, "content": "I look."},
        calls,
        {"role": "tool", "content": "grey"},
        SAID,
    )
    assert plain(row.messages[1]) == {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [call("weather", town="Ulm")],
    }
    assert "marked both as trained and as context" in refused(
        tmp_path / "b.jsonl", ASK, {**SAID, "train": False}, calls
    )


def test_legacy_function_calls_and_functions(tmp_path: Path) -> None:
    turns = [
        ASK,
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "weather", "arguments": '{"town": "Ulm"}'},
        },
        {"role": "function", "name": "weather", "content": "grey"},
        SAID,
    ]
    rows, said = read(
        tmp_path / "a.jsonl", [{"messages": turns, "functions": [WEATHER["function"]]}]
    )
    assert [plain(m) for m in rows[0].messages[1:3]] == [
        {"role": "assistant", "content": "", "tool_calls": [call("weather", town="Ulm")]},
        {"role": "tool", "content": "grey", "name": "weather"},
    ]
    assert rows[0].tools == (WEATHER,) and said == ["read as messages from messages, functions"]


def test_tools_of_other_providers(tmp_path: Path) -> None:
    schema = WEATHER["function"]["parameters"]
    for given in (
        {"name": "weather", "description": "x", "input_schema": schema},  # Anthropic's
        # OpenAI's responses
        {"type": "function", "name": "weather", "description": "x", "parameters": schema},
    ):
        assert chat(tmp_path / "a.jsonl", ASK, SAID, tools=[given]).tools == (WEATHER,)


@pytest.mark.parametrize("arguments", ["[1]", '"{}"', "7", "{town: Ulm}", "{'town': 'Ulm'}"])
def test_arguments_that_are_no_object_are_refused_with_row_and_field(
    tmp_path: Path, arguments: str
) -> None:
    asking = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "weather", "arguments": arguments}}],
    }
    assert "arguments of the call to weather" in refused(tmp_path / "a.jsonl", ASK, asking)


def test_a_conversation_as_an_object_of_lists(tmp_path: Path) -> None:
    (row,), _ = read(
        tmp_path / "a.jsonl",
        [{"messages": {"role": ["user", "assistant"], "content": ["Where?", "There."]}}],
    )
    assert [(m.role, m.content) for m in row.messages] == [
        ("user", "Where?"),
        ("assistant", "There."),
    ]


def test_marks_that_are_not_a_number_are_missing(tmp_path: Path) -> None:
    assert (
        chat(tmp_path / "a.jsonl", ASK, {**SAID, "loss": float("nan"), "weight": float("nan")})
        .messages[1]
        .train
    )


def test_a_system_column_may_be_text_parts(tmp_path: Path) -> None:
    assert (
        chat(tmp_path / "a.jsonl", ASK, SAID, system=[TEXT]).messages[0].content == "In the attic."
    )
    assert "must be a text" in refused(
        tmp_path / "b.jsonl", ASK, SAID, system=[{"type": "thinking", "thinking": "a"}]
    )


@pytest.mark.parametrize(
    "content",
    [
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "image", "source": {"type": "base64"}},
    ],
)
def test_a_picture_that_stands_alone_is_refused(tmp_path: Path, content: Any) -> None:
    assert "images cannot be trained on" in refused(
        tmp_path / "a.jsonl", ASK, {"role": "assistant", "content": content}
    )


def test_an_answer_that_looks_like_a_turn_of_somebody_is_json(tmp_path: Path) -> None:
    (row,), _ = read(
        tmp_path / "a.jsonl",
        [{"prompt": "Who?", "completion": {"role": "engineer", "content": "bridges"}}],
    )
    assert row.answer == '{"role": "engineer", "content": "bridges"}'


def test_deep_nesting_is_refused_with_its_line(tmp_path: Path) -> None:
    for depth in (500, 2_000, 50_000):
        deep = '{"name": "f", "arguments": {"a": null, "b": ' + "[" * depth + "]" * depth + "}}"
        path = tmp_path / f"{depth}.jsonl"
        path.write_text(
            '{"messages": [{"role": "user", "content": "a"}, {"role": "function_call", "content": '
            + deep
            + "}]}\n"
        )
        if depth > 1_000:
            with pytest.raises(DataError, match=r"jsonl:1: .*nested too deeply"):
                list(reader.read_file(path, {}))
        else:
            assert len(list(reader.read_file(path, {}))) == 1


# ---------------------------------------------------------------------- arguments under other names
NAMES = ("arguments", "parameters", "input", "args", "kwargs", "params")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [{"town": "Ulm"}, '{"town": "Ulm"}'])
def test_arguments_have_several_names(tmp_path: Path, name: str, value: Any) -> None:
    for given in (
        {"name": "weather", name: value},
        {"function": {"name": "weather", name: value}},
        {"function": {"name": "weather"}, name: value},
        {"name": "weather", "arguments": {}, name: value},
    ):
        rows = [
            chat(tmp_path / "a.jsonl", ASK, {"role": "assistant", "tool_calls": [given]}),
            chat(tmp_path / "a.jsonl", ASK, {"role": "tool_call", "content": json.dumps(given)}),
        ]
        assert [row.messages[1].tool_calls for row in rows] == [(call("weather", town="Ulm"),)] * 2
    part = {"type": "tool_use", "name": "weather", name: value}
    assert chat(tmp_path / "b.jsonl", ASK, {"role": "assistant", "content": [part]}).messages[
        1
    ].tool_calls == (call("weather", town="Ulm"),)


@pytest.mark.parametrize("key", ["toolArgs", "action_input", "args_json", "town"])
@pytest.mark.parametrize("value", [{"town": "Ulm"}, '{"town": "Ulm"}', ["Ulm"], "Ulm"])
def test_what_may_be_an_argument_is_not_lost(tmp_path: Path, key: str, value: Any) -> None:
    for given in ({"name": "weather", key: value}, {"function": {"name": "weather", key: value}}):
        said = refused(tmp_path / "a.jsonl", ASK, {"role": "assistant", "tool_calls": [given]})
        assert (
            f"the call to weather has no arguments, but the key {key}" in said
            and '{"name": "weather", "arguments": {...}}' in said
        )
    part = {"type": "tool_use", "name": "weather", key: value}
    assert "the call to weather has no arguments" in refused(
        tmp_path / "b.jsonl", ASK, {"role": "assistant", "content": [part]}
    )


def test_other_keys_of_calls_are_named_and_none_is_needed(tmp_path: Path) -> None:
    given = {"name": "weather", "arguments": {"town": "Ulm"}, "result": {"sky": "grey"}}
    (row,), said = read(
        tmp_path / "a.jsonl", [{"messages": [ASK, {"role": "assistant", "tool_calls": [given]}]}]
    )
    assert row.messages[1].tool_calls == (call("weather", town="Ulm"),)
    assert said[1:] == ["keys of turns ignored, with the number of turns: tool_calls.result (1)"]
    bare = {
        "role": "assistant",
        "tool_calls": [{"id": "a", "index": 0, "type": "function", "function": {"name": "now"}}],
    }
    assert chat(tmp_path / "b.jsonl", ASK, bare).messages[1].tool_calls == (
        {"id": "a", **call("now")},
    )
    two = {
        "role": "assistant",
        "tool_calls": [{"name": "f", "arguments": {"a": 1}, "args": {"a": 2}}],
    }
    assert "arguments and args of the call to f differ" in refused(tmp_path / "c.jsonl", ASK, two)


def test_tools_may_be_a_list_of_json_texts(tmp_path: Path) -> None:
    assert chat(tmp_path / "a.jsonl", ASK, SAID, tools=[json.dumps(WEATHER), PRICE]).tools == (
        WEATHER,
        PRICE,
    )
    assert "a tool is a text that is not JSON" in refused(
        tmp_path / "b.jsonl", ASK, SAID, tools=["{weather"]
    )


# ----------------------------------------------------------------------------------------- verdicts
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
def test_the_fix_for_turns_that_are_called_bad_works(tmp_path: Path, mark: dict[str, Any]) -> None:
    said = refused(tmp_path / "a.jsonl", ASK, {**WRONG, **mark}, ASK, SAID)
    assert (
        f"{next(iter(mark))} = " in said
        and 'write "train": false into the turn' in said
        and 'or "train": true if' in said
    )
    for train in (False, True):
        row = chat(tmp_path / "b.jsonl", ASK, {**WRONG, **mark, "train": train}, ASK, SAID)
        assert [m.train for m in row.messages] == [True, train, True, True]


@pytest.mark.parametrize(
    "mark", [{"label": True}, {"rejected": False}, {"rating": 5}, {"error": None}, {"error": False}]
)
def test_turns_that_are_not_called_bad_are_trained(tmp_path: Path, mark: dict[str, Any]) -> None:
    assert (
        chat(
            tmp_path / "a.jsonl", {**ASK, "correct": False, "error": True}, {**SAID, **mark}
        ).answer
        == "In the attic."
    )


# ------------------------------------------------------------------------- objects that stand alone
@pytest.mark.parametrize(
    "part",
    [
        {"type": "redacted_thinking", "data": "x"},
        {"type": "server_tool_use", "id": "t", "name": "search", "input": {}},
        {"type": "code", "code": "1"},
        {"type": "reasoning", "summary": []},
        {"type": "text", "value": "x"},
        {"type": "image_url", "image_url": {"url": "x"}},
    ],
)
def test_a_part_that_stands_alone_is_refused_as_in_a_list(
    tmp_path: Path, part: dict[str, Any]
) -> None:
    alone, listed = (
        refused(tmp_path / "a.jsonl", ASK, {"role": "assistant", "content": content})
        for content in (part, [part])
    )
    assert alone == listed and "holds a part of type" in alone
    text = json.dumps(part)
    assert chat(tmp_path / "b.jsonl", ASK, {"role": "assistant", "content": text}).answer == text


@pytest.mark.parametrize("content", [["a", "b"], ["a"], ["a", 1]])
def test_a_list_of_texts_in_a_turn_is_refused(tmp_path: Path, content: list[Any]) -> None:
    assert "write the one text, or the list as JSON text" in refused(
        tmp_path / "a.jsonl", ASK, {"role": "assistant", "content": content}
    )
    (row,), said = read(tmp_path / "b.jsonl", [{"prompt": "p", "completion": content}])
    assert row.answer == json.dumps(content) and "became JSON (1 row)" in said[1]
    assert (
        chat(tmp_path / "c.jsonl", ASK, {"role": "assistant", "content": [1, 2]}).answer == "[1, 2]"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (key, "Hm.")
            for key in (
                "reasoning_content",
                "thinking",
                "reasoning",
                "thoughts",
                "thought",
                "chain_of_thought",
                "cot",
            )
        ),
        ("thinking_blocks", [{"type": "thinking", "thinking": "Hm.", "signature": "abc"}]),
        ("reasoning_details", [{"type": "reasoning.text", "text": "Hm."}]),
        ("reasoning_details", [{"type": "reasoning.summary", "summary": "Hm."}]),
    ],
)
def test_thoughts_beside_a_content_have_several_names(tmp_path: Path, key: str, value: Any) -> None:
    rows, said = read(tmp_path / "a.jsonl", [{"messages": [ASK, {**SAID, key: value}]}])
    assert rows[0].messages[1].reasoning == "Hm." and len(said) == 1


def test_thoughts_that_are_encrypted_are_refused(tmp_path: Path) -> None:
    hidden = {"reasoning_details": [{"type": "reasoning.encrypted", "data": "xyz"}]}
    assert 'or write the thoughts as "reasoning_content"' in refused(
        tmp_path / "a.jsonl", ASK, {**SAID, **hidden}
    )
    assert (
        chat(tmp_path / "b.jsonl", ASK, {**SAID, **hidden, "reasoning_content": "Hm."})
        .messages[1]
        .reasoning
        == "Hm."
    )


# ------------------------------------------------------------------------------- calls between tags
def tags(*towns: str) -> str:
    return "\n".join(
        "<tool_call>\n"
        + json.dumps({"name": "weather", "arguments": {"town": town}})
        + "\n</tool_call>"
        for town in towns
    )


def test_calls_between_tags_that_are_answered_are_calls(tmp_path: Path) -> None:
    results = (
        '<tool_response>\n{"sky":'
        ' "grey"}\n</tool_response>\n<tool_response>\nblue\n</tool_response>'
    )
    turns = [
        ("human", "Where?"),
        ("gpt", "I look.\n" + tags("Ulm", "Bonn")),
        ("tool", results),
        ("gpt", "In the attic."),
    ]
    (row,), said = read(
        tmp_path / "a.jsonl", [{"conversations": [{"from": r, "value": t} for r, t in turns]}]
    )
    assert [plain(m) for m in row.messages[1:]] == [
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [call("weather", town="Ulm"), call("weather", town="Bonn")],
        },
        {"role": "tool", "content": '{"sky": "grey"}'},
        {"role": "tool", "content": "blue"},
        SAID,
    ]
    assert said[1].startswith("1 text with <tool_call> read as calls")


def test_a_turn_of_a_call_may_have_tags(tmp_path: Path) -> None:
    turns = [
        ASK,
        {"role": "tool_call", "content": tags("Ulm")},
        {"role": "tool", "content": "grey"},
        SAID,
    ]
    assert chat(tmp_path / "a.jsonl", *turns).messages[1].tool_calls == (
        call("weather", town="Ulm"),
    )


def test_calls_between_tags_that_nobody_answers_stay_text(tmp_path: Path) -> None:
    for text in (tags("Ulm"), "Write <tool_call>x</tool_call> so."):
        assert (
            chat(tmp_path / "a.jsonl", ASK, {"role": "assistant", "content": text}).answer == text
        )


@pytest.mark.parametrize(
    "text", [tags("Ulm") + " Done.", "<tool_call>{'name': 'weather'}</tool_call>", "Let me look."]
)
def test_the_fix_for_results_without_calls_works(tmp_path: Path, text: str) -> None:
    asking = {"role": "assistant", "content": text}
    turns = [ASK, asking, {"role": "tool", "content": "grey"}, SAID]
    said = refused(tmp_path / "a.jsonl", *turns)
    assert (
        '"tool_calls": [{"name": ..., "arguments": {...}}]' in said
        and "+data.roles.tool=user" in said
    )
    (row,), _ = read(tmp_path / "b.jsonl", [{"messages": turns}], Naming(roles={"tool": "user"}))
    assert [m.role for m in row.messages] == [
        "user",
        "assistant",
        "user",
        "assistant",
    ] and row.messages[1].content == text
    asking["tool_calls"] = [{"name": "weather", "arguments": {}}]
    assert len(chat(tmp_path / "c.jsonl", *turns).messages) == 4


# ------------------------------------------------------------------------------- what to do is said
def test_the_fixes_for_turns_out_of_order_work(tmp_path: Path) -> None:
    system, more = (
        {"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": "Upstairs."},
    )
    for turns, fix, mended in (
        ([ASK, SAID, ASK], "take it out, or add the answer", [ASK, SAID]),
        ([SAID, ASK, SAID], "take a greeting out", [ASK, SAID]),
        (
            [ASK, SAID, more],
            "join turns of one speaker",
            [ASK, {**SAID, "content": SAID["content"] + "\n" + more["content"]}],
        ),
        (
            [ASK, SAID, system, ASK, SAID],
            "put its text into the first one",
            [system, ASK, SAID, ASK, SAID],
        ),
    ):
        assert fix in refused(tmp_path / "a.jsonl", *turns)
        assert [plain(m) for m in chat(tmp_path / "b.jsonl", *mended).messages] == mended


def test_lists_as_python_prints_them_are_refused_with_what_to_write(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", [{"messages": str([ASK, SAID])}])
    with pytest.raises(
        DataError,
        match=r"write it with json\.dumps\(\.\.\.\), or the file as JSON lines or Parquet",
    ):
        list(reader.read_file(path, {}))
    for text in (json.dumps([ASK, SAID]),):
        assert (
            len(list(reader.read_file(write_rows(tmp_path / "b.csv", [{"messages": text}]), {})))
            == 1
        )


def test_parts_of_gemini(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "parts": [{"text": "Where?"}]},
        {
            "role": "model",
            "parts": [
                {"text": "Hm.", "thought": True},
                {"text": "I look."},
                {"functionCall": {"name": "weather", "args": {"town": "Ulm"}}},
            ],
        },
        {
            "role": "user",
            "parts": [{"functionResponse": {"name": "weather", "response": {"sky": "grey"}}}],
        },
        {"role": "model", "parts": [{"text": "In the attic.", "thoughtSignature": "x"}]},
    ]
    assert [plain(m) for m in chat(tmp_path / "a.jsonl", *turns).messages[1:]] == [
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm.",
            "tool_calls": [call("weather", town="Ulm")],
        },
        {"role": "tool", "content": '{"sky": "grey"}', "name": "weather"},
        SAID,
    ]


@pytest.mark.parametrize("text", ["null", "NULL", "NaN", "None", "<NA>"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_answers_that_are_texts_for_nothing_are_counted(
    tmp_path: Path, text: str, kind: str
) -> None:
    rows, said = read(
        tmp_path / f"a.{kind}",
        [{"prompt": "p", "completion": text}, {"prompt": "q", "completion": "a"}],
    )
    assert (
        len(rows) == 2
        and f"{text!r} (1); where the answer is missing, take these rows out" in said[1]
    )


def test_marks_in_the_meta_data_of_turns_are_refused(tmp_path: Path) -> None:
    for mark in ({"train": False}, {"correct": False}, {"loss_mask": 0}):
        assert next(iter(mark)) in refused(
            tmp_path / "a.jsonl", ASK, {**WRONG, "meta": mark}, ASK, SAID
        )
    assert (
        chat(tmp_path / "b.jsonl", ASK, {**SAID, "meta": {"lang": "de", "correct": True}}).answer
        == "In the attic."
    )
