"""Near pairs, duplicates, and requests with several answers or conflicting labels."""

import random
import string
from pathlib import Path

import numpy as np
import pytest

from data_findings import findings_of, row
from hydratune.data.quality.duplicates import find_near_pairs, grams, jaccard
from hydratune.data.quality.equality import exact_form
from hydratune.data.rows import Message, Row
from hydratune.settings.data import CleaningConfig


# --------------------------------------------------------------------------------------- near pairs
def test_jaccard_of_grams_equals_the_jaccard_of_the_texts() -> None:
    first, second = "the quick brown fox jumps", "the quick brown fox jumped"
    sets = [{t[i : i + 5] for i in range(len(t) - 4)} for t in (first, second)]
    assert jaccard(grams(first), grams(second)) == pytest.approx(
        len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    )


@pytest.mark.parametrize("threshold", [0.6, 0.8, 1.0])
def test_near_pairs_equal_those_of_an_exhaustive_comparison(threshold: float) -> None:
    rng = random.Random(3)
    texts = [
        "".join(rng.choices(string.ascii_lowercase[:6] + " ", k=rng.randint(3, 60)))
        for _ in range(120)
    ]
    for text in texts[:60]:  # a few changed characters each
        at = rng.randrange(len(text))
        texts.append(text[:at] + rng.choice("abc") + text[at + rng.randint(0, 2) :])
    texts = sorted(set(texts))
    sets = [{t.ljust(5)[i : i + 5] for i in range(max(1, len(t) - 4))} for t in texts]
    expected = {
        (i, j)
        for i in range(len(sets))
        for j in range(i + 1, len(sets))
        if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold
    }
    pairs = find_near_pairs(len(texts), texts.__getitem__, threshold)
    assert set(pairs) == expected
    assert threshold == 1.0 or len(expected) > 10
    assert not pairs.capped


def test_a_shared_instruction_does_not_make_requests_near_duplicates() -> None:
    rng = random.Random(1)
    # the instruction alone gives any two of these requests a similarity of 0.9
    instruction = "".join(rng.choices(string.ascii_lowercase + " ", k=700))
    reviews = ["".join(rng.choices(string.ascii_lowercase + " ", k=40)) for _ in range(300)]
    texts = [instruction + review for review in reviews] + [f"{instruction}{reviews[7]} ok"]
    assert set(find_near_pairs(len(texts), texts.__getitem__, 0.8)) == {(7, 300)}


