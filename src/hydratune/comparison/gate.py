"""Is a candidate worse than a baseline?

Two runs, paired over the same test rows, for scripts and CI.
"""

import math
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

from hydratune.comparison.runs import Run
from hydratune.comparison.ties import ONE_SEED, main_metric, read_rows
from hydratune.errors import InputError
from hydratune.evaluation.measures import comparison, difference
from hydratune.evaluation.statistics import Difference, corrected
from hydratune.metric_table import lower_is_better, title

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_LIMIT = re.compile(
    rf"\s*(?P<metric>[A-Za-z][\w/.\-]*)\s*(?P<sign>[<>])\s*(?P<number>{_NUMBER})\s*(?P<percent>%?)\s*"
)
_SAMPLES = 2000
_FORM = (
    "write metrics with the difference that fails, candidate less baseline:"
    " fail_if='eval/field_f1<-0.02, val/loss>+1%'"
)


@dataclass(frozen=True)
class Limit:
    """Fails where the candidate less the baseline is below (or above) a number."""

    metric: str
    below: bool
    number: float
    relative: bool  # to the baseline's value

    def __str__(self) -> str:
        return (
            f"{self.metric} {'<' if self.below else '>'}"
            f" {100 * self.number if self.relative else self.number:+g}{' %' * self.relative}"
        )


@dataclass(frozen=True)
class Checked:
    """One metric of both runs."""

    metric: str
    baseline: float
    candidate: float
    difference: Difference | None  # paired; None where there are no rows to pair
    limit: str
    failed: bool


def limits(text: str) -> list[Limit]:
    """Raises ``InputError``."""
    found = []
    for part in text.split(","):
        match = _LIMIT.fullmatch(part)
        if match is None:
            raise InputError(f"fail_if: {part.strip()!r} is not understood; {_FORM}")
        number = float(match["number"]) / (100 if match["percent"] else 1)
        limit = Limit(match["metric"], match["sign"] == "<", number, bool(match["percent"]))
        if (limit.below and number > 0) or (not limit.below and number < 0):
            raise InputError(
                f"fail_if: {part.strip()!r} would fail a candidate that is equal to the baseline;"
                f" {_FORM}"
            )
        better_lower = lower_is_better(limit.metric)
        if better_lower is not None and limit.below is better_lower:
            way = "lower" if better_lower else "higher"
            raise InputError(
                f"fail_if: {part.strip()!r} would fail a candidate that is better: {limit.metric}"
                f" is better {way}; {_FORM}"
            )
        found.append(limit)
    return found


def check(
    baseline: Run, candidate: Run, fail_if: str | None, *, certain: bool, confidence: float
) -> list[Checked]:
    """Without ``fail_if`` a candidate fails that is significantly worse in its main metric or the
    likelihood of the answers.

    ``certain``: a limit only fails if the whole interval of the difference is beyond it. Raises
    ``InputError`` if the runs cannot be compared.
    """
    for run in (baseline, candidate):
        if run.state != "finished" or not run.metrics:
            raise InputError(
                f"{run.path}: not a finished run"
                f" ({run.state}{f': {run.error}' if run.error else ''})"
            )
    if fail_if is not None:
        wanted = limits(fail_if)
        broken = _broken(baseline, candidate, {limit.metric for limit in wanted})
        return broken + [
            _held(limit, baseline, candidate, certain=certain, confidence=confidence)
            for limit in wanted
        ]
    if certain:
        raise InputError(
            "certain = true: belongs to fail_if=...; without it the check is one of significance"
            " already"
        )
    return _broken(baseline, candidate, frozenset()) or _significance(
        baseline, candidate, confidence
    )


def _broken(baseline: Run, candidate: Run, limited: Set[str]) -> list[Checked]:
    """What fails whatever the limits: no validation loss that is a number, or more forgotten than
    the run itself allowed.

    ``limited``: metrics that have limits of their own. Raises ``InputError`` if it is the baseline.
    """
    for what, run in (("baseline", baseline), ("candidate", candidate)):
        if run.value("objective") is None and (
            "objective" in run.metrics or (what == "candidate" and "objective" in baseline.metrics)
        ):
            if what == "baseline":
                told = (
                    f"its validation loss is {run.metrics['objective']}, no number, so nothing is"
                    " better or worse than it"
                )
                raise InputError(f"{run.path}: {told}; give another run as baseline=DIR")
            if limited.isdisjoint(("objective", "val/loss")):
                before = baseline.value("objective")
                return [
                    _no_number(
                        "val/loss",
                        before if before is not None else math.nan,
                        run.metrics.get("objective"),
                    )
                ]
    if candidate.over_budget and not baseline.over_budget:
        name = "forgetting/within_budget"
        return [
            Checked(
                name,
                1.0,
                0.0,
                None,
                "more was forgotten than evaluation.forgetting.fail of the run allows",
                True,
            )
        ]
    return []


