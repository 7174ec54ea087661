"""Effects of settings on a metric, and Pareto fronts."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from compared_runs import hits, write_run
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import compare
from hydratune.comparison.criterion import Criterion
from hydratune.comparison.effects import find_effects, interval_of_mean
from hydratune.comparison.entries import group_runs
from hydratune.comparison.fronts import pareto_front


def test_few_points_show_no_correlation_and_noise_has_no_importance(tmp_path: Path) -> None:
    for n in range(4):
        write_run(tmp_path / "few" / str(n), loss=0.1 + n, lr=n + 1.0)
    (effect_of_lr,) = find_effects(group_runs(collect_runs([tmp_path / "few"])), Criterion())
    assert effect_of_lr.correlation == pytest.approx(
        1
    ) and effect_of_lr.correlation_p == pytest.approx(2 / 24)
    noise = random.Random(2)
    for n in range(24):
        write_run(
            tmp_path / "noise" / str(n),
            loss=noise.random(),
            lr=noise.random(),
            rank=noise.choice([4, 8, 16]),
        )
    compared = compare(collect_runs([tmp_path / "noise"]), tests=False)
    assert all(effect.importance is None for effect in compared.effects)
    assert any("no importances" in note for note in compared.notes)
    rate = next(effect for effect in compared.effects if effect.key == "optimizer.lr")
    assert (
        len(rate.levels) == 4
        and sum(level.runs for level in rate.levels) == 24
        and " to " in rate.levels[0].value
    )


def test_effects_of_a_simulated_sweep_are_recovered(tmp_path: Path) -> None:
    """The loss follows the learning rate, hardly the rank, and not at all the seed."""
    noise = random.Random(1)
    n = 0
    for lr in (1e-4, 1e-3, 1e-2):
        for rank in (4, 16):
            for seed in (1, 2):
                loss = (
                    1
                    + 0.3 * (lr == 1e-4)
                    + 0.6 * (lr == 1e-2)
                    + 0.01 * (rank == 16)
                    + noise.gauss(0, 0.001)
                )
                write_run(tmp_path / str(n), loss=loss, lr=lr, rank=rank, seed=seed)
                n += 1
    effects = {
        effect.key: effect
        for effect in find_effects(group_runs(collect_runs([tmp_path])), Criterion())
    }
    assert list(effects) == ["optimizer.lr", "adapter.r", "seed"] and effects["seed"].is_noise
    rate = effects["optimizer.lr"]
    assert [level.value for level in rate.levels] == [1e-4, 1e-3, 1e-2] and [
        level.runs for level in rate.levels
    ] == [4, 4, 4]
    assert rate.levels[1].mean == pytest.approx(1.005, abs=0.003)
    low, high = rate.levels[1].interval or (0, 0)
    assert low < 1.005 < high and high - low < 0.05
    assert (
        rate.importance is not None
        and rate.importance > 0.9
        and (effects["seed"].importance or 0) < 0.05
    )
    assert (
        rate.correlation is not None
        and 0 < rate.correlation < 1
        and effects["seed"].correlation is None
    )


def test_pareto_front_holds_the_runs_that_no_run_dominates(tmp_path: Path) -> None:
    for name, loss, cost in (
        ("a", 0.1, 9.0),
        ("b", 0.2, 5.0),
        ("c", 0.3, 6.0),
        ("d", 0.4, 1.0),
        ("e", 0.4, 2.0),
    ):
        write_run(tmp_path / name, loss=loss, lr=cost, **{"cost/cpu_seconds": cost})
    runs = collect_runs([tmp_path])
    assert [run.name for run in pareto_front(runs, "cost/cpu_seconds", "val/loss").runs] == [
        "d",
        "b",
        "a",
    ]
    assert [
        run.name for run in pareto_front(runs, "cost/cpu_seconds", "val/loss", x_lower=False).runs
    ] == ["a"]


def test_the_interval_of_a_mean_stays_within_the_bounds_of_its_metric() -> None:
    """Student's t for two seeds is 12.7 standard errors wide to each side."""
    assert interval_of_mean("eval/field_f1", [0.2, 1.0], 0.95) == (0.0, 1.0)
    low, high = interval_of_mean("val/field_f1", [0.90, 0.92], 0.95) or (0, 0)
    assert low == pytest.approx(0.91 - 12.7062 * 0.01, abs=1e-5) and high == 1.0
    low, high = interval_of_mean("objective", [0.2, 0.4], 0.95) or (-1, 0)
    assert low == 0.0 and high == pytest.approx(0.3 + 12.7062 * 0.1, abs=1e-5)
    low, high = interval_of_mean("eval/length_ratio", [0.5, 1.9], 0.95) or (-1, 0)
    assert low == 0.0 and high == pytest.approx(1.2 + 12.7062 * 0.7, abs=1e-4)
    low, high = interval_of_mean("memorisation/difference", [-0.5, 0.6], 0.95) or (0, 0)
    assert (low, high) == (-1.0, 1.0)
    low, high = interval_of_mean("eval/my_own", [0.2, 1.0], 0.95) or (0, 0)
    assert low < 0 and high > 1  # nobody knows its bounds
    # bounds that the mean is beyond are not those of what was measured
    low, high = interval_of_mean("eval/field_f1", [1.4, 1.6], 0.95) or (0, 0)
    assert low < 1.5 <= high


def test_compare_prints_no_rate_beyond_0_and_100_per_cent(
    hydratune: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """Two seeds each, which differ by 60 points or more: no difference is beyond 100 points."""
    runs = [(1, 1, 40), (1, 2, 16), (2, 1, 30), (2, 2, 2), (3, 1, 20), (3, 2, 0)]
    for n, (lr, seed, count) in enumerate(runs):
        write_run(tmp_path / "runs" / str(n), right=hits(count), lr=10.0**-lr, seed=seed)
    code, text = hydratune("compare", "runs", "metric=eval/exact_match")
    assert code == 0, text
    for mean, value in (("70.0", "0.1"), ("40.0", "0.01"), ("25.0", "0.001")):
        assert f"{value}: {mean} [0.0, 100.0] n=2" in text, text
    assert re.search(r"-30\.0\s+\[-100\.0, \+100\.0\]", text), text
    page = next((tmp_path / "runs").glob("*/*.html")).read_text()
    assert "70.0 <small>[0.0, 100.0]" in page and "[-100.0, +100.0]" in page
