"""The preparation of data: its cache, its files, cleaning and mixing."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from hydratune.data.preparation import prepare
from hydratune.data.prepared import read_prepared
from hydratune.data.rows import Message, Row
from hydratune.data.sets import load_sets
from hydratune.data.sources.files import FilesData
from hydratune.data.sources.mixed import MixedData
from hydratune.data.sources.prepared import PreparedData
from hydratune.data.store import RowStore, RowWriter
from hydratune.errors import DataError
from hydratune.settings.data import TrainOn
from prepared_sets import records

Run = Callable[..., tuple[int, str]]


def test_the_same_data_is_prepared_once_and_again_after_any_change(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", records(30))
    assert not prepare(FilesData(train=str(file))).reused
    # settings that change no row
    reused = prepare(FilesData(train=str(file), batch_size=3, max_length=77))
    assert reused.reused
    assert not prepare(FilesData(train=str(file), test_fraction=0.3)).reused
    assert not prepare(
        FilesData(train=str(file), train_on=TrainOn.last)
    ).reused  # decides which turns can leak
    write_rows(file, records(31))
    changed = prepare(FilesData(train=str(file)))
    assert not changed.reused
    assert changed.report["fingerprint"] != reused.report["fingerprint"]


def test_prepared_files_that_were_changed_are_refused(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", records(40))
    hydratune("prepare", "model=tiny", "data=files", "data.train=rows.jsonl", "output=out")
    assert len(load_sets(PreparedData(path=str(tmp_path / "out")), 0).train) > 20
    shutil.copyfile(tmp_path / "out" / "test.parquet", tmp_path / "out" / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: changed since"):
        read_prepared(tmp_path / "out")
    code, printed = hydratune("train", "data=prepared", "data.path=out", "data.test_fraction=0.5")
    assert (code, "a prepared data set is read without changes" in printed) == (2, True)
    code, printed = hydratune("train", "data=prepared", "data.path=elsewhere")
    assert (code, "no prepared data set" in printed) == (2, True)


def test_rows_read_from_disk_equal_the_rows_written(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": [1, "ü"]}}}
    rows = [
        Row(
            "a",
            (
                Message("system", "s"),
                Message("user", "q"),
                Message("assistant", "a\n", train=False),
            ),
            "g",
            {"k": 1},
            "f:1",
        ),
        Row(
            "b",
            (
                Message("assistant", "", reasoning="hm", tool_calls=(call,)),
                Message("tool", "r", tool_call_id="1", name="f"),
            ),
            tools=(call,),
        ),
    ] * 600
    writer = RowWriter(tmp_path / "rows.arrow")
    for row in rows:
        writer.add(row, row.id.upper())
    writer.close()
    store = RowStore(tmp_path / "rows.arrow")
    assert list(store) == rows
    assert (len(store), store[1199], store.key(600)) == (1200, rows[1199], "A")


def test_context_turns_and_tools_survive_preparation(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "a?"},
        {"role": "assistant", "content": "b.", "train": False},
    ]
    rows = [
        {
            "messages": [
                *turns,
                {"role": "user", "content": f"c{i}?"},
                {"role": "assistant", "content": "d."},
            ]
        }
        for i in range(12)
    ]
    prepared = prepare(FilesData(train=str(write_rows(tmp_path / "rows.jsonl", rows))))
    assert [m.train for m in next(prepared.rows("train")).messages] == [True, False, True, True]


def test_cleaning_happens_before_checks_and_never_empties_an_answer(tmp_path: Path) -> None:
    rows = [*records(20), {"id": "d1", "prompt": "One\u200b two three", "completion": "Four."}]
    rows.append({"id": "d2", "prompt": "One two three", "completion": "Four. "})
    file = write_rows(tmp_path / "rows.jsonl", rows)
    report = prepare(FilesData(train=str(file))).report
    assert report["checks"]["exact_duplicates"]["rows"] == ["d2"]
    assert report["cleaning"]["control"]["rows"] == 1
    dropped = FilesData(train=str(file))
    dropped.clean.drop_duplicates = True
    report = prepare(dropped).report
    assert (
        report["cleaning"]["drop_duplicates"]["ids"],
        report["checks"]["exact_duplicates"]["count"],
    ) == (["d2"], 0)
    write_rows(file, [*records(5), {"prompt": "q", "completion": "\u200b"}])
    with pytest.raises(DataError, match=r"rows\.jsonl:6: cleaning leaves nothing"):
        prepare(FilesData(train=str(file)))


def test_boilerplate_is_reported_and_removed_on_request(tmp_path: Path) -> None:
    rows = [
        {**r, "prompt": f"For internal use only, do not forward.\n{r['prompt']}"}
        for r in records(40)
    ]
    data = FilesData(train=str(write_rows(tmp_path / "rows.jsonl", rows)))
    report = prepare(data).report["cleaning"]["boilerplate"]
    assert (report["on"], report["rows"], report["examples"][0]["before"]) == (
        False,
        40,
        "For internal use only, do not forward.",
    )
    data.clean.boilerplate = True
    assert next(prepare(data).rows("train")).messages[0].content == records(1)[0]["prompt"]


def test_sources_are_mixed_by_weight_without_repeating_a_row(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", records(60))
    write_rows(tmp_path / "b.jsonl", records(40, 200))
    parts: dict[str, Any] = {
        "a": {
            "source": "files",
            "train": str(tmp_path / "a.jsonl"),
            "weight": 1,
            "system_prompt": "Be brief.",
        },
        "b": {"source": "files", "train": str(tmp_path / "b.jsonl"), "weight": 2},
    }
    prepared = prepare(MixedData(parts=parts))
    rows = [row for name in ("train", "validation", "test") for row in prepared.rows(name)]
    assert sorted(row.id[0] for row in rows) == ["a"] * 20 + ["b"] * 40
    assert len({row.id for row in rows}) == 60
    assert {row.messages[0].content for row in rows if row.meta["part"] == "a"} == {"Be brief."}
    assert any("33 % of all" in s for s in prepared.report["source"])
    assert any("read as prompt/completion" in s for s in prepared.report["source"])


def test_incompatible_parts_are_refused(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", records(30))
    a = ("data.parts.a.source=files", "data.parts.a.train=a.jsonl")
    code, printed = hydratune(
        "prepare",
        "model=tiny",
        "data=mixed",
        *a,
        "data.parts.a.batch_size=2",
        "data.parts.b.source=fils",
    )
    assert code == 2
    assert "set data.batch_size" in printed
    assert "data.parts.b.source = fils" in printed
    b = ("data.parts.b.source=files", "data.parts.b.train=a.jsonl", "data.parts.b.test=a.jsonl")
    code, printed = hydratune("prepare", "model=tiny", "data=mixed", *a, *b)
    assert (code, "give every part the same splits" in printed) == (2, True)
