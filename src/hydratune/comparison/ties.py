"""Which entries cannot be told from the best: paired over the same test rows, with the seeds as replicates.

A difference of two means over seeds varies with the rows and with the seeds. The rows' part is drawn: whole groups of them with
replacement, the same for both sides. The seeds' part is the variance of runs around the mean of their entry: that of the two
entries, or where neither has several seeds, that of all entries which have. Both together are judged by Student's t, for a few seeds
know little of their own spread. Where nobody has several seeds, there is the noise of the rows alone.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hydratune.comparison.entries import Entry
from hydratune.comparison.runs import Run
from hydratune.config import EvaluationConfig
from hydratune.errors import RunError
from hydratune.evaluation import metrics
from hydratune.evaluation.measures import Measure, groups_of
from hydratune.evaluation.statistics import Difference, Interval, by_t, holm, mcnemar, within

_LOWER = ("nll",)
_FEW = 30
_SAMPLES, _FINE = 2000, 4  # at least; and so many that the least p, times the comparisons, is a small part of what tells apart
_BLOCK = 1024  # samples


@dataclass(frozen=True)
class Against:
    """One entry against the best on the same test rows."""

    metric: str  # without its system
    value: float  # the entry's mean less the best one's
    interval: Interval
    p: float  # corrected for all entries and metrics (Holm)
    told_apart: bool
    better: bool  # than the best, whatever of that is chance
    replicated: bool  # the noise of seeds is in it


@dataclass(frozen=True)
class _Read:
    """Test rows of one run."""

    rows: tuple[Any, ...]
    groups: tuple[str, ...]
    measures: Mapping[str, Measure]


def read_rows(run: Run, system: str = "eval") -> _Read | None:
    """None: there are none, or they cannot be read."""
    try:
        predictions = run.predictions(system)
        if not predictions:
            return None
        families = run.settings.get("evaluation.metrics")
        config = EvaluationConfig(metrics=list(families) if isinstance(families, list) else None)
        schema = "eval/schema_valid" in run.metrics
        own = metrics.measures(predictions, metrics.families_of(predictions, config), has_schema=schema)
        rows = tuple((p.get("item_hash"), p.get("reference")) for p in predictions)
        return _Read(rows, tuple(groups_of(predictions)), own)
    except (RunError, KeyError, TypeError, ValueError, IndexError):
        return None


def main_metric(run: Run) -> str | None:
    """What says best how good the answers are."""
    return next((name for name in metrics.MAIN if f"eval/{name}" in run.metrics), None)


def against_best(
    ranked: Sequence[Entry], names: Sequence[str], confidence: float = 0.95
) -> tuple[dict[int, dict[str, Against]], list[str]]:
    """(place in ``ranked`` -> metric -> difference, why some could not be compared). The first of ``ranked`` is the best."""
    reads = {i: [r for run in entry.finished if (r := read_rows(run)) is not None] for i, entry in enumerate(ranked) if entry.finished}
    if not any(reads.values()):
        return {}, []
    if not reads.get(0):
        return {}, ["the best entry has no answers that can be read, so nothing is paired with it"]
    best = reads[0][0]
    odd = sorted(i for i, some in reads.items() if not some or any(one.rows != best.rows for one in some))
    told = []
    if 0 in odd:
        return {}, ["the seeds of the best entry were tested on different rows, so nothing can be paired with it"]
    if odd:
        which = ", ".join(run.name for i in odd[:4] for run in ranked[i].finished[:1]) + (" ..." if len(odd) > 4 else "")
        told.append(f"not paired with the best: {which}: other test rows, or none that can be read")
    pairs = [(i, name) for name in names for i in reads if i and i not in odd and _have(name, [*reads[0], *reads[i]])]
    drawn = _Drawn(best.groups, max(_SAMPLES, math.ceil(_FINE * len(pairs) / (1 - confidence))))
    tests = []
    for i, name in pairs:
        ours, theirs = ([one.measures[name] for one in reads[j]] for j in (0, i))
        noise = within([[m.value for m in some] for some in (ours, theirs)])
        noise = noise or within([[one.measures[name].value for one in some] for some in reads.values() if _have(name, some)])
        tests.append((_difference(ours, theirs, drawn, noise, confidence), noise is not None))
    found: dict[int, dict[str, Against]] = {}
    for (i, name), (one, seeds), p in zip(pairs, tests, holm([one.p for one, _ in tests]), strict=True):
        better = (one.value < 0) == (name in _LOWER) and one.value != 0
        found.setdefault(i, {})[name] = Against(name, one.value, one.interval, p, p < 1 - confidence, better, seeds)
    few = len(set(best.groups))
    if few < _FEW:
        told.append(f"{few} independent test rows can hardly tell anything apart: give {_FEW} or more")
    return found, told


def _have(name: str, reads: Sequence[_Read]) -> bool:
    """Whether all of them have a number of this name."""
    return all(name in one.measures and math.isfinite(one.measures[name].value) for one in reads)


class _Drawn:
    """Rows drawn again and again, whole groups with replacement, the same for whatever is asked."""

    def __init__(self, groups: Sequence[str], samples: int) -> None:
        names, self.index = np.unique(np.asarray(groups), return_inverse=True)
        self.count = len(names)
        self.independent = self.count == len(groups)
        generator, share = np.random.default_rng(0), [1 / self.count] * self.count
        sizes = [min(_BLOCK, samples - start) for start in range(0, samples, _BLOCK)]
        self.times = [generator.multinomial(self.count, share, size=size).astype(np.uint16) for size in sizes]  # (block, groups)

    def means(self, seeds: Sequence[Measure]) -> np.ndarray:
        """The mean over seeds, of every sample."""
        return np.mean([self._of(measure) for measure in seeds], axis=0)

    def _of(self, measure: Measure) -> np.ndarray:
        sums = [np.bincount(self.index, weights=np.asarray(c, dtype=float), minlength=self.count) for c in measure.columns]
        totals = np.stack(sums, axis=1)  # (groups, columns)
        return measure.of(np.concatenate([block.astype(np.float64) @ totals for block in self.times]))


def _difference(
    ours: Sequence[Measure], theirs: Sequence[Measure], drawn: _Drawn, noise: tuple[float, int] | None, confidence: float
) -> Difference:
    """Of ``theirs`` to ``ours``, one measure for each seed. ``noise``: (variance between seeds, degrees of freedom), if it is known."""
    samples = _cleaned(drawn.means(theirs) - drawn.means(ours))
    value = float(_cleaned(np.array(np.mean([m.value for m in theirs]) - np.mean([m.value for m in ours]))))
    if noise is not None:
        variance, freedom = noise
        rows = float(np.var(samples, ddof=1)), float(max(1, drawn.count - 1))
        found = by_t(value, [rows, (variance * (1 / len(ours) + 1 / len(theirs)), float(freedom))], confidence)
    else:
        found = _percentile(value, samples, confidence)
        if drawn.independent and ours[0].hits and theirs[0].hits:
            found = replace(found, p=_exact(ours[0], theirs[0]))
    return replace(found, p=max(found.p, 2.0 ** (1 - drawn.count)))  # no less than so few groups can show


def _cleaned(samples: np.ndarray) -> np.ndarray:
    """Equal rows, summed in another order, do not differ."""
    return np.where(np.abs(samples) < 1e-12, 0.0, samples)


def _percentile(value: float, samples: np.ndarray, confidence: float) -> Difference:
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    below = float(np.sum(samples < 0) + 0.5 * np.sum(samples == 0))
    p = min(1.0, 2 * (min(below, len(samples) - below) + 1) / (len(samples) + 1))
    return Difference(value, (float(low), float(high)), p)


def _exact(ours: Measure, theirs: Measure) -> float:
    """McNemar's p, where rows are right or wrong and independent."""
    pairs = list(zip(ours.columns[0], theirs.columns[0], strict=True))
    return mcnemar(sum(a > b for a, b in pairs), sum(b > a for a, b in pairs))


def by_seeds(ranked: Sequence[Entry], confidence: float = 0.95) -> dict[int, float]:
    """Place in ``ranked`` -> p, corrected for all (Holm), that its mean differs from that of the best by the spread of seeds alone.

    Student's t; empty where no entry has several seeds. The entry that is truly the best is called worse than the one that came
    first no more often than 1 - ``confidence``.
    """
    scores = {i: entry.scores for i, entry in enumerate(ranked) if entry.scores}
    every = within(list(scores.values()))
    if every is None or 0 not in scores:
        return {}
    raw = {}
    for i in list(scores)[1:]:
        variance, freedom = within([scores[0], scores[i]]) or every
        part = variance * (1 / len(scores[0]) + 1 / len(scores[i])), float(freedom)
        raw[i] = by_t(statistics.fmean(scores[i]) - statistics.fmean(scores[0]), [part], confidence).p
    return dict(zip(raw, holm(list(raw.values())), strict=True))
