"""A check for scripts and CI: is a candidate worse than a baseline?

Two runs are compared, paired over the same test rows.
"""

import math
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from hydratune.comparison.formatting import format_p
from hydratune.comparison.runs import Run, read_run
from hydratune.comparison.ties import ONE_SEED, ScoredRows, main_metric, read_scored_rows
from hydratune.errors import InputError
from hydratune.evaluation.measures import comparison, difference
from hydratune.evaluation.statistics import Difference, corrected
from hydratune.metric_format import difference as format_difference
from hydratune.metric_format import difference_form, heading, written
from hydratune.metric_table import Unit, largest_difference, lower_is_better, title, unit
from hydratune.records.run_directory import RunFile
from hydratune.settings.paths import expanded

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_LIMIT = re.compile(
    rf"\s*(?P<metric>[A-Za-z][\w/.\-]*)\s*(?P<sign>[<>])\s*"
    rf"(?P<number>{_NUMBER})\s*(?P<percent>%?)\s*"
)
_SAMPLES = 2000
_FORM = (
    "write metrics with the difference that fails, candidate less baseline:"
    " fail_if='eval/field_f1<-0.02, val/loss>+1%'"
)


@dataclass(frozen=True)
class MetricLimit:
    """Fails a candidate whose difference to the baseline is below (or above) a number."""

    metric: str
    below: bool
    number: float
    relative: bool  # to the baseline's value

    def __str__(self) -> str:
        sign = "<" if self.below else ">"
        if self.relative:
            return f"{self.metric} {sign} {100 * self.number:+g} %"
        limit = f"{self.metric} {sign} {self.number:+g}"
        if unit(self.metric) is not Unit.rate:
            return limit
        return f"{limit} ({100 * self.number:+g} points)"


@dataclass(frozen=True)
class CheckedMetric:
    """One metric of both runs, and whether the candidate fails by it."""

    metric: str
    baseline: float
    candidate: float
    difference: Difference | None  # paired; None if there are no rows to pair
    limit: str
    failed: bool


def parse_limits(text: str) -> list[MetricLimit]:
    """Return the limits of ``fail_if``. Raises ``InputError``."""
    return [_parse_limit(part) for part in text.split(",")]


def _parse_limit(text: str) -> MetricLimit:
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise InputError(f"fail_if: {text.strip()!r} is not understood; {_FORM}")
    number = float(match["number"]) / (100 if match["percent"] else 1)
    limit = MetricLimit(match["metric"], match["sign"] == "<", number, bool(match["percent"]))
    if (limit.below and number > 0) or (not limit.below and number < 0):
        why = "would fail a candidate that is equal to the baseline"
        raise InputError(f"fail_if: {text.strip()!r} {why}; {_FORM}")
    lower = lower_is_better(limit.metric)
    if lower is not None and limit.below is lower:
        why = f"{limit.metric} is better {'lower' if lower else 'higher'}"
        raise InputError(
            f"fail_if: {text.strip()!r} would fail a candidate that is better: {why}; {_FORM}"
        )
    return limit


def read_checked_run(option: str, folder: str) -> Run:
    """Return the run that an option names. Raises ``InputError`` if it is none, or damaged."""
    path = expanded(folder)
    if not (path / RunFile.status).is_file():
        raise InputError(f"{option}: {folder} is no run directory (no status.json)")
    run = read_run(path)
    if run.damage:
        raise InputError(f"{option}: {run.damage[0]}")
    return run


def check_candidate(
    baseline: Run, candidate: Run, fail_if: str | None, *, certain: bool, confidence: float
) -> list[CheckedMetric]:
    """Check a candidate against the limits of ``fail_if``, or for a significant difference.

    Without ``fail_if`` it fails if it is significantly worse in its main metric or the likelihood
    of the answers. ``certain``: a limit only fails if the whole interval of the difference is
    beyond it. Raises ``InputError`` if the runs cannot be compared.
    """
    for run in (baseline, candidate):
        if run.state != "finished" or not run.metrics:
            reason = f"{run.state}: {run.error}" if run.error else run.state
            raise InputError(f"{run.path}: not a finished run ({reason})")
    if fail_if is not None:
        limits = parse_limits(fail_if)
        broken = _always_failing(baseline, candidate, {limit.metric for limit in limits})
        return broken + [
            _check_limit(limit, baseline, candidate, certain=certain, confidence=confidence)
            for limit in limits
        ]
    if certain:
        raise InputError(
            "certain = true: belongs to fail_if=...; without it the check is a significance test"
            " already"
        )
    return _always_failing(baseline, candidate, frozenset()) or _check_significance(
        baseline, candidate, confidence
    )


