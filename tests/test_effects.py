"""Effects of settings on a metric, and Pareto fronts."""

import random
from pathlib import Path

import pytest

from compared_runs import write_run
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import compare
from hydratune.comparison.criterion import Criterion
from hydratune.comparison.effects import find_effects
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
