"""The data checks in hydratune prepare and train: leaks, duplicates, splits, and their fixes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import SMALL, write_rows
from hydratune.data.preparation import prepare
from hydratune.data.sources.files import FilesData
from prepared_sets import records, report_of

Run = Callable[..., tuple[int, str]]


def test_answers_that_are_invalid_under_the_schema_stop_training(
    hydratune: Run, tmp_path: Path
) -> None:
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
    assert (code, "schema: 1 answer that is not valid" in printed, "r39" in printed) == (
        2,
        True,
        True,
    )
    code, printed = hydratune(*settings, "data.quality.schema=warn")
    assert (code, "schema 1" in printed) == (0, True)


def test_errors_are_reported_and_nothing_is_written_for_training(
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
    assert report_of(tmp_path / "out")["checks"]["exact_leaks"]["rows"] == ["leaked"]
    assert not list(
        (tmp_path / "out").glob("*.parquet")
    )  # those of the earlier run are removed too
    code, printed = hydratune("train", *SMALL, *settings)
    assert code == 2
    assert "leaked" in printed
    code, printed = hydratune("prepare", *settings, "output=out", "data.clean.drop_leaks=true")
    assert code == 0
    assert report_of(tmp_path / "out")["cleaning"]["drop_leaks"]["ids"] == ["r3"]
    assert report_of(tmp_path / "out")["checks"]["exact_leaks"]["count"] == 0


def fixes(printed: str, name: str) -> list[str]:
    """Return the settings that the fix of a check names, in what was printed."""
    message = printed[printed.index(f"  {name}: ") :].partition("fix: ")[2].partition("\n")[0]
    return re.findall(r"data\.[\w.]+=\w+", message)


def test_a_test_row_in_validation_is_reported_and_its_fix_removes_the_validation_row(
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
        "exact_leaks: 1 request that an earlier split contains too (1 test in validation);"
        " the first: leaked" in printed
    )
    assert "data.clean.drop_leaks=true removes 1 validation row," in printed
    first, second = fixes(printed, "exact_leaks")
    assert hydratune(*settings, second)[0] == 0
    code, printed = hydratune(*settings, first)
    assert code == 0, printed
    report = report_of(tmp_path / "out")
    assert report["cleaning"]["drop_leaks"]["ids"] == ["r45"]
    assert {name: split["rows"] for name, split in report["splits"].items()} == {
        "train": 40,
        "validation": 9,
        "test": 11,
    }
    assert "there were 1 before data.clean.drop_leaks" in report["checks"]["exact_leaks"]["note"]


def test_only_rows_of_training_count_as_leaks_from_training(tmp_path: Path) -> None:
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


def test_duplicates_are_counted_by_split_and_the_fix_removes_the_stated_rows(
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
    report = report_of(tmp_path / "out")
    assert (code, report["cleaning"]["drop_duplicates"]["ids"]) == (
        0,
        ["again-1", "again-2", "again-3"],
    )
    assert report["checks"]["exact_duplicates"]["rows"] == ["symbols", "again-55"]
    assert report["checks"]["exact_duplicates"]["splits"] == {"train": 1, "test": 1}


def test_a_test_row_under_another_system_prompt_is_a_turn_leak(
    hydratune: Run, tmp_path: Path
) -> None:
    def chat(r: dict[str, Any], system: str) -> dict[str, Any]:
        texts = [("system", system), ("user", r["prompt"]), ("assistant", r["completion"])]
        return {
            "id": f"{r['id']}-{system}",
            "messages": [{"role": role, "content": text} for role, text in texts],
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
    assert report_of(tmp_path / "out")["checks"]["exact_leaks"]["count"] == 0
    code, printed = hydratune(*settings, fixes(printed, "turn_leaks")[0])
    report = report_of(tmp_path / "out")
    assert (
        code,
        report["checks"]["turn_leaks"]["count"],
        report["splits"]["train"]["rows"],
        report["splits"]["test"]["rows"],
    ) == (0, 0, 33, 17)


def test_empty_requests_are_refused_with_their_line(hydratune: Run, tmp_path: Path) -> None:
    rows = records(60)
    rows[7]["prompt"] = " \n"
    write_rows(tmp_path / "rows.jsonl", rows)
    settings = ("prepare", "model=tiny", "data=files", "data.train=rows.jsonl", "output=out")
    code, printed = hydratune(*settings)
    assert code == 2
    assert "empty_requests: 1 row with an empty user turn" in printed
    assert "rows.jsonl:8" in printed
    assert hydratune(*settings, *fixes(printed, "empty_requests"))[0] == 0


def test_train_states_findings_by_split_and_what_cleaning_does_not_repair(
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
        **{
            name: str(write_rows(tmp_path / f"{name}.jsonl", split_rows))
            for name, split_rows in files.items()
        }
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
    for fraction, report in by_fraction.items():
        lopsided = shares[fraction] < 0.5 * (0.9 - fraction) * 100
        assert ("remain for training" in report["checks"]["splits"]["note"]) == lopsided
    none = ("data.validation_fraction=0", "data.test_fraction=0")
    code, printed = hydratune("prepare", "model=tiny", "data=files", "data.train=rows.jsonl", *none)
    assert (code, "the data set has no validation and no test rows" in printed) == (2, True)
