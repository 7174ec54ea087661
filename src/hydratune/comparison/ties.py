"""Which entries cannot be told from the best: paired over the same test rows, with the seeds as
replicates. One family of tests.

A difference of two means over seeds varies with the rows and with the seeds. The rows' part is
drawn: whole groups of them with replacement, the same for both sides. The seeds' part is the
variance of runs around the mean of their entry: that of the two entries, whose seeds are taken to
vary alike, or where neither has several seeds, that of all entries which have. Two entries are told
apart where the rows alone tell it, and the rows and the seeds together as well; see
``seeds_and_rows``. The seeds also tell by what runs are ranked by, where that is not measured on
the test rows. All these tests of all entries are corrected together (Holm 1979), and so are their
intervals. Where nobody has several seeds, there is the noise of the rows alone, and what is told
apart are these runs.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hydratune.comparison.entries import Entry
from hydratune.comparison.runs import Run
from hydratune.errors import RunError
from hydratune.evaluation import metrics
from hydratune.evaluation.measures import Measure, alone, exact, groups_of
from hydratune.evaluation.statistics import (
    Comparison,
    Difference,
    Interval,
    Part,
    cleaned,
    corrected,
    differing,
    over_rows,
    rows_part,
    within,
)
from hydratune.settings.evaluation import EvaluationConfig

_LOWER = ("nll",)
_FEW = 30
_SAMPLES = 2000
_BLOCK = 1024  # samples
ONE_SEED = (
    "one seed each, so this is of these runs: with other seeds the same settings may differ less,"
    " or the other way"
)
_MANY = 10**6  # groups: they bound nothing


@dataclass(frozen=True)
class Against:
    """One entry against the best on the same test rows."""

    metric: str  # without its system
    # the entry's mean less the best one's, corrected for all tests of the comparison (Holm)
    found: Difference
    told_apart: bool
    better: bool  # than the best, whatever of that is chance
    replicated: bool  # the noise of seeds is in it

    @property
    def value(self) -> float:
        return self.found.value

    @property
    def interval(self) -> Interval | None:
        return self.found.interval

    @property
    def p(self) -> float:
        return self.found.p


@dataclass(frozen=True)
class Tests:
    """All tests against the best entry. Keys are places in the ranking."""

    # place -> metric -> on the test rows
    rows: Mapping[int, Mapping[str, Against]] = field(default_factory=dict)
    # place -> corrected p that the means of the criterion differ
    seeds: Mapping[int, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # why some could not be compared
    count: int = 0  # for which p and intervals are corrected


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
        own = metrics.measures(
            predictions, metrics.families_of(predictions, config), has_schema=schema
        )
        rows = tuple((p.get("item_hash"), p.get("reference")) for p in predictions)
        return _Read(rows, tuple(groups_of(predictions)), own)
    except (RunError, KeyError, TypeError, ValueError, IndexError):
        return None


def main_metric(run: Run) -> str | None:
    """What says best how good the answers are."""
    return next((name for name in metrics.MAIN if f"eval/{name}" in run.metrics), None)


def against_best(
    ranked: Sequence[Entry],
    names: Sequence[str],
    confidence: float = 0.95,
    *,
    criterion: str | None = None,
) -> Tests:
    """The first of ``ranked`` is the best.

    ``criterion``: which of ``names`` runs are ranked by, if any; no second test is made of it.
    """
    pairs, notes = _pairs(ranked, names) if names else ([], [])
    done = {pair.place for pair in pairs if pair.metric == criterion}
    seeds = {place: test for place, test in _by_seeds(ranked).items() if place not in done}
    tests = corrected([pair.test for pair in pairs] + list(seeds.values()), confidence)
    found: dict[int, dict[str, Against]] = {}
    for pair, one in zip(pairs, tests, strict=False):
        better = (one.value < 0) == (pair.metric in _LOWER) and one.value != 0
        found.setdefault(pair.place, {})[pair.metric] = Against(
            pair.metric, one, one.p < 1 - confidence, better, pair.replicated
        )
    return Tests(
        found,
        {place: one.p for place, one in zip(seeds, tests[len(pairs) :], strict=True)},
        tuple(notes),
        len(tests),
    )


@dataclass(frozen=True)
class _Pair:
    """One metric of one entry against the best."""

    place: int
    metric: str
    test: Comparison
    replicated: bool


def _pairs(ranked: Sequence[Entry], names: Sequence[str]) -> tuple[list[_Pair], list[str]]:
    """(what is tested over the test rows, why some could not be compared)."""
    reads = {
        i: [r for run in entry.finished if (r := read_rows(run)) is not None]
        for i, entry in enumerate(ranked)
        if entry.finished
    }
    if not any(reads.values()):
        return [], []
    if not reads.get(0):
        return [], ["the best entry has no answers that can be read, so nothing is paired with it"]
    best = reads[0][0]
    odd = sorted(
        i for i, some in reads.items() if not some or any(one.rows != best.rows for one in some)
    )
    told = []
    if 0 in odd:
        return [], [
            "the seeds of the best entry were tested on different rows, so nothing can be paired"
            " with it"
        ]
    if odd:
        which = ", ".join(run.name for i in odd[:4] for run in ranked[i].finished[:1]) + (
            " ..." if len(odd) > 4 else ""
        )
        told.append(f"not paired with the best: {which}: other test rows, or none that can be read")
    drawn = Drawn(best.groups)
    pairs = []
    for name in names:
        every = [
            [one.measures[name] for one in some]
            for i, some in reads.items()
            if i not in odd and _have(name, some)
        ]
        for i, some in reads.items():
            if i and i not in odd and _have(name, [*reads[0], *some]):
                ours, theirs = ([one.measures[name] for one in both] for both in (reads[0], some))
                noise = _noise([ours, theirs], drawn) or _noise(every, drawn)
                pairs.append(
                    _Pair(i, name, seeds_and_rows(ours, theirs, drawn, noise), noise is not None)
                )
    few = len(set(best.groups))
    if few < _FEW:
        told.append(
            f"{few} independent test rows can hardly tell anything apart: give {_FEW} or more"
        )
    return pairs, told


def _have(name: str, reads: Sequence[_Read]) -> bool:
    """Whether all of them have a number of this name."""
    return all(name in one.measures and math.isfinite(one.measures[name].value) for one in reads)


class Drawn:
    """Rows drawn again and again, whole groups with replacement, the same for whatever is asked."""

    def __init__(self, groups: Sequence[str], samples: int = _SAMPLES) -> None:
        names, self.index = np.unique(np.asarray(groups), return_inverse=True)
        self.groups, self.count = groups, len(names)
        generator, share = np.random.default_rng(0), [1 / self.count] * self.count
        sizes = [min(_BLOCK, samples - start) for start in range(0, samples, _BLOCK)]
        self.times = [
            generator.multinomial(self.count, share, size=size).astype(np.uint16) for size in sizes
        ]  # (block, groups)
        self._known: dict[int, tuple[Measure, np.ndarray]] = {}

    def of(self, measure: Measure) -> np.ndarray:
        """The measure, of every sample."""
        if id(measure) not in self._known:
            sums = [
                np.bincount(self.index, weights=np.asarray(c, dtype=float), minlength=self.count)
                for c in measure.columns
            ]
            totals = np.stack(sums, axis=1)  # (groups, columns)
            found = measure.of(
                np.concatenate([block.astype(np.float64) @ totals for block in self.times])
            )
            self._known[id(measure)] = (
                measure,
                found,
            )  # the measure is kept, so that its id stays its own
        return self._known[id(measure)][1]

    def mean(self, seeds: Sequence[Measure]) -> np.ndarray:
        """The mean over seeds, of every sample."""
        return np.mean([self.of(measure) for measure in seeds], axis=0)


@dataclass(frozen=True)
class Noise:
    """Of the runs of one entry around their mean."""

    variance: float
    freedom: int
    by_rows: float  # what of it comes from drawing rows, to which seeds answer differently
    logits: float | None = (
        None  # the variance of log odds, where runs have shares of rows that are right
    )


def _noise(samples: Sequence[Sequence[Measure]], drawn: Drawn) -> Noise | None:
    """None where no entry has several seeds."""
    found = within([[measure.value for measure in some] for some in samples])
    if found is None:
        return None
    squares = sum(
        float(np.var([drawn.of(m) - drawn.mean(some) for m in some], axis=1, ddof=1).sum())
        for some in samples
        if len(some) > 1
    )
    shares = (
        within([[log_odds(m) for m in some] for some in samples])
        if all(m.hits for some in samples for m in some)
        else None
    )
    return Noise(
        *found,
        squares / found[1] * drawn.count / max(1, drawn.count - 1),
        shares[0] if shares else None,
    )


def log_odds(measure: Measure) -> float:
    """Of a row being right, by half a row away from never and always."""
    right, rows = float(sum(measure.columns[0])), len(measure.columns[0])
    return math.log((right + 0.5) / (rows - right + 0.5))


def seeds_and_rows(
    ours: Sequence[Measure], theirs: Sequence[Measure], drawn: Drawn, noise: Noise | None
) -> Comparison:
    """``theirs`` less ``ours``, one measure for each seed. Without ``noise`` the rows alone.

    A run's mean is m + s + r + e: its settings, its seed, how these rows suit its settings, and how
    they suit its seed. The difference of two means over n and k seeds has the variance R + T, with
    T = (1/n + 1/k) (var s + var e) and R that of r. T is estimated by the ``noise``, with the few
    degrees of freedom of the seeds; R is the variance over drawn rows, in which (1/n + 1/k) var e
    is as well and is taken off. The interval is that of ``half_width`` for R and T, and at least
    that of the rows alone, which no luck of two seeds that came out alike makes narrower. Both hold
    their level, so the wider one does (benchmarks/ties.py).
    """
    count, groups = drawn.count, drawn.groups
    samples = drawn.mean(theirs) - drawn.mean(ours)
    value = float(np.mean([m.value for m in theirs]) - np.mean([m.value for m in ours]))
    informative = differing([m.columns for m in theirs], [m.columns for m in ours], groups)
    if noise is None:
        found = over_rows(value, samples, groups, informative)
        same = exact(theirs[0], ours[0], groups) and len(ours) == len(theirs) == 1
        return replace(found, alone=alone(theirs[0], ours[0])) if same else found
    odds = None
    if noise.logits is not None:
        odds = statistics.fmean(map(log_odds, theirs)) - statistics.fmean(map(log_odds, ours))
    both = bounds(rows_part(samples, count), noise, 1 / len(ours) + 1 / len(theirs), value, odds)
    return Comparison(cleaned(value), both, count, informative)


def bounds(
    rows: Part, noise: Noise, share: float, value: float, odds: float | None
) -> tuple[tuple[Part, ...], ...]:
    """(the rows alone, R and T) of ``seeds_and_rows``; ``share`` is 1/n + 1/k, ``odds`` the
    difference of mean log odds.

    Seeds that differ much crowd near 0 and 1 if values are shares, where two of them come out alike
    too often for Student's t. On log odds they do not, so the seeds must tell there as well: T is
    then at least as many times ``value``^2 as it is ``odds``^2.
    """
    own: Part = max(0.0, rows[0] - share * noise.by_rows), rows[1]
    seeds = noise.variance
    if noise.logits is not None and odds:
        seeds = max(seeds, noise.logits * (value / odds) ** 2)
    return (rows,), (own, (share * seeds, float(noise.freedom)))


def _by_seeds(ranked: Sequence[Entry]) -> dict[int, Comparison]:
    """Place in ``ranked`` -> whether its mean differs from that of the best by the spread of seeds,
    on the same validation rows.

    Student's t; empty where no entry has several seeds. The entry that is truly the best is called
    worse than the one that came first no more often than 1 - ``confidence``.
    """
    scores = {i: entry.scores for i, entry in enumerate(ranked) if entry.scores}
    every = within(list(scores.values()))
    if every is None or 0 not in scores:
        return {}
    found = {}
    for i in list(scores)[1:]:
        variance, freedom = within([scores[0], scores[i]]) or every
        part: Part = variance * (1 / len(scores[0]) + 1 / len(scores[i])), float(freedom)
        value = statistics.fmean(scores[i]) - statistics.fmean(scores[0])
        found[i] = Comparison(value, ((part,),), _MANY, _MANY)
    return found


def by_seeds(ranked: Sequence[Entry], confidence: float = 0.95) -> dict[int, float]:
    """Place -> p by the seeds alone, corrected for all (Holm)."""
    return dict(against_best(ranked, [], confidence).seeds)
