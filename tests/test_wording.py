"""Counts with their nouns, in the singular and the plural."""

import re

import pytest

from hydratune.data.quality.findings import CHECKS, counted_title
from hydratune.wording import counted, named, noun_for, short_values


def test_nouns_have_the_number_of_their_count() -> None:
    assert [counted(n, "row") for n in (0, 1, 2, 12_000)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "12,000 rows",
    ]
    assert counted(1, "entry", "entries") == "1 entry"
    assert counted(3, "entry", "entries") == "3 entries"
    assert noun_for(1, "is", "are") == "is" and noun_for(2, "is", "are") == "are"
    assert named("trial", ["4"]) == "trial 4" and named("trial", ["0", "2"]) == "trials 0, 2"


def test_values_are_short_and_stay_apart() -> None:
    texts = ["3.1622776601683795e-05", "1e-3", "100000", "true", "0.12341234", "0.12341299"]
    short = ["3.162e-05", "1e-3", "100000", "true", "0.12341234", "0.12341299"]
    assert list(short_values(texts).values()) == short


@pytest.mark.parametrize(
    ("name", "of_one"),
    [
        ("splits", "1 split that cannot be used"),
        ("exact_leaks", "1 request that an earlier split contains too"),
        ("exact_duplicates", "1 row that repeats the request and the answer of an earlier row"),
        ("schema", "1 answer that is not valid under the JSON schema"),
        ("mask", "1 row whose loss mask is wrong"),
    ],
)
def test_a_finding_in_one_row_is_in_the_singular(name: str, of_one: str) -> None:
    assert counted_title(1, CHECKS[name].title) == of_one
    assert counted_title(1234, CHECKS[name].title) == f"1,234 {CHECKS[name].title}"


def test_the_title_of_every_check_has_a_singular() -> None:
    nouns = "row|request|answer|split|text|label|training row"
    for name, check in CHECKS.items():
        title = counted_title(1, check.title)
        assert re.match(rf"1 ({nouns})\b(?! are| repeat\b)", title), (name, title)
        assert not re.search(r"\b(that|or) (are|contain|look|seem|refuse|repeat)\b|their", title)
