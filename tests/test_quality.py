import random
import string
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydratune.data.quality import pii, row_checks
from hydratune.data.quality.duplicates import find_near_pairs, grams, jaccard
from hydratune.data.quality.equality import exact, normalised, words
from hydratune.data.quality.findings import CHECKS, level_of, refusals
from hydratune.data.quality.grounding import ungrounded
from hydratune.data.quality.inspection import Inspection
from hydratune.data.quality.leaks import Leak
from hydratune.data.quality.set_checks import run_checks
from hydratune.data.quality.spelling import find_spelling_variants
from hydratune.data.quality.variants import key_words
from hydratune.data.rows import Message, Row
from hydratune.data.sources.contracts import ContractsData
from hydratune.data.splits import Side
from hydratune.data.store import RowStore, RowWriter
from hydratune.settings.data import CleaningConfig, DataConfig, Level, QualityConfig, TrainOn


def row(question: str, answer: str = "Yes, it is.", **more: Any) -> Row:
    return Row(
        more.pop("id", question), (Message("user", question), Message("assistant", answer)), **more
    )


def found(
    tmp_path: Path,
    rows: list[Row],
    sides: list[Side] | None = None,
    schema: Any = None,
    **data: Any,
) -> dict[str, Any]:
    """The findings of rows that their source has on these sides; the rest is split off."""
    inspection = Inspection(DataConfig(**data), schema)
    writer = RowWriter(tmp_path / "rows.arrow")
    for each, side in zip(rows, sides or [Side.train] * len(rows), strict=True):
        writer.add(each, inspection.see(each, side))
    writer.close()
    store = RowStore(tmp_path / "rows.arrow")
    inspection.divide(
        store, {Side.train, *(sides or [])} if sides else set(Side), lambda steps: None
    )
    return {f.name: f for f in run_checks(inspection, store)}


# --------------------------------------------------------------------------------------- duplicates
def test_normalising_keeps_what_carries_meaning() -> None:
    assert normalised("  What's   UP, “Doc”?! ") == "what s up doc"
    assert len({normalised(f"3 {sign} 4") for sign in "+-*/<>=^%"}) == 9
    assert normalised("what is $#?") != normalised("what is $@?")
    assert words(normalised("(a) b/c")) == words(normalised('"A" b c'))
    assert normalised("3.5") != normalised("35")


def test_jaccard_of_grams_is_that_of_the_texts() -> None:
    one, other = "the quick brown fox jumps", "the quick brown fox jumped"
    sets = [{t[i : i + 5] for i in range(len(t) - 4)} for t in (one, other)]
    assert jaccard(grams(one), grams(other)) == pytest.approx(
        len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    )


@pytest.mark.parametrize("threshold", [0.6, 0.8, 1.0])
def test_near_pairs_are_exactly_those_of_comparing_all(threshold: float) -> None:
    rng = random.Random(3)
    texts_ = [
        "".join(rng.choices(string.ascii_lowercase[:6] + " ", k=rng.randint(3, 60)))
        for _ in range(120)
    ]
    for text in texts_[:60]:  # a few changed characters each
        at = rng.randrange(len(text))
        texts_.append(text[:at] + rng.choice("abc") + text[at + rng.randint(0, 2) :])
    texts_ = sorted(set(texts_))
    sets = [{t.ljust(5)[i : i + 5] for i in range(max(1, len(t) - 4))} for t in texts_]
    expected = {
        (i, j)
        for i in range(len(sets))
        for j in range(i + 1, len(sets))
        if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold
    }
    pairs = find_near_pairs(len(texts_), texts_.__getitem__, threshold)
    assert set(pairs) == expected
    assert threshold == 1.0 or len(expected) > 10
    assert not pairs.capped


def test_an_instruction_before_every_request_makes_them_not_alike() -> None:
    rng = random.Random(1)
    # alone, it makes any two of them 0.9 alike
    instruction = "".join(rng.choices(string.ascii_lowercase + " ", k=700))
    reviews = ["".join(rng.choices(string.ascii_lowercase + " ", k=40)) for _ in range(300)]
    texts_ = [instruction + review for review in reviews] + [f"{instruction}{reviews[7]} ok"]
    assert set(find_near_pairs(len(texts_), texts_.__getitem__, 0.8)) == {(7, 300)}


def test_too_many_alike_is_said_and_not_waited_for() -> None:
    rng = random.Random(2)
    families = ["".join(rng.choices(string.ascii_lowercase + " ", k=200)) for _ in range(12)]
    texts_ = [f"{family}{i:03}" for family in families for i in range(150)]
    pairs = find_near_pairs(len(texts_), texts_.__getitem__, 0.8)
    assert pairs.capped
    assert len(np.unique(np.concatenate([pairs.first, pairs.second]))) > 0.9 * len(texts_)
    assert all(a // 150 == b // 150 for a, b in pairs)


# ---------------------------------------------------------------------------------------------- pii
@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("pii_email", "write to jo.doe+x@mail.example.co.uk now", "jo.doe+x@mail.example.co.uk"),
        ("pii_email", "user@remote without a domain", None),
        ("pii_email", "npm i pkg@1.2.3 x@1.2.3-rc.1 y@2.x", None),
        ("pii_email", "ssh root@192.168.0.14", "root@192.168.0.14"),
        ("pii_email", "git clone git@github.com:owner/name.git ssh://git@example.org/x", None),
        ("pii_email", "scp x jo@example.com:/tmp and git@example.com", "jo@example.com"),
        ("pii_email", "jörg@exämple.de", "jörg@exämple.de"),
        ("pii_phone", "call (212) 555-0123 today", "(212) 555-0123"),
        ("pii_phone", "ring +49 30 901820", "+49 30 901820"),
        ("pii_phone", "on 2026-11-22 10:30:11, order 20251111 or 2025551234", None),
        ("pii_card", "card 4111 1111 1111 1111 please", "4111 1111 1111 1111"),
        ("pii_card", "card 4111 1111 1111 1112 please", None),
        ("pii_card", "card 4111.1111.1111.1111.", "4111.1111.1111.1111"),
        ("pii_card", "0.4111111111111111 4.111111111111111 4111.1111.1111.1111.2", None),
        ("pii_card", "0000000000000000", None),
        ("pii_iban", "to DE89 3704 0044 0532 0130 00 BITTE", "DE89 3704 0044 0532 0130 00"),
        ("pii_iban", "to DE89 3704 0044 0532 0130 01", None),
        ("pii_iban", "to de89370400440532013000 please, soon", "de89370400440532013000"),
        ("pii_ip", "from 10.20.30.40 and", "10.20.30.40"),
        ("pii_ip", "from fe80::1ff:fe23:4567:890a", "fe80::1ff:fe23:4567:890a"),
        ("pii_ip", "127.0.0.1, 255.255.255.0, version 1.2.3.4.5, 12:30:45, 300.1.1.1", None),
        ("pii_ssn", "her number is 123-45-6789.", "123-45-6789"),
        ("pii_ssn", "SSN: 123 45 6789.", "123 45 6789"),
        ("pii_ssn", "Her social security number is 123456789", "123456789"),
        ("pii_ssn", "part 123 45 6789, ssn 000 45 6789, ssn 1234567890", None),
        ("pii_ssn", "666-45-6789 000-12-3456 1123-45-6789", None),
    ],
)
def test_personal_data_is_found_and_look_alikes_are_not(
    name: str, text: str, expected: str | None
) -> None:
    assert pii.FINDERS[name](text) == expected


