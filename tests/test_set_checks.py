"""Checks against the whole data set: outliers, languages, truncated answers, splits."""

import random
from pathlib import Path

import numpy as np

from data_findings import conversation, findings_of, row
from hydratune.data.quality.findings import CHECKS, level_of
from hydratune.data.quality.inspection import Inspection
from hydratune.data.quality.labels import LabelCounter
from hydratune.data.quality.set_checks import run_checks
from hydratune.data.rows import Message, Row
from hydratune.data.sources.contracts import ContractsData
from hydratune.data.splits import Side
from hydratune.data.store import RowStore, RowWriter
from hydratune.settings.data import DataConfig, Level, QualityConfig


def test_every_quality_setting_has_a_description() -> None:
    settings = {name for name in QualityConfig.__dataclass_fields__ if name != "similarity"}
    assert settings <= CHECKS.keys()
    # the verdict of a judge (unsupported) has no setting
    assert {name for name in CHECKS if name not in settings} == {
        "mask",
        "overlength",
        "splits",
        "unsupported",
    }
    assert level_of(QualityConfig(), "mask") is Level.error


def test_split_without_rows_is_an_error(tmp_path: Path) -> None:
    findings = findings_of(
        tmp_path, [row(f"question {i}", id=str(i), group="one") for i in range(6)]
    )
    assert (findings["splits"].level, findings["splits"].note) == (
        Level.error,
        "the data set has no validation and no test rows",
    )


def test_a_label_that_is_null_is_not_the_text_none() -> None:
    schema = {"properties": {"renewal": {"enum": ["none", None]}}}
    counter = LabelCounter(schema)
    for answer in ('{"renewal": null}', '{"renewal": "none"}') * 20:
        counter.see(row("a request", answer), is_json=True)
    counts = counter.counts(np.ones(40, bool))
    assert counts == {"renewal": {"null": 20, "none": 20}}


def test_labels_are_counted_over_the_rows_that_are_kept(tmp_path: Path) -> None:
    rows = [row(f"{i} of many {i * 7919}", "yes" if i % 2 else "no", id=f"r{i}") for i in range(60)]
    data = DataConfig()
    data.clean.drop_duplicates = True
    inspection = Inspection(data, None)
    writer = RowWriter(tmp_path / "rows.arrow")
    for each in [*rows, rows[0], rows[0]]:
        writer.add(each, inspection.see(each, Side.train))
    writer.close()
    inspection.divide(RowStore(tmp_path / "rows.arrow"), set(Side), lambda steps: None)
    assert inspection.label_counts() == {"answer": {"no": 30, "yes": 30}}


def test_outliers_truncated_answers_and_duplicate_ids_are_named(tmp_path: Path) -> None:
    vocabulary = [
        "lorem",
        "ipsum",
        "dolor",
        "sit",
        "amet",
        "consectetur",
        "adipiscing",
        "elit",
        "sed",
        "do",
    ]
    rng = random.Random(0)
    rows = [
        row(
            " ".join(rng.choices(vocabulary, k=12)) + f" {i}",
            f"{' '.join(rng.choices(vocabulary, k=10))} {i}.",
            id=f"r{i}",
        )
        for i in range(40)
    ]
    rows.append(row("How long is it, I ask myself here", "word " * 400 + ".", id="long"))
    rows.append(
        row(
            "And what ends without a mark in here",
            "this sentence just ends in the middle of the",
            id="cut",
        )
    )
    rows.append(
        row(
            "Wie heißt die Hauptstadt von Frankreich, und seit wann ist sie das eigentlich schon?",
            id="german",
        )
    )
    rows.append(
        row(
            "Was ist die größte Stadt in Deutschland, und wie viele Menschen wohnen dort heute?",
            id="german",
        )
    )
    findings = findings_of(tmp_path, rows)
    assert findings["length_outliers"].rows == ["long"]
    assert findings["truncated_answers"].rows == ["cut"]
    assert findings["duplicate_ids"].rows == ["german", "german"]
    assert findings["size"].count == 44


def test_rows_in_another_language_are_named(tmp_path: Path) -> None:
    english = (
        "Please tell me what the weather will be like in the city of {} on the day after tomorrow"
    )
    rows = [row(english.format(f"place{i}"), id=f"en{i}") for i in range(10)]
    rows.append(
        row(
            "Bitte sag mir, wie das Wetter übermorgen in der Stadt werden wird, in der ich wohne",
            id="de",
        )
    )
    assert findings_of(tmp_path, rows)["language_mix"].rows == ["de"]


def test_answers_are_checked_against_the_schema_and_each_other(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}, "required": ["kind"]}
    rows = [row(f"question number {i} of many", '{"kind": "a"}', id=f"r{i}") for i in range(20)]
    rows += [
        row("a bad kind of thing", '{"kind": "c"}', id="invalid"),
        row("prose instead of it", "kind a", id="prose"),
    ]
    findings = findings_of(tmp_path, rows, schema=schema)
    assert findings["schema"].rows == ["invalid", "prose"]
    assert findings["mixed_answers"].rows == ["prose"]
    assert "kind=a: 20 of 21" in findings["label_balance"].note


