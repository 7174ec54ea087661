import io
import math

import pytest
from rich.console import Console

from hydratune.data.answers import NotStrictJson, is_schema_valid, parse_strict
from hydratune.errors import ConfigError
from hydratune.evaluation import terminal
from hydratune.evaluation.families import Answered
from hydratune.evaluation.json_scores import fields, score
from hydratune.evaluation.metrics import choose_task, flat, metrics, score_row
from hydratune.evaluation.statistics import bootstrap, ratio, wilson
from hydratune.evaluation.text_scores import rouge
from hydratune.settings.evaluation import EvaluationConfig, Task

SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": ["integer", "null"]},
        "d": {"type": "string", "format": "date"},
        "l": {"type": "array"},
    },
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        '```json\n{"a": 1}\n```',
        '{"a": 1} and more',
        '{"a": 1}{"a": 2}',
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": 1, "a": 2}',
        '{"a": 1',
        "[1]",
        "1",
        '{"b": {"a": 1, "a": 1}}',
        "{'a': 1}",
    ],
)
def test_anything_but_one_json_object_is_refused(text: str) -> None:
    with pytest.raises(NotStrictJson):
        parse_strict(text)


def test_one_json_object_is_accepted() -> None:
    assert parse_strict('{"a": {"b": [1, null, "ü"]}}') == {"a": {"b": [1, None, "ü"]}}


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ({"a": 1}, True),
        ({"a": None}, True),
        ({}, False),
        ({"a": "1"}, False),
        ({"a": 1, "z": 2}, False),
        ({"a": 1, "d": "2024-02-29"}, True),
        ({"a": 1, "d": "2023-02-29"}, False),
    ],
)
def test_schema_validity_includes_formats(value: dict, valid: bool) -> None:
    assert is_schema_valid(value, SCHEMA) is valid


def test_leaves_of_an_object() -> None:
    value = {"a": 1, "b": None, "c": {"d": "X  y", "e": []}, "l": ["p", "q"], "t": True}
    assert sorted(fields(value)) == [
        ("a", "number 1.0"),
        ("c.d", "x y"),
        ("l[]", "p"),
        ("l[]", "q"),
        ("t", "True"),
    ]


@pytest.mark.parametrize(
    ("prediction", "counts"),
    [
        ('{"a": 1, "l": ["p", "q"]}', (3, 3, 3)),
        ('{"l": ["q", "p"], "a": 1.0}', (3, 3, 3)),  # order does not count, 1.0 is 1
        ('{"a": "1", "l": ["p", "q"]}', (2, 3, 3)),  # "1" is not 1
        ('{"a": 1, "l": ["p", "p"]}', (2, 3, 3)),  # said twice counts once
        ('{"a": 1, "l": []}', (1, 1, 3)),
        ('{"a": 1, "l": ["p", "q"], "z": 5}', (3, 4, 3)),  # an invented key costs precision
        ('{"a": null, "l": null}', (0, 0, 3)),
        ("sorry", (0, 0, 3)),
    ],
)
def test_field_counts(prediction: str, counts: tuple[int, int, int]) -> None:
    scores = score(prediction, '{"a": 1, "l": ["p", "q"], "n": null}', None)
    assert tuple(sum(f[i] for f in scores["fields"].values()) for i in range(3)) == counts


def test_numbers_too_large_for_a_float_and_half_characters_are_scored() -> None:
    huge = '{"a": 1' + "0" * 400 + "}"
    assert score(huge, huge, None)["exact_match"]
    assert not score(huge, '{"a": 1}', None)["exact_match"]


def test_a_schema_never_fetches_what_it_refers_to() -> None:
    with pytest.raises(Exception, match="Unresolvable"):
        is_schema_valid({}, {"$ref": "http://127.0.0.1:9/schema.json"})


def test_exact_match_needs_every_field_but_not_their_order() -> None:
    reference = '{"a": 1, "n": null}'
    assert score('{"n": null, "a": 1}', reference, SCHEMA)["exact_match"]
    # a missing key and null both say nothing
    assert score('{"a": 1}', reference, SCHEMA)["exact_match"]
    assert not score('{"a": 1, "n": 2}', reference, SCHEMA)["exact_match"]
    assert not score('{"a": 1, "n": null} done', reference, SCHEMA)["exact_match"]
    pairs = '{"l": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]}'
    assert score('{"l": [{"n": "y", "v": 2}, {"n": "x", "v": 1}]}', pairs, None)["exact_match"]
    assert not score('{"l": [{"n": "x", "v": 2}, {"n": "y", "v": 1}]}', pairs, None)["exact_match"]
    assert not score('{"a": true}', '{"a": 1}', None)["exact_match"]


def test_task_is_json_only_if_every_reference_is_an_object() -> None:
    assert choose_task(Task.auto, ['{"a": 1}', "{}"]) is Task.json
    with pytest.raises(ConfigError, match="not one JSON object"):
        choose_task(Task.json, ["{}", "hello"])
    assert choose_task(Task.auto, ['{"a": 1}', "hello"]) is Task.text
    assert choose_task(Task.text, ["{}"]) is Task.text


