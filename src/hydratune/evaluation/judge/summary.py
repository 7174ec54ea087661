"""The numbers of judge.json: what judgements say, and whether to believe them. Pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from hydratune.evaluation import statistics
from hydratune.evaluation.judge.agreement import (
    Label,
    Weights,
    accuracy,
    cohen_kappa,
    krippendorff_alpha,
    spearman,
)
from hydratune.evaluation.measures import groups_of, mean
from hydratune.evaluation.statistics import wilson
from hydratune.records.files import Json
from hydratune.wording import counted

_FEW_LABELS = 30
_TRUSTED, _DOUBTED = 0.6, 0.4  # kappa
_MOST_INCONSISTENT = 0.2  # share of verdicts that may change with the order without a warning
_LENGTH_CORRELATION = 0.5  # of scores with the length of answers, above which there is a warning
OUTCOMES = ("theirs", "tie", "ours")
JudgedRow = Mapping[str, Json]  # a row of judgements.jsonl
Summary = dict[str, Json]  # a part of judge.json


def outcome(ours_first: str, theirs_first: str) -> tuple[str, bool]:
    """Return (winner, whether both orders agree).

    The arguments are the verdicts with our answer as A, then as B. If they disagree it is a tie.
    """
    first = {"A": "ours", "B": "theirs"}.get(ours_first, "tie")
    second = {"A": "theirs", "B": "ours"}.get(theirs_first, "tie")
    return (first, True) if first == second else ("tie", False)


def _counts(rows: Sequence[JudgedRow], judged: Sequence[JudgedRow]) -> Summary:
    unjudged = len(rows) - len(judged)
    return {"rows": len(rows), "judged": len(judged), "unjudged": unjudged}


def pairwise(rows: Sequence[JudgedRow], confidence: float, samples: int) -> Summary:
    """Summarise the judgements of pairs.

    ``rows`` have verdicts (of both orders), winner, consistent and length_difference. The winner of
    a row that was not judged is None.
    """
    judged = [row for row in rows if row["winner"] is not None]
    if not judged:
        return _counts(rows, judged)
    won = [OUTCOMES.index(row["winner"]) / 2 for row in judged]
    longer = _longer_wins(judged)
    firsts = [verdict == "A" for row in judged for verdict in row["verdicts"] if verdict != "tie"]
    inconsistent = sum(not row["consistent"] for row in judged)
    return {
        **_counts(rows, judged),
        **{name: sum(row["winner"] == name for row in judged) for name in OUTCOMES},
        "win_rate": mean(won).value,
        **_test_against_half(won, groups_of(judged), confidence, samples),
        "length_controlled_win_rate": length_controlled(
            won, [row["length_difference"] for row in judged]
        ),
        "inconsistent": inconsistent / len(judged),
        "first_preferred": sum(firsts) / len(firsts) if firsts else None,
        "longer_wins": sum(longer) / len(longer) if longer else None,
        "warnings": _pair_warnings(len(judged), inconsistent, longer, confidence),
    }


def _longer_wins(judged: Sequence[JudgedRow]) -> list[bool]:
    """Return for each decided row with answers of different length whether the longer one won."""
    decided = [row for row in judged if row["winner"] != "tie" and row["length_difference"]]
    return [(row["winner"] == "ours") == (row["length_difference"] > 0) for row in decided]


def _pair_warnings(
    judged: int, inconsistent: int, longer: Sequence[bool], confidence: float
) -> list[str]:
    warnings = []
    if inconsistent > _MOST_INCONSISTENT * judged:
        warnings.append(
            f"{100 * inconsistent / judged:.0f} % of the verdicts change with the order of the"
            " answers: counted as ties"
        )
    if longer and wilson(sum(longer), len(longer), confidence)[0] > 0.5:
        share = 100 * sum(longer) / len(longer)
        warnings.append(
            f"the longer answer wins {share:.0f} % of the {len(longer)} decided rows: this judge"
            " may reward length"
        )
    return warnings


def _test_against_half(
    won: Sequence[float], groups: Sequence[str], confidence: float, samples: int
) -> Summary:
    """Test whether more is won than lost.

    By the sign test if rows are independent (ties say nothing), else by Student's t over groups.
    """
    ones, even = [1.0] * len(won), [0.5] * len(won)
    test = statistics.paired([won, ones], [even, ones], statistics.ratio, groups, samples)
    if len(set(groups)) == len(groups):
        wins, losses = sum(value > 0.5 for value in won), sum(value < 0.5 for value in won)
        # a win is half a point more than a tie, hence twice the rows
        test = replace(test, discordant=(wins, losses, 2 * len(won)))
    (result,) = statistics.corrected([test], confidence)
    if result.interval is None:
        verdict = f"too few independent rows for an interval: {result.groups}"
        return {"win_rate_interval": None, "p": result.p, "verdict": verdict}
    verdict = "not distinguishable"
    if result.p < 1 - confidence:
        verdict = "better" if result.value > 0 else "worse"
    edges = [min(1.0, max(0.0, 0.5 + edge)) for edge in result.interval]
    return {"win_rate_interval": edges, "p": result.p, "verdict": verdict}


def length_controlled(won: Sequence[float], differences: Sequence[float]) -> float:
    """Return the win rate at equal length.

    A logistic regression of ``won`` on the difference in length, with a small ridge penalty.
    """
    y, x = np.asarray(won, dtype=float), np.asarray(differences, dtype=float)
    scale = float(np.sqrt((x * x).mean()))
    design = np.stack([np.ones_like(x), x / scale if scale else x], axis=1)
    weights = np.zeros(2)
    for _ in range(50):  # Newton's method
        p = 1 / (1 + np.exp(-(design @ weights).clip(-30, 30)))
        gradient = design.T @ (p - y) + 0.1 * weights
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 0.1 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if float(np.abs(step).max()) < 1e-9:
            break
    return float(1 / (1 + np.exp(-weights[0])))


def scored(rows: Sequence[JudgedRow], confidence: float, samples: int) -> Summary:
    """Summarise the scores of one system.

    ``rows`` have a score and a length. The score of a row that was not judged is None.
    """
    judged = [row for row in rows if row["score"] is not None]
    if not judged:
        return _counts(rows, judged)
    scores = [float(row["score"]) for row in judged]
    average = mean(scores)
    edges = average.interval(groups_of(judged), confidence, samples)
    correlation = spearman([row["length"] for row in judged], scores)
    return {
        **_counts(rows, judged),
        "mean": average.value,
        "interval": None if edges is None else list(edges),
        "counts": {str(n): sum(score == n for score in scores) for n in range(1, 6)},
        "length_correlation": None if math.isnan(correlation) else correlation,
        "warnings": _score_warnings(scores, correlation),
    }


def _score_warnings(scores: Sequence[float], length_correlation: float) -> list[str]:
    warnings = []
    if len(scores) >= _FEW_LABELS and length_correlation > _LENGTH_CORRELATION:
        warnings.append(
            "scores grow with the length of an answer (rank correlation"
            f" {length_correlation:.2f}): this judge may reward length"
        )
    if len(set(scores)) == 1 and len(scores) > 5:
        warnings.append(f"every answer got {scores[0]:g}: this judge does not distinguish answers")
    return warnings


def agreement(pairs: Sequence[tuple[Label, Label]], categories: Sequence[Label]) -> Summary:
    """Compare people's labels with those of a judge on the same rows.

    ``categories`` in their order.
    """
    weights = Weights.quadratic if len(categories) > 2 else Weights.none
    weighted = cohen_kappa(pairs, categories, weights)
    values = {
        "accuracy": accuracy(pairs),
        "kappa": cohen_kappa(pairs, categories),
        "weighted_kappa": weighted,
        "alpha": math.nan,
        "spearman": math.nan,
    }
    if pairs:
        units = [list(pair) for pair in pairs]
        values["alpha"] = krippendorff_alpha(units, categories, ordinal=True)
        first, second = (
            [float(categories.index(a)) for a in side] for side in zip(*pairs, strict=True)
        )
        values["spearman"] = spearman(first, second)
    verdict, why = trust(weighted, len(pairs))
    finite = {name: None if math.isnan(value) else value for name, value in values.items()}
    return {"rows": len(pairs), **finite, "verdict": verdict, "why": why}


def trust(kappa: float, rows: int) -> tuple[str, str]:
    """Return (verdict, reason) on a rater whose agreement with people is ``kappa``."""
    if rows < _FEW_LABELS:
        return (
            "too few labels",
            f"{counted(rows, 'labelled row says', 'labelled rows say')} little: give"
            f" {_FEW_LABELS} or more",
        )
    if math.isnan(kappa):
        return "do not trust", "one side gives the same label to every row, so it says nothing"
    if kappa >= _TRUSTED:
        return "trust", f"kappa {kappa:.3f} is at least {_TRUSTED}"
    if kappa >= _DOUBTED:
        return "with care", f"kappa {kappa:.3f} is between {_DOUBTED} and {_TRUSTED}"
    return "do not trust", f"kappa {kappa:.3f} is below {_DOUBTED}: hardly more than chance"
