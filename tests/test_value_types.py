"""What is said of a value of the wrong type, in plain words for every type of setting."""

from collections.abc import Sequence

import pytest

from hydratune.composition.value_types import declared_type, describe_type
from hydratune.settings.data import Level
from test_config import problems


@pytest.mark.parametrize(
    ("typed", "why", "fix"),
    [
        ("seed=abc", "must be a whole number", "give a whole number"),
        ("seed=1.5", "must be a whole number", "give a whole number"),
        ("trainer.max_steps=x", "must be a whole number", "give a whole number or null"),
        ("optimizer.lr=abc", "must be a number", "give a number such as 1e-4"),
        ("optimizer.warmup_ratio=10%", "must be a number", "give a number such as 1e-4 or null"),
        ("trainer.deterministic=x", "must be true or false", "give true or false"),
        ("name={a:1}", "must be text", "give a text or null"),
        ("optimizer.lr=null", "this setting cannot be null", "give a number such as 1e-4"),
        ("resume=x", "expected one of its options", "one of: auto, force, never, extend"),
        ("data.quality.encoding=x", "expected one of its options", "one of: error, warn, off"),
        (
            "evaluation.baselines=[x]",
            "every entry must be one of its options",
            "a list of some of: base, fewshot",
        ),
        ("optimizer.betas=[a,b]", "every entry must be a number", "give a list such as [0.1,0.2]"),
        (
            "adapter.layers_to_transform=[a]",
            "every entry must be a whole number",
            "give a list such as [1,2], in brackets even if it has one entry, or null",
        ),
        (
            "adapter.target_modules={a:1}",
            "this setting is a list, and the value is not",
            "give a list such as [a,b]",
        ),
        (
            "adapter.rank_pattern=[3]",
            "this setting is a mapping, and the value is not",
            "'+adapter.rank_pattern={q_proj:8}'",
        ),
        (
            "+adapter.rank_pattern={q:abc}",
            "every entry must be a whole number",
            "'+adapter.rank_pattern={q_proj:8}'",
        ),
        ("adapter.r={q_proj:8}", "must be a whole number", "give a whole number"),
        ("+optimizer.lr_groups.x=abc", "must be a number", "give a number such as 1e-4"),
        (
            "data.clean=true",
            "it has several settings, and is not one value",
            "set one of them, such as data.clean.",
        ),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_in_plain_words(typed: str, why: str, fix: str) -> None:
    (text,) = problems(typed).values()
    assert f"why: {why}\n" in text and fix in text.partition("fix: ")[2]


@pytest.mark.parametrize(
    "typed",
    [
        *("seed", "optimizer.betas", "data.clean"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                *("optimizer.lr", "trainer.deterministic", "name", "data.overlength"),
                *("adapter.rank_pattern", "data.quality.encoding"),
            )
        ),
    ],
)
def test_no_word_of_omegaconf_reaches_the_user(typed: str) -> None:
    for value in ("{a:{b:c}}", "[[a]]", "abc", "null", "1.5"):
        for text in problems(f"{typed}={value}").values():
            words: Sequence[str] = ("Integer", "Float", "ListConfig", "DictConfig", "subclass")
            assert not [word for word in (*words, "of type '", "type str") if word in text], text


def test_the_types_of_nested_settings_and_entries_are_known() -> None:
    assert declared_type("data.quality.encoding") is Level
    assert declared_type("adapter.rank_pattern.q_proj") is int
    assert declared_type("adapter.nothing") is None and declared_type("seed.nothing") is None
    assert describe_type("hydra.launcher.pack_size") == "give a whole number or null"
    assert describe_type("zzz") == "hydratune train --cfg job shows its type"