def prediction(i: int, text: str, reference: str = '{"a": 1, "b": 2}', **changes: object) -> dict:
    row = {
        "id": str(i),
        "group": None,
        "nll": 2.0,
        "answer_tokens": 4,
        "finish_reason": "stop",
        "generated_tokens": 5,
    }
    return {**row, "scores": score_row(Answered(text, [reference], SCHEMA), ["json"]), **changes}


def test_metrics_by_hand() -> None:
    rows = [
        prediction(0, '{"a": 1, "b": 2}'),
        prediction(1, '{"a": 1}'),
        prediction(2, '{"a": 3, "c": 4}'),
        prediction(3, "x", nll=6.0),
    ]
    values, intervals = flat(
        "eval", metrics(rows, EvaluationConfig(bootstrap_samples=200), has_schema=True)
    )
    assert values["eval/json_valid"] == 0.75
    assert values["eval/schema_valid"] == 0.25  # only row 1: b and c are not in the schema
    assert values["eval/field_precision"] == 3 / 5
    assert values["eval/field_recall"] == 3 / 8
    assert values["eval/field_f1"] == 6 / 13
    assert values["eval/exact_match"] == 0.25
    assert values["eval/field_accuracy/a"] == 0.5
    assert values["eval/nll"] == 12 / 16
    assert values["eval/perplexity"] == pytest.approx(math.exp(12 / 16))
    assert values["eval/generated_tokens"] == 20
    for key, (low, high) in intervals.items():
        assert low <= values[key] <= high, key


def test_text_is_scored_by_match() -> None:
    assert (
        score_row(Answered(" Paris ", ["paris"]), ["rouge", "match"]).items()
        >= {
            "exact_match": False,
            "normalised_match": True,
        }.items()
    )
    assert (
        score_row(Answered("Paris", ["Paris"]), ["rouge", "match"]).items()
        >= {
            "exact_match": True,
            "rouge1": 1.0,
        }.items()
    )


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson_against_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    """The last row is the example of Newcombe (1998), method 3."""
    assert wilson(successes, trials, 0.95) == pytest.approx((low, high), abs=1e-4)


def test_bootstrap_is_seeded_and_covers_the_ratio() -> None:
    above, below = [1.0, 0.0, 2.0, 1.0] * 25, [2.0] * 100
    names = [str(i) for i in range(100)]
    interval = bootstrap([above, below], ratio, names, 0.95, 1000)
    assert interval == bootstrap([above, below], ratio, names, 0.95, 1000)
    assert interval[0] < 0.5 < interval[1]
    assert 0.05 < interval[1] - interval[0] < 0.2


def test_rows_of_one_group_make_the_interval_wider() -> None:
    above = [1.0] * 50 + [0.0] * 50
    below = [1.0] * 100
    alone = bootstrap([above, below], ratio, [str(i) for i in range(100)], 0.95, 1000)
    grouped = bootstrap([above, below], ratio, [str(i // 10) for i in range(100)], 0.95, 1000)
    assert grouped[1] - grouped[0] > 2 * (alone[1] - alone[0])


def test_rows_without_a_group_are_no_group_even_if_they_share_an_id() -> None:
    rows = [{**prediction(i, "{}"), "id": "x", "nll": float(i)} for i in range(10)]
    low, high = metrics(rows, EvaluationConfig(), has_schema=False)["nll"].interval or (0, 0)
    assert low < high


def test_rouge_counts_shared_words_and_their_order() -> None:
    scores = rouge("the cat sat on the mat", ["The cat lay on the mat."])
    assert scores["rouge1"] == pytest.approx(5 / 6)
    assert scores["rouge2"] == pytest.approx(3 / 5)
    assert scores["rougeL"] == pytest.approx(5 / 6)
    assert rouge("mat the on sat cat the", ["the cat sat on the mat"])["rougeL"] <= 0.5
    assert set(rouge("", ["something"]).values()) == {0.0}


def test_the_results_table_handles_systems_without_counts() -> None:
    settings = {"rows": 2, "intervals": "95 %: ..."}
    recorded = {
        "eval/json_valid": 1.0,
        "eval/hallucinated": 0.5,
        "base/json_valid": 0.0,
        "intervals": {},
        "settings": {"eval": settings},
    }
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal.results(recorded, ["base", "eval"], 3))
    line = next(
        line for line in console.export_text().splitlines() if "values where there are none" in line
    )
    assert "-" in line and "50.0" in line


def test_answers_cut_at_the_token_limit_are_counted() -> None:
    row = {
        "nll": 1.0,
        "answer_tokens": 1,
        "generated_tokens": 1,
        "scores": {"exact_match": True, "normalised_match": True},
    }
    rows = [{**row, "finish_reason": reason} for reason in ("stop", "length", "length", "stop")]
    assert metrics(rows, EvaluationConfig(metrics=["match"]), has_schema=False)["cut"].value == 2


def test_one_group_of_rows_has_no_interval() -> None:
    row = {
        "nll": 1.0,
        "answer_tokens": 1,
        "generated_tokens": 1,
        "finish_reason": "stop",
        "scores": {"exact_match": True, "normalised_match": True},
    }
    result = metrics(
        [{**row, "group": "all"} for _ in range(4)],
        EvaluationConfig(metrics=["match"]),
        has_schema=False,
    )
    assert result["exact_match"].interval is None and result["nll"].interval is None