def _always_failing(baseline: Run, candidate: Run, limited: Set[str]) -> list[CheckedMetric]:
    """Return what fails whatever the limits are.

    That is a validation loss that is not a number, and more forgetting than the run itself allowed.
    ``limited``: metrics that have limits of their own. Raises ``InputError`` if the baseline has no
    loss.
    """
    had_loss = "objective" in baseline.metrics
    loss = baseline.value("objective")
    if had_loss and loss is None:
        raise InputError(
            f"{baseline.path}: its validation loss is {baseline.metrics['objective']}, no number,"
            " so nothing is better or worse than it; give another run as baseline=DIR"
        )
    lacks_loss = candidate.value("objective") is None
    is_expected = had_loss or "objective" in candidate.metrics
    if lacks_loss and is_expected and limited.isdisjoint(("objective", "val/loss")):
        before = math.nan if loss is None else loss
        return [_no_number("val/loss", before, candidate.metrics.get("objective"))]
    if candidate.over_budget and not baseline.over_budget:
        why = "more was forgotten than evaluation.forgetting.fail of the run allows"
        return [CheckedMetric("forgetting/within_budget", 1.0, 0.0, None, why, failed=True)]
    return []


def _no_number(metric: str, baseline: float, candidate: object) -> CheckedMetric:
    value = float(candidate) if isinstance(candidate, int | float) else math.nan
    limit = f"no number ({'missing' if candidate is None else candidate})"
    return CheckedMetric(metric, baseline, value, None, limit, failed=True)


def _check_significance(baseline: Run, candidate: Run, confidence: float) -> list[CheckedMetric]:
    """Test the main metric and the likelihood of the answers, corrected for both (Holm)."""
    theirs, ours = _pair_rows(baseline, candidate)
    main = main_metric(baseline)
    if main != main_metric(candidate):
        raise InputError(
            f"the main metric of {baseline.path} is {main}, of {candidate.path}"
            f" {main_metric(candidate)}; say by fail_if=... what counts"
        )
    names = [name for name in dict.fromkeys([main, "nll"]) if name and name in theirs.measures]
    for run, rows in ((baseline, theirs), (candidate, ours)):
        for name in names:
            if name not in rows.measures or not math.isfinite(rows.measures[name].value):
                raise InputError(
                    f"{run.path}: eval/{name} of its answers is no number, so it is neither"
                    " better nor worse"
                )
    tests = [
        comparison(ours.measures[name], theirs.measures[name], ours.groups, _SAMPLES)
        for name in names
    ]
    limit = f"significantly worse (p < {1 - confidence:.2g}, Holm)"
    checked = []
    for name, test in zip(names, corrected(tests, confidence), strict=True):
        is_worse = test.value > 0 if lower_is_better(f"eval/{name}") else test.value < 0
        values = theirs.measures[name].value, ours.measures[name].value
        failed = is_worse and test.p < 1 - confidence
        paired = test.within(largest_difference(f"eval/{name}"))
        checked.append(CheckedMetric(f"eval/{name}", *values, paired, limit, failed))
    return checked


def _pair_rows(baseline: Run, candidate: Run) -> tuple[ScoredRows, ScoredRows]:
    """Return the test rows of both runs. Raises ``InputError`` if they cannot be paired."""
    theirs, ours = read_scored_rows(baseline), read_scored_rows(candidate)
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
    return theirs, ours


