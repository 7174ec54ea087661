"""Level and power of the tests that compare makes of runs with few seeds (benchmarks/ties.py has
the whole table).
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import ties as simulation
from hydratune.comparison.seed_noise import (
    GroupBootstrap,
    SeedNoise,
    compare_means,
    estimate_seed_noise,
)
from hydratune.evaluation.measures import mean, rate


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("ratio", ["0", "1", "10", "1/row"])
def test_false_positives_are_as_rare_as_the_level(seeds: int, ratio: str) -> None:
    """400 pairs: 5 % plus 2.3 standard errors are allowed. This holds for the family of tests and
    for each test alone.
    """
    shares = simulation.shares(
        simulation.World(seeds, 100, simulation.number(ratio, 100)), 400, seed=1
    )
    assert max(shares["now all"], shares["now losses"], shares["now hits"]) <= 0.075


def test_an_uncorrected_test_exceeds_the_level() -> None:
    """Shows that the test above can fail: two seeds whose variance is ten times that of the
    rows.
    """
    assert simulation.shares(simulation.World(2, 100, 10.0), 400, seed=1)["before all"] > 0.085


@pytest.mark.parametrize("world", [{"fit": 1.0}, {"shared": 0.8}, {"entries": 4}])
def test_level_holds_with_interactions_paired_seeds_and_many_settings(
    world: dict[str, Any],
) -> None:
    for ratio in (0.3, 10.0):
        shares = simulation.shares(simulation.World(2, 100, ratio, **world), 250, seed=2)
        assert shares["now all"] <= 0.08


@pytest.mark.parametrize(("seeds", "least"), [(2, 0.36), (3, 0.64), (5, 0.77)])
def test_power_of_a_real_difference(seeds: int, least: float) -> None:
    """The difference is 3.5 standard errors of the rows, without variance of seeds. The rows alone
    would detect it in 94 %, but the test must allow for variance of seeds.
    """
    shares = simulation.shares(simulation.World(seeds, 100, 0.0), 300, effect=1.0, seed=3)
    assert shares["now losses"] > least and shares["now hits"] > least


@pytest.mark.parametrize("kind", ["losses", "hits"])
def test_the_simulation_tests_as_the_program_does(kind: str) -> None:
    rng = np.random.default_rng(5)
    for effect in (0.0, 1.0):
        world = simulation.World(3, 120, 3.0).draw(rng, effect)[kind]
        sides = [[(rate if kind == "hits" else mean)(list(run)) for run in side] for side in world]
        drawn = GroupBootstrap([str(i) for i in range(120)])
        noise = estimate_seed_noise(sides, drawn)
        assert isinstance(noise, SeedNoise)
        program = compare_means(sides[0], sides[1], drawn, noise).p
        # rows are drawn there
        assert np.log(simulation.now(world[0], world[1])) == pytest.approx(
            np.log(program), rel=0.15, abs=0.1
        )


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    simulation.main(["--trials", "3", "--rows", "20", "--seeds", "2", "--ratios", "1"])
    printed = capsys.readouterr().out
    assert "level, %" in printed and "power, %" in printed and "largest" in printed
