"""Near leaks by spelling, and splits that keep spelling variants on one side."""

from pathlib import Path
from typing import Any

import pytest

from data_findings import BANKING, conversation, findings_of, row
from hydratune.data.quality.inspection import Inspection
from hydratune.data.quality.leaks import Leak
from hydratune.data.quality.set_checks import run_checks
from hydratune.data.rows import Row
from hydratune.data.splits import Side
from hydratune.data.store import RowStore, RowWriter
from hydratune.settings.data import CleaningConfig, DataConfig, QualityConfig, TrainOn


def leaks_of(tmp_path: Path, train: Row, test: Row, **data: Any) -> list[str]:
    """Return the kinds of leak that the test row has."""
    rows = [train, row("whatever else is asked in validation", "Nothing.", id="v"), test]
    findings = findings_of(tmp_path, rows, [Side.train, Side.validation, Side.test], **data)
    return [
        name
        for name in ("exact_leaks", "near_leaks", "turn_leaks")
        if test.id in findings[name].rows
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Send me an e-mail", "send me an email"),
        ("e-mail", "email"),
        ("buy a t-shirt", "buy a tshirt"),
        ("x-ray", "xray"),
        ("wi-fi", "WiFi"),
        ("(e-mail) address", "email address"),
        ("résumé des années", "resume des annees"),
        ("¿Dónde está?", "donde esta"),
        ("Всё ещё", "все еще"),
        ("كَتَبَ الوَلَدُ", "كتب الولد"),
        ("كتاب", "کتاب"),
        ("שָׁלוֹם", "שלום"),
        ("می‌خواهم", "میخواهم"),
        ("این ۱۲ کتاب", "این 12 کتاب"),
        ("🚀🚀 now", "🚀 now"),
        ("fish &amp; chips", "fish & chips"),
        ("<b>urgent</b> help", "urgent help"),
        ("caf&eacute;", "café"),
        ('<p>Hello</p><a href="x">there</a>', "Hello there"),
        ("the rabbit's toy", "the rabbits toy"),
    ],
)
def test_spellings_of_one_request_with_the_same_answer_are_near_leaks(
    tmp_path: Path, first: str, second: str
) -> None:
    assert "near_leaks" in leaks_of(
        tmp_path, row(first, "It is here.", id="train"), row(second, "it is here", id="test")
    )
    assert "near_leaks" in leaks_of(
        tmp_path, row(second, "It is here.", id="train"), row(first, "It is here.", id="test")
    )


@pytest.mark.parametrize(
    ("first", "second", "leaks"),
    [
        ("où est ma commande", "ou est ma commande", True),
        ("launch 🚀🚀 now", "launch 🚀 now", True),
        ("refund my order", "erfund my order", True),
        ("fish &amp; chips near here", "fish & chips near here", True),
        ("this is <b>urgent</b> help", "this is urgent help", True),
        ("How old is the universe?", "how old's the universe", True),
        ("light on", "night on", False),
        ("play form alpha", "play from alpha", False),
        ("की बात", "का बात", False),
        ("1.5 cups", "15 cups", False),
        ("e-mail", "email", False),
    ],
)
def test_close_spellings_are_near_leaks_whatever_their_answers(
    tmp_path: Path, first: str, second: str, leaks: bool
) -> None:
    assert (
        "near_leaks"
        in leaks_of(tmp_path, row(first, "It is here.", id="a"), row(second, "No, there.", id="b"))
    ) is leaks


@pytest.mark.parametrize(
    ("first", "second", "is_exact"),
    [
        ("Yes.", "yes", True),
        ("YES!", "Yes", True),
        ('{"a": "Yes"}', '{"a":"yes"}', True),
        ("It is “big.”", "it is “big”", True),
        ("ls -d", "ls -D", False),
        ("a", "A", False),
        ("5", "-5", False),
        ("1.5", "15", False),
        ("5!", "5", False),
    ],
)
def test_answers_that_differ_in_case_or_final_mark_are_the_same_for_leaks(
    tmp_path: Path, first: str, second: str, is_exact: bool
) -> None:
    pair = (
        row("refund/return status query", first, id="train"),
        row("refund return status query", second, id="test"),
    )
    assert ("exact_leaks" in leaks_of(tmp_path, *pair)) is is_exact


