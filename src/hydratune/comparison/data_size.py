"""Whether more data would help: runs that differ in the number of their training rows.

Entries whose other settings are equal make one curve. For each metric, every size is compared with
the next larger one over the same test rows, with seeds as replicates, as ``ties`` compares entries;
the seeds of all sizes are assumed to have the same variance, or that of the two sizes where it is
larger. All these tests of all metrics are one family (Holm 1979). ``size_trend`` extrapolates by
one doubling.
"""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hydratune import metric_table
from hydratune.comparison.conditions import SIZE_SETTINGS
from hydratune.comparison.entries import Entry, seed_keys
from hydratune.comparison.formatting import canonical
from hydratune.comparison.runs import Run, nested_value
from hydratune.comparison.seed_noise import (
    GroupBootstrap,
    SeedNoise,
    compare_means,
    estimate_seed_noise,
)
from hydratune.comparison.size_trend import Sizes, Trend, error_of, estimate, fit_trend
from hydratune.comparison.ties import ScoredRows, metric_key, read_scored_rows
from hydratune.evaluation.measures import Measure
from hydratune.evaluation.statistics import (
    Difference,
    Interval,
    UncorrectedDifference,
    corrected,
    pooled_variance,
)
from hydratune.settings.monitor import LOSS

_IGNORED = (*SIZE_SETTINGS, "name", "preview", "resume")
_NO_BOUND = 10**6  # groups of a test that is not limited by the number of rows


@dataclass(frozen=True)
class Doubling:
    """A size against the next larger one, by one metric."""

    smaller: int  # training rows
    larger: int
    difference: Difference  # the larger one's mean less the smaller one's, corrected (Holm)
    includes_seed_noise: bool

    @property
    def doublings(self) -> float:
        """By how many doublings the sizes differ."""
        return math.log2(self.larger / self.smaller)


@dataclass(frozen=True)
class MetricBySize:
    """One metric by the number of training rows."""

    key: str  # of metrics.json
    values: tuple[tuple[float, ...], ...]  # size -> of each seed
    intervals: tuple[Interval | None, ...]  # of the mean of each size, not corrected
    steps: tuple[Doubling, ...]  # between neighbouring sizes
    trend: Trend | None  # None: fewer than three sizes

    @property
    def means(self) -> list[float]:
        """The mean of each size over its seeds."""
        return [statistics.fmean(own) for own in self.values]


@dataclass(frozen=True)
class SizeCurve:
    """Runs that differ in the number of their training rows, and in their seeds."""

    entries: tuple[Entry, ...]  # the fewest rows first
    rows: tuple[int, ...]  # training rows of each
    steps: tuple[int, ...]  # optimizer steps of each; 0: not recorded
    metrics: tuple[MetricBySize, ...]  # the most telling first
    test_rows: int  # independent ones; 0: none could be paired
    confidence: float

    @property
    def is_drawn_by_seeds(self) -> bool:
        """Whether each seed has its own rows of the smaller sizes."""
        return all(entry.settings.get(SIZE_SETTINGS[0], 1) != 1 for entry in self.entries[:-1])

    @property
    def model(self) -> str:
        """The name of the base model."""
        return str(self.entries[-1].settings.get("model.name") or "model")

    @property
    def seeds(self) -> int:
        """The largest number of seeds of a size."""
        return max(len(entry.finished) for entry in self.entries)


