import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydratune.config import CleaningConfig, ContractsData, DataConfig, Level, QualityConfig, TrainOn
from hydratune.data.quality import pii, texts
from hydratune.data.quality.duplicates import grams, jaccard, near_pairs, normalised, words
from hydratune.data.quality.findings import CHECKS, level_of, refusals
from hydratune.data.quality.grounding import ungrounded
from hydratune.data.quality.inspection import Inspection
from hydratune.data.quality.verdict import Verdict
from hydratune.data.rows import Message, Row
from hydratune.data.splits import Side
from hydratune.data.store import RowStore, RowWriter


def row(question: str, answer: str = "Yes, it is.", **more: Any) -> Row:
    return Row(more.pop("id", question), (Message("user", question), Message("assistant", answer)), **more)


def found(tmp_path: Path, rows: list[Row], sides: list[Side] | None = None, schema: Any = None, **data: Any) -> dict[str, Any]:
    """The findings of rows that their source has on these sides; the rest is split off."""
    inspection = Inspection(DataConfig(**data), schema)
    writer = RowWriter(tmp_path / "rows.arrow")
    for each, side in zip(rows, sides or [Side.train] * len(rows), strict=True):
        writer.add(each, inspection.see(each, side))
    writer.close()
    store = RowStore(tmp_path / "rows.arrow")
    inspection.divide(store, {Side.train, *(sides or [])} if sides else set(Side), lambda steps: None)
    return {f.name: f for f in Verdict(inspection, store).findings()}


# ---------------------------------------------------------------------------------------------------------- duplicates
def test_normalising_keeps_what_carries_meaning() -> None:
    assert normalised("  What's   UP, “Doc”?! ") == "what s up doc"
    assert len({normalised(f"3 {sign} 4") for sign in "+-*/<>=^%"}) == 9
    assert normalised("what is $#?") != normalised("what is $@?")
    assert words(normalised("(a) b/c")) == words(normalised('"A" b c'))
    assert normalised("3.5") != normalised("35")


def test_jaccard_of_grams_is_that_of_the_texts() -> None:
    one, other = "the quick brown fox jumps", "the quick brown fox jumped"
    sets = [{t[i : i + 5] for i in range(len(t) - 4)} for t in (one, other)]
    assert jaccard(grams(one), grams(other)) == pytest.approx(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))


@pytest.mark.parametrize("threshold", [0.6, 0.8, 1.0])
def test_near_pairs_are_exactly_those_of_comparing_all(threshold: float) -> None:
    rng = random.Random(3)
    texts_ = ["".join(rng.choices(string.ascii_lowercase[:6] + " ", k=rng.randint(3, 60))) for _ in range(120)]
    for text in texts_[:60]:  # a few changed characters each
        at = rng.randrange(len(text))
        texts_.append(text[:at] + rng.choice("abc") + text[at + rng.randint(0, 2) :])
    texts_ = sorted(set(texts_))
    sets = [{t.ljust(5)[i : i + 5] for i in range(max(1, len(t) - 4))} for t in texts_]
    expected = {
        (i, j) for i in range(len(sets)) for j in range(i + 1, len(sets)) if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold
    }
    pairs = near_pairs(len(texts_), texts_.__getitem__, threshold)
    assert set(pairs) == expected
    assert threshold == 1.0 or len(expected) > 10
    assert not pairs.capped


def test_an_instruction_before_every_request_makes_them_not_alike() -> None:
    rng = random.Random(1)
    instruction = "".join(rng.choices(string.ascii_lowercase + " ", k=700))  # alone, it makes any two of them 0.9 alike
    reviews = ["".join(rng.choices(string.ascii_lowercase + " ", k=40)) for _ in range(300)]
    texts_ = [instruction + review for review in reviews] + [f"{instruction}{reviews[7]} ok"]
    assert set(near_pairs(len(texts_), texts_.__getitem__, 0.8)) == {(7, 300)}