def test_personal_data_is_shown_masked() -> None:
    check = row_checks.row_checks(QualityConfig(), None)["pii_email"]
    assert check(row("I am jo.doe@example.com")) == "j•••.•••@•••.•••"
    assert pii.mask("a@b.de") == "a@•••.•••"
    assert pii.mask("4111 1111 1111 1111") == "4••• ••• ••• •••"


def test_personal_data_is_looked_for_in_all_that_a_row_says() -> None:
    check = row_checks.row_checks(QualityConfig(), None)["pii_email"]
    asked, said = Message("user", "Send it"), Message("assistant", "Done")
    call = {"function": {"name": "send", "arguments": {"to": ["jo@example.com"]}}}
    as_text = {"function": {"name": "send", "arguments": '{"to": "jo@example.com"}'}}
    tool = {"function": {"name": "send", "description": "ask jo@example.com"}}
    rows = [
        Row("system", (Message("system", "You serve jo@example.com"), asked, said)),
        Row("call", (asked, Message("assistant", "", tool_calls=(call,)))),
        Row("text", (asked, Message("assistant", "", tool_calls=(as_text,)))),
        Row("result", (asked, Message("tool", "jo@example.com", name="look"), said)),
        Row("reasoning", (asked, Message("assistant", "Done", reasoning="jo@example.com it is"))),
        Row("tools", (asked, said), tools=(tool,)),
    ]
    assert [each.id for each in rows if check(each) is None] == []
    number = {"function": {"name": "pay", "arguments": {"card": 4111111111111111}}}
    assert row_checks.row_checks(QualityConfig(), None)["pii_card"](
        Row("n", (asked, Message("assistant", "", tool_calls=(number,))))
    )
    assert check(Row("none", (asked, said))) is None


def test_every_hit_in_an_excerpt_is_hidden() -> None:
    text = (
        "jo@example.com, an@b.de, (212) 555-0123, 4111 1111 1111 1111, 10.20.30.40, 123-45-6789,"
        " DE89370400440532013000, jo@example.com"
    )
    after = pii.mask_all(text)
    assert after.startswith("j•••@•••.•••, a•••@•••.•••, (•••) •••-•••, 4•••")
    assert [
        name
        for name in ("pii_email", "pii_phone", "pii_card", "pii_iban", "pii_ip", "pii_ssn")
        if pii.FINDERS[name](after)
    ] == []
    assert pii.mask_all("On 2020-03-04 it cost 1,500.") == "On 2020-03-04 it cost 1,500."


# ---------------------------------------------------------------------------------------- grounding
@pytest.mark.parametrize(
    ("source", "answer", "missing"),
    [
        ("She is seventy-six and paid 1,200 dollars.", "She is 76 years old and paid 1200.", []),
        ("Seen on 3/4/2020.", "Seen on March 4, 2020.", []),
        ("Seen on 3/4/2020.", "Seen on 2020-05-04.", ["2020-05-04"]),
        ("Seen on the 4th of March 2020.", '{"date": "2020-03-04"}', []),
        (
            "He saw Doctor Kumar.",
            "The patient saw Kumar and Brown. They agreed. Nothing else.",
            ["Brown"],
        ),
        ("Take two pills.", "Take 3 pills.", ["3"]),
        ("The fee is 1500.", "The fee is 150.", ["150"]),
        ("The fee is 1,500.00 and 5mg.", "The fee is $1500, for 5 mg.", []),
        ("The fee is 1,500.", "The fee is 500, or 1.5.", ["500", "1.5"]),
        ("Es kostet 1.500 Euro.", "It costs 1500.", []),
        ("Codes 1,2,3.", "Codes 1, 3, and 4,5.", ["4", "5"]),
        ("Number 12345678901234567890.", "Number 12345678901234567891.", ["12345678901234567891"]),
        ("made the first day of July, 2017", "2017-07-01", []),
        ("made this 17t h day of February 2016", "2016-02-17", []),
        ("made this 21 st day of May, in the year 2005", "2005-05-21", []),
        (
            "on the twenty second of May 2005 and July thirtieth, 2006",
            "2005-05-22 to 2006-07-30, not 2006-07-31",
            ["2006-07-31"],
        ),
        ("1st day of JUNE , 2006, for additional one-year terms", "2006-06-01, 1 year", []),
        ("on 3-5-98, and on 12 / 31 / 2001", "1998-03-05, 2001-12-31", []),
        ("for five years from July 1, 2000", "2005-06-30", ["2005-06-30"]),
        ("part 99.99.20", "part 99.99.20", []),
        ("A list.", "1. First\n2. Second", []),
        ("It was said on a Monday.", "Notes from Tuesday in May follow.", []),
    ],
)
def test_what_the_source_does_not_contain_is_named(
    source: str, answer: str, missing: list[str]
) -> None:
    assert ungrounded(source, answer) == missing


