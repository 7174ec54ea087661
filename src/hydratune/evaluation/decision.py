"""Whether fine-tuning is needed: systems on the same test rows, compared in pairs.

Pure functions of predictions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hydratune.evaluation.measures import Measure, comparison, difference, groups_of
from hydratune.evaluation.power import least_difference
from hydratune.evaluation.statistics import Interval, corrected
from hydratune.metric_table import SYSTEM_TITLES, largest_difference, lower_is_better
from hydratune.records.predictions import Prediction
from hydratune.settings.evaluation import EvaluationConfig
from hydratune.wording import counted

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
_FEW = 30  # test rows
_FAR_SHORTER = 2.0  # times the tokens of a prompt

Measures = Mapping[str, Mapping[str, Measure]]  # system -> metric -> measure
Predictions = Mapping[str, Sequence[Prediction]]  # by system, all on the same rows
Wins = Callable[[str, str], bool]  # whether one system was found better than another


@dataclass(frozen=True)
class SystemComparison:
    """One system against another on the same rows.

    ``p`` is corrected for all comparisons of the decision (Holm).
    """

    ours: str
    theirs: str
    value: float  # positive: ours is better
    interval: Interval | None  # corrected as p is; None: too few rows for an interval
    p: float
    better: bool  # significantly, and by more than the margin
    between: str  # the interval in points, or why there is none

    def sentence(self) -> str:
        """Return the comparison in words."""
        change = f"{100 * self.value:+.1f} points {self.between}, p = {self.p:.2g}"
        worse = "not distinguishable by the margin" if self.value >= 0 else "not better"
        verdict = "better" if self.better else worse
        return f"{TITLES[self.ours]} against {TITLES[self.theirs]}: {change}: {verdict}"


@dataclass(frozen=True)
class Decision:
    """What to do, and why.

    ``choice`` is tune, tune_and_retrieve, retrieve or prompt; either where the fine-tuned model is
    as good as a prompt and its prompts are far shorter; open where there is no fine-tuned model;
    undecided where the rows are too few to find anything better, or to rule it out.
    """

    choice: str
    headline: str
    reasons: tuple[str, ...]
    comparisons: tuple[SystemComparison, ...]


def decide(
    measures: Measures,
    predictions: Predictions,
    metric: str,
    margin: float,
    config: EvaluationConfig,
) -> Decision:
    """Return the decision by ``metric``.

    The best prompt is chosen on the rows on which it is compared, which favours it. A system is
    better if its advantage is significant and larger than ``margin``.
    """
    scores = _scores(measures, metric)
    prompt = max((s for s in PROMPTS if s in scores), key=scores.__getitem__)
    compared = _compare(measures, predictions, metric, margin, config, prompt, scores)

    def wins(a: str, b: str) -> bool:
        return (a, b) in compared and compared[a, b].better

    choice, headline = _choice(scores, prompt, wins)
    groups = groups_of(next(iter(predictions.values())))
    tuned = compared.get(("tuned", prompt))
    shorter = _times_shorter(predictions, prompt)
    if choice == "prompt" and _is_few(groups) and not _is_no_better(tuned, margin):
        choice = "undecided"
        headline = (
            f"this cannot be decided on {_independent_rows(groups)}: give {_FEW} or more; until"
            f" then prompt, do not fine-tune yet (here {TITLES[prompt]} is as good as any prompt)"
        )
    elif choice == "prompt" and _is_as_good(tuned, margin) and shorter >= _FAR_SHORTER:
        choice = "either"
        headline = (
            f"the fine-tuned model is only as good as {TITLES[prompt]}, whose prompts are"
            f" {shorter:.1f} times as long: fine-tune for many calls, prompt for few"
        )
    reasons = [comparison.sentence() for comparison in compared.values()]
    reasons += _kind_of_gap(measures, prompt, choice)
    disagreement = _disagreement(measures, metric, prompt)
    reasons += _warnings(groups, "tuned" in scores, is_said=choice == "undecided")
    if disagreement is not None and choice in ("prompt", "either", "open", "undecided"):
        least = least_difference(len(groups), disagreement, config.confidence)
        reasons.append(
            f"{counted(len(groups), 'test row finds', 'test rows find')} a difference of"
            f" {100 * least:.0f} points with a"
            " probability of 80 %; more rows find smaller ones"
        )
    return Decision(choice, headline, tuple(reasons), tuple(compared.values()))


def _scores(measures: Measures, metric: str) -> dict[str, float]:
    """Return each system's value by ``metric``, turned so that higher is better.

    A value that is not a number is the worst.
    """
    sign = -1.0 if lower_is_better(f"eval/{metric}") else 1.0
    values = {system: sign * some[metric].value for system, some in measures.items()}
    return {s: value if math.isfinite(value) else -math.inf for s, value in values.items()}


def _compare(
    measures: Measures,
    predictions: Predictions,
    metric: str,
    margin: float,
    config: EvaluationConfig,
    prompt: str,
    scores: Mapping[str, float],
) -> dict[tuple[str, str], SystemComparison]:
    """Return the comparisons that the decision needs, corrected for each other."""
    plain = max((s for s in (prompt, *RETRIEVAL) if s in scores), key=scores.__getitem__)
    candidates = [
        ("rag", prompt),
        ("tuned", prompt),
        ("tuned", "rag"),
        ("tuned_rag", "tuned"),
        ("tuned_rag", plain),
    ]
    pairs = list(dict.fromkeys(p for p in candidates if all(system in scores for system in p)))
    groups = groups_of(next(iter(predictions.values())))
    tests = [
        comparison(measures[a][metric], measures[b][metric], groups, config.bootstrap_samples)
        for a, b in pairs
    ]
    lower = lower_is_better(f"eval/{metric}")
    compared = {}
    largest = largest_difference(f"eval/{metric}")
    for (a, b), uncut in zip(pairs, corrected(tests, config.confidence), strict=True):
        test = uncut.within(largest)
        gain = test.negative() if lower else test
        better = gain.p < 1 - config.confidence and gain.value > margin
        between = gain.interval_text("+.1f", 100)
        compared[a, b] = SystemComparison(a, b, gain.value, gain.interval, gain.p, better, between)
    return compared


def _is_as_good(comparison: SystemComparison | None, margin: float) -> bool:
    """Return whether ours may be better, and is at most ``margin`` worse."""
    if comparison is None or comparison.interval is None:
        return False
    return comparison.interval[1] > 0 and comparison.value > -margin


def _is_no_better(comparison: SystemComparison | None, margin: float) -> bool:
    """Return whether the rows rule out that ours is better by more than ``margin``."""
    if comparison is None or comparison.interval is None:
        return False
    return comparison.interval[1] <= margin


def _is_few(groups: Sequence[str]) -> bool:
    return len(set(groups)) < _FEW


def _independent_rows(groups: Sequence[str]) -> str:
    return counted(len(set(groups)), "independent test row")


def _warnings(groups: Sequence[str], has_tuned: bool, *, is_said: bool) -> list[str]:
    """Return what limits the decision. ``is_said``: the headline says that the rows are few."""
    warnings = []
    if has_tuned:
        warnings.append(
            "the fine-tuned model is one run of one seed: by how much another seed would differ is"
            " in none of these intervals"
        )
    if _is_few(groups) and not is_said:
        are = "is" if len(set(groups)) == 1 else "are"
        warnings.append(
            f"{_independent_rows(groups)} {are} too few to build on: give {_FEW} or more"
        )
    return warnings


def constrained(
    measures: Measures, predictions: Predictions, metric: str, config: EvaluationConfig
) -> list[str]:
    """Return sentences on what holding the answers to the schema changes.

    It takes no part in the decision.
    """
    sentences = []
    for system in measures:
        free = system.removesuffix(CONSTRAINED)
        if free == system:
            continue
        held, unheld = measures[system][metric], measures[free][metric]
        groups, samples = groups_of(predictions[system]), config.bootstrap_samples
        change = difference(held, unheld, groups, config.confidence, samples)
        change = change.within(largest_difference(f"eval/{metric}"))
        points = f"{100 * change.value:+.1f} points {change.interval_text('+.1f', 100)}"
        cut = sum(row["finish_reason"] != "stop" for row in predictions[system])
        was_cut = counted(cut, "answer was cut before its end", "answers were cut before their end")
        more = f"; {was_cut}" if cut else ""
        sentences.append(
            f"held to the JSON schema, {TITLES[free]} changes by {points}, p = {change.p:.2g} of"
            f" {metric}{more}"
        )
    return sentences


def _times_shorter(predictions: Predictions, prompt: str) -> float:
    """Return how many times the tokens of the fine-tuned model's prompts the best prompt takes.

    0 where that is not known.
    """
    best, tuned = (
        sum(row.get("prompt_tokens", 0) for row in predictions.get(system, ()))
        for system in (prompt, "tuned")
    )
    return best / tuned if tuned else 0.0


def _choice(scores: Mapping[str, float], prompt: str, wins: Wins) -> tuple[str, str]:
    """Return (choice, headline)."""
    if "tuned" not in scores:
        best = f"the best prompt is {TITLES[prompt]}"
        if wins("rag", prompt):
            best = "retrieval beats the best prompt"
        return "open", f"{best}; train a model (hydratune train) and ask again with run=DIR"
    if wins("tuned_rag", "tuned") and (wins("tuned_rag", prompt) or wins("tuned_rag", "rag")):
        return "tune_and_retrieve", "fine-tune, and retrieve: each adds to the other"
    if wins("tuned", prompt) and (
        "rag" not in scores or not wins("rag", prompt) or scores["tuned"] >= scores["rag"]
    ):
        if "rag" in scores and not wins("tuned", "rag"):
            return "tune", (
                "fine-tune: it beats every prompt; its difference from retrieval is not"
                " significant on these rows"
            )
        return "tune", "fine-tune: neither a better prompt nor retrieval is as good"
    if wins("rag", prompt):
        return "retrieve", "retrieve, do not fine-tune: the answers are in the documents"
    return "prompt", f"do not fine-tune: nothing was found to be better than {TITLES[prompt]}"


def _kind_of_gap(measures: Measures, prompt: str, choice: str) -> list[str]:
    """Return what the numbers say about what the base model lacks: form, or knowledge."""
    sentences = []
    tuned, best = measures.get("tuned"), measures[prompt]
    form = next((name for name in ("schema_valid", "json_valid") if name in best), None)
    if tuned is not None and form is not None and tuned[form].value - best[form].value > 0.1:
        what = "valid under the schema" if form == "schema_valid" else "strict JSON"
        gap = f"{100 * best[form].value:.0f} % to {100 * tuned[form].value:.0f} %"
        sentences.append(
            f"the form of the answers ({what}) goes from {gap}: form, style and fixed logic are"
            " what fine-tuning teaches"
        )
    if choice in ("retrieve", "tune_and_retrieve"):
        sentences.append(
            "the required knowledge changes or is too large to be memorised: a document can be"
            " replaced at any time, weights cannot"
        )
    return sentences


def _disagreement(measures: Measures, metric: str, prompt: str) -> float | None:
    """Return the share of rows on which the fine-tuned model and the best prompt differ.

    None where the metric is not a rate.
    """
    if "tuned" not in measures or not measures["tuned"][metric].hits:
        return None
    ours, theirs = measures["tuned"][metric].columns[0], measures[prompt][metric].columns[0]
    pairs = list(zip(ours, theirs, strict=True))
    return sum(a != b for a, b in pairs) / len(pairs)
