"""Nulls that typed columns add to arguments, schemas and answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.data.formats import reader
from hydratune.data.rows import Row
from row_files import ASSISTANT_TURN, USER_TURN, read_chat, refusal_of, write_and_read
from tool_records import PRICE, TOWN, WEATHER, call, record_with_calls, tool

TWO_TOOL_RECORDS = [
    record_with_calls(call("weather", town="Ulm"), tools=[WEATHER]),
    record_with_calls(call("price", ticker="ABC"), tools=[PRICE]),
]


def as_jsonl(path: Path) -> Path:
    """Write the JSON lines that pandas and the datasets library write from a Parquet file."""
    import pyarrow.parquet

    lines = [json.dumps(record) for record in pyarrow.parquet.read_table(path).to_pylist()]
    path.with_suffix(".jsonl").write_text("".join(line + "\n" for line in lines))
    return path.with_suffix(".jsonl")


def assert_two_tool_rows(rows: list[Row]) -> None:
    assert [row.messages[1].turn()["tool_calls"] for row in rows] == [
        [call("weather", town="Ulm")],
        [call("price", ticker="ABC")],
    ]
    assert [row.tools for row in rows] == [(WEATHER,), (PRICE,)]


def test_typed_columns_give_no_call_the_arguments_of_another(tmp_path: Path) -> None:
    rows, statements = write_and_read(tmp_path / "a.parquet", TWO_TOOL_RECORDS)
    assert_two_tool_rows(rows)
    assert statements[1].startswith("2 null arguments of tool calls dropped") and statements[
        2
    ].startswith("2 nulls in the schemas of tools dropped")


def test_json_lines_written_from_a_typed_column_are_read_like_the_column(tmp_path: Path) -> None:
    path = as_jsonl(write_rows(tmp_path / "a.parquet", TWO_TOOL_RECORDS))
    assert '"ticker": null' in path.read_text()
    assert_two_tool_rows(list(reader.read_file(path, {})))


def test_data_sets_of_the_datasets_library_are_read_like_typed_columns(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(TWO_TOOL_RECORDS).save_to_disk(tmp_path / "saved")
    opened = reader.open_hub(str(tmp_path / "saved"), None, "train", None)
    assert_two_tool_rows(list(reader.read_hub(opened, "saved", "train", {})))
    datasets.Dataset.from_list(TWO_TOOL_RECORDS).to_json(tmp_path / "b.jsonl")
    assert_two_tool_rows(list(reader.read_file(tmp_path / "b.jsonl", {})))


def test_null_arguments_that_the_called_tool_does_not_have_are_dropped(tmp_path: Path) -> None:
    padded = [record_with_calls(call("weather", town="Ulm", ticker=None), tools=[WEATHER, PRICE])]
    (row,), statements = write_and_read(tmp_path / "a.jsonl", padded)
    assert row.messages[1].tool_calls == (call("weather", town="Ulm"),) and statements[
        1
    ].startswith("1 null argument of")


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
def test_null_arguments_that_a_model_wrote_are_kept(
    tmp_path: Path, calls: list[dict[str, Any]], tools: dict[str, Any]
) -> None:
    rows, statements = write_and_read(
        tmp_path / "a.jsonl", [record_with_calls(c, **tools) for c in calls]
    )
    assert [row.messages[1].tool_calls for row in rows] == [(c,) for c in calls] and len(
        statements
    ) == 1


def test_json_text_in_parquet_keeps_its_nulls(tmp_path: Path) -> None:
    texts = [
        {"function": {"name": n, "arguments": json.dumps(a)}}
        for n, a in (("weather", {"town": None}), ("price", {"ticker": "ABC"}))
    ]
    rows, statements = write_and_read(
        tmp_path / "a.parquet", [record_with_calls(text) for text in texts]
    )
    assert [row.messages[1].tool_calls for row in rows] == [
        (call("weather", town=None),),
        (call("price", ticker="ABC"),),
    ] and len(statements) == 1


def test_a_required_argument_that_is_null_stays(tmp_path: Path) -> None:
    nullable = tool("weather", town={"type": ["string", "null"]}, unit=TOWN)
    nullable["function"]["parameters"]["required"] = ["town"]
    (row,), _ = write_and_read(
        tmp_path / "a.parquet",
        [record_with_calls(call("weather", town=None, unit=None), tools=[nullable])],
    )
    assert row.messages[1].tool_calls == (call("weather", town=None),)


def test_nested_arguments_lose_the_keys_of_other_calls(tmp_path: Path) -> None:
    calls = [
        call("find", where={"room": "attic"}, many=[{"a": 1}]),
        call("find", where={"box": 3}, many=[{"b": 2}, {"a": 3}]),
    ]
    rows, _ = write_and_read(tmp_path / "a.parquet", [record_with_calls(c) for c in calls])
    assert [row.messages[1].tool_calls for row in rows] == [(c,) for c in calls]


def test_arrow_maps_are_read_as_objects(tmp_path: Path) -> None:
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
    call_turns = [
        {
            "role": "assistant",
            "tool_calls": [{"function": {"name": "f", "arguments": [("a", "1"), ("b", None)]}}],
        }
    ]
    table = pyarrow.Table.from_pylist(
        [{"messages": [USER_TURN, *call_turns]}],
        pyarrow.schema([("messages", pyarrow.list_(turn))]),
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (row,) = reader.read_file(tmp_path / "a.parquet", {})
    assert row.messages[1].tool_calls == (call("f", a="1", b=None),)


def test_nulls_of_answers_stay(tmp_path: Path) -> None:
    records = [
        {"prompt": "p", "completion": {"date": None, "sum": 3}},
        {"prompt": "q", "completion": {"date": "today", "sum": None}},
    ]
    rows, _ = write_and_read(tmp_path / "a.parquet", records)
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
    tool_schema = {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "x",
            "strict": None,
            "parameters": parameters,
        },
    }
    text = json.dumps([tool_schema]) if kind == "parquet" else [tool_schema]
    (row,), statements = write_and_read(
        tmp_path / f"a.{kind}", [record_with_calls(call("weather", town="Ulm"), tools=text)]
    )
    expected = {"town": {**TOWN, "default": "x"}, "list": {"type": "array", "items": TOWN}}
    assert row.tools[0]["function"]["parameters"] == {
        "type": "object",
        "properties": expected,
        "required": ["town"],
    }
    assert "strict" not in row.tools[0]["function"] and statements[1].startswith(
        "5 nulls in the schemas"
    )


def test_null_that_a_schema_may_have_stays(tmp_path: Path) -> None:
    nullable = tool("weather", town={**TOWN, "default": None, "enum": ["Ulm", None], "const": None})
    assert read_chat(tmp_path / "a.jsonl", USER_TURN, ASSISTANT_TURN, tools=[nullable]).tools == (
        nullable,
    )


def test_required_property_without_a_schema_is_refused(tmp_path: Path) -> None:
    broken = tool("weather", town=None)
    broken["function"]["parameters"]["required"] = ["town"]
    assert "hold null where a JSON schema belongs, for town" in refusal_of(
        tmp_path / "a.jsonl", USER_TURN, ASSISTANT_TURN, tools=[broken]
    )
    broken["function"]["parameters"]["required"] = []
    read_chat(tmp_path / "b.jsonl", USER_TURN, ASSISTANT_TURN, tools=[broken])


def test_nulls_in_typed_answers_are_counted(tmp_path: Path) -> None:
    records = [{"prompt": "p", "completion": {"a": 1}}, {"prompt": "q", "completion": {"b": 1}}]
    _, statements = write_and_read(tmp_path / "a.parquet", records)
    assert (
        statements[2].startswith("2 nulls in answers kept")
        and "store the answers as JSON text" in statements[2]
    )
    rows, statements = write_and_read(
        tmp_path / "b.parquet", [{**r, "completion": json.dumps(r["completion"])} for r in records]
    )
    assert [row.answer for row in rows] == ['{"a": 1}', '{"b": 1}'] and len(statements) == 1