# ------------------------------------------------------------------------------------- single texts
@pytest.mark.parametrize(
    ("check", "answer", "is_found"),
    [
        ("refusals", "I'm sorry, but I can't help with that.", True),
        ("refusals", "As an AI language model, I do not know.", True),
        ("refusals", "He said: I'm sorry, but I can't come.", False),
        ("truncated_answers", '{"a": 1, "b": ', True),
        ("truncated_answers", "Use this:\n```python\nprint(1)", True),
        ("truncated_answers", "It began in the year of the great flood, when the ...", True),
        ("truncated_answers", "Paris", False),
        ("rendered", "Yes.<|im_end|>\n<|im_start|>user", True),
        ("rendered", "[INST] hello [/INST]", True),
        ("rendered", "See the user: they said <s>so</s>.", False),
        ("encoding", "caf\ufffd", True),
        ("encoding", "cafÃ©", True),
        ("encoding", "café – fine", False),
    ],
)
def test_texts_that_should_not_be_learnt(check: str, answer: str, is_found: bool) -> None:
    assert (
        row_checks.row_checks(QualityConfig(), None)[check](row("Question?", answer)) is not None
    ) is is_found


def test_check_that_is_off_is_not_run() -> None:
    assert "refusals" not in row_checks.row_checks(QualityConfig(refusals=Level.off), None)


def test_every_setting_of_the_gate_has_its_words() -> None:
    settings = {name for name in QualityConfig.__dataclass_fields__ if name != "similarity"}
    assert settings <= CHECKS.keys()
    # the last by a judge
    assert {name for name in CHECKS if name not in settings} == {
        "mask",
        "overlength",
        "splits",
        "unsupported",
    }
    assert level_of(QualityConfig(), "mask") is Level.error


# -------------------------------------------------------------------------------- all rows together
def test_repeated_requests_are_told_apart(tmp_path: Path) -> None:
    rows = [
        row("List files", "ls", id="a"),
        row("list files!", "ls", id="same"),
        row("List files", "ls -1", id="other answer"),
        row("intent of: play jazz", '{"intent": "play"}', id="j1"),
        row("Intent of: play jazz", '{"intent": "search"}', id="j2"),
    ]
    findings = found(tmp_path, rows)
    assert findings["exact_duplicates"].rows == ["same"]
    assert (findings["multi_answer"].count, findings["multi_answer"].rows) == (
        1,
        ["a", "same", "other answer"],
    )
    assert (findings["label_conflicts"].count, findings["label_conflicts"].rows) == (
        1,
        ["j1", "j2"],
    )


def test_leaks_exact_near_and_by_group_name_the_rows(tmp_path: Path) -> None:
    rows = [
        row("Which city is the capital of France today?", id="train-1"),
        row("An altogether other question of one customer", id="train-2", group="acme"),
        row("which city is the capital of france today", id="test-exact"),
        row("Which city is the capital of France todays?", id="test-near"),
        row("Nothing like the others at all, really", id="test-group", group="acme"),
        row("Which river is longest in South America now", id="test-clean"),
    ]
    findings = found(tmp_path, rows, [Side.train] * 2 + [Side.test] * 4)
    assert findings["exact_leaks"].rows == ["test-exact"]
    assert findings["near_leaks"].rows == ["test-exact", "test-near"]
    assert findings["group_leaks"].rows == ["test-group"]
    assert list(refusals({"exact_leaks": findings["exact_leaks"].plain()})) == ["exact_leaks"]
    assert findings["near_leaks"].examples[1]["rows"] == ["train-1", "test-near"]


def test_personal_data_is_not_copied_into_the_finding(tmp_path: Path) -> None:
    finding = found(
        tmp_path,
        [
            row("Write to jo.doe@example.com please", id="a"),
            row("Nobody is named in this one", id="b"),
        ],
    )["pii_email"]
    assert finding.rows == ["a"]
    assert "jo.doe@example.com" not in str(finding.plain())
    everything = found(
        tmp_path,
        [
            row(
                "A question about it",
                "I'm sorry, but I can't write to jo.doe@example.com now",
                id="c",
            )
        ],
    )
    assert everything["refusals"].rows == ["c"]
    assert "jo.doe@example.com" not in str([f.plain() for f in everything.values()])


def test_request_asked_inside_a_training_conversation_is_a_near_leak(tmp_path: Path) -> None:
    talk = [
        Message("user", "Which city is the capital?"),
        Message("assistant", "Paris."),
        Message("user", "Thanks!"),
        Message("assistant", "Yes."),
    ]
    rows = [
        Row("talk", tuple(talk)),
        row("Something else altogether, I think", id="other"),
        row("which city is the capital", id="asked"),
    ]
    sides = [Side.train, Side.train, Side.test]
    assert found(tmp_path, rows, sides)["near_leaks"].rows == ["asked"]
    assert found(tmp_path, rows, sides, train_on=TrainOn.last)["near_leaks"].rows == []


def test_training_conversation_that_asks_a_test_request_is_removed_with_the_leaks(
    tmp_path: Path,
) -> None:
    turns = (
        ("user", "Which city is the capital?"),
        ("assistant", "Paris."),
        ("user", "Thanks!"),
        ("assistant", "Yes."),
    )
    rows = [
        Row("talk", tuple(Message(role, text) for role, text in turns)),
        row("Which city is the capital", id="asked"),
    ]
    findings = found(tmp_path, rows, [Side.train, Side.test], clean=CleaningConfig(drop_leaks=True))
    assert (findings["near_leaks"].count, findings["splits"].note) == (
        0,
        "the data set has no train and no validation rows",
    )
    assert "there were 1 before" in findings["near_leaks"].note


