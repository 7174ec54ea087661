"""Which entries cannot be told from the best: paired over the same test rows, with the seeds as replicates.

The difference of two means over seeds is drawn again and again: whole groups of rows with replacement, the same for both
sides, and seeds with replacement on each side. Few seeds drawn with replacement vary too little, so their deviations from the
mean are widened by sqrt(n / (n - 1)) (Rao and Wu 1988). An entry with one seed brings only the noise of the rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydratune.comparison.entries import Entry
from hydratune.comparison.runs import Run
from hydratune.config import EvaluationConfig
from hydratune.errors import RunError
from hydratune.evaluation import metrics
from hydratune.evaluation.measures import Measure, groups_of
from hydratune.evaluation.statistics import Interval, holm, mcnemar

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
    replicated: bool  # both have several seeds


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
    if not reads or not reads.get(0):
        return {}, []
    best = reads[0][0]
    odd = sorted(i for i, some in reads.items() if not some or any(one.rows != best.rows for one in some))
    told = []
    if 0 in odd:
        return {}, ["the seeds of the best entry were tested on different rows, so nothing can be paired with it"]
    if odd:
        which = ", ".join(run.name for i in odd[:4] for run in ranked[i].finished[:1]) + (" ..." if len(odd) > 4 else "")
        told.append(f"not paired with the best: {which}: other test rows, or none that can be read")
    measured = [name for name in names if all(name in one.measures for one in reads[0])]
    pairs = [(i, name) for name in measured for i in reads if i and i not in odd and all(name in one.measures for one in reads[i])]
    weights, floor = _weights(best.groups, max(_SAMPLES, math.ceil(_FINE * len(pairs) / (1 - confidence))))
    ours = {name: _drawn([one.measures[name] for one in reads[0]], best.groups, weights, seed=1) for name in measured}
    raw = []
    for i, name in pairs:
        theirs = _drawn([one.measures[name] for one in reads[i]], best.groups, weights, seed=2 + i)
        raw.append(_difference(theirs, ours[name], confidence, floor))
        both = [reads[0][0].measures[name], reads[i][0].measures[name]]
        single = len(reads[0]) == len(reads[i]) == 1 and len(set(best.groups)) == len(best.groups)
        if single and all(m.hits for m in both):
            raw[-1] = (*raw[-1][:2], _exact(*both))
    found: dict[int, dict[str, Against]] = {}
    for (i, name), (value, interval, _), p in zip(pairs, raw, holm([p for _, _, p in raw]), strict=True):
        replicated = min(len(reads[0]), len(reads[i])) > 1
        better = (value < 0) == (name in _LOWER) and value != 0
        found.setdefault(i, {})[name] = Against(name, value, interval, p, p < 1 - confidence, better, replicated)
    few = len(set(best.groups))
    if few < _FEW:
        told.append(f"{few} independent test rows can hardly tell anything apart: give {_FEW} or more")
    return found, told


def _weights(groups: Sequence[str], samples: int) -> tuple[list[np.ndarray], float]:
    """(how often each group is drawn, in blocks of samples (block, groups), least p that so few groups can show)."""
    count = len(set(groups))
    generator = np.random.default_rng(0)
    sizes = [min(_BLOCK, samples - start) for start in range(0, samples, _BLOCK)]
    return [generator.multinomial(count, [1 / count] * count, size=size).astype(np.uint16) for size in sizes], 2.0 ** (1 - count)


def _drawn(seeds: Sequence[Measure], groups: Sequence[str], weights: Sequence[np.ndarray], seed: int) -> tuple[float, np.ndarray]:
    """(mean over seeds, that of every sample)."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    values = []
    for measure in seeds:
        totals = np.stack([np.bincount(index, weights=np.asarray(c, dtype=float), minlength=len(names)) for c in measure.columns], axis=1)
        values.append(measure.of(np.concatenate([block.astype(np.float64) @ totals for block in weights])))
    each = np.stack(values)  # (seeds, samples)
    value = float(np.mean([measure.value for measure in seeds]))
    n = len(seeds)
    if n == 1:
        return value, each[0]
    chosen = np.random.default_rng(seed).integers(n, size=(n, each.shape[1]))
    centre = each.mean(axis=0)
    drawn = np.take_along_axis(each, chosen, axis=0).mean(axis=0)
    return value, centre + (drawn - centre) * np.sqrt(n / (n - 1))


def _difference(
    theirs: tuple[float, np.ndarray], ours: tuple[float, np.ndarray], confidence: float, floor: float
) -> tuple[float, Interval, float]:
    samples = theirs[1] - ours[1]
    samples = np.where(np.abs(samples) < 1e-12, 0.0, samples)  # equal rows, summed in another order
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    below = float(np.sum(samples < 0) + 0.5 * np.sum(samples == 0))
    p = min(1.0, max(2 * (min(below, len(samples) - below) + 1) / (len(samples) + 1), floor))
    return theirs[0] - ours[0], (float(low), float(high)), p


def _exact(ours: Measure, theirs: Measure) -> float:
    """McNemar's p, where rows are right or wrong and independent."""
    pairs = list(zip(ours.columns[0], theirs.columns[0], strict=True))
    return mcnemar(sum(a > b for a, b in pairs), sum(b > a for a, b in pairs))
