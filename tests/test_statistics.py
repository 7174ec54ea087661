"""Whether two systems can be told apart."""

import numpy as np
import pytest

from hydratune.evaluation.statistics import holm, least_difference, mcnemar, paired_bootstrap


@pytest.mark.parametrize(
    ("ours", "theirs", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (10, 2, 158 / 4096), (0, 6, 2 / 64), (6, 0, 2 / 64)]
)
def test_mcnemar(ours: int, theirs: int, p: float) -> None:
    assert mcnemar(ours, theirs) == pytest.approx(p)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_two_runs_of_the_same_answers_are_not_told_apart() -> None:
    right = [1.0] * 30 + [0.0] * 10
    same = paired_bootstrap(right, right, [1.0] * 40, list(map(str, range(40))), 0.95, 500)
    assert same.value == 0 and same.interval == (0, 0) and same.p == 1.0 and not same.told_apart


def test_38_of_40_and_37_of_40_are_not_told_apart_and_many_such_rows_are() -> None:
    def difference(times: int) -> bool:
        ours, theirs = [1.0] * 38 + [0.0] * 2, [1.0] * 37 + [0.0] * 3
        rows = 40 * times
        found = paired_bootstrap(ours * times, theirs * times, [1.0] * rows, list(map(str, range(rows))), 0.95, 1000)
        assert found.value == pytest.approx(0.025)
        assert found.told_apart == (found.p < 0.05)
        return found.told_apart

    assert not difference(1) and mcnemar(1, 0) == 1.0
    assert difference(40)


def test_rows_of_one_group_are_no_evidence_of_their_own() -> None:
    ours, theirs, groups = [1.0] * 60, [0.0] * 30 + [1.0] * 30, ["a"] * 30 + ["b"] * 30
    apart = paired_bootstrap(ours, theirs, [1.0] * 60, list(map(str, range(60))), 0.95, 1000)
    grouped = paired_bootstrap(ours, theirs, [1.0] * 60, groups, 0.95, 1000)
    assert apart.told_apart and not grouped.told_apart
    assert apart.value == grouped.value == 0.5


def test_pairing_finds_what_two_intervals_hide() -> None:
    """Rows differ far more than systems do."""
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 10, 200)
    ours, theirs = hard + 0.3 + generator.normal(0, 0.5, 200), hard
    assert paired_bootstrap(list(ours), list(theirs), [1.0] * 200, list(map(str, range(200))), 0.95, 1000).told_apart


def test_chance_is_called_a_difference_as_rarely_as_promised() -> None:
    generator = np.random.default_rng(1)
    groups, ones = list(map(str, range(100))), [1.0] * 100
    wrong = 0
    for seed in range(200):
        ours, theirs = (generator.random(100) < 0.7).astype(float), (generator.random(100) < 0.7).astype(float)
        wrong += paired_bootstrap(list(ours), list(theirs), ones, groups, 0.95, 200, seed).told_apart
    assert wrong <= 20  # 10 are expected


def test_the_least_difference_is_found_as_often_as_promised() -> None:
    rows, disagreeing = 200, 0.3
    least = least_difference(rows, disagreeing, 0.95)
    generator = np.random.default_rng(2)
    ours_alone = (disagreeing + least) / 2
    draws = generator.multinomial(rows, [ours_alone, disagreeing - ours_alone, 1 - disagreeing], size=2000)
    found = np.mean([mcnemar(int(ours), int(theirs)) < 0.05 for ours, theirs, _ in draws])
    assert 0.70 < found < 0.85  # 0.8, and the exact test is a little careful
    assert least_difference(rows * 4, disagreeing, 0.95) == pytest.approx(least / 2, rel=0.03)
    assert least_difference(5, 0.1, 0.95) == least_difference(0, 0.5, 0.95) == 1.0


def test_two_rows_prove_nothing_however_often_they_are_drawn() -> None:
    found = paired_bootstrap([1.0, 1.0], [0.0, 0.0], [1.0, 1.0], ["a", "b"], 0.95, 1000)
    assert found.value == 1.0 and found.p == 0.5