def test_system_turns_tell_requests_apart(tmp_path: Path) -> None:
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
    assert found(tmp_path, rows)["multi_answer"].count == 0


def test_split_without_rows_is_an_error(tmp_path: Path) -> None:
    findings = found(tmp_path, [row(f"question {i}", id=str(i), group="one") for i in range(6)])
    assert (findings["splits"].level, findings["splits"].note) == (
        Level.error,
        "the data set has no validation and no test rows",
    )


def test_labels_are_counted_among_the_rows_that_take_part(tmp_path: Path) -> None:
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


def test_what_is_unlike_the_rest_is_named(tmp_path: Path) -> None:
    words = [
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
            " ".join(rng.choices(words, k=12)) + f" {i}",
            f"{' '.join(rng.choices(words, k=10))} {i}.",
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
    findings = found(tmp_path, rows)
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
    assert found(tmp_path, rows)["language_mix"].rows == ["de"]


def test_answers_are_held_against_the_schema_and_each_other(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}, "required": ["kind"]}
    rows = [row(f"question number {i} of many", '{"kind": "a"}', id=f"r{i}") for i in range(20)]
    rows += [
        row("a bad kind of thing", '{"kind": "c"}', id="invalid"),
        row("prose instead of it", "kind a", id="prose"),
    ]
    findings = found(tmp_path, rows, schema=schema)
    assert findings["schema"].rows == ["invalid", "prose"]
    assert findings["mixed_answers"].rows == ["prose"]
    assert "kind=a: 20 of 21" in findings["label_balance"].note


def test_a_further_check_joins_in(tmp_path: Path) -> None:
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


# ------------------------------------------------------------------------ equality in two strengths
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sort in C++", "sort in C#"),
        ("5 < 7", "5 > 7"),
        ("-5", "5"),
        ("−5", "5"),
        ("5 - 7", "5 7"),
        ("1.5", "15"),
        ("1,5", "1 5"),
        ("10:30", "1030"),
        ("$5", "5 €"),
        ("50%", "50"),
        ("use .NET?", "use net"),
        ("what is 5!", "what is 5"),
        ("n!", "n"),
        ("5²", "52"),
        ("ls -la", "ls la"),
        ("rm --force x", "rm force x"),
        ("f(x)", "f x"),
        ("[1, 2]", "(1, 2)"),
        ("what is '?'", "what is '!'"),
        ("what does ? mean", "what does . mean"),
        ("/tmp/a", "tmp/a"),
        ("?", "!"),
        ("🍕", "🍣"),
        ("I love 🍕", "I love 🍣"),
        ("की", "का"),
        ("Maß", "Mas"),
        ("x == y", "x = y"),
    ],
)
def test_symbols_count_where_they_may_mean_something(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Top-up failed!", "top up failed"),
        ("top–up", "Top Up"),
        ("state-of-the-art", "State of the art."),
        ("hello - world", "hello world"),
        ("What’s up?", "what's up"),
        ("What´s up?", "what's up"),
        ('say "hi"', "say hi"),
        ("how are you ?", "How are you?"),
        ("Really?!", "really"),
        ("...and then", "and then…"),
        ("it costs 5.", "it costs 5"),
        ("5–7", "5-7"),
        ("你好，世界！", "你好 世界"),
        ("ＦＵＬＬ  width", "full\nwidth"),
    ],
)
def test_what_people_vary_freely_does_not_count(one: str, other: str) -> None:
    assert normalised(one) == normalised(other) != ""


def test_loose_rule_keeps_letters_with_their_marks_and_never_ends_with_nothing() -> None:
    def loose(text: str) -> str:
        return words(normalised(text))

    same = [
        ("e-mail", "e mail"),
        ("(urgent)", "urgent"),
        ("and/or", "and or"),
        ("sort in C++", "sort in C#"),
        ("你好 世界", "你好,世界"),
    ]
    assert [pair for pair in same if loose(pair[0]) != loose(pair[1])] == []
    others = [
        "?",
        "!",
        "🍕",
        "🍣",
        "👍",
        "👎",
        "की",
        "का",
        "***",
        "$",
        "你好",
        "世界",
        "résumé",
        "resume",
    ]
    assert len({loose(text) for text in others}) == len(others)
    assert "" not in map(loose, others)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("What is my balance?", "what's my balance", True),
        ("Whats my balance", "What is the my balance, please?", True),
        ("how do I top-up my card", "how do i topup my cards", True),
        ("show my current balance", "show my curent balance", True),
        ("I can't pay by card", "i cannot pay by card", True),
        ("what is the wether in rome", "what is the weather in rome", True),
        ("book a flight to Rome", "book a flight to Paris", False),
        ("set an alarm at 5", "set an alarm at 6", False),
        ("wake me at 5 am", "wake me at 5", False),
        ("turn on the light", "turn off the light", False),
        ("I can pay by card", "I can't pay by card", False),
        ("fly from Rome to Paris", "fly from Paris to Rome", False),
        ("sort a list in C++", "sort a list in C#", False),
        ("take vitamin A", "take vitamin", False),
        ("the balance", "a balance", False),  # too little is said
    ],
)
def test_short_requests_are_alike_by_their_words(one: str, other: str, alike: bool) -> None:
    cores = {
        i: told for i, text in enumerate((one, other)) if (told := key_words(normalised(text)))
    }
    assert list(find_spelling_variants(cores)) == ([(0, 1)] if alike else [])


BANKING = [
    f"{verb} {thing} {when}"
    for verb in ("how do I find", "why was I charged for", "where can I see")
    for thing in (
        "my missing transfer",
        "a card payment",
        "the exchange rate",
        "an extra fee",
        "my direct debit",
    )
    for when in (  # 60 requests of a bank's customers
        "from last week",
        "in another country",
        "on the website",
        "after the refund",
    )
]