def test_an_additional_check_is_reported_with_the_others(tmp_path: Path) -> None:
    inspection = Inspection(
        DataConfig(),
        None,
        extra={"ungrounded": lambda r: "made up" if "moon" in r.answer else None},
    )
    writer = RowWriter(tmp_path / "rows.arrow")
    for each in (row("a", "cheese"), row("b", "moon cheese")):
        writer.add(each, inspection.see(each, Side.train))
    writer.close()
    store = RowStore(tmp_path / "rows.arrow")
    inspection.divide(store, set(Side), lambda steps: None)
    finding = next(f for f in run_checks(inspection, store) if f.name == "ungrounded")
    assert (finding.rows, finding.examples[0]["note"]) == (["b"], "made up")


def test_builtin_contracts_pass_their_own_checks() -> None:
    from hydratune.data.preparation import prepare

    report = prepare(ContractsData(train_rows=60, validation_rows=20, test_rows=30)).report
    assert {n for n, c in report["checks"].items() if c["count"]} <= {
        "size",
        "near_duplicates",
        "ungrounded",
        "label_balance",
    }


def test_half_a_capitalised_word_is_truncated_where_other_answers_have_the_whole_word(
    tmp_path: Path,
) -> None:
    rows = [
        row(f"question {i * 7919}", f"Open the settings and choose Security number {i}", id=f"r{i}")
        for i in range(20)
    ]
    rows.append(row("Where is it?", "Open the settings and then choose Secur", id="cut"))
    rows.append(row("Who is it?", "Open the settings and then choose Sec", id="short"))
    assert findings_of(tmp_path, rows)["truncated_answers"].rows == ["cut"]


def test_empty_requests_are_an_error_unless_most_requests_are_empty(tmp_path: Path) -> None:
    empty = [
        row(text, "Yes, it is.", id=f"empty-{i}")
        for i, text in enumerate(("", "  \n\t", "\u200b\u2060"))
    ]
    inner = conversation("inner", "How are you?", "Well.", " ", "Still well.")
    rows = [*empty, inner, *(row(f"question number {i}", id=f"r{i}") for i in range(6))]
    finding = findings_of(tmp_path, rows)["empty_requests"]
    assert (finding.level, finding.rows) == (
        Level.error,
        ["empty-0", "empty-1", "empty-2", "inner"],
    )
    assert finding.examples[3]["note"] == "turn 3 is empty"
    system = Row("system", (Message("system", "Write a poem."), Message("assistant", "Roses.")))
    assert findings_of(tmp_path, [system, *rows[4:]])["empty_requests"].count == 0
    mostly_empty = findings_of(tmp_path, empty)["empty_requests"]
    assert (mostly_empty.level, mostly_empty.count, "most rows" in mostly_empty.note) == (
        Level.warn,
        3,
        True,
    )


def test_truncated_answers_are_found_although_half_of_the_answers_have_no_full_stop(
    tmp_path: Path,
) -> None:
    rng = random.Random(4)
    things = ["kitchen", "garden", "library", "station", "harbour", "market", "museum", "theatre"]

    def sentence() -> str:
        return (
            f"The {rng.choice(things)} was rebuilt by the city after the {rng.choice(things)} had"
            " closed"
        )

    rows = [
        row(f"question {i} about {rng.random()}", sentence(), id=f"open-{i}") for i in range(40)
    ]
    rows += [
        row(f"another {i} on {rng.random()}", f"{sentence()}. {sentence()}.", id=f"ended-{i}")
        for i in range(40)
    ]
    rows += [
        row(f"short {i} of {rng.random()}", rng.choice(things), id=f"short-{i}") for i in range(40)
    ]
    cut = {
        "cut-prose": f"{sentence()}. The old {rng.choice(things)} of the city closed",
        "cut-word": "The city has closed the old kitch",
        "cut-the": "The garden was rebuilt by the",
        "cut-comma": "It was the library,",
        "cut-and": "They closed the market and",
    }
    rows += [row(f"the {name} {rng.random()}", answer, id=name) for name, answer in cut.items()]
    assert set(findings_of(tmp_path, rows)["truncated_answers"].rows) == set(cut)


def test_short_truncated_answers_are_found_among_complete_ones(tmp_path: Path) -> None:
    rows = [
        row(f"question {i * 7919}", f"It is number {i} of them.", id=f"r{i}") for i in range(20)
    ]
    rows.append(row("What is the capital of France?", "The capital of France", id="cut"))
    assert findings_of(tmp_path, rows)["truncated_answers"].rows == ["cut"]
    labels = [
        row(f"question {i * 7919}", f"card payment not {word}", id=f"{i}")
        for i, word in enumerate(("seen", "known", "due", "made") * 6)
    ]
    assert findings_of(tmp_path, labels)["truncated_answers"].count == 0
