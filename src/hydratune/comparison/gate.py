"""Is a candidate worse than a baseline? Two runs, paired over the same test rows, for scripts and CI."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hydratune.comparison.names import lower_is_better, title
from hydratune.comparison.runs import Run
from hydratune.comparison.ties import main_metric, read_rows
from hydratune.errors import InputError
from hydratune.evaluation.measures import Measure, difference
from hydratune.evaluation.statistics import Difference, holm

_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_LIMIT = re.compile(rf"\s*(?P<metric>[A-Za-z][\w/.\-]*)\s*(?P<sign>[<>])\s*(?P<number>{_NUMBER})\s*(?P<percent>%?)\s*")
_FORM = "write metrics with the difference that fails, candidate less baseline: fail_if='eval/field_f1<-0.02, val/loss>+1%'"


@dataclass(frozen=True)
class Limit:
    """Fails where the candidate less the baseline is below (or above) a number."""

    metric: str
    below: bool
    number: float
    relative: bool  # to the baseline's value

    def __str__(self) -> str:
        return f"{self.metric} {'<' if self.below else '>'} {100 * self.number if self.relative else self.number:+g}{' %' * self.relative}"


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
            raise InputError(f"fail_if: {part.strip()!r} would fail a candidate that is equal to the baseline; {_FORM}")
        found.append(limit)
    return found


def check(baseline: Run, candidate: Run, fail_if: str | None, *, certain: bool, confidence: float, samples: int = 2000) -> list[Checked]:
    """Without ``fail_if`` a candidate fails that is significantly worse in its main metric or the likelihood of the answers.

    ``certain``: a limit only fails if the whole interval of the difference is beyond it. Raises ``InputError`` if the runs
    cannot be compared.
    """
    for run in (baseline, candidate):
        if run.state != "finished" or not run.metrics:
            raise InputError(f"{run.path}: not a finished run ({run.state}{f': {run.error}' if run.error else ''})")
    ours, theirs = read_rows(candidate), read_rows(baseline)
    paired = ours is not None and theirs is not None and ours.rows == theirs.rows
    if fail_if is None:
        if ours is None or theirs is None or not paired:
            raise InputError(f"{candidate.path} and {baseline.path} were tested on different rows: nothing can be paired; give fail_if=...")
        main = main_metric(baseline)
        names = [name for name in dict.fromkeys([main, "nll"]) if name and name in ours.measures and name in theirs.measures]
        found = [_paired(ours.measures[n], theirs.measures[n], ours.groups, confidence, samples) for n in names]
        corrected = zip(names, found, holm([one.p for one in found]), strict=True)
        return [_significant(name, one, p, confidence, baseline, candidate) for name, one, p in corrected]
    checked = []
    for limit in limits(fail_if):
        for run in (baseline, candidate):
            if run.value(limit.metric) is None:
                raise InputError(f"fail_if: {run.path} has no metric {limit.metric}; its metrics.json has the names")
        before, after = baseline.value(limit.metric), candidate.value(limit.metric)
        assert before is not None and after is not None
        difference_, name = None, limit.metric.removeprefix("eval/")
        if ours is not None and theirs is not None and paired and limit.metric.startswith("eval/") and name in ours.measures:
            difference_ = _paired(ours.measures[name], theirs.measures[name], ours.groups, confidence, samples)
        number = limit.number * abs(before) if limit.relative else limit.number
        low, high = difference_.interval if certain and difference_ is not None else (after - before, after - before)
        failed = high < number if limit.below else low > number
        checked.append(Checked(limit.metric, before, after, difference_, str(limit), failed))
    return checked


def _paired(ours: Measure, theirs: Measure, groups: Sequence[str], confidence: float, samples: int) -> Difference:
    return difference(ours, theirs, groups, confidence, samples)


def _significant(name: str, found: Difference, p: float, confidence: float, baseline: Run, candidate: Run) -> Checked:
    metric = f"eval/{name}"
    worse = found.value > 0 if lower_is_better(metric) else found.value < 0
    before, after = baseline.value(metric), candidate.value(metric)
    limit = f"significantly worse (p < {1 - confidence:.2g}, Holm)"
    return Checked(metric, before or 0.0, after or 0.0, Difference(found.value, found.interval, p), limit, worse and p < 1 - confidence)


def sentence(checked: Sequence[Checked]) -> str:
    failed = [title(one.metric) for one in checked if one.failed]
    return f"the candidate fails: {', '.join(failed)}" if failed else "the candidate is not worse by these limits"
