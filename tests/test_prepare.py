import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SHARED_DATA, SMALL, write_rows
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

Run = Callable[..., tuple[int, str]]
WORDS = [
    "amber",
    "basil",
    "cedar",
    "dune",
    "ember",
    "fjord",
    "grove",
    "heron",
    "inlet",
    "jetty",
    "knoll",
    "larch",
    "maple",
    "north",
    "opal",
    "pine",
    "reef",
    "slate",
    "tarn",
    "vale",
]


def records(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows that resemble each other in nothing."""

    def prompt(i: int) -> str:
        return f"{WORDS[i % 20]} {WORDS[i * 7 % 19]} {i * 7919 % 100_003} {WORDS[i // 20 % 20]}?"

    return [
        {"id": f"r{i}", "prompt": prompt(i), "completion": f"It is {WORDS[i % 17]}."}
        for i in range(start, start + count)
    ]


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def sides(prepared: Any) -> dict[str, str]:
    return {row.id: name for name in ("train", "validation", "test") for row in prepared.rows(name)}


# -------------------------------------------------------------------------------------- the command
def test_prepared_set_is_written_reported_and_trained_on(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", records(60))
    code, printed = hydratune(
        "prepare", "model=tiny", "data=files", "data.train=rows.jsonl", "output=out"
    )
    assert code == 0
    assert "read as prompt/completion" in printed
    told = report(tmp_path / "out")
    assert sum(s["rows"] for s in told["splits"].values()) == 60
    assert told["tokens"]["splits"]["train"]["rows"] == told["splits"]["train"]["rows"]
    assert [piece[0] for piece in told["mask"][0]["pieces"] if piece[1]][-1] == "<|im_end|>"
    assert (tmp_path / "out" / "report.html").is_file()
    import datasets

    data = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out" / "train.parquet"), split="train"
    )
    assert data[0]["messages"][1] == {"role": "assistant", "content": "It is amber."}
    code, printed = hydratune(
        "train", *SMALL, "data=prepared", "data.path=out", "hydra.run.dir=run"
    )
    assert code == 0, printed
    assert (
        json.loads((tmp_path / "run" / "data.json").read_text())["prepared"] == told["fingerprint"]
    )


def test_prepared_set_takes_its_system_prompt_and_schema_along(
    hydratune: Run, tmp_path: Path
) -> None:
    write_rows(
        tmp_path / "rows.jsonl",
        [{**r, "completion": json.dumps({"n": i})} for i, r in enumerate(records(40))],
    )
    (tmp_path / "schema.json").write_text('{"type": "object", "required": ["n"]}')
    settings = (
        "prepare",
        "model=tiny",
        "data=files",
        "data.train=rows.jsonl",
        "data.schema_file=schema.json",
    )
    code, printed = hydratune(*settings, "data.system_prompt=Count.")
    assert (code, "outputs/prepared/rows/train.parquet" in printed) == (0, True)
    code, printed = hydratune(
        "train", *SMALL, "data=prepared", "data.path=outputs/prepared/rows", "hydra.run.dir=run"
    )
    assert code == 0, printed
    assert json.loads((tmp_path / "run" / "schema.json").read_text()) == {
        "type": "object",
        "required": ["n"],
    }
    prediction = json.loads((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()[0])
    assert "Count." in json.dumps(prediction["prompt"])


def test_answers_against_the_schema_refuse_training(hydratune: Run, tmp_path: Path) -> None:
    write_rows(
        tmp_path / "rows.jsonl",
        [{**r, "completion": json.dumps({"n": i})} for i, r in enumerate(records(40))],
    )
    (tmp_path / "schema.json").write_text(
        '{"type": "object", "properties": {"n": {"maximum": 38}}}'
    )
    settings = (
        "train",
        *SMALL,
        "data=files",
        "data.train=rows.jsonl",
        "data.schema_file=schema.json",
    )
    code, printed = hydratune(*settings)
    assert (code, "schema: 1 answers that are not valid" in printed, "r39" in printed) == (
        2,
        True,
        True,
    )
    code, printed = hydratune(*settings, "data.quality.schema=warn")
    assert (code, "schema 1" in printed) == (0, True)


def test_place_that_cannot_be_written_is_one_message(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", records(30))
    (tmp_path / "file").write_text("x")
    code, printed = hydratune(
        "prepare", "model=tiny", "data=files", "data.train=rows.jsonl", "output=file/below"
    )
    assert (code, "cannot write into file/below" in printed) == (2, True)


def test_folders_of_the_datasets_library_are_read(hydratune: Run, tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list(records(40))
    datasets.DatasetDict(
        {"train": rows.select(range(30)), "test": rows.select(range(30, 40))}
    ).save_to_disk(tmp_path / "saved")
    settings = ("prepare", "model=tiny", "data=hub", "data.id=saved", "output=out")
    assert hydratune(*settings, "data.test=test")[0] == 0
    assert report(tmp_path / "out")["splits"]["test"]["rows"] == 10
    code, printed = hydratune(*settings, "data.test=exam")
    assert (code, "cannot load split 'exam'" in printed) == (2, True)


def test_errors_are_reported_and_nothing_is_given_to_training(
    hydratune: Run, tmp_path: Path
) -> None:
    rows = records(30)
    write_rows(tmp_path / "train.jsonl", rows)
    write_rows(tmp_path / "test.jsonl", [{**rows[3], "id": "leaked"}, *records(5, 100)])
    settings = ("model=tiny", "data=files", "data.train=train.jsonl", "data.test=test.jsonl")
    assert hydratune("prepare", *settings, "output=out", "data.quality.exact_leaks=warn")[0] == 0
    code, printed = hydratune("prepare", *settings, "output=out")
    assert code == 2
    assert "exact_leaks" in printed
    assert "data.clean.drop_leaks=true" in printed
    assert report(tmp_path / "out")["checks"]["exact_leaks"]["rows"] == ["leaked"]
    assert not list((tmp_path / "out").glob("*.parquet"))  # nor the ones of the earlier run
    code, printed = hydratune("train", *SMALL, *settings)
    assert code == 2
    assert "leaked" in printed
    code, printed = hydratune("prepare", *settings, "output=out", "data.clean.drop_leaks=true")
    assert code == 0
    assert report(tmp_path / "out")["cleaning"]["drop_leaks"]["ids"] == ["r3"]
    assert report(tmp_path / "out")["checks"]["exact_leaks"]["count"] == 0


def fixes(printed: str, name: str) -> list[str]:
    """The settings that what was said of a check tells to type."""
    said = printed[printed.index(f"  {name}: ") :].partition("fix: ")[2].partition("\n")[0]
    return re.findall(r"data\.[\w.]+=\w+", said)


def test_test_row_in_validation_is_called_so_and_its_fix_removes_the_validation_row(
    hydratune: Run, tmp_path: Path
) -> None:
    rows = records(60)
    write_rows(tmp_path / "train.jsonl", rows[:40])
    write_rows(tmp_path / "validation.jsonl", rows[40:50])
    write_rows(
        tmp_path / "test.jsonl",
        [{**rows[45], "id": "leaked", "prompt": rows[45]["prompt"].upper()}, *rows[50:]],
    )
    files = [f"data.{name}={name}.jsonl" for name in ("train", "validation", "test")]
    settings = ("prepare", "model=tiny", "data=files", *files, "output=out")
    code, printed = hydratune(*settings)
    assert code == 2
    assert (
        "exact_leaks: 1 requests that an earlier split contains too (1 test in validation);"
        " the first: leaked" in printed
    )
    assert "data.clean.drop_leaks=true removes 1 validation row," in printed
    first, second = fixes(printed, "exact_leaks")
    assert hydratune(*settings, second)[0] == 0
    code, printed = hydratune(*settings, first)
    assert code == 0, printed
    told = report(tmp_path / "out")
    assert told["cleaning"]["drop_leaks"]["ids"] == ["r45"]
    assert {name: split["rows"] for name, split in told["splits"].items()} == {
        "train": 40,
        "validation": 9,
        "test": 11,
    }
    assert "there were 1 before data.clean.drop_leaks" in told["checks"]["exact_leaks"]["note"]


def test_only_what_is_in_training_is_said_to_leak_from_it(tmp_path: Path) -> None:
    rows = records(60)
    write_rows(tmp_path / "train.jsonl", rows[:40])
    write_rows(tmp_path / "validation.jsonl", rows[40:50])
    write_rows(
        tmp_path / "test.jsonl", [{**rows[i], "id": f"leaked-{i}"} for i in (3, 45)] + rows[50:]
    )
    prepared = prepare(
        FilesData(
            **{name: str(tmp_path / f"{name}.jsonl") for name in ("train", "validation", "test")}
        )
    )
    assert prepared.report["checks"]["exact_leaks"]["rows"] == ["leaked-3", "leaked-45"]
    assert prepared.leaks == {"leaked-3"}


def test_repeats_are_counted_by_split_and_their_fix_removes_what_it_says(
    hydratune: Run, tmp_path: Path
) -> None:
    rows = records(60)
    repeats = [
        {**rows[i], "id": f"again-{i}", "prompt": rows[i]["prompt"].upper()} for i in (1, 2, 3)
    ]
    write_rows(
        tmp_path / "train.jsonl",
        [*rows[:40], *repeats, {**rows[4], "id": "symbols", "prompt": f"[{rows[4]['prompt']}]"}],
    )
    write_rows(tmp_path / "validation.jsonl", rows[40:50])
    write_rows(tmp_path / "test.jsonl", [*rows[50:], {**rows[55], "id": "again-55"}])
    files = [f"data.{name}={name}.jsonl" for name in ("train", "validation", "test")]
    settings = ("prepare", "model=tiny", "data=files", *files, "output=out")
    code, printed = hydratune(*settings, "data.quality.exact_duplicates=error")
    assert code == 2
    assert (
        "exact_duplicates: 5 rows that repeat the request and the answer of an earlier row (train"
        " 4, test 1)" in printed
    )
    assert (
        "data.clean.drop_duplicates=true removes 3 of them from training; those in validation and"
        " test, and those that" in printed
    )
    code, printed = hydratune(*settings, fixes(printed, "exact_duplicates")[0])
    told = report(tmp_path / "out")
    assert (code, told["cleaning"]["drop_duplicates"]["ids"]) == (
        0,
        ["again-1", "again-2", "again-3"],
    )
    assert told["checks"]["exact_duplicates"]["rows"] == ["symbols", "again-55"]
    assert told["checks"]["exact_duplicates"]["splits"] == {"train": 1, "test": 1}


def test_system_prompt_is_no_hiding_place_for_a_test_row(hydratune: Run, tmp_path: Path) -> None:
    def chat(r: dict[str, Any], system: str) -> dict[str, Any]:
        said = [("system", system), ("user", r["prompt"]), ("assistant", r["completion"])]
        return {
            "id": f"{r['id']}-{system}",
            "messages": [{"role": role, "content": text} for role, text in said],
        }

    rows = records(60)
    write_rows(
        tmp_path / "train.jsonl",
        [chat(r, "You answer questions of visitors to the forest.") for r in rows[:40]],
    )
    write_rows(tmp_path / "validation.jsonl", [chat(r, "Say it.") for r in rows[40:50]])
    write_rows(tmp_path / "test.jsonl", [chat(r, "Be brief.") for r in (*rows[:7], *rows[50:])])
    files = [f"data.{name}={name}.jsonl" for name in ("train", "validation", "test")]
    settings = ("prepare", "model=tiny", "data=files", *files, "output=out")
    code, printed = hydratune(*settings, "data.quality.turn_leaks=error")
    assert (code, "(7 test in train)" in printed) == (2, True)
    assert report(tmp_path / "out")["checks"]["exact_leaks"]["count"] == 0
    code, printed = hydratune(*settings, fixes(printed, "turn_leaks")[0])
    told = report(tmp_path / "out")
    assert (
        code,
        told["checks"]["turn_leaks"]["count"],
        told["splits"]["train"]["rows"],
        told["splits"]["test"]["rows"],
    ) == (0, 0, 33, 17)


def test_empty_requests_are_refused_with_their_line(hydratune: Run, tmp_path: Path) -> None:
    rows = records(60)
    rows[7]["prompt"] = " \n"
    write_rows(tmp_path / "rows.jsonl", rows)
    settings = ("prepare", "model=tiny", "data=files", "data.train=rows.jsonl", "output=out")
    code, printed = hydratune(*settings)
    assert code == 2
    assert "empty_requests: 1 rows with an empty user turn" in printed
    assert "rows.jsonl:8" in printed
    assert hydratune(*settings, *fixes(printed, "empty_requests"))[0] == 0


def test_train_names_what_was_found_with_its_splits_and_what_is_left(
    hydratune: Run, tmp_path: Path
) -> None:
    rows = records(60)
    for i in (1, 2, 55):
        rows[i]["prompt"] = f"<p>{rows[i]['prompt']}</p>"
    rows[3]["completion"] = "It is pine.</s>"
    write_rows(tmp_path / "train.jsonl", rows[:40])
    write_rows(tmp_path / "validation.jsonl", rows[40:50])
    write_rows(tmp_path / "test.jsonl", [*rows[50:], {**rows[9], "id": "leaked"}])
    files = [f"data.{name}={name}.jsonl" for name in ("train", "validation", "test")]
    settings = ("train", *SMALL, "data=files", *files, "data.quality.exact_leaks=warn")
    code, printed = hydratune(*settings, "hydra.run.dir=run")
    assert code == 0, printed
    line = next(line for line in printed.splitlines() if "data checks found" in line)
    assert "exact_leaks 1 (1 test in train)" in line
    assert "rendered 1 (train 1)" in line
    assert "html 3 (train 2, test 1; data.clean.html=true repairs them)" in line
    kept = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (kept["left"], kept["quality"]["rendered"]["splits"]) == ({"html": 3}, {"train": 1})
    code, printed = hydratune(*settings, "data.clean.html=true", "hydra.run.dir=again")
    assert (code, "cleaned: html 3" in printed, "html 3 (train" in printed) == (0, True, False)


def test_leaks_are_removed_from_validation_as_well(tmp_path: Path) -> None:
    rows = records(40)
    files = {
        "train": rows[:30],
        "validation": [*rows[30:36], rows[5]],
        "test": [*rows[36:], rows[31], rows[2]],
    }
    data = FilesData(
        **{name: str(write_rows(tmp_path / f"{name}.jsonl", own)) for name, own in files.items()}
    )
    data.clean.drop_leaks = True
    prepared = prepare(data)
    assert [len(list(prepared.rows(name))) for name in files] == [28, 6, 6]
    assert sorted(prepared.report["cleaning"]["drop_leaks"]["ids"]) == ["r2", "r31", "r5"]
    assert prepared.report["checks"]["near_leaks"]["count"] == 0


def test_split_that_leaves_little_for_training_is_an_error(hydratune: Run, tmp_path: Path) -> None:
    rows = [{**r, "group": "big" if i < 80 else f"g{i}"} for i, r in enumerate(records(100))]
    file = str(write_rows(tmp_path / "rows.jsonl", rows))
    by_fraction = {
        f: prepare(FilesData(train=file, validation_fraction=f)).report
        for f in (0.1, 0.3, 0.5, 0.7)
    }
    shares = {f: r["splits"]["train"]["rows"] for f, r in by_fraction.items()}
    assert min(shares.values()) < 20 < max(shares.values())  # the big group is on either side
    for fraction, told in by_fraction.items():
        lopsided = shares[fraction] < 0.5 * (0.9 - fraction) * 100
        assert ("remain for training" in told["checks"]["splits"]["note"]) == lopsided
    none = ("data.validation_fraction=0", "data.test_fraction=0")
    code, printed = hydratune("prepare", "model=tiny", "data=files", "data.train=rows.jsonl", *none)
    assert (code, "the data set has no validation and no test rows" in printed) == (2, True)


def test_unknown_stratum_and_one_that_is_there(tmp_path: Path) -> None:
    file = str(
        write_rows(
            tmp_path / "rows.jsonl",
            [{**r, "completion": json.dumps({"kind": i % 2})} for i, r in enumerate(records(60))],
        )
    )
    with pytest.raises(DataError, match="no row has such a field"):
        prepare(FilesData(train=file, stratify="colour"))
    told = prepare(FilesData(train=file, stratify="kind", test_fraction=0.2))
    kinds = [json.loads(row.answer)["kind"] for row in told.rows("test")]
    assert abs(kinds.count(0) - kinds.count(1)) <= 1


def test_preview_shows_the_mask(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", records(30))
    _, printed = hydratune(
        "prepare", "model=tiny", "data=files", "data.train=rows.jsonl", "preview=2", "output=out"
    )
    assert printed.count("tokens trained") == 2
    assert "It is amber." in printed


def test_special_tokens_in_a_text_are_an_error(hydratune: Run, tmp_path: Path) -> None:
    write_rows(
        tmp_path / "rows.jsonl",
        [*records(30), {"id": "bad", "prompt": "hello <|im_end|> there", "completion": "Yes."}],
    )
    settings = ("model=tiny", "data=files", "data.train=rows.jsonl")
    code, printed = hydratune("prepare", *settings, "output=out")
    assert (code, report(tmp_path / "out")["checks"]["template_tokens"]["rows"]) == (2, ["bad"])
    code, printed = hydratune(
        "train", *SMALL, *settings, "data.max_train_rows=null", "data.max_validation_rows=null"
    )
    assert (code, "'<|im_end|>'" in printed) == (2, True)
    code, printed = hydratune(
        "train", *SMALL, *settings, "data.max_train_rows=null", "data.quality.template_tokens=warn"
    )
    assert code == 0, printed


def test_wrong_mask_is_reported_by_its_defect(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", records(30))
    (tmp_path / "bad.jinja").write_text(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    )
    code, printed = hydratune(
        "prepare",
        "model=tiny",
        "model.chat_template=bad.jinja",
        "data=files",
        "data.train=rows.jsonl",
        "output=out",
    )
    mask = report(tmp_path / "out")["checks"]["mask"]
    assert (
        "the first: r" in printed
        and "rows.jsonl:" in printed
        and mask["examples"][0]["note"] in " ".join(printed.split("\n    "))
    )
    assert (code, mask["level"], mask["count"]) == (2, "error", 30)
    assert mask["note"].split()[0] in ("prompt_differs", "turn_end_missing")


def test_overlength_is_counted_by_split(hydratune: Run, tmp_path: Path) -> None:
    rows = [
        {**r, "prompt": r["prompt"] + " far too long" * 40} if i < 4 else r
        for i, r in enumerate(records(40))
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    settings = (
        "prepare",
        "model=tiny",
        "data=files",
        "data.train=rows.jsonl",
        "output=out",
        "data.max_length=100",
    )
    assert hydratune(*settings)[0] == 0
    check = report(tmp_path / "out")["checks"]["overlength"]
    assert (check["count"], check["level"]) == (4, "warn")
    assert "dropped in training" in check["note"]
    assert (
        sum(split["too_long"] for split in report(tmp_path / "out")["tokens"]["splits"].values())
        == 4
    )
    assert hydratune(*settings, "data.overlength=error")[0] == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["output=full"], "contains other files: mine.txt"),
        (["output=rows.jsonl"], "this is a file"),
        (["data.quality.exact_leaks=never"], "expected one of"),
        (["data.quality.exact_leak=warn"], "exact_leaks"),
        (["data.clean.htm=true"], "html"),
        (["data.quality.similarity=0.1"], "must be in"),
        (["data.quality.pii_names=warn"], "presidio is not installed"),
        (["data.columns=x"], "data.columns"),
    ],
)
def test_wrong_settings_are_one_message(
    hydratune: Run, tmp_path: Path, settings: list[str], words: str
) -> None:
    write_rows(tmp_path / "rows.jsonl", records(30))
    write_rows(tmp_path / "full" / "x.jsonl", records(3)).with_name("mine.txt").write_text(
        "precious"
    )
    (tmp_path / "full" / "x.jsonl").unlink()
    code, printed = hydratune(
        "prepare", "model=tiny", "data=files", "data.train=rows.jsonl", *settings
    )
    assert (code, "Traceback" in printed) == (2, False)
    assert words in printed


def test_unquoted_off_is_explained(hydratune: Run, tmp_path: Path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndata:\n  quality:\n    size: off\n"
    )
    code, printed = hydratune("prepare", "--config-dir", "own", "experiment=mine")
    assert (code, 'write it in quotes: "off"' in printed) == (2, True)


# ---------------------------------------------------------------------------------- cache and files
def test_same_data_is_prepared_once_and_any_change_prepares_anew(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", records(30))
    assert not prepare(FilesData(train=str(file))).reused
    # settings that change no row
    again = prepare(FilesData(train=str(file), batch_size=3, max_length=77))
    assert again.reused
    assert not prepare(FilesData(train=str(file), test_fraction=0.3)).reused
    assert not prepare(
        FilesData(train=str(file), train_on=TrainOn.last)
    ).reused  # decides which turns can leak
    write_rows(file, records(31))
    changed = prepare(FilesData(train=str(file)))
    assert not changed.reused
    assert changed.report["fingerprint"] != again.report["fingerprint"]


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


def test_rows_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
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


# ------------------------------------------------------------------------------ cleaning and mixing
def test_cleaning_happens_before_checks_and_never_empties_an_answer(tmp_path: Path) -> None:
    rows = [*records(20), {"id": "d1", "prompt": "One\u200b two three", "completion": "Four."}]
    rows.append({"id": "d2", "prompt": "One two three", "completion": "Four. "})
    file = write_rows(tmp_path / "rows.jsonl", rows)
    told = prepare(FilesData(train=str(file))).report
    assert told["checks"]["exact_duplicates"]["rows"] == ["d2"]
    assert told["cleaning"]["control"]["rows"] == 1
    dropped = FilesData(train=str(file))
    dropped.clean.drop_duplicates = True
    told = prepare(dropped).report
    assert (
        told["cleaning"]["drop_duplicates"]["ids"],
        told["checks"]["exact_duplicates"]["count"],
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
    told = prepare(data).report["cleaning"]["boilerplate"]
    assert (told["on"], told["rows"], told["examples"][0]["before"]) == (
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


def test_parts_that_do_not_fit_together_are_refused(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", records(30))
    a = ("+data.parts.a.source=files", "+data.parts.a.train=a.jsonl")
    code, printed = hydratune(
        "prepare",
        "model=tiny",
        "data=mixed",
        *a,
        "+data.parts.a.batch_size=2",
        "+data.parts.b.source=fils",
    )
    assert code == 2
    assert "set data.batch_size" in printed
    assert "data.parts.b.source = fils" in printed
    b = ("+data.parts.b.source=files", "+data.parts.b.train=a.jsonl", "+data.parts.b.test=a.jsonl")
    code, printed = hydratune("prepare", "model=tiny", "data=mixed", *a, *b)
    assert (code, "give them to all, or to none" in printed) == (2, True)


# ---------------------------------------------------------------------------------------- real data
real = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason="the published data sets are not beside the project"
)


@real
def test_snips_has_the_known_faults(hydratune: Run, tmp_path: Path) -> None:
    code, _ = hydratune(
        "prepare",
        "model=tiny",
        "data=snips",
        f"data.path={SHARED_DATA / 'snips'}",
        "data.clean.drop_leaks=false",
        "output=out",
    )
    checks = report(tmp_path / "out")["checks"]
    assert code == 2  # it leaks
    assert abs(checks["exact_duplicates"]["count"] - 251) <= 5
    assert checks["label_conflicts"]["count"] == 5
    assert checks["exact_leaks"]["count"] == len(checks["exact_leaks"]["rows"]) == 18
    assert checks["near_leaks"]["count"] >= 32
    assert checks["encoding"]["rows"][0].startswith("train_PlayMusic_full")


@real
@pytest.mark.slow
def test_gsm8k_is_clean(hydratune: Run, tmp_path: Path) -> None:
    files = (
        f"data.train={SHARED_DATA / 'gsm8k' / 'train.jsonl'}",
        f"data.test={SHARED_DATA / 'gsm8k' / 'test.jsonl'}",
    )
    code, printed = hydratune(
        "prepare", "model=tiny", "data=files", *files, "output=out", "data.quality.ungrounded=off"
    )
    checks = report(tmp_path / "out")["checks"]
    assert code == 0, printed
    assert [
        checks[n]["count"]
        for n in ("exact_duplicates", "exact_leaks", "near_leaks", "label_conflicts")
    ] == [0, 0, 0, 0]


@real
def test_nl2bash_keeps_several_answers_and_shows_addresses() -> None:
    from hydratune.data.cases.tech_support import TechSupportData

    told = prepare(TechSupportData(path=str(SHARED_DATA / "nl2bash"))).report
    # 892 with ".JPG" and ".jpg", "Unix_" and "unix_" as one request
    assert abs(told["checks"]["multi_answer"]["count"] - 881) <= 2
    assert abs(told["checks"]["pii_email"]["count"] - 52) <= 5
    assert told["checks"]["label_conflicts"]["count"] == 0
    assert (
        sum(s["rows"] for s in told["splits"].values()) + told["left_out"]["straddles"]["rows"]
        == 12_607
    )


@real
def test_cuad_split_keeps_companies_and_near_duplicates_together_and_is_stable(
    tmp_path: Path,
) -> None:
    from hydratune.data.cases.cuad import CuadData
    from hydratune.data.quality.duplicates import grams, jaccard
    from hydratune.data.quality.equality import normalised
    from hydratune.data.quality.row_checks import request

    full = prepare(CuadData(path=str(SHARED_DATA / "cuad")))
    rows = {name: list(full.rows(name)) for name in ("train", "validation", "test")}
    groups = [{row.group for row in own} for own in rows.values()]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    texts = [(name, grams(normalised(request(row)))) for name, own in rows.items() for row in own]
    assert all(
        jaccard(a, b) < 0.8
        for i, (one, a) in enumerate(texts)
        for other, b in texts[:i]
        if one != other
    )
    lines = (SHARED_DATA / "cuad" / "master_clauses.csv").read_text("utf-8-sig")
    import csv
    import io

    table = list(csv.reader(io.StringIO(lines, newline="")))
    with (tmp_path / "master_clauses.csv").open("w", newline="", encoding="utf-8") as stream:
        # what there was before the last 50 contracts were added
        csv.writer(stream).writerows(table[:-50])
    fewer, all_of_them = sides(prepare(CuadData(path=str(tmp_path)))), sides(full)
    assert len(all_of_them) - len(fewer) > 40
    assert {row: side for row, side in all_of_them.items() if row in fewer} == fewer