def _no_number(metric: str, before: float, after: object) -> Checked:
    seen = float(after) if isinstance(after, (int, float)) else math.nan
    return Checked(
        metric, before, seen, None, f"no number ({'missing' if after is None else after})", True
    )


def _significance(baseline: Run, candidate: Run, confidence: float) -> list[Checked]:
    """By the main metric and the likelihood of the answers, corrected for both (Holm)."""
    theirs, ours = read_rows(baseline), read_rows(candidate)
    if ours is None or theirs is None:
        lacking = candidate if ours is None else baseline
        raise InputError(
            f"{lacking.path}: predictions.jsonl is missing or cannot be read, so nothing can be"
            " paired; give fail_if=..."
        )
    if ours.rows != theirs.rows:
        raise InputError(
            f"{candidate.path} and {baseline.path} were tested on different rows: nothing can be"
            " paired; give fail_if=..."
        )
    main = main_metric(baseline)
    if main != main_metric(candidate):
        mains = (
            f"the main metric of {baseline.path} is {main}, of {candidate.path}"
            f" {main_metric(candidate)}"
        )
        raise InputError(f"{mains}; say by fail_if=... what counts")
    names = [name for name in dict.fromkeys([main, "nll"]) if name and name in theirs.measures]
    for run, read in ((baseline, theirs), (candidate, ours)):
        if unknown := [
            name
            for name in names
            if name not in read.measures or not math.isfinite(read.measures[name].value)
        ]:
            raise InputError(
                f"{run.path}: eval/{unknown[0]} of its answers is no number, so it is neither"
                " better nor worse"
            )
    tests = [
        comparison(ours.measures[name], theirs.measures[name], ours.groups, _SAMPLES)
        for name in names
    ]
    checked = []
    for name, one in zip(names, corrected(tests, confidence), strict=True):
        worse = one.value > 0 if lower_is_better(f"eval/{name}") else one.value < 0
        limit = f"significantly worse (p < {1 - confidence:.2g}, Holm)"
        values = theirs.measures[name].value, ours.measures[name].value
        checked.append(
            Checked(f"eval/{name}", *values, one, limit, worse and one.p < 1 - confidence)
        )
    return checked


def _held(
    limit: Limit, baseline: Run, candidate: Run, *, certain: bool, confidence: float
) -> Checked:
    """One metric against its limit."""
    before = _value(baseline, limit.metric)
    if limit.metric in candidate.metrics and candidate.value(limit.metric) is None:
        return _no_number(limit.metric, before, candidate.metrics[limit.metric])
    after = _value(candidate, limit.metric)
    system, _, name = limit.metric.partition("/")
    theirs, ours = (read_rows(run) if system == "eval" else None for run in (baseline, candidate))
    found = None
    if ours is not None and theirs is not None and ours.rows == theirs.rows:
        if name in ours.measures and name in theirs.measures:
            found = difference(
                ours.measures[name], theirs.measures[name], ours.groups, confidence, _SAMPLES
            )
    elif system in ("eval", "val", "objective"):
        tested = system == "eval"
        seen = [run.tested_on if tested else run.measured_on for run in (baseline, candidate)]
        if seen[0] != seen[1]:
            how = "tested" if tested else "validated"
            raise InputError(
                f"fail_if: {limit.metric}: {candidate.path} and {baseline.path} were {how} on"
                " different rows"
            )
    if certain and found is None:
        raise InputError(
            f"certain = true: the difference of {limit.metric} has no interval; those of the"
            " answers (eval/...) have"
        )
    number = limit.number * abs(before) if limit.relative else limit.number
    low, high = after - before, after - before
    if certain and found is not None:
        low, high = found.interval or (-math.inf, math.inf)  # so few rows are never certain
    failed = high < number if limit.below else low > number
    return Checked(limit.metric, before, after, found, str(limit), failed)


def _value(run: Run, metric: str) -> float:
    value = run.value(metric)
    if value is None:
        there = run.metrics.get(metric)
        what = (
            f"has no metric {metric}; its metrics.json has the names"
            if there is None
            else f"has {metric} = {there}, which is no number"
        )
        raise InputError(f"fail_if: {run.path} {what}")
    return value


def sentence(checked: Sequence[Checked]) -> str:
    """What follows, and of what."""
    few = next(
        (
            one.difference.groups
            for one in checked
            if one.difference is not None and one.difference.interval is None
        ),
        None,
    )
    more = (
        ""
        if few is None
        else (
            f"; {few} independent test rows cannot show that any candidate is worse: give 30 or"
            " more"
        )
    )
    return f"{_outcome(checked)}{more} ({ONE_SEED})"


def _outcome(checked: Sequence[Checked]) -> str:
    failed = [title(one.metric) for one in checked if one.failed]
    return (
        f"the candidate fails: {', '.join(failed)}"
        if failed
        else "the candidate is not worse by these limits"
    )
