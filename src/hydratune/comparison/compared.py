"""A comparison: everything that is said of a set of runs, for the terminal, the page and the
exports alike.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydratune.comparison import conditions, effects, ties
from hydratune.comparison.effects import Effect
from hydratune.comparison.entries import (
    Entry,
    canonical,
    cell,
    cells,
    decimals,
    entries,
    seed_keys,
    short_names,
    spread,
    varying,
)
from hydratune.comparison.entries import named as named_entry
from hydratune.comparison.names import Criterion, unknown
from hydratune.comparison.runs import Run, inside
from hydratune.comparison.ties import ONE_SEED, Against
from hydratune.metric_table import cost_headings, lower_is_better, title

_FRONTS = ("forgetting/bits_per_byte_delta", "cost/cpu_seconds")  # what quality is weighed against
_ALWAYS = (
    "eval/schema_valid",
    "eval/exact_match",
    "eval/cut",
    "eval/nll",
    "forgetting/bits_per_byte_delta",
    "memorisation/difference",
)
_MANY = 4  # settings


@dataclass(frozen=True)
class Front:
    """Runs that no other beats in two metrics at once."""

    x: str
    y: str
    x_lower: bool
    y_lower: bool
    runs: tuple[Run, ...]  # in the order of x


@dataclass(frozen=True)
class Comparison:
    """``ranked``: entries, the best first; with ``refused`` they are in no order."""

    by: Criterion
    runs: tuple[Run, ...]
    ranked: tuple[Entry, ...]
    keys: tuple[str, ...]  # settings that vary, the seed aside where it makes replicates
    metrics: tuple[str, ...]  # shown beside the criterion
    refused: str | None  # why there is no ranking
    notes: tuple[str, ...]  # what one should know before believing it
    against: Mapping[
        int, Mapping[str, Against]
    ]  # place in ``ranked`` -> metric -> difference to the best on the test rows
    seeds: Mapping[
        int, float
    ]  # place -> p that its mean differs from the best one's, by the spread of seeds
    tests: int  # for which all these p are corrected together (Holm)
    effects: tuple[Effect, ...]
    fronts: tuple[Front, ...]
    confidence: float

    @property
    def costs(self) -> tuple[str, ...]:
        """What runs cost: seconds of the device that computed, tokens, memory, as far as anybody
        wrote it down.
        """
        on_cpu = all(
            inside(run.environment, "hardware", "accelerator") in (None, "cpu") for run in self.runs
        )
        other = "cost/wall_seconds" if on_cpu else "cost/cpu_seconds"
        return tuple(
            key
            for key in cost_headings()
            if key != other and any(run.value(key) is not None for run in self.runs)
        )

    @property
    def tested(self) -> list[str]:
        """Metrics by which entries were held against the best, without their system."""
        return list(dict.fromkeys(name for tests in self.against.values() for name in tests))

    @property
    def seeded(self) -> bool:
        return any(len(entry.runs) > 1 for entry in self.ranked)

    @property
    def finished(self) -> list[Entry]:
        return [entry for entry in self.ranked if entry.scores]

    @property
    def best(self) -> Entry | None:
        return self.finished[0] if self.finished and not self.refused else None

    @functools.cached_property
    def short(self) -> dict[str, str]:
        """Names of all settings that vary, as short as tells them apart."""
        return short_names(varying(self.runs))

    @functools.cached_property
    def _cells(self) -> dict[str, dict[str, str]]:
        return {key: cells([run.settings.get(key) for run in self.runs]) for key in self.short}

    def cell(self, key: str, value: object) -> str:
        """The value of a setting in few letters, other than those of all other values."""
        return self._cells.get(key, {}).get(canonical(value)) or cell(value)

    def named(self, entry: Entry, *, short: bool = False) -> str:
        """An entry by its settings that are not those of all; a single run with many by its name.

        ``short``: for a table.
        """
        known = [key for key in self.keys if key in entry.settings]
        if len(known) > _MANY and len(entry.runs) == 1:
            return f"run {entry.runs[0].name}"
        return (
            ", ".join(
                f"{self.short[key] if short else key}={self.cell(key, entry.settings[key])}"
                for key in known
            )
            or "these settings"
        )

    def tied(self) -> list[Entry]:
        """Entries that no test tells from the best: neither the rows nor the seeds."""
        if self.best is None:
            return []
        places = [
            place
            for place in self.against
            if not any(a.told_apart for a in self.against[place].values())
        ]
        return [self.ranked[place] for place in sorted(places) if not self.apart_by_seeds(place)]

    def apart_by_seeds(self, place: int) -> bool:
        """Whether the seeds tell an entry from the best by the criterion; False where there are no
        several.
        """
        return self.seeds.get(place, 1.0) < 1 - self.confidence


def compare(
    runs: Sequence[Run],
    by: Criterion | None = None,
    *,
    pareto: Sequence[str] | None = None,
    confidence: float = 0.95,
    tests: bool = True,
) -> Comparison:
    """``pareto``: two metrics to weigh against each other.

    ``tests``: pair the test rows with those of the best.
    """
    by = by or Criterion()
    ranked = entries(runs, by)
    refused = conditions.different_rows(ranked, by)
    if refused:
        ranked = sorted(
            ranked,
            key=lambda entry: (
                not entry.scores,
                entry.runs[0].measured_on,
                str(entry.runs[0].path),
            ),
        )
    keys = varying(runs)
    if any(len(entry.runs) > 1 for entry in ranked):
        keys = [key for key in keys if key not in seed_keys(runs)]
    main = next((name for run in runs if (name := ties.main_metric(run)) is not None), None)
    wanted = [
        *([] if by.metric == "objective" else ["val/loss"]),
        *([f"eval/{main}"] if main else []),
        *_ALWAYS,
    ]
    shown = [
        name
        for name in dict.fromkeys(wanted)
        if name != by.metric and any(_worth_showing(run, name) for run in runs)
    ]
    criterion = by.metric.removeprefix("eval/") if by.metric.startswith("eval/") else None
    names = [name for name in dict.fromkeys([criterion or main, "nll"]) if name]
    tested = ties.Tests()
    if not refused and len(ranked) > 1:
        tested = ties.against_best(ranked, names if tests else [], confidence, criterion=criterion)
    notes = list(tested.notes)
    notes += [f"run {run.name}: {why}" for run in runs for why in run.damaged]
    notes += [
        _survivors(entry, keys) for entry in ranked if 0 < len(entry.finished) < len(entry.runs)
    ]
    if by.on_test:
        notes.insert(
            0,
            f"chosen by {title(by.metric)} on the test rows: the winner looks better than it is;"
            " choose on validation",
        )
    if by.metric != "objective" and not any(entry.scores for entry in ranked):
        raise unknown("metric", by.metric, measured(runs))
    if logged := sum(run.logged for run in runs):
        whose = "these runs are" if logged == len(runs) else f"{logged} of these runs are"
        notes.append(
            f"{whose} known from W&B's files, which hold no answers: they take part in no test over"
            " rows"
        )
    notes += _cut(runs)
    notes += conditions.differences([run for run in runs if run.environment])
    counted = [] if refused else list(runs)
    told = [] if refused else effects.effects(ranked, by, confidence)
    finished = sum(len(entry.scores) for entry in ranked)
    if (
        finished >= effects.LEAST_RUNS
        and len(told) > 1
        and all(effect.importance is None for effect in told)
    ):
        notes.append(
            "no importances: a forest fitted to these runs does not predict the ones that it has"
            " not seen"
        )
    return Comparison(
        by,
        tuple(runs),
        tuple(ranked),
        tuple(keys),
        tuple(shown),
        refused,
        tuple(notes),
        tested.rows,
        tested.seeds,
        tested.count,
        tuple(told),
        tuple(_fronts(counted, by, pareto)),
        confidence,
    )


def _worth_showing(run: Run, name: str) -> bool:
    """What nobody has says nothing, and neither does that no answer was cut."""
    value = run.value(name)
    return value is not None and (name != "eval/cut" or value > 0)


def _cut(runs: Sequence[Run]) -> list[str]:
    """Answers that ended at the token limit."""
    some = [(run.name, cut) for run in runs if (cut := run.cut)]
    if not some:
        return []
    names = ", ".join(f"{name} ({cut})" for name, cut in some[:4]) + (
        f" and {len(some) - 4} more" if len(some) > 4 else ""
    )
    return [
        "answers were cut at the token limit (evaluation.max_new_tokens) and are scored as they"
        f" stand, in {names}"
    ]


def _survivors(entry: Entry, keys: Sequence[str]) -> str:
    count, of = len(entry.finished), len(entry.runs)
    return (
        f"{count} of {of} seeds of {named_entry(entry, keys)} finished: its mean is that of"
        f" {'these' if count > 1 else 'this one'}"
    )


def measured(runs: Sequence[Run]) -> set[str]:
    """Metrics that some finished run has."""
    return {
        name
        for run in runs
        if run.objective is not None
        for name in run.metrics
        if run.value(name) is not None
    }


def _fronts(runs: Sequence[Run], by: Criterion, pareto: Sequence[str] | None) -> list[Front]:
    if pareto:
        x, y = pareto
        there = measured(runs)
        for name in pareto:
            if name not in there:
                raise unknown("pareto", name, there)
        return [front(runs, x, y)]
    return [
        front(runs, name, by.metric, y_lower=by.lower)
        for name in _FRONTS
        if sum(run.value(name) is not None for run in runs) > 1
    ]


def front(
    runs: Sequence[Run], x: str, y: str, *, x_lower: bool | None = None, y_lower: bool | None = None
) -> Front:
    """Of finished runs that have both metrics.

    What is not known to be better higher is better lower.
    """
    lower = [
        given if given is not None else lower_is_better(name) is not False
        for given, name in ((x_lower, x), (y_lower, y))
    ]
    points = []
    for run in runs:
        a, b = run.value(x), run.value(y)
        if run.objective is not None and a is not None and b is not None:
            points.append((a if lower[0] else -a, b if lower[1] else -b, run))
    points.sort(key=lambda point: (point[0], point[1]))
    kept: list[Run] = []
    least = float("inf")
    for _, cost, run in points:
        if cost < least:
            kept.append(run)
            least = cost
    return Front(x, y, lower[0], lower[1], tuple(kept))


def verdict(compared: Comparison) -> list[str]:
    """What follows, in sentences: the best, what cannot be told from it."""
    if compared.refused:
        return [f"no best run: {compared.refused}"]
    best = compared.best
    if best is None:
        return []
    run, by = best.finished[0], compared.by
    what = "validation loss" if by.metric == "objective" else title(by.metric)
    value = decimals(best.scores[0])
    chosen = (
        "chosen by a test metric" if by.on_test else "the test metrics took no part in the choice"
    )
    if len(best.runs) == 1:
        lines = [f"best: {run.path}  ({what} {value}; {chosen})"]
    else:
        of = (
            f"{len(best.scores)} seeds"
            if len(best.scores) == len(best.runs)
            else f"{len(best.scores)} of {len(best.runs)} seeds"
        )
        rank = "lowest" if by.lower else "highest"
        told = (
            f"{what} {value}, the {rank} of {of} of {compared.named(best)}, mean"
            f" {spread(best.scores, decimals)}"
        )
        lines = [f"best: {run.path}  ({told}; {chosen})"]
    return lines + _by_seeds(compared) + _better(compared) + _by_rows(compared)


def _by_seeds(compared: Comparison) -> list[str]:
    alike = [
        compared.ranked[place]
        for place in sorted(compared.seeds)
        if not compared.apart_by_seeds(place)
    ]
    if not alike:
        return []
    names = "; ".join(
        f"{compared.named(entry)} ({spread(entry.scores, decimals)})" for entry in alike[:3]
    )
    more = f" and {len(alike) - 3} more" if len(alike) > 3 else ""
    what = "validation losses" if compared.by.metric == "objective" else title(compared.by.metric)
    how = f"means of the {what}, t test, {_percent(compared)}{_holm(compared.tests)}"
    return [f"not told apart from it by these seeds: {names}{more}: {how}"]


def _better(compared: Comparison) -> list[str]:
    """Validation chose, and the test rows may disagree."""
    lines = []
    for place in sorted(compared.against):
        better = [a for a in compared.against[place].values() if a.told_apart and a.better]
        if better:
            told = ", ".join(f"{title(f'eval/{a.metric}')} {a.value:+.3g}" for a in better)
            lines.append(f"{compared.named(compared.ranked[place])} ({told})")
    if not lines:
        return []
    more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    return [
        f"significantly better than it on the test rows: {'; '.join(lines[:3])}{more}: validation"
        " and test rows do not agree"
    ]


def _by_rows(compared: Comparison) -> list[str]:
    if not compared.against:
        return []
    tests = [a for some in compared.against.values() for a in some.values()]
    tied = compared.tied()
    telling = [a for a in tests if tied or a.told_apart]
    names = " and ".join(dict.fromkeys(title(f"eval/{a.metric}") for a in telling or tests))
    how = f"by {names} of the same test rows, paired, {_percent(compared)}{_holm(compared.tests)}"
    noise = "" if any(a.replicated for a in tests) else f"; {ONE_SEED}: add seed=1,2,3"
    if tied:
        shown = "; ".join(compared.named(entry) for entry in tied[:4]) + (
            f" and {len(tied) - 4} more" if len(tied) > 4 else ""
        )
        return [f"not distinguishable from the best: {shown}: {how}{noise}"]
    untested = [
        place
        for place, entry in enumerate(compared.ranked)
        if place and entry.scores and place not in compared.against
    ]
    whom = (
        "all others" if not untested else f"the {len(compared.against)} others that could be tested"
    )
    seeds = any(not any(a.told_apart for a in some.values()) for some in compared.against.values())
    what = f"by the {title(compared.by.metric)} of several seeds, or " if seeds else ""
    return [f"told apart from {whom} {what}{how}{noise}"]


def _percent(compared: Comparison) -> str:
    return f"{100 * compared.confidence:.4g} %"


def _holm(tests: int) -> str:
    return f", corrected for {tests} tests (Holm)" if tests > 1 else ", one test"
