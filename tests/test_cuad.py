"""The reader of CUAD contracts."""

import csv
import json
from pathlib import Path

import pytest

from case_rows import published_folder, question, rows_of
from hydratune.data.cases import cuad_answers
from hydratune.data.cases.cuad import CuadData
from hydratune.errors import DataError

CONTRACT = {
    "Filename": "ACMECORP,INC_01_02_2003-EX-10-SUPPLY AGREEMENT.PDF",
    "Document Name": "['SUPPLY AGREEMENT']",
    "Document Name-Answer": "SUPPLY AGREEMENT",
    "Parties": "['Buyer', 'Acme Corp, Inc.', 'Bolt (UK)  Ltd']",
    "Parties-Answer": 'Bolt (UK) Ltd ("Seller"); Acme Corp., Inc. ("Buyer"); (each a "Party")',
    "Agreement Date": "['2nd day of January, 2003']",
    "Agreement Date-Answer": "1/2/2003",
    "Effective Date": "['2nd day of January, 2003']",
    "Effective Date-Answer": "1/2/2003",
    "Expiration Date": "['This Agreement runs for five (5) years.']",
    "Expiration Date-Answer": "1/2/2008",
    "Renewal Term": "[]",
    "Renewal Term-Answer": "",
    "Notice Period to Terminate Renewal": "[]",
    "Notice Period to Terminate Renewal-Answer": "",
    "Governing Law": "['under English law<omitted>as amended']",
    "Governing Law-Answer": "England",
}


def contracts(folder: Path, *changes: dict[str, str]) -> CuadData:
    with (folder / "master_clauses.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(CONTRACT))
        writer.writeheader()
        writer.writerows(CONTRACT | change for change in changes)
    return CuadData(path=str(folder))


def test_marked_passages_become_one_prompt_without_their_categories(tmp_path: Path) -> None:
    (row,) = rows_of(contracts(tmp_path, {}))
    assert question(row).split("\n") == [
        "SUPPLY AGREEMENT",
        "Buyer",
        "Acme Corp, Inc.",
        "Bolt (UK) Ltd",
        "2nd day of January, 2003",
        "This Agreement runs for five (5) years.",
        "under English law ... as amended",
    ]
    assert json.loads(row.answer) == {
        "document_name": "SUPPLY AGREEMENT",
        "parties": ["Acme Corp, Inc.", "Bolt (UK) Ltd"],
        "agreement_date": "2003-01-02",
        "effective_date": "2003-01-02",
        "expiration_date": "2008-01-02",
        "renewal_term": None,
        "notice_to_terminate_renewal": None,
        "governing_law": "England and Wales",
    }
    assert row.group == "acmecorpinc"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Agreement Date-Answer": "1/3/2003"}, "1 with a date that no passage names"),
        (
            {"Expiration Date-Answer": "1/2/2009"},
            "1 with an expiration date that the passages do not lead to",
        ),
        ({"Parties": "['Somebody else']"}, "1 without a party that the passages name"),
        (
            {"Renewal Term": "['again']", "Renewal Term-Answer": "10 1 years"},
            "1 whose renewal has no single length",
        ),
        ({"Governing Law-Answer": "Texas"}, "1 with a law that no passage names"),
    ],
)
def test_a_contract_whose_answer_contradicts_the_passages_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, str], reason: str
) -> None:
    with caplog.at_level("INFO"):
        assert len(rows_of(contracts(tmp_path, {}, changes))) == 1
    assert f"1 of 2 contracts used; dropped: {reason}" in caplog.text


def test_answers_without_a_passage_or_with_gaps_are_null_and_listed(tmp_path: Path) -> None:
    changes = {
        "Governing Law": "[]",
        "Effective Date": "['the ___ day of May, 2004']",
        "Effective Date-Answer": "5/[]/2004",
    }
    (row,) = rows_of(contracts(tmp_path, changes))
    answer = json.loads(row.answer)
    assert answer["governing_law"] is answer["effective_date"] is None
    assert row.meta["nulled"] == ["effective_date", "governing_law"]


def test_a_contract_without_an_end_is_perpetual(tmp_path: Path) -> None:
    (row,) = rows_of(contracts(tmp_path, {"Expiration Date-Answer": "Perpetual"}))
    assert json.loads(row.answer)["expiration_date"] == "perpetual"


@pytest.mark.parametrize(
    "text",
    [
        "January 2, 2003",
        "2 Jan. 2003",
        "2nd day of January, 2003",
        "1/2/03",
        "01-02-2003",
        "2003-01-02",
        "the second day of January 2003",
    ],
)
def test_usual_ways_to_write_a_day_are_understood(text: str) -> None:
    assert "2003-01-02" in {day.isoformat() for day in cuad_answers.dates_in(f"made on {text}.")}


@pytest.mark.parametrize(
    ("published_renewal", "expected"),
    [
        ("Successive 1 year", "successive 1 year"),
        ("succesive 12 Months", "successive 12 months"),
        ("2 successive 5 years", "2 successive 5 years"),
        ("three (3) years", "3 years"),
        ("perpetual", "perpetual"),
        ("", None),
    ],
)
def test_renewals_are_spelled_one_way(published_renewal: str, expected: str | None) -> None:
    assert cuad_answers.renewal(published_renewal) == expected


def test_malformed_cuad_file_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"master_clauses\.csv:3: Parties: a Python list"):
        rows_of(contracts(tmp_path, {}, {"Parties": "__import__('os')"}))
    (tmp_path / "master_clauses.csv").write_text("Filename,Parties\na,[]\n")
    with pytest.raises(DataError, match=r"master_clauses\.csv:1: no column Document Name"):
        rows_of(CuadData(path=str(tmp_path)))
    (tmp_path / "master_clauses.csv").write_bytes(b"Filename\n\xff\n")
    with pytest.raises(DataError, match=r"master_clauses\.csv:2: not UTF-8 \(byte 0xff\)"):
        rows_of(CuadData(path=str(tmp_path)))


def test_published_cuad() -> None:
    rows = rows_of(CuadData(path=published_folder("cuad")))
    assert len(rows) == 456
    assert len({row.group for row in rows}) == 421
    for row in rows:
        answer = json.loads(row.answer)
        assert {answer["document_name"], *answer["parties"]} <= set(question(row).split("\n"))
