"""report.html: every finding is on the page, nothing in it can run, and nothing is fetched."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from hydratune.data.report import IDS_SHOWN, render, verdict, write_html
from hydratune.data.report_charts import histograms, label_bars
from hydratune.pages.filled import share
from page_structure import check_page
from report_cases import (
    ALLOWED_TAGS,
    HOSTILE,
    Page,
    check_entry,
    cleaning_entry,
    hostile_report,
    split_entry,
)


@pytest.fixture
def empty() -> dict[str, Any]:
    """A report with nothing in it."""
    splits = {
        name: {"rows": 0, "groups": 0, "characters": 0, "hash": f"hash-{name}"}
        for name in ("train", "validation", "test")
    }
    tokens = {
        "model": "tiny",
        "max_length": 512,
        "context_window": 2048,
        "overlength": "drop",
        "edges": [0.0, 10.0, 20.0, 30.0, 40.0],
    }
    return {
        "name": "nothing",
        "source": [],
        "cleaning": {},
        "checks": {},
        "splits": splits,
        "labels": {},
        "left_out": {"straddles": {"rows": 0, "ids": []}},
        "fingerprint": "0123",
        "tokens": {**tokens, "splits": {name: split_entry(0) for name in splits}},
        "mask": [],
        "used": None,
    }


@pytest.fixture
def report(empty: dict[str, Any]) -> dict[str, Any]:
    """A report with an entry of every kind."""
    full = copy.deepcopy(empty)
    full["name"], full["source"] = "tickets", ["tickets.csv: read as latin-1"]
    full["splits"]["train"].update(rows=90, groups=80, characters=9_000)
    full["splits"]["validation"].update(rows=10, groups=9, characters=1_000)
    full["tokens"]["splits"].update(
        train=split_entry(90, 40, (20, 50, 15, 5)), validation=split_entry(10, 30, (2, 6, 2, 0))
    )
    pair = {
        "rows": ["id-7", "id-8"],
        "texts": ["close my account\n→ billing", "close the account\n→ billing"],
        "note": "a pair",
    }
    date = {"rows": ["id-9"], "texts": ["born when?\n→ in 1931, in Bern"], "note": "1931, Bern"}
    full["checks"] = {
        "near_duplicates": check_entry("near_duplicates", count=1, rows=["id-8"], examples=[pair]),
        "exact_leaks": check_entry("exact_leaks", "error", 2, rows=["id-3", "id-4"], note="2 test"),
        "ungrounded": check_entry("ungrounded", count=1, rows=["id-9"], examples=[date]),
        "refusals": check_entry("refusals"),
    }
    full["cleaning"] = {
        "whitespace": cleaning_entry(
            True,
            4,
            "white space tidied",
            [{"id": "id-1", "before": "end \r\nz\u200by", "after": "end\nzy"}],
        ),
        "html": cleaning_entry(
            False, 3, "HTML removed", [{"id": "id-2", "before": "<b>so</b>", "after": "so"}]
        ),
        "chatter": cleaning_entry(False, 0, "closing phrase removed", []),
        "drop_leaks": {**cleaning_entry(False, 0, "leaking rows removed", []), "ids": []},
    }
    full["labels"] = {"queue": {"billing": 70, "support": 30}}
    full["left_out"] = {"straddles": {"rows": 2, "ids": ["id-90", "id-91"]}}
    pieces = [
        ["<|user|>", False, True],
        ["close my account", False, False],
        ["billing", True, False],
        ["<|end|>", True, True],
    ]
    full["mask"] = [{"id": "id-1", "trained": 2, "tokens": 9, "pieces": pieces}]
    return full


def test_no_text_becomes_markup(report: dict[str, Any]) -> None:
    page = Page(render(hostile_report(report)))
    assert {tag for tag, _ in page.elements} <= ALLOWED_TAGS
    assert not page.open
    for text in (
        "id-7",
        "id-8",
        "a pair",
        "2 test",
        "tickets",
        "tickets.csv: read as latin-1",
        "id-90",
        "id-1",
        "white space tidied",
        "29",
    ):
        assert f"{HOSTILE}{text}" in page.text
    assert page.text.count("<script>alert(1)</script>") >= 30


def test_nothing_is_fetched_and_nothing_runs(report: dict[str, Any]) -> None:
    page = Page(render(hostile_report(report)))
    harmless = {
        *(
            "class",
            "id",
            "lang",
            "dir",
            "charset",
            "name",
            "content",
            "http-equiv",
            "role",
            "scope",
            "open",
            "tabindex",
            "viewbox",
        ),
        *(
            "x",
            "y",
            "x1",
            "x2",
            "y1",
            "y2",
            "width",
            "height",
            "text-anchor",
            "aria-label",
            "aria-labelledby",
            "aria-hidden",
            "href",
        ),
    }
    for _, attributes in page.elements:
        assert attributes.keys() <= harmless
        assert attributes.get("href", "#").startswith("#")
        assert not any(
            "http" in (value or "") or "alert" in (value or "") for value in attributes.values()
        )
    assert not any(word in page.css for word in ("url(", "@import", "http", "alert"))
    policy = next(
        a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none';")


def test_the_page_is_well_formed_and_its_title_is_what_the_data_are(report: dict[str, Any]) -> None:
    found = check_page(render(report, "rows.csv"))
    sections = [own["id"] for own in found.attributes("section")]
    assert sections == ["lengths", "labels", "checks", "cleaning", "mask", "splits"]
    page = Page(render(report, "rows.csv"))
    assert "rows.csv: 100 rows for tiny" in page.text and "Data set report · tickets" in page.text
    assert "tickets: 100 rows for tiny" in Page(render(report)).text


def test_links_inside_the_page_lead_somewhere(report: dict[str, Any]) -> None:
    page = Page(render(report))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for target in [
            (attributes.get("href") or "#checks")[1:],
            *(attributes.get("aria-labelledby") or "").split(),
        ]:
            assert target in ids


def test_every_finding_change_and_mask_piece_is_shown(report: dict[str, Any]) -> None:
    page = Page(render(report))
    for check in report["checks"].values():
        if check["count"]:
            assert all(check[key] in page.text for key in ("title", "why", "fix", "note"))
            assert all(id_ in page.text for id_ in check["rows"])
    assert "Nothing found by refusals." in page.text
    assert "data.clean.html=true does it" in page.text
    assert "Off, and nothing to do: closing phrase removed." in page.text
    assert "what they would remove: data.clean.drop_leaks." in page.text
    assert all(piece[0] in page.text for piece in report["mask"][0]["pieces"])
    assert "2 of 9 tokens trained" in page.text
    assert all(id_ in page.text for id_ in report["left_out"]["straddles"]["ids"])
    assert page.text.index("exact_leaks") < page.text.index("near_duplicates")


def test_errors_are_open_and_warnings_closed(report: dict[str, Any]) -> None:
    is_open = {
        a["id"]: "open" in a
        for tag, a in Page(render(report)).elements
        if tag == "details" and "id" in a
    }
    assert is_open == {
        "check-exact_leaks": True,
        "check-near_duplicates": False,
        "check-ungrounded": False,
    }


def test_differences_and_quoted_words_are_marked(report: dict[str, Any]) -> None:
    page = Page(render(report))
    assert page.marked == ["my", "the", "1931", "Bern", "<b>", "</b>"]
    assert r"end·\r" in page.text
    assert "zU+200By" in page.text


def test_trained_text_is_marked_without_colour_too(report: dict[str, Any]) -> None:
    page = Page(render(report))
    assert len(page.with_class("trained")) == 3  # two in the legend; trained neighbours are one run
    assert '.trained::before { content: "⟦"; }' in page.css


@pytest.mark.parametrize(
    ("checks", "state", "sentence"),
    [
        ({}, "fit", "Fit for training: no check found anything."),
        (
            {"refusals": check_entry("refusals")},
            "fit",
            "Fit for training: no check found anything.",
        ),
        (
            {"refusals": check_entry("refusals", count=3)},
            "warn",
            "Fit for training, with 1 warning.",
        ),
        (
            {
                "refusals": check_entry("refusals", count=3),
                "encoding": check_entry("encoding", count=1),
            },
            "warn",
            "Fit for training, with 2 warnings.",
        ),
        (
            {
                "refusals": check_entry("refusals", count=3),
                "mask": check_entry("mask", "error", 1200),
            },
            "error",
            "Not fit for training: rows whose loss mask is wrong (1,200).",
        ),
    ],
)
def test_verdict(empty: dict[str, Any], checks: dict[str, Any], state: str, sentence: str) -> None:
    judged = verdict(checks)
    assert (judged.state, judged.sentence) == (state, sentence)
    page = Page(render({**empty, "checks": checks}))
    assert sentence in page.text
    assert page.with_class(state)


def test_empty_report(empty: dict[str, Any]) -> None:
    page = Page(render(empty))
    assert page.text.count("no rows") == 3
    assert "No field has so few values" in page.text
    assert "No training row could be rendered." in page.text


def test_same_report_same_bytes(tmp_path: Path, report: dict[str, Any]) -> None:
    write_html(tmp_path / "one.html", report)
    write_html(tmp_path / "two.html", json.loads(json.dumps(report)))
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_broken_and_endless_texts(tmp_path: Path, report: dict[str, Any]) -> None:
    text = "\x00half \ud800 \u202eturned" + 40_000 * "x"
    report["name"] = text
    report["checks"]["exact_leaks"].update(
        count=10_000,
        rows=[f"{text[:500]}{i}" for i in range(10_000)],
        examples=[{"rows": [text], "texts": [text], "note": text}],
    )
    report["mask"][0]["pieces"].append([text, False, False])
    write_html(tmp_path / "report.html", report)
    written = (tmp_path / "report.html").read_bytes()
    assert len(written) < 100_000
    page = Page(written.decode("utf-8"))
    assert not any(char in page.text for char in ("\x00", "\u202e"))
    assert "U+0000" in page.text
    assert "U+D800" in page.text
    assert f"and {10_000 - IDS_SHOWN:,} more, see report.json" in page.text


def test_personal_data_is_not_repeated(empty: dict[str, Any]) -> None:
    example = {"rows": ["id-5"], "texts": ["write to jo@example.com"], "note": "jo•••••••m"}
    empty["checks"] = {
        "pii_email": check_entry("pii_email", count=1, rows=["id-5"], examples=[example])
    }
    page = Page(render(empty))
    assert "jo@example.com" not in page.text
    assert "jo•••••••m" in page.text


def test_a_near_limit_is_drawn_and_a_far_limit_is_named(report: dict[str, Any]) -> None:
    report["tokens"].update(max_length=44)
    (train, *_), page = histograms(report["tokens"]), Page(render(report))
    assert [limit.x is None for limit in train.limits] == [False, True]
    assert "context window 2,048 →" in page.text
    assert "data.max_length 44 →" not in page.text
    assert len({(bar.x, bar.width) for bar in train.bars}) == 4


def test_a_few_long_rows_do_not_squeeze_the_rest(report: dict[str, Any]) -> None:
    edges = [100.0 * i for i in range(41)]
    report["tokens"].update(edges=edges, max_length=200)
    report["tokens"]["splits"] = {
        "train": split_entry(1003, 4000, (500, 300, 200, *[0] * 36, 3)),
        "test": split_entry(0, 0, (0,) * 40),
    }
    train = histograms(report["tokens"])[0]
    assert (train.end, train.beyond) == (300.0, 3)
    assert [bar.kind for bar in train.bars] == ["", "", "over"]


def test_rare_labels_are_put_together() -> None:
    bars = label_bars({f"label {i}": 100 - i for i in range(40)})
    assert [bar.others for bar in bars] == [0] * 15 + [25]
    assert sum(bar.rows for bar in bars) == sum(100 - i for i in range(40))
    assert label_bars({}) == []


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (1, 2, "50 %"),
        (1, 30, "3.3 %"),
        (1, 5000, "< 0.1 %"),
        (0, 7, "0 %"),
        (0, 0, "–"),
        (3, 2, "150 %"),
    ],
)
def test_share(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


def test_findings_and_cleaning_say_in_which_splits_they_are(report: dict[str, Any]) -> None:
    report["checks"]["near_duplicates"].update(splits={"train": 3, "test": 1}, note="at least")
    report["checks"]["exact_leaks"].update(
        splits={"test": 2},
        found_in=["train", "validation"],
        note="1 test in train, 1 test in validation",
    )
    report["cleaning"]["html"]["splits"] = {"train": 1, "validation": 1}
    page = Page(render(report))
    assert "near_duplicates: train 3, test 1; at least" in page.text
    assert "exact_leaks: 1 test in train, 1 test in validation" in page.text
    assert "train 1, validation 1; data.clean.html=true does it" in page.text
