import csv
import math

import pytest

from conftest import SHARED_DATA
from hydratune.evaluation.judge.agreement import (
    Weights,
    accuracy,
    cohen_kappa,
    krippendorff_alpha,
    spearman,
)
from hydratune.evaluation.text_scores import rouge


def test_kappa_of_a_worked_table() -> None:
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa(pairs, ["y", "n"]) == pytest.approx(0.4)  # 0.7 observed, 0.5 by chance
    assert accuracy(pairs) == pytest.approx(0.7)


def test_far_disagreements_weigh_more() -> None:
    near, far = [(1, 1), (2, 2), (3, 3), (1, 2)], [(1, 1), (2, 2), (3, 3), (1, 3)]
    assert cohen_kappa(near, [1, 2, 3], Weights.quadratic) > cohen_kappa(
        far, [1, 2, 3], Weights.quadratic
    )


def test_agreement_is_undefined_for_constant_ratings() -> None:
    assert math.isnan(cohen_kappa([("y", "y")] * 5, ["y", "n"]))
    assert cohen_kappa([("y", "y"), ("n", "y")], ["y", "n"]) == pytest.approx(0)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_alpha_of_krippendorffs_example_with_gaps() -> None:
    n = None
    raters = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, n, n, n],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, n, 3],
        [n, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, n],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, n],
    ]
    units = list(zip(*raters, strict=True))
    assert krippendorff_alpha(units, [1, 2, 3, 4, 5]) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(units, [1, 2, 3, 4, 5], ordinal=True) == pytest.approx(
        0.815, abs=5e-4
    )


def test_spearman_shares_ranks_between_ties() -> None:
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / 22.5**0.5)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)


@pytest.mark.parametrize(("raters", "rows", "expected"), [("AB", 2100, 0.707), ("BC", 326, 0.014)])
def test_annotators_of_nl2bash(raters: str, rows: int, expected: float) -> None:
    file = SHARED_DATA / "nl2bash" / "manual.evaluations.dev.samples.csv"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    with file.open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    first, second = ([row[f"correct command {rater}"] or None for row in table] for rater in raters)
    both = zip(first, second, strict=True)
    pairs = [(a, b) for a, b in both if a is not None and b is not None]
    assert len(pairs) == rows
    assert cohen_kappa(pairs, ["y", "n"]) == pytest.approx(expected, abs=5e-4)


def test_rouge_against_human_factuality_on_mts_dialog() -> None:
    folder = SHARED_DATA / "mts-dialog"
    names = (
        "MTS-Dialog-Manual-Scores4CorrelationStudy.csv",
        "MTS-Dialog-Automatic-Summaries-ValidationSet.csv",
    )
    if not all((folder / name).is_file() for name in names):
        pytest.skip(f"the scored summaries are not in {folder}")
    scored, texts = (
        list(csv.DictReader((folder / name).read_text("utf-8-sig").splitlines(keepends=True)))
        for name in names
    )
    overlap = [
        rouge(row["Automatic Summary"], [row["Reference Summary"]])["rougeL"] for row in texts
    ]
    assert spearman(overlap, [float(row["FactualF1"]) for row in scored]) == pytest.approx(
        0.366, abs=5e-4
    )
