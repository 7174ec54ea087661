"""Checks of single rows: refusals, special tokens, truncation, ungrounded values."""

import pytest

from data_findings import row
from hydratune.data.quality import row_checks
from hydratune.data.quality.grounding import ungrounded
from hydratune.data.rows import Message, Row
from hydratune.settings.data import Level, QualityConfig


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
def test_values_missing_from_the_source_are_reported(
    source: str, answer: str, missing: list[str]
) -> None:
    assert ungrounded(source, answer) == missing


# ------------------------------------------------------------------------------------------ answers
@pytest.mark.parametrize(
    ("check", "answer", "is_reported"),
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
def test_refusals_truncation_special_tokens_and_broken_encodings_are_reported(
    check: str, answer: str, is_reported: bool
) -> None:
    assert (
        row_checks.row_checks(QualityConfig(), None)[check](row("Question?", answer)) is not None
    ) is is_reported


def test_check_that_is_off_is_not_run() -> None:
    assert "refusals" not in row_checks.row_checks(QualityConfig(refusals=Level.off), None)


# -------------------------------------------------- special tokens, turn markers, truncated answers
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
def test_text_similar_to_a_special_token_is_not_reported(text: str) -> None:
    assert row_checks.row_checks(QualityConfig(), None)["rendered"](row("How?", text)) is None


@pytest.mark.parametrize(
    "text", ["<s> Hello there.</s>", "<s>[INST] Hi", "Hello.</s>\n", "a</s>b", "<s>Hello"]
)
def test_begin_and_end_of_text_are_distinguished_from_strikethrough(text: str) -> None:
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
def test_cut_and_unusual_turn_markers_are_found(text: str) -> None:
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
def test_text_similar_to_a_turn_marker_is_not_reported(text: str) -> None:
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
def test_answers_that_end_inside_brackets_code_or_a_phrase_are_truncated(
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
def test_complete_answers_are_not_reported_as_truncated(answer: str) -> None:
    assert row_checks.check_truncated(row("How?", answer)) is None