def banking() -> tuple[list[Row], list[Side], dict[str, int]]:
    """Training and test rows with known numbers of variants."""
    prompt = "You are the assistant of a bank."
    rows = [row(f"{text}?", f"Label {i % 7}", id=f"train-{i}") for i, text in enumerate(BANKING)]
    train = len(rows)
    planted = {"case": 3, "hyphen": 4, "symbol": 5, "near": 6, "prompt": 7}

    def variant(kind: str, i: int) -> Row:
        text, answer = BANKING[i], f"Label {i % 7}"
        if kind == "prompt":
            turns = (
                Message("system", prompt),
                Message("user", f"{text}?"),
                Message("assistant", answer),
            )
            return Row(f"{kind}-{i}", turns)
        changed = {
            "case": text.upper() + " !",
            "hyphen": (
                text.replace(" ", "-", 3)
                if i % 2
                else text.replace(" the ", " the-").replace(" my ", " my-")
            ),
            "symbol": f"[{text}] #1".replace(" #1", " $"),
            "near": (
                f"please {text.replace(' I ', ' i ')}".replace("charged", "chargd").replace(
                    "where", "hello where"
                )
            ),
        }[kind]
        return row(changed, answer, id=f"{kind}-{i}")

    at = 0
    for kind, count in planted.items():
        for _ in range(count):
            rows.append(variant(kind, at))
            at += 1
    rows += [
        row(f"an entirely other matter number {word}", "Label 1", id=f"clean-{word}")
        for word in ("ochre", "umber", "sienna")
    ]
    rows.append(row("whatever is asked for in validation", "Label 1", id="validation"))
    return (
        rows,
        [Side.train] * train + [Side.test] * (len(rows) - train - 1) + [Side.validation],
        planted,
    )


def test_every_planted_variant_is_counted_where_it_belongs(tmp_path: Path) -> None:
    rows, sides, planted = banking()
    findings = found(tmp_path, rows, sides)
    kinds = {
        name: Counter(each.split("-")[0] for each in findings[name].rows)
        for name in ("exact_leaks", "near_leaks", "turn_leaks")
    }
    exact = {kind: planted[kind] for kind in ("case", "hyphen", "symbol")}
    assert kinds["exact_leaks"] == exact
    assert kinds["near_leaks"] == exact | {"near": planted["near"]}
    assert {k: n for k, n in kinds["turn_leaks"].items() if k not in ("near",)} == {
        "prompt": planted["prompt"]
    }
    assert (findings["exact_leaks"].splits, findings["exact_leaks"].note) == (
        {"test": 12},
        "12 test in train",
    )
    assert findings["turn_leaks"].examples[0]["rows"] == [f"train-{12 + 6}", "prompt-18"]