def test_too_many_alike_is_said_and_not_waited_for() -> None:
    rng = random.Random(2)
    families = ["".join(rng.choices(string.ascii_lowercase + " ", k=200)) for _ in range(12)]
    texts_ = [f"{family}{i:03}" for family in families for i in range(150)]
    pairs = near_pairs(len(texts_), texts_.__getitem__, 0.8)
    assert pairs.capped
    assert len(np.unique(np.concatenate([pairs.first, pairs.second]))) > 0.9 * len(texts_)
    assert all(a // 150 == b // 150 for a, b in pairs)


# ----------------------------------------------------------------------------------------------------------------- pii
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
def test_personal_data_is_found_and_look_alikes_are_not(name: str, text: str, expected: str | None) -> None:
    assert pii.FINDERS[name](text) == expected


def test_personal_data_is_shown_masked() -> None:
    check = texts.row_checks(QualityConfig(), None)["pii_email"]
    assert check(row("I am jo.doe@example.com")) == "j•••.•••@•••.•••"
    assert pii.masked("a@b.de") == "a@•••.•••"
    assert pii.masked("4111 1111 1111 1111") == "4••• ••• ••• •••"


def test_personal_data_is_looked_for_in_all_that_a_row_says() -> None:
    check = texts.row_checks(QualityConfig(), None)["pii_email"]
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
    assert texts.row_checks(QualityConfig(), None)["pii_card"](Row("n", (asked, Message("assistant", "", tool_calls=(number,)))))
    assert check(Row("none", (asked, said))) is None


def test_every_hit_in_an_excerpt_is_hidden() -> None:
    text = "jo@example.com, an@b.de, (212) 555-0123, 4111 1111 1111 1111, 10.20.30.40, 123-45-6789, DE89370400440532013000, jo@example.com"
    after = pii.hidden(text)
    assert after.startswith("j•••@•••.•••, a•••@•••.•••, (•••) •••-•••, 4•••")
    assert [name for name in ("pii_email", "pii_phone", "pii_card", "pii_iban", "pii_ip", "pii_ssn") if pii.FINDERS[name](after)] == []
    assert pii.hidden("On 2020-03-04 it cost 1,500.") == "On 2020-03-04 it cost 1,500."


# ----------------------------------------------------------------------------------------------------------- grounding
@pytest.mark.parametrize(
    ("source", "answer", "missing"),
    [
        ("She is seventy-six and paid 1,200 dollars.", "She is 76 years old and paid 1200.", []),
        ("Seen on 3/4/2020.", "Seen on March 4, 2020.", []),
        ("Seen on 3/4/2020.", "Seen on 2020-05-04.", ["2020-05-04"]),
        ("Seen on the 4th of March 2020.", '{"date": "2020-03-04"}', []),
        ("He saw Doctor Kumar.", "The patient saw Kumar and Brown. They agreed. Nothing else.", ["Brown"]),
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
        ("on the twenty second of May 2005 and July thirtieth, 2006", "2005-05-22 to 2006-07-30, not 2006-07-31", ["2006-07-31"]),
        ("1st day of JUNE , 2006, for additional one-year terms", "2006-06-01, 1 year", []),
        ("on 3-5-98, and on 12 / 31 / 2001", "1998-03-05, 2001-12-31", []),
        ("for five years from July 1, 2000", "2005-06-30", ["2005-06-30"]),
        ("part 99.99.20", "part 99.99.20", []),
        ("A list.", "1. First\n2. Second", []),
        ("It was said on a Monday.", "Notes from Tuesday in May follow.", []),
    ],
)
def test_what_the_source_does_not_contain_is_named(source: str, answer: str, missing: list[str]) -> None:
    assert ungrounded(source, answer) == missing


# -------------------------------------------------------------------------------------------------------- single texts
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
    assert (texts.row_checks(QualityConfig(), None)[check](row("Question?", answer)) is not None) is is_found


def test_check_that_is_off_is_not_run() -> None:
    assert "refusals" not in texts.row_checks(QualityConfig(refusals=Level.off), None)


def test_every_setting_of_the_gate_has_its_words() -> None:
    settings = {name for name in QualityConfig.__dataclass_fields__ if name != "similarity"}
    assert settings <= CHECKS.keys()
    assert {name for name in CHECKS if name not in settings} == {"mask", "overlength", "splits", "unsupported"}  # the last by a judge
    assert level_of(QualityConfig(), "mask") is Level.error


# ---------------------------------------------------------------------------------------------------- all rows together
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
    assert (findings["multi_answer"].count, findings["multi_answer"].rows) == (1, ["a", "same", "other answer"])
    assert (findings["label_conflicts"].count, findings["label_conflicts"].rows) == (1, ["j1", "j2"])


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
    finding = found(tmp_path, [row("Write to jo.doe@example.com please", id="a"), row("Nobody is named in this one", id="b")])["pii_email"]
    assert finding.rows == ["a"]
    assert "jo.doe@example.com" not in str(finding.plain())
    everything = found(tmp_path, [row("A question about it", "I'm sorry, but I can't write to jo.doe@example.com now", id="c")])
    assert everything["refusals"].rows == ["c"]
    assert "jo.doe@example.com" not in str([f.plain() for f in everything.values()])


def test_request_asked_inside_a_training_conversation_is_a_near_leak(tmp_path: Path) -> None:
    talk = [
        Message("user", "Which city is the capital?"),
        Message("assistant", "Paris."),
        Message("user", "Thanks!"),
        Message("assistant", "Yes."),
    ]
    rows = [Row("talk", tuple(talk)), row("Something else altogether, I think", id="other"), row("which city is the capital", id="asked")]
    sides = [Side.train, Side.train, Side.test]
    assert found(tmp_path, rows, sides)["near_leaks"].rows == ["asked"]
    assert found(tmp_path, rows, sides, train_on=TrainOn.last)["near_leaks"].rows == []


def test_training_conversation_that_asks_a_test_request_is_removed_with_the_leaks(tmp_path: Path) -> None:
    turns = ("user", "Which city is the capital?"), ("assistant", "Paris."), ("user", "Thanks!"), ("assistant", "Yes.")
    rows = [Row("talk", tuple(Message(role, text) for role, text in turns)), row("Which city is the capital", id="asked")]
    findings = found(tmp_path, rows, [Side.train, Side.test], clean=CleaningConfig(drop_leaks=True))
    assert (findings["near_leaks"].count, findings["splits"].note) == (0, "the data set has no train and no validation rows")
    assert "there were 1 before" in findings["near_leaks"].note


def test_system_turns_tell_requests_apart(tmp_path: Path) -> None:
    rows = [
        Row(language, (Message("system", f"Answer in {language}"), Message("user", "Hello there!"), Message("assistant", f"{language}.")))
        for language in ("French", "German", "Latin")
    ]
    assert found(tmp_path, rows)["multi_answer"].count == 0


def test_split_without_rows_is_an_error(tmp_path: Path) -> None:
    findings = found(tmp_path, [row(f"question {i}", id=str(i), group="one") for i in range(6)])
    assert (findings["splits"].level, findings["splits"].note) == (Level.error, "the data set has no validation and no test rows")


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
    words = ["lorem", "ipsum", "dolor", "sit", "amet", "consectetur", "adipiscing", "elit", "sed", "do"]
    rng = random.Random(0)
    rows = [row(" ".join(rng.choices(words, k=12)) + f" {i}", f"{' '.join(rng.choices(words, k=10))} {i}.", id=f"r{i}") for i in range(40)]
    rows.append(row("How long is it, I ask myself here", "word " * 400 + ".", id="long"))
    rows.append(row("And what ends without a mark in here", "this sentence just ends in the middle of the", id="cut"))
    rows.append(row("Wie heißt die Hauptstadt von Frankreich, und seit wann ist sie das eigentlich schon?", id="german"))
    rows.append(row("Was ist die größte Stadt in Deutschland, und wie viele Menschen wohnen dort heute?", id="german"))
    findings = found(tmp_path, rows)
    assert findings["length_outliers"].rows == ["long"]
    assert findings["truncated_answers"].rows == ["cut"]
    assert findings["duplicate_ids"].rows == ["german", "german"]
    assert findings["size"].count == 44


def test_rows_in_another_language_are_named(tmp_path: Path) -> None:
    english = "Please tell me what the weather will be like in the city of {} on the day after tomorrow"
    rows = [row(english.format(f"place{i}"), id=f"en{i}") for i in range(10)]
    rows.append(row("Bitte sag mir, wie das Wetter übermorgen in der Stadt werden wird, in der ich wohne", id="de"))
    assert found(tmp_path, rows)["language_mix"].rows == ["de"]


def test_answers_are_held_against_the_schema_and_each_other(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}, "required": ["kind"]}
    rows = [row(f"question number {i} of many", '{"kind": "a"}', id=f"r{i}") for i in range(20)]
    rows += [row("a bad kind of thing", '{"kind": "c"}', id="invalid"), row("prose instead of it", "kind a", id="prose")]
    findings = found(tmp_path, rows, schema=schema)
    assert findings["schema"].rows == ["invalid", "prose"]
    assert findings["mixed_answers"].rows == ["prose"]
    assert "kind=a: 20 of 21" in findings["label_balance"].note


def test_a_further_check_joins_in(tmp_path: Path) -> None:
    inspection = Inspection(DataConfig(), None, extra={"ungrounded": lambda r: "made up" if "moon" in r.answer else None})
    writer = RowWriter(tmp_path / "rows.arrow")
    for each in (row("a", "cheese"), row("b", "moon cheese")):
        writer.add(each, inspection.see(each, Side.train))
    writer.close()
    store = RowStore(tmp_path / "rows.arrow")
    inspection.divide(store, set(Side), lambda steps: None)
    finding = next(f for f in Verdict(inspection, store).findings() if f.name == "ungrounded")
    assert (finding.rows, finding.examples[0]["note"]) == (["b"], "made up")


def test_builtin_contracts_pass_their_own_checks() -> None:
    from hydratune.data.prepared import prepare

    report = prepare(ContractsData(train_rows=60, validation_rows=20, test_rows=30)).report
    assert {n for n, c in report["checks"].items() if c["count"]} <= {"size", "near_duplicates", "ungrounded", "label_balance"}
