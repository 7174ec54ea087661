"""The dimensions of a search space, and the objectives of a search."""

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hydratune.errors import ConfigError
from hydratune.sweeps.search.objectives import SearchObjective, read_objectives
from search_cases import LOSS, space


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("interval(1,3)", FloatDistribution(1, 3)),
        ("tag(log, interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("int(interval(4,64))", IntDistribution(4, 64)),
        ("tag(log, int(interval(4,64)))", IntDistribution(4, 64, log=True)),
        ("range(1,5)", IntDistribution(1, 4)),
        ("range(3)", IntDistribution(0, 2)),
        ("range(8,65,8)", IntDistribution(8, 64, step=8)),
        ("range(10,0,-3)", IntDistribution(1, 10, step=3)),
        ("tag(log, range(1,9))", IntDistribution(1, 8, log=True)),
        ("range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("float(range(1,4))", FloatDistribution(1, 3, step=1)),
        ("4,8", CategoricalDistribution([4, 8])),
        ("choice(1e-4,1)", CategoricalDistribution([1e-4, 1])),
        ("shuffle(4,8)", CategoricalDistribution([4, 8])),
        ("null,true,a b,'c, d'", CategoricalDistribution([None, True, "a b", "c, d"])),
        ("null,'null'", CategoricalDistribution([None, "null"])),
        ("[q_proj,v_proj],null,{a:1}", CategoricalDistribution(["[q_proj,v_proj]", None, "{a:1}"])),
        ("1,true", CategoricalDistribution(["1", "True"])),
    ],
)
def test_every_kind_of_dimension_is_read(text: str, distribution: Any) -> None:
    (dimension,), fixed = space(f"x={text}", "y=[1,2]")
    assert dimension.distribution == distribution and fixed == ["y=[1,2]"]
    if isinstance(distribution, CategoricalDistribution):
        assert [type(c) for c in dimension.distribution.choices] == [
            type(c) for c in distribution.choices
        ]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    [
        "null,true,1e-4,a b",
        "'null','true','1',plain",
        "[q_proj,v_proj],'[a]',\"it's, so\"",
        "'a=b','${x}',x:y",
        "range(0.1,0.9,0.1)",
    ],
)
def test_an_override_sets_the_value_in_the_study(text: str) -> None:
    (dimension,), _ = space(f"+x={text}")
    (grid,) = OverridesParser.create().parse_overrides([f"+x={text}"])
    written = [
        OverridesParser.create().parse_override(f"+x={value}").value()
        for value in grid.sweep_string_iterator()
    ]
    values = dimension.corners() if not dimension.is_range() else [0.1 + 0.1 * k for k in range(8)]
    for value, expected in zip(values, written, strict=True):
        override = OverridesParser.create().parse_override(dimension.override(value))
        assert override.get_key_element() == "+x" and override.value() == (
            value if dimension.is_range() else expected
        )


def test_a_later_override_replaces_an_earlier_one() -> None:
    dimensions, fixed = space("a=1,2", "b=interval(0,1)", "c=7", "a=3", "c=4,5")
    assert [d.key for d in dimensions] == ["b", "c"] and fixed == ["a=3"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x=glob(*)", "a glob"),
        ("x=range(5,5)", "the range is empty"),
        ("x=range(1,5,-1)", "the range is empty"),
        ("x=range(1,5,0)", "the range is empty"),
        ("x=interval(3,1)", "the range is empty"),
        ("x=interval(0,inf)", "finite"),
        ("x=tag(log, interval(0,1))", "begin above 0"),
        ("x=tag(log, int(interval(-1,4)))", "begin above 0"),
        ("x=tag(log, range(1,9,2))", "no step"),
        ("x=tag(log, choice(1,2))", "no scale"),
        ("x=tag(normal, interval(0,1))", "the tag 'normal'"),
        ("x=4,4", "4 is listed twice"),
        ("x=4", "nothing to search"),
    ],
)
def test_empty_or_malformed_dimensions_are_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        space(text)


def test_all_problems_of_a_search_space_are_reported_at_once() -> None:
    with pytest.raises(ConfigError, match="3 problems"):
        space("x=glob(*)", "y=interval(3,1)", "z=4,4", "w=1,2")


@pytest.mark.parametrize(
    "given",
    [
        ["val/loss:min", "val/field_f1:max"],
        {"val/loss": "min", "val/field_f1": "max"},
        OmegaConf.create(["val/loss:min", "val/field_f1:max"]),
        OmegaConf.create({"val/loss": "min", "val/field_f1": "max"}),
    ],
)
def test_objectives_are_read_from_a_list_or_a_mapping(given: Any) -> None:
    assert read_objectives(given) == [*LOSS, SearchObjective("val/field_f1", "max")]
    assert read_objectives("val/field_f1/law:max") == [SearchObjective("val/field_f1/law", "max")]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("val/los:min", "did you mean hydra.sweeper.objectives=val/loss:min"),
        ("field_f1", "did you mean hydra.sweeper.objectives=val/field_f1:max"),
        ("accuracy:max", "one of: val/loss, "),
        ("val/loss", "val/loss:min or val/loss:max"),
        ("val/loss:down", "its direction must be min or max"),
        ([], "nothing to search for"),
        (["val/loss:min", "val/loss:max"], "twice"),
    ],
)
def test_unclear_objectives_are_refused(given: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read_objectives(given)
