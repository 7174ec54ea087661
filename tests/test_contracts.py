import json
import re

import pytest
from omegaconf import OmegaConf

from hydratune.composition import CONF
from hydratune.data.answers import is_schema_valid
from hydratune.data.contracts import KEYS, Difficulty, contract_rows
from hydratune.data.contracts.generate import _order_belongs_to_test
from hydratune.data.contracts.values import in_words
from hydratune.data.contracts.wordings import TEST, TRAIN

SCHEMA = OmegaConf.to_container(OmegaConf.load(CONF / "data" / "contracts.yaml").schema)
LEVELS = list(Difficulty)


def rows(
    split: str, count: int = 200, difficulty: Difficulty = Difficulty.standard, seed: int = 0
) -> list:
    return list(contract_rows(split, count, difficulty, seed))


def test_same_seed_same_contracts_and_another_seed_others() -> None:
    assert rows("train") == rows("train")
    assert not {r.content_hash for r in rows("train")} & {
        r.content_hash for r in rows("train", seed=1)
    }


def test_more_rows_keep_the_first_ones() -> None:
    assert rows("train", 50) == rows("train", 80)[:50]


@pytest.mark.parametrize("difficulty", LEVELS)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_answer_is_valid_under_the_shipped_schema(split: str, difficulty: Difficulty) -> None:
    assert list(SCHEMA["properties"]) == list(KEYS)
    for row in rows(split, 100, difficulty):
        assert is_schema_valid(json.loads(row.answer), SCHEMA), row.answer


def test_no_word_of_the_test_world_is_in_the_training_world() -> None:
    for name in ("stems", "trades", "suffixes", "places", "kinds", "distractors"):
        assert not set(getattr(TRAIN, name)) & set(getattr(TEST, name)), name
    for name in ("clauses", "renewals", "amendments"):
        for kind, sentences in getattr(TRAIN, name).items():
            assert not set(sentences) & set(getattr(TEST, name)[kind]), kind
    assert not {r for pair in TRAIN.roles for r in pair} & {r for pair in TEST.roles for r in pair}


def test_no_company_or_place_of_a_test_row_occurs_in_training() -> None:
    training = "\n".join(r.messages[0].content for r in rows("train", 600))
    for row in rows("test", 100):
        facts = json.loads(row.answer)
        for value in [*facts["parties"], *([facts["law"]] if facts["law"] else [])]:
            assert value not in training


def test_validation_shares_no_contract_with_training() -> None:
    assert not {r.content_hash for r in rows("train", 600)} & {
        r.content_hash for r in rows("validation", 100)
    }


def test_clause_orders_of_the_two_worlds_are_disjoint() -> None:
    orders = [
        ["parties", *rest]
        for rest in (
            ["term", "law"],
            ["law", "term"],
            ["cap"],
            ["notice", "payment", "cap"],
            ["term"],
            ["law"],
        )
    ]
    assert {_order_belongs_to_test(order) for order in orders} == {True, False}


@pytest.mark.parametrize("difficulty", LEVELS)
def test_parties_places_and_counts_are_in_the_text(difficulty: Difficulty) -> None:
    for row in rows("train", 150, difficulty):
        text, facts = row.messages[0].content, json.loads(row.answer)
        assert all(name.rstrip(".") in text for name in facts["parties"])
        assert facts["law"] is None or facts["law"] in text
        for days in (facts["notice_days"], facts["payment_days"]):
            assert days is None or re.search(rf"\b{days}\b|{in_words(days)}", text)


def test_later_term_stands_after_an_amendment() -> None:
    amended = [
        r
        for r in rows("train", 400, Difficulty.hard)
        if "the governing law was changed to that of" in r.messages[0].content
    ]
    assert amended
    for row in amended:
        later = row.messages[0].content.split("the governing law was changed to that of ")[1]
        assert later.startswith(json.loads(row.answer)["law"])


def test_difficulty_changes_the_length_of_contracts() -> None:
    lengths = [
        sum(len(r.messages[0].content) for r in rows("train", 200, level))
        for level in (Difficulty.easy, Difficulty.hard)
    ]
    assert lengths[1] > 1.2 * lengths[0]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (42, "forty-two"),
        (100, "one hundred"),
        (275_000, "two hundred seventy-five thousand"),
        (1_200_000, "one million two hundred thousand"),
    ],
)
def test_numbers_in_words(number: int, words: str) -> None:
    assert in_words(number) == words