def _check_limit(
    limit: MetricLimit, baseline: Run, candidate: Run, *, certain: bool, confidence: float
) -> CheckedMetric:
    """Check one metric against its limit."""
    before = _value(baseline, limit.metric)
    if limit.metric in candidate.metrics and candidate.value(limit.metric) is None:
        return _no_number(limit.metric, before, candidate.metrics[limit.metric])
    after = _value(candidate, limit.metric)
    paired = _paired_difference(limit.metric, baseline, candidate, confidence)
    if certain and paired is None:
        raise InputError(
            f"certain = true: the difference of {limit.metric} has no interval; those of the"
            " answers (eval/...) have"
        )
    number = limit.number * abs(before) if limit.relative else limit.number
    low = high = after - before
    if certain and paired is not None:
        # with too few rows for an interval nothing is certain
        low, high = paired.interval or (-math.inf, math.inf)
    failed = high < number if limit.below else low > number
    return CheckedMetric(limit.metric, before, after, paired, str(limit), failed)


def _paired_difference(
    metric: str, baseline: Run, candidate: Run, confidence: float
) -> Difference | None:
    """Return the difference over the same test rows; None for a metric that has no rows.

    Raises ``InputError`` if the metric was measured on different rows.
    """
    system, _, name = metric.partition("/")
    if system == "eval":
        theirs, ours = read_scored_rows(baseline), read_scored_rows(candidate)
        if ours is not None and theirs is not None and ours.rows == theirs.rows:
            if name not in ours.measures or name not in theirs.measures:
                return None
            before, after = theirs.measures[name], ours.measures[name]
            change = difference(after, before, ours.groups, confidence, _SAMPLES)
            return change.within(largest_difference(metric))
        is_same, how = baseline.test_hash == candidate.test_hash, "tested"
    elif system in ("val", "objective"):
        is_same, how = baseline.validation_hash == candidate.validation_hash, "validated"
    else:
        return None
    if not is_same:
        raise InputError(
            f"fail_if: {metric}: {candidate.path} and {baseline.path} were {how} on different rows"
        )
    return None


def _value(run: Run, metric: str) -> float:
    """Return a metric of a run. Raises ``InputError`` if it has none."""
    value = run.value(metric)
    if value is not None:
        return value
    recorded = run.metrics.get(metric)
    if recorded is None:
        why = f"has no metric {metric}; its metrics.json has the names"
    else:
        why = f"has {metric} = {recorded}, which is no number"
    raise InputError(f"fail_if: {run.path} {why}")


def summarise(checked: Sequence[CheckedMetric]) -> str:
    """Return the conclusion in a sentence, with what it is based on."""
    failed = [title(metric.metric) for metric in checked if metric.failed]
    conclusion = "the candidate is not worse by these limits"
    if failed:
        conclusion = f"the candidate fails: {', '.join(failed)}"
    differences = [metric.difference for metric in checked if metric.difference is not None]
    too_few = next((own.groups for own in differences if own.interval is None), None)
    if too_few is not None:
        conclusion += (
            f"; {too_few} independent test rows cannot show that any candidate is worse: give 30 or"
            " more"
        )
    return f"{conclusion} ({ONE_SEED})"


def results_table(checked: Sequence[CheckedMetric], confidence: float) -> Table:
    """Return a row for each checked metric."""
    table = Table(title_justify="left", header_style="bold")
    for column in ("metric", "baseline", "candidate"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    table.add_column(f"difference, {100 * confidence:.4g} %")
    table.add_column("p", justify="right")
    table.add_column("fails if")
    table.add_column("")
    for metric in checked:
        key, change, paired = metric.metric, metric.candidate - metric.baseline, metric.difference
        interval = f" {escape(paired.interval_text(*difference_form(key)))}" if paired else ""
        table.add_row(
            escape(heading(key)),
            written(key, metric.baseline),
            written(key, metric.candidate),
            f"{format_difference(key, change)}{interval}" if math.isfinite(change) else "-",
            format_p(paired.p).removeprefix("= ") if paired else "-",
            escape(metric.limit),
            "[bold red]FAIL" if metric.failed else "[green]ok",
        )
    return table
