"""What judgements say, and whether to believe them. Pure functions of judgements.jsonl's rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hydratune.evaluation import statistics
from hydratune.evaluation.judge.agreement import (
    Weights,
    accuracy,
    cohen_kappa,
    krippendorff_alpha,
    spearman,
)
from hydratune.evaluation.measures import groups_of, mean
from hydratune.evaluation.statistics import wilson

_FEW_LABELS = 30
_TRUSTED, _DOUBTED = 0.6, 0.4  # kappa
OUTCOMES = ("theirs", "tie", "ours")


def outcome(ours_first: str, theirs_first: str) -> tuple[str, bool]:
    """(who won, whether both orders agree) of the verdicts with our answer as A, then as B.

    Inconsistent is a tie.
    """
    first = {"A": "ours", "B": "theirs"}.get(ours_first, "tie")
    second = {"A": "theirs", "B": "ours"}.get(theirs_first, "tie")
    return (first, True) if first == second else ("tie", False)


def pairwise(rows: Sequence[Mapping[str, Any]], confidence: float, samples: int) -> dict[str, Any]:
    """``rows`` have verdicts (of both orders), winner, consistent and length_difference; winner
    None: unjudged.
    """
    judged = [row for row in rows if row["winner"] is not None]
    content: dict[str, Any] = {
        "rows": len(rows),
        "judged": len(judged),
        "unjudged": len(rows) - len(judged),
    }
    if not judged:
        return content
    won = [OUTCOMES.index(row["winner"]) / 2 for row in judged]
    rate = mean(won)
    decided = [row for row in judged if row["winner"] != "tie"]
    longer = [
        (row["winner"] == "ours") == (row["length_difference"] > 0)
        for row in decided
        if row["length_difference"]
    ]
    firsts = [verdict == "A" for row in judged for verdict in row["verdicts"] if verdict != "tie"]
    warnings = []
    inconsistent = [not row["consistent"] for row in judged]
    if sum(inconsistent) > 0.2 * len(judged):
        warnings.append(
            f"{100 * sum(inconsistent) / len(judged):.0f} % of the verdicts change with the order"
            " of the answers: counted as ties"
        )
    if longer and wilson(sum(longer), len(longer), confidence)[0] > 0.5:
        share = 100 * sum(longer) / len(longer)
        warnings.append(
            f"the longer answer wins {share:.0f} % of the {len(longer)} decided rows: this judge"
            " may reward length"
        )
    content |= {
        **{name: sum(row["winner"] == name for row in judged) for name in OUTCOMES},
        "win_rate": rate.value,
        **_against_half(won, groups_of(judged), confidence, samples),
        "length_controlled_win_rate": length_controlled(
            won, [row["length_difference"] for row in judged]
        ),
        "inconsistent": sum(inconsistent) / len(judged),
        "first_preferred": sum(firsts) / len(firsts) if firsts else None,
        "longer_wins": sum(longer) / len(longer) if longer else None,
        "warnings": warnings,
    }
    return content


def _against_half(
    won: Sequence[float], groups: Sequence[str], confidence: float, samples: int
) -> dict[str, Any]:
    """Whether more is won than lost: the sign test where rows are independent (ties say nothing),
    else Student's t over groups.
    """
    ones, even = [1.0] * len(won), [0.5] * len(won)
    found = statistics.paired([won, ones], [even, ones], statistics.ratio, groups, samples)
    if len(set(groups)) == len(groups):
        lost = sum(value < 0.5 for value in won)
        # a win is half a point more than a tie
        found = replace(found, discordant=(sum(value > 0.5 for value in won), lost, 2 * len(won)))
    (one,) = statistics.corrected([found], confidence)
    edges = (
        None if one.interval is None else [min(1.0, max(0.0, 0.5 + edge)) for edge in one.interval]
    )
    word = (
        ("better" if one.value > 0 else "worse")
        if one.p < 1 - confidence
        else "not distinguishable"
    )
    return {
        "win_rate_interval": edges,
        "p": one.p,
        "verdict": word if edges else f"{one.groups} independent rows cannot tell",
    }


def length_controlled(won: Sequence[float], differences: Sequence[float]) -> float:
    """The win rate at equal length: a logistic regression of ``won`` on the length difference, with
    a small ridge.
    """
    y, x = np.asarray(won, dtype=float), np.asarray(differences, dtype=float)
    spread = float(np.sqrt((x * x).mean()))
    design = np.stack([np.ones_like(x), x / spread if spread else x], axis=1)
    weights = np.zeros(2)
    for _ in range(50):  # Newton
        p = 1 / (1 + np.exp(-(design @ weights).clip(-30, 30)))
        slope = design.T @ (p - y) + 0.1 * weights
        curve = design.T @ (design * (p * (1 - p))[:, None]) + 0.1 * np.eye(2)
        step = np.linalg.solve(curve, slope)
        weights -= step
        if float(np.abs(step).max()) < 1e-9:
            break
    return float(1 / (1 + np.exp(-weights[0])))


def absolute(rows: Sequence[Mapping[str, Any]], confidence: float, samples: int) -> dict[str, Any]:
    """``rows`` of one system have a score and a length; score None: unjudged."""
    judged = [row for row in rows if row["score"] is not None]
    content: dict[str, Any] = {
        "rows": len(rows),
        "judged": len(judged),
        "unjudged": len(rows) - len(judged),
    }
    if not judged:
        return content
    scores = [float(row["score"]) for row in judged]
    measure = mean(scores)
    correlation = spearman([row["length"] for row in judged], scores)
    warnings = []
    if len(judged) >= _FEW_LABELS and correlation > 0.5:
        warnings.append(
            f"scores grow with the length of an answer (rank correlation {correlation:.2f}): this"
            " judge may reward length"
        )
    if len(set(scores)) == 1 and len(judged) > 5:
        warnings.append(f"every answer got {scores[0]:g}: this judge tells nothing apart")
    content |= {
        "mean": measure.value,
        "interval": (
            list(edges)
            if (edges := measure.interval(groups_of(judged), confidence, samples)) is not None
            else None
        ),
        "counts": {str(n): sum(score == n for score in scores) for n in range(1, 6)},
        "length_correlation": None if math.isnan(correlation) else correlation,
        "warnings": warnings,
    }
    return content


def agreement(pairs: Sequence[tuple[Any, Any]], categories: Sequence[Any]) -> dict[str, Any]:
    """Of people's labels and a judge's on the same rows; ``categories`` in their order."""
    weighted = (
        cohen_kappa(pairs, categories, Weights.quadratic)
        if len(categories) > 2
        else cohen_kappa(pairs, categories)
    )
    ranks = (
        [[float(categories.index(label)) for label in side] for side in zip(*pairs, strict=True)]
        if pairs
        else [[], []]
    )
    values = {
        "accuracy": accuracy(pairs),
        "kappa": cohen_kappa(pairs, categories),
        "weighted_kappa": weighted,
        "alpha": (
            krippendorff_alpha([list(pair) for pair in pairs], categories, ordinal=True)
            if pairs
            else math.nan
        ),
        "spearman": spearman(*ranks) if pairs else math.nan,
    }
    verdict, why = trust(weighted, len(pairs))
    finite = {name: None if math.isnan(value) else value for name, value in values.items()}
    return {"rows": len(pairs), **finite, "verdict": verdict, "why": why}


def trust(kappa: float, rows: int) -> tuple[str, str]:
    """(verdict, why) on a judge, or a rater, whose agreement with people is ``kappa``."""
    if rows < _FEW_LABELS:
        return "too few labels", f"{rows} labelled rows say little: give {_FEW_LABELS} or more"
    if math.isnan(kappa):
        return "do not trust", "one side gives the same label to every row, which tells nothing"
    if kappa >= _TRUSTED:
        return "trust", f"kappa {kappa:.3f} is at least {_TRUSTED}"
    if kappa >= _DOUBTED:
        return "with care", f"kappa {kappa:.3f} is between {_DOUBTED} and {_TRUSTED}"
    return "do not trust", f"kappa {kappa:.3f} is below {_DOUBTED}: hardly more than chance"
