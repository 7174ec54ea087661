"""Requests of validation and test rows that training rows contain: exact, by turn, by group."""

from collections import Counter
from pathlib import Path

from data_findings import BANKING, conversation, findings_of, row
from hydratune.data.quality.findings import refusals
from hydratune.data.rows import Message, Row
from hydratune.data.splits import Side
from hydratune.settings.data import CleaningConfig, TrainOn


def test_exact_near_and_group_leaks_name_the_rows(tmp_path: Path) -> None:
    rows = [
        row("Which city is the capital of France today?", id="train-1"),
        row("An altogether other question of one customer", id="train-2", group="acme"),
        row("which city is the capital of france today", id="test-exact"),
        row("Which city is the capital of France todays?", id="test-near"),
        row("Nothing like the others at all, really", id="test-group", group="acme"),
        row("Which river is longest in South America now", id="test-clean"),
    ]
    findings = findings_of(tmp_path, rows, [Side.train] * 2 + [Side.test] * 4)
    assert findings["exact_leaks"].rows == ["test-exact"]
    assert findings["near_leaks"].rows == ["test-exact", "test-near"]
    assert findings["group_leaks"].rows == ["test-group"]
    assert list(refusals({"exact_leaks": findings["exact_leaks"].plain()})) == ["exact_leaks"]
    assert findings["near_leaks"].examples[1]["rows"] == ["train-1", "test-near"]


def test_request_asked_inside_a_training_conversation_is_a_near_leak(tmp_path: Path) -> None:
    conversation = [
        Message("user", "Which city is the capital?"),
        Message("assistant", "Paris."),
        Message("user", "Thanks!"),
        Message("assistant", "Yes."),
    ]
    rows = [
        Row("talk", tuple(conversation)),
        row("Something else altogether, I think", id="other"),
        row("which city is the capital", id="asked"),
    ]
    sides = [Side.train, Side.train, Side.test]
    assert findings_of(tmp_path, rows, sides)["near_leaks"].rows == ["asked"]
    assert findings_of(tmp_path, rows, sides, train_on=TrainOn.last)["near_leaks"].rows == []


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
    findings = findings_of(
        tmp_path, rows, [Side.train, Side.test], clean=CleaningConfig(drop_leaks=True)
    )
    assert (findings["near_leaks"].count, findings["splits"].note) == (
        0,
        "the data set has no train and no validation rows",
    )
    assert "there were 1 before" in findings["near_leaks"].note


def banking_variant(kind: str, i: int) -> Row:
    """Return a variant of the training row ``i`` of ``banking``."""
    text, answer = BANKING[i], f"Label {i % 7}"
    if kind == "prompt":
        turns = (
            Message("system", "You are the assistant of a bank."),
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


def banking() -> tuple[list[Row], list[Side], dict[str, int]]:
    """Return rows, their sides, and how many variants of each kind the test rows hold."""
    rows = [row(f"{text}?", f"Label {i % 7}", id=f"train-{i}") for i, text in enumerate(BANKING)]
    train = len(rows)
    planted = {"case": 3, "hyphen": 4, "symbol": 5, "near": 6, "prompt": 7}

    at = 0
    for kind, count in planted.items():
        for _ in range(count):
            rows.append(banking_variant(kind, at))
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


def test_every_planted_variant_is_counted_as_its_kind_of_leak(tmp_path: Path) -> None:
    rows, sides, planted = banking()
    findings = findings_of(tmp_path, rows, sides)
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
    findings = findings_of(tmp_path, rows, sides)
    assert findings["exact_leaks"].rows == findings["near_leaks"].rows == ["e"]
    dropped = findings_of(tmp_path, rows, sides, clean=CleaningConfig(drop_leaks=True))
    assert dropped["size"].count == 1  # a


# ------------------------------------------------------------------------------------ leaks by turn
def test_a_turn_with_its_answer_leaks_under_any_system_turn_and_history(tmp_path: Path) -> None:
    question, answer = "Which river is the longest in Europe?", "The Volga."
    rows = [
        conversation("train", question, answer, system="You know rivers."),
        conversation(
            "talk",
            "Hello!",
            "Hi.",
            "Which lake is the deepest of all?",
            "Baikal.",
            "Thanks.",
            "Welcome.",
        ),
        conversation("system", question, answer, system="Be brief."),
        conversation("none", question, "The  Volga.\n"),
        conversation("history", "Good morning to you", "Hello.", question.lower(), answer),
        conversation("inner", "which lake is the deepest of all", "Baikal."),
        conversation("other answer", question, "The Danube, I think.", system="Answer wrongly."),
        conversation("polite", "So it is.", "Is it?", "Thanks.", "Welcome."),
    ]
    rows.append(row("whatever is asked in validation", "Nothing.", id="v"))
    sides = [Side.train] * 2 + [Side.test] * 6 + [Side.validation]
    findings = findings_of(tmp_path, rows, sides)
    assert findings["turn_leaks"].rows == ["system", "none", "history", "inner"]
    assert findings["turn_leaks"].note == "4 test in train"
    assert findings["turn_leaks"].examples[0]["rows"] == ["train", "system"]
    assert findings["exact_leaks"].count == 0
    assert findings_of(tmp_path, rows, sides, train_on=TrainOn.last)["turn_leaks"].rows == [
        "system",
        "none",
        "history",
    ]
    assert (
        findings_of(tmp_path, rows, sides, clean=CleaningConfig(drop_leaks=True))[
            "turn_leaks"
        ].count
        == 0
    )


def test_tools_ids_and_white_space_do_not_make_another_request(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
    question = "Which river is the longest in Europe?"
    rows = [
        row(question, "The Volga.", id="train"),
        row(question, "The Volga.", id="test", meta={"n": 1}),
        row(question, " The\nVolga. ", id="white"),
    ]
    rows.append(Row("tools", rows[0].messages, tools=(tool,)))
    assert findings_of(tmp_path, rows, [Side.train] + [Side.test] * 3)["exact_leaks"].rows == [
        "test",
        "white",
        "tools",
    ]


def test_leaks_state_their_splits_and_how_many_rows_the_fix_removes(tmp_path: Path) -> None:
    texts = [
        "Which river is longest?",
        "How deep is the sea here?",
        "Name a mountain in Peru",
        "What grows in a desert?",
    ]
    rows = [row(text, id=f"train-{i}") for i, text in enumerate(texts)]
    rows += [
        row(texts[0], id="v0"),
        row("Where do whales sleep", id="v1"),
        row("Who built the old bridge", id="v2"),
    ]
    rows += [
        row("Where do whales sleep?", id="t0"),
        row(texts[0], id="t1"),
        row(texts[1], id="t2"),
        row("Can a fish get thirsty", id="t3"),
    ]
    sides = [Side.train] * 4 + [Side.validation] * 3 + [Side.test] * 4
    finding = findings_of(tmp_path, rows, sides)["exact_leaks"]
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
    after = findings_of(tmp_path, rows, sides, clean=CleaningConfig(drop_leaks=True))
    assert (after["exact_leaks"].count, after["size"].count) == (0, 2)
