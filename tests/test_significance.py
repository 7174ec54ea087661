"""Which differences between runs are significant: pairs of rows, seeds, and the correction for
many tests.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from compared_runs import hits, write_run
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import compare
from hydratune.comparison.criterion import Criterion
from hydratune.comparison.verdict import verdict

Command = Callable[..., tuple[int, str]]


def test_copies_of_one_run_are_indistinguishable(tmp_path: Path) -> None:
    noise = random.Random(0)
    nll = [noise.gauss(1, 0.3) for _ in range(40)]
    for n in range(12):
        write_run(tmp_path / str(n), right=hits(31), nll=nll, lr=n + 1.0)
    compared = compare(collect_runs([tmp_path]))
    assert len(compared.indistinguishable()) == 11
    assert all(
        a.p == 1 and a.value == 0 and a.interval == (0, 0)
        for tests in compared.paired_tests.values()
        for a in tests.values()
    )


def test_a_clear_difference_on_the_same_rows_is_significant(tmp_path: Path) -> None:
    write_run(tmp_path / "a", right=hits(38), lr=1.0, loss=0.4)
    write_run(tmp_path / "b", right=hits(20), lr=2.0, loss=0.5)
    compared = compare(collect_runs([tmp_path]))
    assert not compared.indistinguishable()
    paired = compared.paired_tests[1]["exact_match"]
    assert (
        paired.significant
        and not paired.better
        and paired.value == pytest.approx(-18 / 40)
        and paired.interval[1] < 0
    )
    assert paired.p == pytest.approx(2 * 2**-17)  # McNemar's, 18 rows all to one side, of two tests
    assert "significantly different from all others" in "\n".join(verdict(compared))


def test_p_values_of_many_comparisons_are_corrected(tmp_path: Path) -> None:
    """7 rows to one side have p = 0.016, which is significant alone and not among ten comparisons.
    6 rows have p = 0.03, which is not significant where two metrics are tested.
    """
    write_run(tmp_path / "best", right=hits(30), loss=0.1, lr=9.0)
    write_run(tmp_path / "0", right=hits(23), loss=0.5, lr=1.0)
    assert compare(collect_runs([tmp_path])).paired_tests[1]["exact_match"].significant
    write_run(tmp_path / "other" / "best", right=hits(30), loss=0.1, lr=9.0)
    write_run(tmp_path / "other" / "0", right=hits(24), loss=0.5, lr=1.0)
    assert (
        not compare(collect_runs([tmp_path / "other"])).paired_tests[1]["exact_match"].significant
    )
    shutil.rmtree(tmp_path / "other")
    for n in range(1, 10):
        write_run(tmp_path / str(n), right=hits(30 - n % 3), loss=0.5 + n, lr=n + 1.0)
    assert not compare(collect_runs([tmp_path])).paired_tests[1]["exact_match"].significant


def test_a_clear_difference_is_significant_among_two_hundred(tmp_path: Path) -> None:
    """The smallest p that samples can show, times 200, must stay below the level of
    significance.
    """
    for n in range(200):
        write_run(
            tmp_path / str(n),
            nll=[1.0 + i / 100 + (i % 7 + 1) * (n == 1) for i in range(40)],
            loss=0.1 + n,
            lr=n + 1.0,
        )
    against = compare(collect_runs([tmp_path])).paired_tests
    assert against[1]["nll"].significant and not against[2]["nll"].significant


def test_settings_that_differ_less_than_their_seeds_are_a_tie(tmp_path: Path) -> None:
    """Row by row every seed of b is better than the worst seed of a, but the seeds of a differ
    among themselves by as much.
    """
    for seed, count in enumerate((100, 140)):
        write_run(
            tmp_path / f"a{seed}", right=hits(count, 200), lr=1.0, seed=seed, loss=0.40 + seed / 50
        )
        write_run(
            tmp_path / f"b{seed}",
            right=hits(count + 8, 200),
            lr=2.0,
            seed=seed,
            loss=0.41 + seed / 50,
        )
    compared = compare(collect_runs([tmp_path]))
    paired = compared.paired_tests[1]["exact_match"]
    assert (
        paired.includes_seed_noise
        and not paired.significant
        and paired.interval[0] < -0.1
        and paired.interval[1] > 0.1
    )
    alone = compare([run for run in compared.runs if run.name in ("a0", "b0")]).paired_tests[1][
        "exact_match"
    ]
    assert not alone.includes_seed_noise and alone.significant


@pytest.mark.parametrize(("seeds", "others"), [(2, 2), (3, 3), (1, 3)])
def test_settings_that_do_nothing_rarely_differ_significantly_on_the_test_rows(
    tmp_path: Path, seeds: int, others: int
) -> None:
    """Only the effect of the seed differs, which shifts all rows: one pair in 20 may differ
    significantly.
    """
    noise = random.Random(5)
    wrong = 0
    for trial in range(100):
        rows = [noise.gauss(2, 0.3) for _ in range(30)]
        for side, count in (("a", seeds), ("b", others)):
            for seed in range(count):
                shift = noise.gauss(0, 0.05)
                nll = [row + shift + noise.gauss(0, 0.02) for row in rows]
                write_run(
                    tmp_path / f"{trial}" / f"{side}{seed}",
                    nll=nll,
                    right=[True] * 30,
                    lr=1.0 + (side == "b"),
                    seed=seed,
                )
        wrong += compare(collect_runs([tmp_path / f"{trial}"])).paired_tests[1]["nll"].significant
    assert wrong <= 10


def test_runs_tested_on_different_rows_are_not_paired(tmp_path: Path) -> None:
    write_run(tmp_path / "a", lr=1.0, loss=0.4)
    write_run(tmp_path / "b", lr=2.0, loss=0.5, right=hits(30, 41))
    compared = compare(collect_runs([tmp_path]))
    assert not compared.paired_tests and "not paired with the best: b" in compared.notes[0]


def test_validation_losses_and_test_rows_are_corrected_together(tmp_path: Path) -> None:
    """Losses of three seeds that differ with p = 0.03 are one test of three: alone they are not
    significant.
    """
    for side, losses in ((0, (0.50, 0.52, 0.51)), (1, (0.53, 0.56, 0.545))):
        for seed, loss in enumerate(losses):
            write_run(
                tmp_path / f"{side}{seed}",
                lr=1.0 + side,
                seed=seed,
                loss=loss,
                nll=[1.0 + i / 40 + seed / 50 for i in range(40)],
            )
    compared = compare(collect_runs([tmp_path]))
    alone = compare(collect_runs([tmp_path]), tests=False)
    assert compared.test_count == 3 and alone.test_count == 1
    assert alone.seed_p_values[1] == pytest.approx(0.0282, abs=1e-3) and compared.seed_p_values[
        1
    ] == pytest.approx(3 * alone.seed_p_values[1])
    assert [entry.mean for entry in compared.indistinguishable()] == [pytest.approx(0.545)]
    assert "corrected for 3 tests (Holm)" in "\n".join(verdict(compared))


def test_a_metric_of_the_test_rows_that_ranks_is_tested_once(tmp_path: Path) -> None:
    for side in (0, 1):
        for seed in range(2):
            write_run(
                tmp_path / f"{side}{seed}", lr=1.0 + side, seed=seed, right=hits(30 - side - seed)
            )
    compared = compare(collect_runs([tmp_path]), Criterion("eval/exact_match", lower=False))
    assert (
        compared.test_count == 2
        and not compared.seed_p_values
        and set(compared.paired_tests[1]) == {"exact_match", "nll"}
    )
    for file in tmp_path.glob("*/predictions.jsonl"):
        file.unlink()
    assert set(
        compare(collect_runs([tmp_path]), Criterion("eval/exact_match", lower=False)).seed_p_values
    ) == {1}  # only the seeds can be tested


def test_too_few_rows_have_no_interval_in_any_output(hydratune: Command, tmp_path: Path) -> None:
    import csv

    for name, hit, at in (("a", True, 1.0), ("b", False, 1.3)):
        nll = [at + i / 100 for i in range(4)]
        write_run(tmp_path / "s" / name, right=[hit] * 4, nll=nll, lr=at, loss=at)
    code, text = hydratune("compare", "s", "export=csv,markdown,latex")
    flat = " ".join(text.split())
    assert (
        code == 0
        and flat.count("(too few rows) p") == 2
        and "4 independent test rows can hardly distinguish" in flat
    ), text
    with (tmp_path / "s" / "comparison" / "runs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert (
        rows[1]["less_the_best/nll/low"] == rows[1]["less_the_best/nll/high"] == ""
        and float(rows[1]["less_the_best/nll/p"]) >= 0.125
    )
    assert rows[1]["less_the_best/nll/seeds"] == "False"
    page = (tmp_path / "s" / "comparison" / "report.html").read_text()
    assert page.count("(too few rows) p") == 2 and "4 independent test rows can hardly" in page
    code, text = hydratune("compare", "baseline=s/a", "candidate=s/b")
    flat = " ".join(text.split())
    assert (
        code == 0
        and "4 independent test rows cannot show that any candidate is worse: give 30 or more"
        in flat
    ), text
    # no interval, so nothing is certain
    assert (
        hydratune(
            "compare", "baseline=s/a", "candidate=s/b", "fail_if=eval/nll>0.1", "certain=true"
        )[0]
        == 0
    )
    assert hydratune("compare", "baseline=s/a", "candidate=s/b", "fail_if=eval/nll>0.1")[0] == 1