def size_curves(
    ranked: Sequence[Entry], names: Sequence[str], confidence: float
) -> tuple[SizeCurve, ...]:
    """Return a curve for each group of entries that differ in the number of training rows alone.

    ``names``: metrics of the answers to test or validation rows, as ``ties`` names them.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Entry]] = {}
    seeds = seed_keys([run for entry in ranked for run in entry.runs])
    for entry in ranked:
        if entry.finished:
            groups.setdefault(_other_settings(entry, seeds), []).append(entry)
    curves = [_curve(entries, names, confidence) for entries in groups.values()]
    return tuple(curve for curve in curves if curve is not None)


def _other_settings(entry: Entry, seeds: set[str]) -> tuple[tuple[str, str], ...]:
    """Return the settings of an entry besides its size and its seed."""
    return tuple(
        sorted(
            (key, canonical(value))
            for key, value in entry.settings.items()
            if key not in seeds and key not in _IGNORED and not key.startswith("tracking")
        )
    )


def training_rows(run: Run) -> int:
    """Return the number of rows that a run was trained on, without canaries; 0 if unknown."""
    count = nested_value(run.data, "splits", "train", "rows")
    canaries = run.data.get("canaries")
    made_up = len(canaries) if isinstance(canaries, list) else 0
    return count - made_up if isinstance(count, int) else 0


def _curve(entries: Sequence[Entry], names: Sequence[str], confidence: float) -> SizeCurve | None:
    """Return the curve of entries with equal settings; None if they have one size."""
    by_size: dict[int, Entry] = {}
    for entry in entries:
        counts = [training_rows(run) for run in entry.finished]
        size = round(statistics.fmean(counts)) if all(counts) else 0
        # of two entries with one size, which repeat each other, the one with more seeds
        if size and (size not in by_size or len(entry.finished) > len(by_size[size].finished)):
            by_size[size] = entry
    if len(by_size) < 2:
        return None
    rows = tuple(sorted(by_size))
    chosen = tuple(by_size[size] for size in rows)
    read = _read_rows(chosen, names)
    found = {name: _measured(name, read) for name in names}
    tests = {name: compare_sizes(own) for name, own in found.items() if own is not None}
    losses = [[run.value(LOSS) for run in entry.finished] for entry in chosen]
    if all(value is not None for own in losses for value in own):
        by_loss = [[float(value or 0.0) for value in own] for own in losses]
        tests[LOSS] = _compare_numbers(by_loss)
    # a metric that is 0 for all runs says nothing of their rows
    tests = {name: own for name, own in tests.items() if len(set().union(*own.values)) > 1}
    if not tests:
        return None
    differences = iter(corrected([t for own in tests.values() for t in own.tests], confidence))
    metrics = []
    for name, own in tests.items():
        key = name if name == LOSS else metric_key(name)
        changes = [next(differences) for _ in own.tests] or own.untested
        largest = metric_table.largest_difference(key)
        steps = [
            Doubling(smaller, larger, change.within(largest), own.noise is not None)
            for smaller, larger, change in zip(rows, rows[1:], changes, strict=False)
        ]
        values = tuple(tuple(seeds) for seeds in own.values)
        intervals = tuple(own.intervals(key, rows, confidence))
        trend = own.trend(key, rows, confidence)
        metrics.append(MetricBySize(key, values, intervals, tuple(steps), trend))
    groups = max((own.groups for name, own in tests.items() if name != LOSS), default=0)
    steps_of = tuple(max(map(_optimizer_steps, entry.finished)) for entry in chosen)
    return SizeCurve(chosen, rows, steps_of, tuple(metrics), groups, confidence)


def _optimizer_steps(run: Run) -> int:
    return int(max((row["step"] for row in run.history() if "step" in row), default=0))


# ------------------------------------------------------------------------------- metrics with rows
@dataclass(frozen=True)
class _MeanOf:
    """The mean of one size, as a function of all means."""

    number: int

    def __call__(self, means: np.ndarray) -> np.ndarray:
        return np.asarray(means[..., self.number])


@dataclass(frozen=True)
class ComparedSizes:
    """One metric of all sizes, before the tests are corrected for each other."""

    values: Sequence[Sequence[float]]
    tests: Sequence[UncorrectedDifference]  # of neighbouring sizes
    samples: np.ndarray | None  # (samples, sizes)
    groups: int
    noise: SeedNoise | None

    @property
    def untested(self) -> list[Difference]:
        """The differences of neighbouring sizes where nothing is known about their chance."""
        means = [statistics.fmean(own) for own in self.values]
        return [Difference(b - a, None, 1.0) for a, b in itertools.pairwise(means)]

    def trend(self, key: str, rows: Sequence[int], confidence: float) -> Trend | None:
        """Return the trend of the metric ``key`` over the sizes."""
        lower = metric_table.lower_is_better(key)
        bounds = (0.0, math.inf) if _is_loss(key) else metric_table.bounds(key)
        return fit_trend(self._sizes(rows), error_of(lower, bounds), confidence)

    def intervals(
        self, key: str, rows: Sequence[int], confidence: float
    ) -> Iterator[Interval | None]:
        """Yield the interval of the mean of each size, cut at the bounds of the metric."""
        sizes, (least, most) = self._sizes(rows), metric_table.bounds(key)
        for number in range(len(rows)):
            found = estimate(sizes, _MeanOf(number), confidence)
            if found.interval is None:
                yield None
                continue
            low, high = found.interval
            yield max(low, min(least, found.value)), min(high, max(most, found.value))

    def _sizes(self, rows: Sequence[int]) -> Sizes:
        means = np.array([statistics.fmean(own) for own in self.values])
        seeds = [len(own) for own in self.values]
        spreads = [statistics.variance(own) if len(own) > 1 else 0.0 for own in self.values]
        doublings = np.log2(np.array(rows, dtype=float))
        return Sizes(doublings, means, seeds, spreads, self.samples, self.groups, self.noise)


def _is_loss(key: str) -> bool:
    """Return whether a metric is a mean of negative log-likelihoods of tokens: at least 0."""
    return key == LOSS or key.rpartition("/")[2] == "nll"


def _read_rows(
    entries: Sequence[Entry], names: Sequence[str]
) -> Mapping[str, Sequence[Sequence[ScoredRows]]]:
    """Return system -> size -> the rows that each seed answered; without those not comparable."""
    read: dict[str, list[list[ScoredRows]]] = {}
    for system in dict.fromkeys(metric_key(name).partition("/")[0] for name in names):
        own = [
            [rows for run in entry.finished if (rows := read_scored_rows(run, system)) is not None]
            for entry in entries
        ]
        every = [rows for seeds in own for rows in seeds]
        if all(own) and all(rows.rows == every[0].rows for rows in every):
            read[system] = own
    return read


def _measured(
    name: str, read: Mapping[str, Sequence[Sequence[ScoredRows]]]
) -> tuple[Sequence[Sequence[Measure]], Sequence[str]] | None:
    """Return (size -> the measure of each seed, groups of the rows); None if a run lacks it."""
    system, _, last = metric_key(name).partition("/")
    rows = read.get(system)
    if rows is None or not all(last in own.measures for seeds in rows for own in seeds):
        return None
    measures = [[own.measures[last] for own in seeds] for seeds in rows]
    if not all(math.isfinite(measure.value) for seeds in measures for measure in seeds):
        return None
    return measures, rows[0][0].groups


def compare_sizes(found: tuple[Sequence[Sequence[Measure]], Sequence[str]]) -> ComparedSizes:
    """Compare neighbouring sizes over the same rows."""
    measures, groups = found
    bootstrap = GroupBootstrap(groups)
    common = estimate_seed_noise(measures, bootstrap)
    tests = []
    for ours, theirs in itertools.pairwise(measures):
        noise = _larger(common, estimate_seed_noise([ours, theirs], bootstrap))
        tests.append(compare_means(ours, theirs, bootstrap, noise))
    samples = np.stack([bootstrap.mean(seeds) for seeds in measures], axis=1)
    values = [[measure.value for measure in seeds] for seeds in measures]
    return ComparedSizes(values, tests, samples, bootstrap.count, common)


def _larger(common: SeedNoise | None, own: SeedNoise | None) -> SeedNoise | None:
    """Return the noise of all sizes, with the variance of two of them where that is larger.

    Few rows are drawn more differently by each seed than many.
    """
    if common is None or own is None or own.variance <= common.variance:
        return common
    logits = max((n for n in (common.logits, own.logits) if n is not None), default=None)
    return replace(common, variance=own.variance, by_rows=own.by_rows, logits=logits)


def _compare_numbers(values: Sequence[Sequence[float]]) -> ComparedSizes:
    """Compare neighbouring sizes by numbers of whole runs, over the seeds alone."""
    common, tests = pooled_variance(values), list[UncorrectedDifference]()
    if common is None:  # nothing is known about their chance
        return ComparedSizes(values, tests, None, 0, None)
    for ours, theirs in itertools.pairwise(values):
        own = pooled_variance([ours, theirs])
        variance = max(common[0], own[0] if own else 0.0)
        part = variance * (1 / len(ours) + 1 / len(theirs)), float(common[1])
        value = statistics.fmean(theirs) - statistics.fmean(ours)
        tests.append(UncorrectedDifference(value, ((part,),), _NO_BOUND, _NO_BOUND))
    return ComparedSizes(values, tests, None, 0, SeedNoise(*common, by_rows=0.0))
