"""Tests of whether two systems are statistically distinguishable."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import t

from hydratune.evaluation.measures import comparison, difference, mean, rate
from hydratune.evaluation.power import least_difference
from hydratune.evaluation.statistics import (
    Difference,
    corrected,
    half_width,
    holm,
    mcnemar,
    p_from_parts,
    paired,
    ratio,
)


def paired_bootstrap(
    ours: Sequence[float],
    theirs: Sequence[float],
    denominators: Sequence[float],
    groups: Sequence[str],
    confidence: float,
    samples: int,
    seed: int = 0,
) -> Difference:
    """Return the difference of sum(ours) and sum(theirs), both over sum(denominators)."""
    columns = [ours, denominators], [theirs, denominators]
    (only,) = corrected([paired(*columns, ratio, groups, samples, seed)], confidence)
    return only


@pytest.mark.parametrize(
    ("ours", "theirs", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (10, 2, 158 / 4096), (0, 6, 2 / 64), (6, 0, 2 / 64)],
)
def test_mcnemar(ours: int, theirs: int, p: float) -> None:
    assert mcnemar(ours, theirs) == pytest.approx(p)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_two_runs_of_the_same_answers_are_indistinguishable() -> None:
    right = [1.0] * 30 + [0.0] * 10
    same = paired_bootstrap(right, right, [1.0] * 40, list(map(str, range(40))), 0.95, 500)
    assert same.value == 0 and same.interval == (0, 0) and same.p == 1.0 and not same.significant


def test_38_of_40_and_37_of_40_are_indistinguishable_and_differ_with_many_such_rows() -> None:
    def difference(times: int) -> bool:
        ours, theirs = [1.0] * 38 + [0.0] * 2, [1.0] * 37 + [0.0] * 3
        rows = 40 * times
        interval = paired_bootstrap(
            ours * times, theirs * times, [1.0] * rows, list(map(str, range(rows))), 0.95, 1000
        )
        assert interval.value == pytest.approx(0.025)
        assert interval.significant == (interval.p < 0.05)
        return interval.significant

    assert not difference(1) and mcnemar(1, 0) == 1.0
    assert difference(40)


def test_rows_of_one_group_are_not_independent() -> None:
    ours, theirs, groups = [1.0] * 60, [0.0] * 30 + [1.0] * 30, ["a"] * 30 + ["b"] * 30
    ungrouped = paired_bootstrap(ours, theirs, [1.0] * 60, list(map(str, range(60))), 0.95, 1000)
    grouped = paired_bootstrap(ours, theirs, [1.0] * 60, groups, 0.95, 1000)
    assert ungrouped.significant and not grouped.significant
    assert ungrouped.value == grouped.value == 0.5


def test_pairing_finds_what_two_intervals_hide() -> None:
    """Rows differ from each other far more than the systems do."""
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 10, 200)
    ours, theirs = hard + 0.3 + generator.normal(0, 0.5, 200), hard
    assert paired_bootstrap(
        list(ours), list(theirs), [1.0] * 200, list(map(str, range(200))), 0.95, 1000
    ).significant


def test_false_positives_are_as_rare_as_the_level_says() -> None:
    generator = np.random.default_rng(1)
    groups, ones = list(map(str, range(100))), [1.0] * 100
    wrong = 0
    for seed in range(200):
        ours, theirs = (
            (generator.random(100) < 0.7).astype(float),
            (generator.random(100) < 0.7).astype(float),
        )
        wrong += paired_bootstrap(
            list(ours), list(theirs), ones, groups, 0.95, 200, seed
        ).significant
    assert wrong <= 20  # 10 are expected


def test_power_at_the_smallest_detectable_difference() -> None:
    rows, disagreeing = 200, 0.3
    least = least_difference(rows, disagreeing, 0.95)
    generator = np.random.default_rng(2)
    ours_alone = (disagreeing + least) / 2
    draws = generator.multinomial(
        rows, [ours_alone, disagreeing - ours_alone, 1 - disagreeing], size=2000
    )
    power = np.mean([mcnemar(int(ours), int(theirs)) < 0.05 for ours, theirs, _ in draws])
    assert 0.70 < power < 0.85  # 0.8 is planned, and the exact test is conservative
    assert least_difference(rows * 4, disagreeing, 0.95) == pytest.approx(least / 2, rel=0.03)
    assert least_difference(5, 0.1, 0.95) == least_difference(0, 0.5, 0.95) == 1.0


def test_two_rows_are_never_significant() -> None:
    interval = paired_bootstrap([1.0, 1.0], [0.0, 0.0], [1.0, 1.0], ["a", "b"], 0.95, 1000)
    assert interval.value == 1.0 and interval.p == 0.5


@pytest.mark.parametrize(
    "parts", [[(1.0, 2)], [(0.3, 2), (1.0, 199)], [(1.0, 1), (1.0, 4), (0.1, 30)]]
)
@pytest.mark.parametrize("value", [0.1, 2.0, 9.0, 400.0])
def test_the_interval_excludes_zero_exactly_where_p_is_significant(
    value: float, parts: list[tuple[float, float]]
) -> None:
    p = p_from_parts(value, parts)
    assert half_width(parts, p * 1.0001) < value and (
        p == 1 or half_width(parts, p * 0.9999) > value
    )
    if len(parts) == 1:
        assert p == pytest.approx(2 * t.sf(value, 2), rel=1e-9)


def test_two_variances_cover_whatever_their_ratio() -> None:
    """Two degrees of freedom combined with two hundred, where Satterthwaite's t is wrong in 7 to 9
    % of all cases.
    """
    generator = np.random.default_rng(4)
    for scale in (0.0, 0.3, 1.0, 3.0, 10.0, 1e4):
        values = generator.normal(size=4000) * np.sqrt(1 + scale)
        seeds, rows = (
            scale * generator.chisquare(2, 4000) / 2,
            generator.chisquare(200, 4000) / 200,
        )
        wrong = np.mean(
            [
                abs(v) > half_width([(s, 2), (r, 200)], 0.05)
                for v, s, r in zip(values, seeds, rows, strict=True)
            ]
        )
        assert wrong < 0.06


def test_intervals_of_a_family_agree_with_its_corrected_p() -> None:
    generator = np.random.default_rng(7)
    for trial in range(60):
        count, rows = int(generator.integers(1, 6)), int(generator.integers(2, 40))
        groups = [str(i) for i in range(rows)]
        tests = []
        for _ in range(count):
            shift = float(generator.choice([0.0, 0.3, 1.0]))
            hits = [rate(list(generator.random(rows) < share)) for share in (0.5, 0.5 + shift / 2)]
            ours, theirs = (
                hits
                if trial % 2
                else [mean(list(generator.normal(size=rows) + s)) for s in (0.0, shift)]
            )
            tests.append(comparison(ours, theirs, groups, 200))
        for result in corrected(tests, 0.95):
            assert result.significant == (result.p < 0.05)
            assert (result.interval is None) == (
                2.0 ** (1 - rows) >= 0.05 or result.interval is None
            )
            if result.interval is not None:
                assert result.interval[0] <= result.value <= result.interval[1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (1, "(too few independent rows for an interval: 1)"),
        (5, "(too few independent rows for an interval: 5)"),
    ],
)
def test_too_few_rows_have_no_interval_and_give_a_message(rows: int, message: str) -> None:
    groups = [str(i) for i in range(rows)]
    for ours, theirs in (
        (rate([True] * rows), rate([False] * rows)),
        (mean([1.0 + i / 100 for i in range(rows)]), mean([0.0] * rows)),
    ):
        result = difference(ours, theirs, groups, 0.95, 500)
        assert (
            result.interval is None
            and result.p == 2.0 ** (1 - rows)
            and result.interval_text() == message
        )


def test_few_rows_that_differ_among_many_are_not_significant() -> None:
    """5 of 40 rows differ, all to one side: p = 0.06 by the sign test, and the interval
    contains 0.
    """
    groups, many = [str(i) for i in range(40)], 5
    result = difference(mean([1.0] * many + [0.0] * 35), mean([0.0] * 40), groups, 0.95, 500)
    assert (
        result.p == 2.0**-4
        and result.interval is not None
        and result.interval[0] == 0
        and not result.significant
    )
    more = difference(mean([1.0] * 9 + [0.0] * 31), mean([0.0] * 40), groups, 0.95, 500)
    assert more.significant and more.p < 0.05


def test_mcnemars_p_has_its_own_interval() -> None:
    """9 rows to 1: p = 0.021. 8 to 1: 0.039; 7 to 1: 0.07."""
    for ours, significant in ((9, True), (8, True), (7, False)):
        first = [True] * ours + [False] + [True] * 20 + [False] * 20
        other = [False] * ours + [True] + [True] * 20 + [False] * 20
        result = difference(
            rate(first), rate(other), [str(i) for i in range(len(first))], 0.95, 500
        )
        assert result.p == pytest.approx(mcnemar(ours, 1)) and result.significant is significant


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_have_no_interval(bad: float) -> None:
    groups = [str(i) for i in range(40)]
    for ours, theirs in (([1.0] * 39 + [bad], [1.0] * 40), ([1.0] * 40, [bad] * 40)):
        result = difference(mean(ours), mean(theirs), groups, 0.95, 200)
        assert (
            result.p == 1
            and result.interval is None
            and not result.significant
            and result.interval_text() == "(no number)"
        )