def test_the_number_of_near_pairs_is_capped_and_the_cap_is_reported() -> None:
    rng = random.Random(2)
    families = ["".join(rng.choices(string.ascii_lowercase + " ", k=200)) for _ in range(12)]
    texts = [f"{family}{i:03}" for family in families for i in range(150)]
    pairs = find_near_pairs(len(texts), texts.__getitem__, 0.8)
    assert pairs.capped
    assert len(np.unique(np.concatenate([pairs.first, pairs.second]))) > 0.9 * len(texts)
    assert all(a // 150 == b // 150 for a, b in pairs)


# ---------------------------------------------------------------------------------- several answers
def test_duplicates_several_answers_and_label_conflicts_are_distinguished(tmp_path: Path) -> None:
    rows = [
        row("List files", "ls", id="a"),
        row("list files!", "ls", id="same"),
        row("List files", "ls -1", id="other answer"),
        row("intent of: play jazz", '{"intent": "play"}', id="j1"),
        row("Intent of: play jazz", '{"intent": "search"}', id="j2"),
    ]
    findings = findings_of(tmp_path, rows)
    assert findings["exact_duplicates"].rows == ["same"]
    assert (findings["multi_answer"].count, findings["multi_answer"].rows) == (
        1,
        ["a", "same", "other answer"],
    )
    assert (findings["label_conflicts"].count, findings["label_conflicts"].rows) == (
        1,
        ["j1", "j2"],
    )


def test_requests_under_different_system_turns_are_different(tmp_path: Path) -> None:
    rows = [
        Row(
            language,
            (
                Message("system", f"Answer in {language}"),
                Message("user", "Hello there!"),
                Message("assistant", f"{language}."),
            ),
        )
        for language in ("French", "German", "Latin")
    ]
    assert findings_of(tmp_path, rows)["multi_answer"].count == 0


def test_duplicates_use_the_loose_form_and_conflicts_the_strict_form(tmp_path: Path) -> None:
    rows = [
        row(*texts, id=f"r{i}")
        for i, texts in enumerate(
            [
                ("sort in C++", "std::sort"),
                ("sort in C#", "Array.Sort"),
                ("is 5 < 7", '{"a": true}'),
                ("is 5 > 7", '{"a": false}'),
                ("top up", "Add money."),
                ("Top-up", "Add money."),
                ("(help)", "Ask."),
                ("help", "Ask."),
                ("fees", '{"a": 1, "b": 2}'),
                ("Fees?", '{"b": 2,  "a": 1}'),
                ("the rates", '{"a": 1}'),
                ("The rates!", '{"a": 2}'),
            ]
        )
    ]
    findings = findings_of(tmp_path, rows)
    assert findings["exact_duplicates"].rows == ["r5", "r7", "r9"]
    assert (findings["label_conflicts"].count, findings["label_conflicts"].rows) == (
        1,
        ["r10", "r11"],
    )
    assert findings["multi_answer"].count == 0
    assert findings["exact_duplicates"].fix.startswith(
        "data.clean.drop_duplicates=true removes 1 of them from training; those in"
    )
    remaining = findings_of(tmp_path, rows, clean=CleaningConfig(drop_duplicates=True))[
        "exact_duplicates"
    ]
    assert (
        remaining.rows,
        remaining.fix.startswith("data.clean.drop_duplicates removes none"),
    ) == (
        ["r7", "r9"],
        True,
    )


DIFFERENT_REQUESTS = [
    ("5'", '5"'),
    ("f'", "f"),
    ("what is f’", "what is f"),
    ("save!", "save"),
    ("explain save!", "explain save"),
    ("empty?", "empty"),
    ("git add .", "git add"),
    ("list all files in .", "list all files in"),
    ("cd ..", "cd ."),
    ("ls -d", "ls -D"),
    ("sum a", "sum A"),
    ("what does ' mean in SQL", 'what does " mean in SQL'),
    ("(n+1)!", "(n+1)"),
    ("regex a.", "regex a?"),
    ("the regex ab.", "the regex ab?"),
    ('print "1"', "print 1"),
    ("run `a`", "run 'a'"),
    ("show $PATH", "show $path"),
    ("show PATH", "show path"),
    ("what is -5", "what is −5!"),
    ("5²", "52"),
    ("x, y", "x y"),
    ("top-up", "top up"),
    ("की बात", "का बात"),
    ("كتاب جديد", "کتاب جديد"),
    ("année passée", "annee passee"),
]


@pytest.mark.parametrize(("first", "second"), DIFFERENT_REQUESTS)
def test_requests_that_differ_in_a_symbol_are_no_conflict(
    tmp_path: Path, first: str, second: str
) -> None:
    assert exact_form(first) != exact_form(second)
    labels = [row(first, '{"a": 1}', id="one"), row(second, '{"a": 2}', id="other")]
    assert findings_of(tmp_path, labels)["label_conflicts"].count == 0
    several = [row(first, "It is this.", id="one"), row(second, "It is that.", id="other")]
    assert findings_of(tmp_path, several)["multi_answer"].count == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Paris is big", "paris is big."),
        ("List files", "list files!"),
        ("Can I pay by card?", "can i  pay\nby card"),
        ("I'm lost", "i'm lost"),
        ("Don’t go", "don't go."),
        ("WHERE IS MY CARD?", "where is my card"),
        ("say “no”", 'say "no"'),
        ("ｆｕｌｌ width", "full width"),
        ("cafe\u0301 near me", "café near me"),
        ("Print the files.", "print the files"),
        ("Ist sie da?", "ist sie da"),
    ],
)
def test_equivalent_requests_with_different_labels_are_a_conflict(
    tmp_path: Path, first: str, second: str
) -> None:
    labels = [row(first, '{"a": 1}', id="one"), row(second, '{"a": 2}', id="other")]
    assert findings_of(tmp_path, labels)["label_conflicts"].rows == ["one", "other"]


def test_duplicates_with_other_tools_or_thoughts_are_reported_but_kept(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
    question = Message("user", "How warm is it today?")
    rows = [
        Row("a", (question, Message("assistant", "Warm."))),
        Row("tools", (question, Message("assistant", "Warm.")), tools=(tool,)),
        Row("thought", (question, Message("assistant", "Warm.", reasoning="It is July."))),
        Row("again", (question, Message("assistant", "Warm.\n"))),
    ]
    findings = findings_of(tmp_path, rows, clean=CleaningConfig(drop_duplicates=True))
    assert findings["exact_duplicates"].rows == ["tools", "thought"]
    with_call = [
        rows[0],
        Row(
            "calls",
            (question, Message("assistant", "", tool_calls=({"function": {"name": "look_up"}},))),
            tools=(tool,),
        ),
    ]
    assert findings_of(tmp_path, with_call)["multi_answer"].count == 0
