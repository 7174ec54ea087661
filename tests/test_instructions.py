"""Every rule of IFEval with an answer that keeps it and one that does not."""

from typing import Any

import pytest

from conftest import SHARED_DATA
from hydratune.errors import DataError
from hydratune.evaluation.instructions import RULES, followed, known
from hydratune.records.files import read_jsonl

CASES: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "keywords:existence",
        {"keywords": ["river", "road"]},
        "The River crosses a road.",
        "The river.",
    ),
    (
        "keywords:frequency",
        {"keyword": "cat", "frequency": 2, "relation": "at least"},
        "Cat and cat.",
        "A cat.",
    ),
    (
        "keywords:frequency",
        {"keyword": "cat", "frequency": 2, "relation": "less than"},
        "A cat.",
        "Cat and cat.",
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["cold"]}, "It was scolding.", "It was Cold."),
    (
        "keywords:letter_frequency",
        {"letter": "z", "let_frequency": 2, "let_relation": "at least"},
        "Zz",
        "z",
    ),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist ein ganz kurzer Satz auf Deutsch.",
        "This is an English sentence.",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        "One here. Two here.",
        "One. Two! Three?",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", "one\n\ntwo"),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at least"},
        "one two three",
        "one two",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
        "one\n\nWeekend, at last",
        "weekend\n\none",
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        "Dear [name], [date]",
        "Dear [name]",
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. Call me", "Bye."),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        "Bye.\nP.P.S Call me",
        "Bye.\nP.S. Call me",
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        "* one\n* two",
        "* one\n* two\n- three",
    ),
    ("detectable_format:constrained_response", {}, "My answer is yes.", "Yes."),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        "*one* and *two*",
        "*one* and two",
    ),
    (
        "detectable_format:multiple_sections",
        {"num_sections": 2, "section_spliter": "PART"},
        "PART 1 a PART 2 b",
        "PART 1 a",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', '{"a": 1} ok'),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >>\ntext"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say this."}, "say this. Fine", "Fine"),
    (
        "startend:end_checker",
        {"end_phrase": "See you soon."},
        'Bye. "See you soon."',
        "See you soon. Bye",
    ),
    ("startend:quotation", {}, '"all of it"', '"all" of it'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "ALL of IT",
        "ALL of it",
    ),
    ("change_case:english_capital", {}, "THE DOG IS IN THE GARDEN", "The dog is in the garden"),
    ("change_case:english_lowercase", {}, "the dog is in the garden", "The dog is in the garden"),
    ("punctuation:no_comma", {}, "one and two", "one, two"),
]


@pytest.mark.parametrize(("rule", "arguments", "kept", "broken"), CASES)
def test_rules(rule: str, arguments: dict[str, Any], kept: str, broken: str) -> None:
    assert followed(kept, [(rule, arguments)]) is True
    assert followed(broken, [(rule, arguments)]) is False


def test_every_rule_has_a_case_and_an_empty_answer_keeps_none() -> None:
    assert {case[0] for case in CASES} == set(RULES) and len(RULES) == 25
    assert followed(" ", [("punctuation:no_comma", {})]) is False
    assert (
        followed("no comma here", [("punctuation:no_comma", {}), ("startend:quotation", {})])
        is False
    )


def test_unknown_rule() -> None:
    with pytest.raises(DataError, match="no such instruction: keywords:nothing"):
        known([("keywords:nothing", {})])


def test_all_published_instructions_have_a_rule() -> None:
    file = SHARED_DATA / "ifeval" / "input_data.jsonl"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    rows = read_jsonl(file)
    assert len(rows) == 541
    for row in rows:
        rules = list(zip(row["instruction_id_list"], row["kwargs"], strict=True))
        known(rules)
        assert followed("a plain answer", rules) in (True, False)
