"""Is fine-tuning needed?

Systems on the same test rows, compared in pairs, and what follows. Pure functions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydratune.evaluation.measures import Measure, comparison, difference, groups_of
from hydratune.evaluation.statistics import Interval, corrected, least_difference
from hydratune.metric_table import SYSTEM_TITLES, lower_is_better
from hydratune.settings.evaluation import EvaluationConfig

TITLES = {
    "base": SYSTEM_TITLES["base"],
    "fewshot": SYSTEM_TITLES["fewshot"],
    "nearest": "base, nearest examples",
    "rag": "base, retrieval",
    "tuned": SYSTEM_TITLES["eval"],
    "tuned_rag": "fine-tuned, retrieval",
    "fewshot_constrained": "base, few-shot, constrained",
    "tuned_constrained": "fine-tuned, constrained",
}
CONSTRAINED = "_constrained"  # ends the names of systems whose answers were held to the JSON schema
PROMPTS, RETRIEVAL = ("base", "fewshot", "nearest"), ("rag",)
_FEW = 30
_FAR_SHORTER = 2.0  # times the tokens of a prompt


@dataclass(frozen=True)
class Comparison:
    """One system against another on the same rows; ``p`` is corrected for all comparisons of the
    decision (Holm).
    """

    ours: str
    theirs: str
    value: float  # positive: ours is better
    interval: Interval | None  # corrected as p is; None: the rows are too few to tell anything
    p: float
    better: bool  # told apart, and by more than the margin
    between: str  # the interval in points, or why there is none

    def sentence(self) -> str:
        sign = f"{100 * self.value:+.1f} points {self.between}, p = {self.p:.2g}"
        verdict = (
            "better"
            if self.better
            else "not told apart by enough"
            if self.value >= 0
            else "not better"
        )
        return f"{TITLES[self.ours]} against {TITLES[self.theirs]}: {sign}: {verdict}"


@dataclass(frozen=True)
class Decision:
    """``choice``: tune, tune_and_retrieve, retrieve, prompt, either where the fine-tuned model is
    as good and far shorter to ask, or open where no fine-tuned model was asked.
    """

    choice: str
    headline: str
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


def decide(
    measures: Mapping[str, Mapping[str, Measure]],
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    metric: str,
    margin: float,
    config: EvaluationConfig,
) -> Decision:
    """``measures`` and ``predictions`` by system, all on the same rows, on which the best prompt is
    chosen as well: that favours it.
    """
    sign = -1.0 if lower_is_better(f"eval/{metric}") else 1.0
    scores = {system: sign * some[metric].value for system, some in measures.items()}
    scores = {
        system: score if math.isfinite(score) else -math.inf for system, score in scores.items()
    }  # no number is no good one
    prompt = max((s for s in PROMPTS if s in scores), key=scores.__getitem__)
    plain = max((s for s in (prompt, *RETRIEVAL) if s in scores), key=scores.__getitem__)
    pairs = [
        ("rag", prompt),
        ("tuned", prompt),
        ("tuned", "rag"),
        ("tuned_rag", "tuned"),
        ("tuned_rag", plain),
    ]
    pairs = list(dict.fromkeys(pair for pair in pairs if all(s in scores for s in pair)))
    groups = groups_of(next(iter(predictions.values())))
    tests = [
        comparison(measures[a][metric], measures[b][metric], groups, config.bootstrap_samples)
        for a, b in pairs
    ]
    compared: dict[tuple[str, str], Comparison] = {}
    for (a, b), found in zip(pairs, corrected(tests, config.confidence), strict=True):
        one = found if sign > 0 else found.negative()
        better = one.p < 1 - config.confidence and one.value > margin
        compared[a, b] = Comparison(
            a, b, one.value, one.interval, one.p, better, one.interval_text("+.1f", 100)
        )

    def wins(a: str, b: str) -> bool:
        return (a, b) in compared and compared[a, b].better

    choice, headline = _choice(scores, prompt, wins)
    shorter = _shorter(predictions, prompt)
    even = compared.get(("tuned", prompt))
    as_good = (
        even is not None
        and even.interval is not None
        and even.interval[1] > 0
        and even.value > -margin
    )
    if choice == "prompt" and as_good and shorter >= _FAR_SHORTER:
        choice = "either"
        headline = (
            f"{TITLES[prompt]} is not beaten, but its prompts are {shorter:.1f} times as long as"
            " those of the fine-tuned model"
        )
        headline += ", which is as good: fine-tune for many calls, prompt for few"
    reasons = [comparison.sentence() for comparison in compared.values()]
    reasons += _why(measures, prompt, choice)
    if "tuned" in scores:
        reasons.append(
            "the fine-tuned model is one run of one seed: by how much another seed would differ is"
            " in none of these intervals"
        )
    if len(set(groups)) < _FEW:
        reasons.append(
            f"{len(set(groups))} independent test rows are too few to build on: give {_FEW} or more"
        )
    disagree = _disagreement(measures, metric, prompt)
    if disagree is not None and choice in ("prompt", "either", "open"):
        least = least_difference(len(groups), disagree, config.confidence)
        reasons.append(
            f"{len(groups)} test rows find a difference of {100 * least:.0f} points with a"
            " probability of 80 %; more rows find less"
        )
    return Decision(choice, headline, tuple(reasons), tuple(compared.values()))


def constrained(
    measures: Mapping[str, Mapping[str, Measure]],
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    metric: str,
    config: EvaluationConfig,
) -> list[str]:
    """What holding the answers to the schema changes, in sentences; it takes no part in the
    decision.
    """
    told = []
    for system in measures:
        free = system.removesuffix(CONSTRAINED)
        if free == system:
            continue
        groups = groups_of(predictions[system])
        found = difference(
            measures[system][metric],
            measures[free][metric],
            groups,
            config.confidence,
            config.bootstrap_samples,
        )
        change = (
            f"{100 * found.value:+.1f} points {found.interval_text('+.1f', 100)}, p = {found.p:.2g}"
        )
        cut = sum(row["finish_reason"] != "stop" for row in predictions[system])
        more = f"; {cut} answers were cut before their end" if cut else ""
        told.append(
            f"held to the JSON schema, {TITLES[free]} changes by {change} of {metric}{more}"
        )
    return told


def _shorter(predictions: Mapping[str, Sequence[Mapping[str, Any]]], prompt: str) -> float:
    """How many times the tokens of the fine-tuned model's prompts the best prompt takes; 0 where
    that is not known.
    """
    tokens = [
        sum(row.get("prompt_tokens", 0) for row in predictions.get(system, ()))
        for system in (prompt, "tuned")
    ]
    return tokens[0] / tokens[1] if tokens[1] else 0.0


def _choice(scores: Mapping[str, float], prompt: str, wins: Any) -> tuple[str, str]:
    if "tuned" not in scores:
        if wins("rag", prompt):
            return (
                "open",
                (
                    "retrieval beats the best prompt; train a model (hydratune train) and ask again"
                    " with run=DIR"
                ),
            )
        return (
            "open",
            (
                f"the best prompt is {TITLES[prompt]}; train a model (hydratune train) and ask"
                " again with run=DIR"
            ),
        )
    if wins("tuned_rag", "tuned") and (wins("tuned_rag", prompt) or wins("tuned_rag", "rag")):
        return "tune_and_retrieve", "fine-tune, and retrieve: each adds to the other"
    if wins("tuned", prompt) and (
        "rag" not in scores or not wins("rag", prompt) or scores["tuned"] >= scores["rag"]
    ):
        if "rag" in scores and not wins("tuned", "rag"):
            return (
                "tune",
                (
                    "fine-tune: it beats every prompt; whether retrieval would be as good cannot be"
                    " told from these rows"
                ),
            )
        return "tune", "fine-tune: neither a better prompt nor retrieval comes near"
    if wins("rag", prompt):
        return "retrieve", "retrieve, do not fine-tune: the answers are in the documents"
    return "prompt", f"do not fine-tune: {TITLES[prompt]} is not beaten"


def _why(measures: Mapping[str, Mapping[str, Measure]], prompt: str, choice: str) -> list[str]:
    """What the numbers say about the kind of gap."""
    told = []
    tuned, best = measures.get("tuned"), measures[prompt]
    form = next((name for name in ("schema_valid", "json_valid") if name in best), None)
    if tuned is not None and form is not None and tuned[form].value - best[form].value > 0.1:
        gap = f"{100 * best[form].value:.0f} % to {100 * tuned[form].value:.0f} %"
        told.append(f"the form of the answers ({'valid under the schema' if form == 'schema_valid' else 'strict JSON'}) goes from {gap}: "  # noqa: E501
                    "form, style and fixed logic are what fine-tuning teaches")  # fmt: skip
    if choice in ("retrieve", "tune_and_retrieve"):
        told.append(
            "what has to be known changes or is too much to learn by heart: a document can be"
            " replaced tomorrow, weights cannot"
        )
    return told


def _disagreement(
    measures: Mapping[str, Mapping[str, Measure]], metric: str, prompt: str
) -> float | None:
    """Share of rows on which the fine-tuned model and the best prompt differ, for rates."""
    if "tuned" not in measures or not measures["tuned"][metric].hits:
        return None
    pairs = list(
        zip(measures["tuned"][metric].columns[0], measures[prompt][metric].columns[0], strict=True)
    )
    return sum(a != b for a, b in pairs) / len(pairs)