def test_near_variants_are_found_under_other_system_turns_and_inside_conversations(
    tmp_path: Path,
) -> None:
    first, second = "Where is your office today?", "where is your office today please?"
    kind, pirate = (
        {"system": "Be kind to everyone you meet."},
        {"system": "Answer like a pirate of the sea."},
    )
    assert leaks_of(
        tmp_path,
        conversation("a", first, "In Rome.", **kind),
        conversation("b", second, "in Rome", **pirate),
    ) == ["turn_leaks"]
    inner = conversation(
        "a",
        "I am new here",
        "Welcome.",
        "How old is the city of Rome?",
        "Very old.",
        "So be it then",
        "Yes.",
    )
    question = conversation("b", "how old's the city of Rome", "very old")
    assert leaks_of(tmp_path, inner, question) == ["turn_leaks"]
    assert leaks_of(tmp_path, inner, question, train_on=TrainOn.last) == []
    opening = conversation("a", "How old is the city of Rome?", "Very old.", "Thanks", "Welcome.")
    assert "near_leaks" in leaks_of(
        tmp_path, opening, conversation("b", "how old's the city of Rome", "Another answer.")
    )
    assert (
        leaks_of(
            tmp_path,
            conversation("a", "Hi", "Hello", "Thanks", "Welcome."),
            conversation("b", "thank you", "Welcome"),
        )
        == []
    )
    rows = [
        opening,
        row("Who are you", id="r"),
        row("whatever is asked", "No.", id="v"),
        conversation("b", "how old's the city of Rome", "Very old"),
    ]
    sides = [Side.train, Side.train, Side.validation, Side.test]
    assert (
        findings_of(tmp_path, rows, sides, clean=CleaningConfig(drop_leaks=True))[
            "near_leaks"
        ].count
        == 0
    )


def test_own_split_keeps_spellings_together(tmp_path: Path) -> None:
    things = [
        f"{start}{end}"
        for start in ("bu", "ko", "sha", "mi", "zed", "fo")
        for end in ("lag", "nir", "tep", "wox", "dum")
    ]
    rows = [
        row(f"{spelling} {text}", f"Label {i}", id=f"{spelling}-{i}")
        for i, text in enumerate(things)
        for spelling in ("x-y t-v", "xy tv")
    ]
    inspection = Inspection(DataConfig(validation_fraction=0.3, test_fraction=0.3), None)
    writer = RowWriter(tmp_path / "rows.arrow")
    for each in rows:
        writer.add(each, inspection.see(each, Side.train))
    writer.close()
    inspection.divide(RowStore(tmp_path / "rows.arrow"), {Side.train}, lambda steps: None)
    assert len(set(inspection.sides.tolist())) > 2
    assert inspection.sides[::2].tolist() == inspection.sides[1::2].tolist()
    assert [len(inspection.leaking(kind)[0]) for kind in Leak] == [0, 0, 0]


def test_own_split_keeps_symbol_and_prompt_variants_together_and_stable(tmp_path: Path) -> None:
    rows = []
    for i, text in enumerate(BANKING):
        rows += [
            row(f"{text}?", f"Label {i}", id=f"plain-{i}"),
            row(f"[{text}]", f"Label {i}", id=f"symbol-{i}"),
        ]
        rows.append(
            conversation(
                f"prompt-{i}", text, f"Label {i}", system=f"You are assistant {i * 7919} of a bank."
            )
        )
        rows.append(row(f"{text} (#{i % 3})", "Another answer", id=f"other-{i}"))

    def findings_and_sides(
        source_rows: list[Row], **data: Any
    ) -> tuple[dict[str, Any], dict[str, int]]:
        inspection = Inspection(DataConfig(**data), None)
        writer = RowWriter(tmp_path / "rows.arrow")
        for each in source_rows:
            writer.add(each, inspection.see(each, Side.train))
        writer.close()
        store = RowStore(tmp_path / "rows.arrow")
        inspection.divide(store, {Side.train}, lambda steps: None)
        findings = {f.name: f for f in run_checks(inspection, store)}
        return findings, {
            each.id: int(side) for each, side in zip(source_rows, inspection.sides, strict=True)
        }

    quality = QualityConfig(similarity=1)  # so that nothing else keeps them together
    findings, sides = findings_and_sides(
        rows, validation_fraction=0.2, test_fraction=0.2, quality=quality
    )
    assert [findings[name].count for name in ("exact_leaks", "near_leaks", "turn_leaks")] == [
        0,
        0,
        0,
    ]
    assert len(set(sides.values())) > 2
    extended = [
        *rows,
        *(row(f"[{text}]", "Another answer", id=f"join-{i}") for i, text in enumerate(BANKING)),
    ]
    after = findings_and_sides(
        extended, validation_fraction=0.2, test_fraction=0.2, quality=quality
    )[1]
    assert {id_: side for id_, side in after.items() if id_ in sides} == sides
