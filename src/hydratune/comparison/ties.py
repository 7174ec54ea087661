"""Which entries are statistically indistinguishable from the best one.

Entries are paired over the same test rows, with seeds as replicates; where runs are ranked by a
metric of answers to validation rows, over these as well. A difference of two means over
seeds varies with the rows and with the seeds (``seed_noise``): the seeds of both entries are
assumed to have the same variance; if neither entry has several seeds, the variance of all entries
that have is used. Two entries are distinguishable if the difference is significant by the rows
alone, and by the rows and the seeds together. A second test compares the means of the metric that
runs are ranked by over the seeds, unless that is measured on the test rows. All tests of all
entries are one family: their p values and intervals are corrected together (Holm 1979). Without
several seeds only the noise of the rows is known, and the statements hold for these runs only.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hydratune import metric_table
from hydratune.comparison.entries import Entry
from hydratune.comparison.formatting import format_list
from hydratune.comparison.runs import Run
from hydratune.comparison.seed_noise import GroupBootstrap, compare_means, estimate_seed_noise
from hydratune.errors import RunError
from hydratune.evaluation import metrics
from hydratune.evaluation.measures import Measure, groups_of
from hydratune.evaluation.statistics import (
    Difference,
    Interval,
    UncorrectedDifference,
    VarianceComponent,
    corrected,
    pooled_variance,
)
from hydratune.metric_table import VALIDATION
from hydratune.settings.evaluation import EvaluationConfig

_FEW_ROWS = 30  # independent test rows below which a note says so
_MOST_NAMES = 4  # of runs in a note
_NO_BOUND = 10**6  # groups of a test that is not limited by the number of rows
ONE_SEED = (
    "one seed each, so this holds for these runs only: with other seeds the same settings may"
    " differ less, or in the opposite direction"
)


@dataclass(frozen=True)
class PairedTest:
    """One entry against the best one by one metric, on the same test rows."""

    metric: str  # of the test rows without its system: nll; else val/field_f1
    # the entry's mean less the best one's, corrected for all tests of the comparison (Holm)
    difference: Difference
    significant: bool
    better: bool  # than the best one, significant or not
    includes_seed_noise: bool

    @property
    def key(self) -> str:
        """The name of the metric in metrics.json."""
        return metric_key(self.metric)

    @property
    def value(self) -> float:
        return self.difference.value

    @property
    def interval(self) -> Interval | None:
        return self.difference.interval

    @property
    def p(self) -> float:
        return self.difference.p


@dataclass(frozen=True)
class Significance:
    """All tests against the best entry. Keys are positions in the ranking, from 0."""

    # position -> metric -> test over the test rows
    on_rows: Mapping[int, Mapping[str, PairedTest]] = field(default_factory=dict)
    # position -> corrected p value of the difference of the criterion's means over seeds
    on_seeds: Mapping[int, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # why some entries could not be tested
    count: int = 0  # tests for which p values and intervals are corrected


@dataclass(frozen=True)
class ScoredRows:
    """The test rows of one run and what was measured on them."""

    rows: tuple[tuple[object, object], ...]  # (hash of the item, reference answer)
    groups: tuple[str, ...]
    measures: Mapping[str, Measure]


def metric_key(name: str) -> str:
    """Return the name in metrics.json of a metric that was tested: ``eval/nll``,
    ``val/field_f1``.
    """
    return name if name.startswith(f"{VALIDATION}/") else f"eval/{name}"


def read_scored_rows(run: Run, system: str = "eval") -> ScoredRows | None:
    """Return the rows that a run answered; None if it has none, or they cannot be read.

    ``system``: ``eval`` for the test rows, ``val`` for the validation rows.
    """
    try:
        predictions = run.predictions(system)
        if not predictions:
            return None
        names = run.settings.get("evaluation.metrics")
        config = EvaluationConfig(metrics=list(names) if isinstance(names, list) else None)
        families = metrics.families_of(predictions, config)
        has_schema = "eval/schema_valid" in run.metrics
        measures = metrics.measures(predictions, families, has_schema=has_schema)
        rows = tuple((row.get("item_hash"), row.get("reference")) for row in predictions)
        return ScoredRows(rows, tuple(groups_of(predictions)), measures)
    except (RunError, KeyError, TypeError, ValueError, IndexError):
        return None


def main_metric(run: Run) -> str | None:
    """Return the metric that says best how good the answers are."""
    return metric_table.main_metric(run.metrics)


def compare_with_best(
    ranked: Sequence[Entry],
    names: Sequence[str],
    confidence: float = 0.95,
    *,
    criterion: str | None = None,
) -> Significance:
    """Test every entry against the first of ``ranked`` by the metrics ``names``.

    ``criterion``: the one of ``names`` by which runs are ranked, if any; it is tested only once.
    """
    pairs, notes = _pair_rows(ranked, names) if names else ([], [])
    tested = {pair.position for pair in pairs if pair.metric == criterion}
    by_seeds = {
        position: test
        for position, test in _compare_seeds(ranked).items()
        if position not in tested
    }
    differences = corrected([pair.test for pair in pairs] + list(by_seeds.values()), confidence)
    on_rows: dict[int, dict[str, PairedTest]] = {}
    for pair, uncut in zip(pairs, differences, strict=False):
        key = metric_key(pair.metric)
        difference = uncut.within(metric_table.largest_difference(key))
        lower = metric_table.lower_is_better(key) is True
        on_rows.setdefault(pair.position, {})[pair.metric] = PairedTest(
            pair.metric,
            difference,
            significant=difference.p < 1 - confidence,
            better=(difference.value < 0) == lower and difference.value != 0,
            includes_seed_noise=pair.includes_seed_noise,
        )
    p_values = [difference.p for difference in differences[len(pairs) :]]
    on_seeds = dict(zip(by_seeds, p_values, strict=True))
    return Significance(on_rows, on_seeds, tuple(notes), len(differences))


def seed_p_values(ranked: Sequence[Entry], confidence: float = 0.95) -> dict[int, float]:
    """Return position -> p value by the seeds alone, corrected for all entries (Holm)."""
    return dict(compare_with_best(ranked, [], confidence).on_seeds)


@dataclass(frozen=True)
class _Pair:
    """One metric of one entry against the best one, not yet corrected."""

    position: int
    metric: str
    test: UncorrectedDifference
    includes_seed_noise: bool


def _pair_rows(ranked: Sequence[Entry], names: Sequence[str]) -> tuple[list[_Pair], list[str]]:
    """Return (the pairs to test over the same rows, notes on what could not be paired)."""
    pairs, notes = list[_Pair](), list[str]()
    for system in ("eval", VALIDATION):
        own_names = [name for name in names if metric_key(name).startswith(f"{system}/")]
        if own_names:
            own_pairs, own_notes = _pair_rows_of(system, ranked, own_names)
            pairs, notes = pairs + own_pairs, notes + own_notes
    return pairs, notes


def _pair_rows_of(
    system: str, ranked: Sequence[Entry], names: Sequence[str]
) -> tuple[list[_Pair], list[str]]:
    """Return the same over the test rows (``eval``) or the validation rows (``val``) alone."""
    read = {
        position: [
            rows for run in entry.finished if (rows := read_scored_rows(run, system)) is not None
        ]
        for position, entry in enumerate(ranked)
        if entry.finished
    }
    rows_in_words = "validation rows" if system == VALIDATION else "test rows"
    if not any(read.values()):
        return [], []
    if not read.get(0):
        return [], ["the best entry has no answers that can be read, so nothing is paired with it"]
    best = read[0][0]
    paired = {
        position: seeds
        for position, seeds in read.items()
        if seeds and all(own.rows == best.rows for own in seeds)
    }
    if 0 not in paired:
        why = f"the seeds of the best entry have different {rows_in_words}"
        return [], [f"{why}, so nothing can be paired with it"]
    notes = []
    if unpaired := sorted(read.keys() - paired.keys()):
        names_of_runs = [run.name for i in unpaired for run in ranked[i].finished[:1]]
        which = format_list(names_of_runs, _MOST_NAMES)
        notes.append(
            f"not paired with the best: {which}: other {rows_in_words}, or none that can be read"
        )
    groups = len(set(best.groups))
    if groups < _FEW_ROWS:
        hint = f"give {_FEW_ROWS} or more"
        notes.append(
            f"{groups} independent {rows_in_words} can hardly distinguish anything: {hint}"
        )
    bootstrap = GroupBootstrap(best.groups)
    return [pair for name in names for pair in _pair_metric(name, paired, bootstrap)], notes


def _pair_metric(
    name: str, paired: Mapping[int, Sequence[ScoredRows]], bootstrap: GroupBootstrap
) -> list[_Pair]:
    """Pair every other entry with the best one by the metric ``name``."""
    own_name = name.removeprefix(f"{VALIDATION}/")
    measures = {
        position: [own.measures[own_name] for own in seeds]
        for position, seeds in paired.items()
        if all(
            own_name in own.measures and math.isfinite(own.measures[own_name].value)
            for own in seeds
        )
    }
    if 0 not in measures:
        return []
    best, pairs = measures[0], []
    for position, own in measures.items():
        if position:
            noise = estimate_seed_noise([best, own], bootstrap)
            noise = noise or estimate_seed_noise(list(measures.values()), bootstrap)
            test = compare_means(best, own, bootstrap, noise)
            pairs.append(_Pair(position, name, test, noise is not None))
    return pairs


def _compare_seeds(ranked: Sequence[Entry]) -> dict[int, UncorrectedDifference]:
    """Return position -> comparison of the mean score with that of the best, over the seeds.

    This is Student's t test; empty if no entry has several seeds. The entry that is truly the best
    is called worse than the one that came first no more often than 1 - ``confidence``.
    """
    scores = {i: entry.scores for i, entry in enumerate(ranked) if entry.scores}
    spread_of_all = pooled_variance(list(scores.values()))
    if spread_of_all is None or 0 not in scores:
        return {}
    comparisons = {}
    best = scores.pop(0)
    for position, own in scores.items():
        variance, freedom = pooled_variance([best, own]) or spread_of_all
        part: VarianceComponent = variance * (1 / len(best) + 1 / len(own)), float(freedom)
        value = statistics.fmean(own) - statistics.fmean(best)
        comparisons[position] = UncorrectedDifference(value, ((part,),), _NO_BOUND, _NO_BOUND)
    return comparisons