def test_repeats_are_sought_loosely_and_conflicts_claimed_strictly(tmp_path: Path) -> None:
    rows = [
        row(*said, id=f"r{i}")
        for i, said in enumerate(
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
    findings = found(tmp_path, rows)
    assert findings["exact_duplicates"].rows == ["r5", "r7", "r9"]
    assert (findings["label_conflicts"].count, findings["label_conflicts"].rows) == (
        1,
        ["r10", "r11"],
    )
    assert findings["multi_answer"].count == 0
    assert findings["exact_duplicates"].fix.startswith(
        "data.clean.drop_duplicates=true removes 1 of them from training; those in"
    )
    left = found(tmp_path, rows, clean=CleaningConfig(drop_duplicates=True))["exact_duplicates"]
    assert (left.rows, left.fix.startswith("data.clean.drop_duplicates removes none")) == (
        ["r7", "r9"],
        True,
    )


NOT_ONE_REQUEST = [
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


@pytest.mark.parametrize(("one", "other"), NOT_ONE_REQUEST)
def test_no_conflict_is_claimed_of_requests_that_differ_in_a_symbol(
    tmp_path: Path, one: str, other: str
) -> None:
    assert exact(one) != exact(other)
    labels = [row(one, '{"a": 1}', id="one"), row(other, '{"a": 2}', id="other")]
    assert found(tmp_path, labels)["label_conflicts"].count == 0
    several = [row(one, "It is this.", id="one"), row(other, "It is that.", id="other")]
    assert found(tmp_path, several)["multi_answer"].count == 0


@pytest.mark.parametrize(
    ("one", "other"),
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
def test_conflicts_are_claimed_of_requests_that_say_the_same(
    tmp_path: Path, one: str, other: str
) -> None:
    labels = [row(one, '{"a": 1}', id="one"), row(other, '{"a": 2}', id="other")]
    assert found(tmp_path, labels)["label_conflicts"].rows == ["one", "other"]


def test_symbols_that_change_the_answer_make_no_leak(tmp_path: Path) -> None:
    rows = [
        row("what is 12 + 7", "19", id="a"),
        row("what is 12 - 7", "5", id="b"),
        row("what is 12 * 7", "84", id="c"),
    ]
    rows += [
        row("what are the fees [USD]", "Ten.", id="d"),
        row("what are the fees USD", "Ten.", id="e"),
    ]
    rows.append(row("whatever is asked in validation", "Nothing.", id="v"))
    sides = [Side.train, Side.test, Side.test, Side.train, Side.test, Side.validation]
    findings = found(tmp_path, rows, sides)
    assert findings["exact_leaks"].rows == findings["near_leaks"].rows == ["e"]
    dropped = found(tmp_path, rows, sides, clean=CleaningConfig(drop_leaks=True))
    assert dropped["size"].count == 1  # a


def test_tools_and_thoughts_make_other_rows_that_are_not_removed(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
    asked = Message("user", "How warm is it today?")
    rows = [
        Row("a", (asked, Message("assistant", "Warm."))),
        Row("tools", (asked, Message("assistant", "Warm.")), tools=(tool,)),
        Row("thought", (asked, Message("assistant", "Warm.", reasoning="It is July."))),
        Row("again", (asked, Message("assistant", "Warm.\n"))),
    ]
    findings = found(tmp_path, rows, clean=CleaningConfig(drop_duplicates=True))
    assert findings["exact_duplicates"].rows == ["tools", "thought"]
    other = [
        rows[0],
        Row(
            "calls",
            (asked, Message("assistant", "", tool_calls=({"function": {"name": "look_up"}},))),
            tools=(tool,),
        ),
    ]
    assert found(tmp_path, other)["multi_answer"].count == 0


# ------------------------------------------------------------------------------------ leaks by turn
def talk(id_: str, *said: str, system: str = "") -> Row:
    turns = [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(said)]
    return Row(id_, (*([Message("system", system)] if system else []), *turns))


def test_a_turn_with_its_answer_leaks_under_any_system_turn_and_history(tmp_path: Path) -> None:
    asked, answer = "Which river is the longest in Europe?", "The Volga."
    rows = [
        talk("train", asked, answer, system="You know rivers."),
        talk(
            "talk",
            "Hello!",
            "Hi.",
            "Which lake is the deepest of all?",
            "Baikal.",
            "Thanks.",
            "Welcome.",
        ),
        talk("system", asked, answer, system="Be brief."),
        talk("none", asked, "The  Volga.\n"),
        talk("history", "Good morning to you", "Hello.", asked.lower(), answer),
        talk("inner", "which lake is the deepest of all", "Baikal."),
        talk("other answer", asked, "The Danube, I think.", system="Answer wrongly."),
        talk("polite", "So it is.", "Is it?", "Thanks.", "Welcome."),
    ]
    rows.append(row("whatever is asked in validation", "Nothing.", id="v"))
    sides = [Side.train] * 2 + [Side.test] * 6 + [Side.validation]
    findings = found(tmp_path, rows, sides)
    assert findings["turn_leaks"].rows == ["system", "none", "history", "inner"]
    assert findings["turn_leaks"].note == "4 test in train"
    assert findings["turn_leaks"].examples[0]["rows"] == ["train", "system"]
    assert findings["exact_leaks"].count == 0
    assert found(tmp_path, rows, sides, train_on=TrainOn.last)["turn_leaks"].rows == [
        "system",
        "none",
        "history",
    ]
    assert (
        found(tmp_path, rows, sides, clean=CleaningConfig(drop_leaks=True))["turn_leaks"].count == 0
    )


def test_only_tools_ids_and_white_space_make_no_other_request(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
    asked = "Which river is the longest in Europe?"
    rows = [
        row(asked, "The Volga.", id="train"),
        row(asked, "The Volga.", id="test", meta={"n": 1}),
        row(asked, " The\nVolga. ", id="white"),
    ]
    rows.append(Row("tools", rows[0].messages, tools=(tool,)))
    assert found(tmp_path, rows, [Side.train] + [Side.test] * 3)["exact_leaks"].rows == [
        "test",
        "white",
        "tools",
    ]


def test_leaks_say_between_which_splits_and_how_many_rows_the_fix_removes(tmp_path: Path) -> None:
    texts_ = [
        "Which river is longest?",
        "How deep is the sea here?",
        "Name a mountain in Peru",
        "What grows in a desert?",
    ]
    rows = [row(text, id=f"train-{i}") for i, text in enumerate(texts_)]
    rows += [
        row(texts_[0], id="v0"),
        row("Where do whales sleep", id="v1"),
        row("Who built the old bridge", id="v2"),
    ]
    rows += [
        row("Where do whales sleep?", id="t0"),
        row(texts_[0], id="t1"),
        row(texts_[1], id="t2"),
        row("Can a fish get thirsty", id="t3"),
    ]
    sides = [Side.train] * 4 + [Side.validation] * 3 + [Side.test] * 4
    finding = found(tmp_path, rows, sides)["exact_leaks"]
    assert finding.rows == ["v0", "t0", "t1", "t2"]
    assert finding.found_in == ["train", "validation", "train and validation", "train"]
    assert (
        finding.note
        == "1 test in train, 1 test in train and validation, 1 test in validation, 1 validation in"
        " train"
    )
    assert finding.splits == {"validation": 1, "test": 3}
    assert (
        finding.fix
        == "data.clean.drop_leaks=true removes 2 train rows and 2 validation rows, whose"
        " requests are in validation or test too"
    )
    after = found(tmp_path, rows, sides, clean=CleaningConfig(drop_leaks=True))
    assert (after["exact_leaks"].count, after["size"].count) == (0, 2)


def leaks_of(tmp_path: Path, train: Row, test: Row, **data: Any) -> list[str]:
    """The kinds of leak that the test row has."""
    rows = [train, row("whatever else is asked in validation", "Nothing.", id="v"), test]
    findings = found(tmp_path, rows, [Side.train, Side.validation, Side.test], **data)
    return [
        name
        for name in ("exact_leaks", "near_leaks", "turn_leaks")
        if test.id in findings[name].rows
    ]


@pytest.mark.parametrize(
    ("one", "other"),
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
    tmp_path: Path, one: str, other: str
) -> None:
    assert "near_leaks" in leaks_of(
        tmp_path, row(one, "It is here.", id="train"), row(other, "it is here", id="test")
    )
    assert "near_leaks" in leaks_of(
        tmp_path, row(other, "It is here.", id="train"), row(one, "It is here.", id="test")
    )


@pytest.mark.parametrize(
    ("one", "other", "leaks"),
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
def test_spellings_are_near_whatever_the_answers_where_nothing_else_is_meant(
    tmp_path: Path, one: str, other: str, leaks: bool
) -> None:
    assert (
        "near_leaks"
        in leaks_of(tmp_path, row(one, "It is here.", id="a"), row(other, "No, there.", id="b"))
    ) is leaks


@pytest.mark.parametrize(
    ("one", "other", "is_exact"),
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
    tmp_path: Path, one: str, other: str, is_exact: bool
) -> None:
    pair = (
        row("refund/return status query", one, id="train"),
        row("refund return status query", other, id="test"),
    )
    assert ("exact_leaks" in leaks_of(tmp_path, *pair)) is is_exact


def test_near_variants_are_found_under_other_system_turns_and_inside_conversations(
    tmp_path: Path,
) -> None:
    one, other = "Where is your office today?", "where is your office today please?"
    kind, pirate = (
        {"system": "Be kind to everyone you meet."},
        {"system": "Answer like a pirate of the sea."},
    )
    assert leaks_of(
        tmp_path, talk("a", one, "In Rome.", **kind), talk("b", other, "in Rome", **pirate)
    ) == ["turn_leaks"]
    inner = talk(
        "a",
        "I am new here",
        "Welcome.",
        "How old is the city of Rome?",
        "Very old.",
        "So be it then",
        "Yes.",
    )
    asked = talk("b", "how old's the city of Rome", "very old")
    assert leaks_of(tmp_path, inner, asked) == ["turn_leaks"]
    assert leaks_of(tmp_path, inner, asked, train_on=TrainOn.last) == []
    first = talk("a", "How old is the city of Rome?", "Very old.", "Thanks", "Welcome.")
    assert "near_leaks" in leaks_of(
        tmp_path, first, talk("b", "how old's the city of Rome", "Another answer.")
    )
    assert (
        leaks_of(
            tmp_path,
            talk("a", "Hi", "Hello", "Thanks", "Welcome."),
            talk("b", "thank you", "Welcome"),
        )
        == []
    )
    rows = [
        first,
        row("Who are you", id="r"),
        row("whatever is asked", "No.", id="v"),
        talk("b", "how old's the city of Rome", "Very old"),
    ]
    sides = [Side.train, Side.train, Side.validation, Side.test]
    assert (
        found(tmp_path, rows, sides, clean=CleaningConfig(drop_leaks=True))["near_leaks"].count == 0
    )


def test_own_split_keeps_spellings_together(tmp_path: Path) -> None:
    things = [
        f"{one}{other}"
        for one in ("bu", "ko", "sha", "mi", "zed", "fo")
        for other in ("lag", "nir", "tep", "wox", "dum")
    ]
    rows = [
        row(f"{way} {text}", f"Label {i}", id=f"{way}-{i}")
        for i, text in enumerate(things)
        for way in ("x-y t-v", "xy tv")
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


# -------------------------------------------------------------- tokens, empty requests, cut answers
@pytest.mark.parametrize(
    "token",
    [
        *(
            "</s>",
            "<|im_end|>",
            "<|eot_id|>",
            "<|eom_id|>",
            "<end_of_turn>",
            "<|end|>",
            "<eos>",
            "<bos>",
            "<pad>",
            "<unk>",
            "[EOS]",
            "[BOS]",
        ),
        *(
            "<|endoftext|>",
            "<|return|>",
            "<|channel|>",
            "<｜end▁of▁sentence｜>",
            "<|END_OF_TURN_TOKEN|>",
            "<EOS_TOKEN>",
            "<|EOT|>",
        ),
        *("<|end_of_role|>", "[/INST]", "[TOOL_CALLS]", "<turn|>", "<eop>", "[gMASK]"),
    ],
)
def test_special_tokens_of_any_model_are_found_in_any_text(token: str) -> None:
    check = row_checks.row_checks(QualityConfig(), None)["rendered"]
    assert token in str(check(row("How?", f"Like this.{token}")))
    assert check(row(f"How?{token}", "Like this."))
    assert check(
        Row(
            "thought",
            (Message("user", "How?"), Message("assistant", "So.", reasoning=f"Well{token}")),
        )
    )


@pytest.mark.parametrize(
    "text",
    [
        "It costs <s>49 €</s> 39 € now.",
        "if a <| b |> c then",
        "x |> f |> g",
        "a[EO]",
        "<span>1</span>",
        "vector<s> of them",
        "press <s> to stop",
        "a list[int] | None",
        "<|>",
        "the <end> of it",
    ],
)
def test_what_looks_a_little_like_a_special_token_is_not_found(text: str) -> None:
    assert row_checks.row_checks(QualityConfig(), None)["rendered"](row("How?", text)) is None


@pytest.mark.parametrize(
    "text", ["<s> Hello there.</s>", "<s>[INST] Hi", "Hello.</s>\n", "a</s>b", "<s>Hello"]
)
def test_begin_and_end_of_text_are_told_from_struck_text(text: str) -> None:
    assert row_checks.row_checks(QualityConfig(), None)["rendered"](row("How?", text))


@pytest.mark.parametrize(
    "text",
    [
        "Sure.\nUser: hi",
        "Sure.\n\nHuman:\nhi",
        "Sure. ### Human: hi",
        "Sure.### Response: hi",
        "Sure.<END>",
        "Sure. <END>\n",
        "Sure.<|im_end|",
        "Sure.<|im_end",
        "Sure.<|endoftext|\nmore",
        "Sure.im_end|>",
        "Sure.<|eot_id",
        "Sure.<|custom_mark|",
        "Sure.</s",
    ],
)
def test_cut_and_unusual_marks_of_turns_are_found(text: str) -> None:
    assert row_checks.row_checks(QualityConfig(), None)["rendered"](row("How?", text))


@pytest.mark.parametrize(
    "text",
    [
        "User: the one who pays.",
        "See the User: field",
        "# Response: how to write one",
        "cut -c <START>-<END> file",
        "f <|x|> y <| z",
        "a.map <|f",
        "user:\n  name: jo",
        "x |> y",
        "list <|> other",
        "Issue ###",
        "Patient: hi\nDoctor: hello",
        "super user: root",
        "Log in:\nUser: root\nPassword: x",
        "grep 'im_end' x | less",
        "services:\n  web:\n    user: root",
    ],
)
def test_what_looks_a_little_like_a_mark_of_a_turn_is_not_found(text: str) -> None:
    assert row_checks.row_checks(QualityConfig(), None)["rendered"](row("How?", text)) is None


@pytest.mark.parametrize(
    "answer",
    [
        "The details are given in the manual (page",
        "You can find it there (see chapter 4 and",
        "First, you need to",
        "You will be able to",
        "The ticket will cost about $",
        "It should cost around €",
        "Use `ls -",
        "Then run `git commit",
        "It is one of the most [important",
        "To see them all, press Ctrl and then",
        "You can do this if",
        "It is known as",
        "We recommend that you should",
        "The price of this",
    ],
)
def test_answers_that_break_off_in_brackets_code_or_before_what_must_follow_are_cut(
    answer: str,
) -> None:
    assert row_checks.check_truncated(row("How?", answer))


@pytest.mark.parametrize(
    "answer",
    [
        "See the manual (page 4)",
        "a) one b) two c) three",
        "Yes, it is :(",
        "It costs 5 $",
        "Use `ls -a`",
        "The GNU style is `quoted' text here",
        "find . \\( -name x",
        "grep foo$",
        "echo $",
        "The place I like to go to.",
        "(",
        "a list [1, 2)",
        "what the fee is for the card",
        "Send it, so that I can log in",
        "see (1",
        "He said ``no'' to it",
        "1) first 2) second",
        "go to",
        "reply to",
        "card not working as",
    ],
)
def test_whole_answers_are_not_taken_for_cut_ones(answer: str) -> None:
    assert row_checks.check_truncated(row("How?", answer)) is None


def test_half_a_word_with_a_capital_is_found_where_others_have_the_whole(tmp_path: Path) -> None:
    rows = [
        row(f"question {i * 7919}", f"Open the settings and choose Security number {i}", id=f"r{i}")
        for i in range(20)
    ]
    rows.append(row("Where is it?", "Open the settings and then choose Secur", id="cut"))
    rows.append(row("Who is it?", "Open the settings and then choose Sec", id="short"))
    assert found(tmp_path, rows)["truncated_answers"].rows == ["cut"]


def test_empty_requests_are_an_error_unless_most_are_so(tmp_path: Path) -> None:
    empty = [
        row(text, "Yes, it is.", id=f"empty-{i}")
        for i, text in enumerate(("", "  \n\t", "\u200b\u2060"))
    ]
    inner = talk("inner", "How are you?", "Well.", " ", "Still well.")
    rows = [*empty, inner, *(row(f"question number {i}", id=f"r{i}") for i in range(6))]
    finding = found(tmp_path, rows)["empty_requests"]
    assert (finding.level, finding.rows) == (
        Level.error,
        ["empty-0", "empty-1", "empty-2", "inner"],
    )
    assert finding.examples[3]["note"] == "turn 3 is empty"
    system = Row("system", (Message("system", "Write a poem."), Message("assistant", "Roses.")))
    assert found(tmp_path, [system, *rows[4:]])["empty_requests"].count == 0
    meant = found(tmp_path, empty)["empty_requests"]
    assert (meant.level, meant.count, "most rows" in meant.note) == (Level.warn, 3, True)


def test_cut_answers_are_found_where_half_of_the_others_have_no_full_stop(tmp_path: Path) -> None:
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
    assert set(found(tmp_path, rows)["truncated_answers"].rows) == set(cut)


def test_short_cut_answers_are_found_among_whole_ones(tmp_path: Path) -> None:
    rows = [
        row(f"question {i * 7919}", f"It is number {i} of them.", id=f"r{i}") for i in range(20)
    ]
    rows.append(row("What is the capital of France?", "The capital of France", id="cut"))
    assert found(tmp_path, rows)["truncated_answers"].rows == ["cut"]
    labels = [
        row(f"question {i * 7919}", f"card payment not {word}", id=f"{i}")
        for i, word in enumerate(("seen", "known", "due", "made") * 6)
    ]
    assert found(tmp_path, labels)["truncated_answers"].count == 0


def test_own_split_keeps_symbol_and_prompt_variants_together_and_stable(tmp_path: Path) -> None:
    rows = []
    for i, text in enumerate(BANKING):
        rows += [
            row(f"{text}?", f"Label {i}", id=f"plain-{i}"),
            row(f"[{text}]", f"Label {i}", id=f"symbol-{i}"),
        ]
        rows.append(
            talk(
                f"prompt-{i}", text, f"Label {i}", system=f"You are assistant {i * 7919} of a bank."
            )
        )
        rows.append(row(f"{text} (#{i % 3})", "Another answer", id=f"other-{i}"))

    def placed(own: list[Row], **data: Any) -> tuple[dict[str, Any], dict[str, int]]:
        inspection = Inspection(DataConfig(**data), None)
        writer = RowWriter(tmp_path / "rows.arrow")
        for each in own:
            writer.add(each, inspection.see(each, Side.train))
        writer.close()
        store = RowStore(tmp_path / "rows.arrow")
        inspection.divide(store, {Side.train}, lambda steps: None)
        findings = {f.name: f for f in run_checks(inspection, store)}
        return findings, {
            each.id: int(side) for each, side in zip(own, inspection.sides, strict=True)
        }

    quality = QualityConfig(similarity=1)  # so that nothing else keeps them together
    findings, sides = placed(rows, validation_fraction=0.2, test_fraction=0.2, quality=quality)
    assert [findings[name].count for name in ("exact_leaks", "near_leaks", "turn_leaks")] == [
        0,
        0,
        0,
    ]
    assert len(set(sides.values())) > 2
    joined = [
        *rows,
        *(row(f"[{text}]", "Another answer", id=f"join-{i}") for i, text in enumerate(BANKING)),
    ]
    after = placed(joined, validation_fraction=0.2, test_fraction=0.2, quality=quality)[1]
    assert {id_: side for id_, side in after.items() if id_ in sides} == sides
