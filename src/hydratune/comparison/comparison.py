"""Compare runs: rank them, test which are tied with the best, and find what each setting did.

``compare`` computes everything that the terminal, the page, the exports and W&B then show.
"""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydratune import extras, metric_table
from hydratune.comparison import effects
from hydratune.comparison.conditions import differing_conditions, set_aside_incomparable
from hydratune.comparison.criterion import Criterion, default_criterion, monitored, unknown_metric
from hydratune.comparison.data_size import SizeCurve, size_curves
from hydratune.comparison.effects import Effect, find_effects
from hydratune.comparison.entries import (
    Entry,
    describe_settings,
    group_runs,
    seed_keys,
    varying_settings,
)
from hydratune.comparison.formatting import (
    canonical,
    format_distinct,
    format_list,
    format_value,
    short_names,
)
from hydratune.comparison.fronts import ParetoFront, measured_metrics, pareto_fronts
from hydratune.comparison.runs import Run, nested_value
from hydratune.comparison.ties import PairedTest, Significance, compare_with_best, main_metric
from hydratune.metric_format import with_unit
from hydratune.metric_table import VALIDATION, cost_headings, title
from hydratune.settings.monitor import LOSS, Monitor
from hydratune.wording import counted

_ALWAYS_SHOWN = (
    "eval/schema_valid",
    "eval/exact_match",
    "eval/cut",
    "eval/nll",
    "forgetting/bits_per_byte_delta",
    "memorisation/difference",
)
_MANY = 4  # settings; a run with more varying ones is described by its name
_MOST_NAMES = 4  # of runs in a note


@dataclass(frozen=True)
class Comparison:
    """All results of a comparison.

    A position is a place in ``ranked``, counted from 0.
    """

    by: Criterion
    runs: tuple[Run, ...]
    ranked: tuple[Entry, ...]  # the best first; in no order if ``why_not_ranked`` is given
    keys: tuple[str, ...]  # settings that vary, without the seed if it makes replicates
    metrics: tuple[str, ...]  # shown beside the criterion
    why_not_ranked: str | None
    set_aside: str | None  # which runs were set aside and why, in a sentence
    notes: tuple[str, ...]  # what a reader should know before believing the ranking
    paired_tests: Mapping[int, Mapping[str, PairedTest]]  # position -> metric -> test
    seed_p_values: Mapping[int, float]  # position -> p that its mean score differs from the best
    test_count: int  # for which all p values are corrected together (Holm)
    effects: tuple[Effect, ...]
    fronts: tuple[ParetoFront, ...]
    confidence: float
    data_size: tuple[SizeCurve, ...] = ()  # of runs that differ in the number of training rows

    @property
    def costs(self) -> tuple[str, ...]:
        """The recorded costs: seconds of the device that computed, tokens and memory."""
        used = [nested_value(run.environment, "hardware", "accelerator") for run in self.runs]
        is_on_cpu = all(accelerator in (None, "cpu") for accelerator in used)
        hidden = "cost/wall_seconds" if is_on_cpu else "cost/cpu_seconds"
        shown = [key for key in cost_headings() if key != hidden]
        return tuple(key for key in shown if any(run.value(key) is not None for run in self.runs))

    @property
    def tested_metrics(self) -> list[str]:
        """The metrics that were tested against the best, without their system."""
        return list(dict.fromkeys(name for own in self.paired_tests.values() for name in own))

    @property
    def has_replicates(self) -> bool:
        """Whether an entry has several seeds."""
        return any(len(entry.runs) > 1 for entry in self.ranked)

    @property
    def finished(self) -> list[Entry]:
        """The entries that have a score."""
        return [entry for entry in self.ranked if entry.scores]

    @property
    def best(self) -> Entry | None:
        """The first entry of the ranking; None if there is no ranking."""
        return self.finished[0] if self.finished and not self.why_not_ranked else None

    @functools.cached_property
    def short_names(self) -> dict[str, str]:
        """The names of all settings that vary, as short as is unambiguous."""
        return short_names(varying_settings(self.runs))

    @functools.cached_property
    def _formatted(self) -> dict[str, dict[str, str]]:
        return {
            key: format_distinct([run.settings.get(key) for run in self.runs])
            for key in self.short_names
        }

    def format_setting(self, key: str, value: object) -> str:
        """Return a value of a setting in few letters, distinct from those of all other values."""
        return self._formatted.get(key, {}).get(canonical(value)) or format_value(value)

    def describe(self, entry: Entry, *, short: bool = False) -> str:
        """Return the settings of an entry that vary; of a single run with many, its name.

        Entries with equal settings are distinguished by the names of their first runs. ``short``:
        with short names, for a table.
        """
        keys = [key for key in self.keys if key in entry.settings]
        name = f"run {entry.runs[0].name}"
        if len(keys) > _MANY and len(entry.runs) == 1:
            return name
        names = self.short_names if short else {key: key for key in keys}
        parts = [f"{names[key]}={self.format_setting(key, entry.settings[key])}" for key in keys]
        text = ", ".join(parts)
        if self._times_shown[self._shown_settings(entry)] > 1:
            return f"{text} ({name})" if text else name
        return text or "these settings"

    def _shown_settings(self, entry: Entry) -> tuple[str, ...]:
        own = entry.settings
        return tuple(self.format_setting(key, own[key]) if key in own else "" for key in self.keys)

    @functools.cached_property
    def _times_shown(self) -> Counter[tuple[str, ...]]:
        return Counter(map(self._shown_settings, self.ranked))

    def indistinguishable(self) -> list[Entry]:
        """Return the entries that no test distinguishes from the best, by rows or by seeds."""
        if self.best is None:
            return []
        positions = [
            position
            for position, tests in self.paired_tests.items()
            if not any(test.significant for test in tests.values())
        ]
        tied = [position for position in sorted(positions) if not self.differs_by_seeds(position)]
        return [self.ranked[position] for position in tied]

    def differs_by_seeds(self, position: int) -> bool:
        """Return whether the seeds distinguish an entry from the best by the criterion.

        False if there are not several seeds.
        """
        return self.seed_p_values.get(position, 1.0) < 1 - self.confidence


def compare(
    runs: Sequence[Run],
    by: Criterion | None = None,
    *,
    pareto: Sequence[str] | None = None,
    confidence: float = 0.95,
    tests: bool = True,
) -> Comparison:
    """Compare ``runs`` by the criterion ``by``; None: by what they monitor.

    ``pareto``: two metrics to weigh against each other. ``tests``: pair the test rows with those of
    the best entry. Raises ``InputError`` if no finished run has a metric that was asked for.
    """
    by = by or default_criterion(runs)
    runs, set_aside, why_not_ranked = set_aside_incomparable(runs, by)
    ranked = group_runs(runs, by)
    if by.metric != "objective" and not any(entry.scores for entry in ranked):
        raise unknown_metric("metric", by.metric, measured_metrics(runs))
    if why_not_ranked:
        ranked = _without_order(ranked)
    keys = _compared_settings(runs, ranked)
    main = next((name for run in runs if (name := main_metric(run)) is not None), None)
    significance, own_effects, comparable = Significance(), list[Effect](), list[Run]()
    curves: tuple[SizeCurve, ...] = ()
    if not why_not_ranked:
        significance = _test_entries(ranked, by, main, confidence, tests=tests)
        curves = size_curves(ranked, _tested_metrics(by, main), confidence) if tests else ()
        own_effects, comparable = find_effects(ranked, by, confidence), list(runs)
    return Comparison(
        by,
        tuple(runs),
        tuple(ranked),
        tuple(keys),
        tuple(_metrics_beside(runs, by, main)),
        why_not_ranked,
        set_aside,
        tuple(_notes(runs, ranked, by, keys, significance, own_effects, not why_not_ranked)),
        significance.on_rows,
        significance.on_seeds,
        significance.count,
        tuple(own_effects),
        tuple(pareto_fronts(comparable, by, pareto)),
        confidence,
        curves,
    )


def _compared_settings(runs: Sequence[Run], ranked: Sequence[Entry]) -> list[str]:
    """Return the settings that vary, without the seed if an entry has several."""
    keys = varying_settings([run for run in runs if not run.set_aside])
    if any(len(entry.runs) > 1 for entry in ranked):
        seeds = seed_keys(runs)
        keys = [key for key in keys if key not in seeds]
    return keys


def _without_order(ranked: Sequence[Entry]) -> list[Entry]:
    """Return entries that cannot be ranked: finished first, then by validation rows and path."""

    def order(entry: Entry) -> tuple[bool, str, str]:
        first = entry.runs[0]
        return not entry.scores, first.validation_hash, str(first.path)

    return sorted(ranked, key=order)


def _test_entries(
    ranked: Sequence[Entry], by: Criterion, main: str | None, confidence: float, *, tests: bool
) -> Significance:
    """Test all entries against the first by the criterion or the main metric, and by NLL.

    A criterion of answers to the validation rows is tested on these, the others on the test rows.
    """
    if len(ranked) < 2:
        return Significance()
    criterion = by.metric.removeprefix("eval/") if by.metric.startswith("eval/") else None
    if _is_of_validation_answers(by):
        criterion = by.metric
    tested = _tested_metrics(by, main) if tests else []
    return compare_with_best(ranked, tested, confidence, criterion=criterion)


def _is_of_validation_answers(by: Criterion) -> bool:
    return by.metric.startswith(f"{VALIDATION}/") and by.metric != LOSS


def _tested_metrics(by: Criterion, main: str | None) -> list[str]:
    """Return the metrics that are tested over rows, as ``ties`` names them."""
    criterion = by.metric.removeprefix("eval/") if by.metric.startswith("eval/") else None
    names: list[str | None] = [criterion or main, "nll"]
    if _is_of_validation_answers(by):
        names = [by.metric, *names]
    return [name for name in dict.fromkeys(names) if name]


def _metrics_beside(runs: Sequence[Run], by: Criterion, main: str | None) -> list[str]:
    """Return the metrics to show beside the criterion, of those that runs have."""
    names = [
        *([] if by.metric == "objective" else ["val/loss"]),
        *[name for run in runs if (name := _validation_metric(run)) is not None],
        *([f"eval/{main}"] if main else []),
        *_ALWAYS_SHOWN,
    ]
    others = [name for name in dict.fromkeys(names) if name != by.metric]
    return [name for name in others if any(_is_informative(run, name) for run in runs)]


def _validation_metric(run: Run) -> str | None:
    """Return the metric that says best how good a run's answers to the validation rows are."""
    name = metric_table.main_metric(run.metrics, f"{VALIDATION}/")
    return None if name is None else f"{VALIDATION}/{name}"


def _is_informative(run: Run, name: str) -> bool:
    """Return whether a run has a metric; that no answer was truncated is not worth a column."""
    value = run.value(name)
    return value is not None and (name != "eval/cut" or value > 0)


def _notes(
    runs: Sequence[Run],
    ranked: Sequence[Entry],
    by: Criterion,
    keys: Sequence[str],
    significance: Significance,
    own_effects: Sequence[Effect],
    is_ranked: bool,
) -> list[str]:
    """Return what a reader should know before believing the ranking, in sentences."""
    notes = []
    if by.on_test and is_ranked:
        notes.append(
            f"chosen by {title(by.metric)} on the test rows: the score of the best is"
            " optimistically biased; choose on validation"
        )
    notes += _note_on_monitors(ranked)
    notes += (_notes_on_choice(ranked, by) if is_ranked else []) + list(significance.notes)
    notes += [f"run {run.name}: {damage}" for run in runs for damage in run.damage]
    partly_finished = [entry for entry in ranked if 0 < len(entry.finished) < len(entry.runs)]
    notes += [_note_on_seeds(entry, keys) for entry in partly_finished]
    notes += _note_on_logged_runs(runs) + _note_on_truncation(runs)
    notes += differing_conditions([r for r in runs if r.environment and not r.set_aside])
    finished = sum(len(entry.scores) for entry in ranked)
    has_importances = any(effect.importance is not None for effect in own_effects)
    if finished >= effects.MIN_RUNS and len(own_effects) > 1 and not has_importances:
        notes.append(_note_on_importances())
    return notes


def _note_on_importances() -> str:
    """Return why no setting has an importance."""
    if effects.can_find_importances():
        return (
            "no importances: a forest fitted to these runs does not predict the runs that it was"
            " not fitted to"
        )
    return (
        "no importances: they need the packages optuna and scikit-learn, which are not both"
        f" installed: {extras.how_to_install('sklearn')}"
    )


def _note_on_monitors(ranked: Sequence[Entry]) -> list[str]:
    """Return a note on runs whose weights were chosen by different metrics."""
    runs = [run for entry in ranked for run in entry.finished]
    monitors = list(dict.fromkeys(str(monitored(run).metric) for run in runs))
    if len(monitors) < 2:
        return []
    return [f"the weights of these runs were chosen by different metrics ({', '.join(monitors)})"]


def _notes_on_choice(ranked: Sequence[Entry], by: Criterion) -> list[str]:
    """Return which other metric of the validation rows would choose another run than the best."""
    runs = [run for entry in ranked for run in entry.finished]
    notes: list[str] = []
    measured = set.intersection(*[set(run.metrics) for run in runs]) if runs else set()
    answers = metric_table.main_metric(measured, f"{VALIDATION}/")
    names = [LOSS, *([f"{VALIDATION}/{answers}"] if answers else [])]
    chosen = ranked[0].finished[:1] if ranked else []
    if by.on_test or not chosen:
        return notes
    for name in names:
        other_criterion = Criterion(name, metric_table.lower_is_better(name) is not False)
        if set_aside_incomparable(runs, other_criterion)[1:] != (None, None):
            continue  # such as the losses of two base models, which are of other tokens
        best = group_runs(runs, other_criterion)[0]
        is_same = best.runs[0].path in {run.path for run in ranked[0].runs}
        if name == by.metric or best.mean is None or is_same:
            continue
        own = group_runs(ranked[0].runs, best.by)[0].mean
        if own != best.mean:
            notes.append(
                f"the {Monitor.read(name).title} would choose another run:"
                f" {best.finished[0].name} ({with_unit(name, best.mean)}, and"
                f" {'-' if own is None else with_unit(name, own)} for the best above)"
            )
    return notes


def _note_on_seeds(entry: Entry, keys: Sequence[str]) -> str:
    finished, total = len(entry.finished), len(entry.runs)
    of = "these" if finished > 1 else "this one"
    return (
        f"{finished} of {counted(total, 'seed')} of {describe_settings(entry, keys)} finished:"
        " its mean is"
        f" that of {of}"
    )


def _note_on_logged_runs(runs: Sequence[Run]) -> list[str]:
    count = sum(run.only_logged for run in runs)
    if not count:
        return []
    which = "these runs are" if count == len(runs) else f"{count} of these runs are"
    return [
        f"{which} known from W&B's files only, which hold no answers: they take part in no test"
        " over rows"
    ]


def _note_on_truncation(runs: Sequence[Run]) -> list[str]:
    """Return a note on the answers that ended at the token limit."""
    counts = [f"{run.name} ({count})" for run in runs if (count := run.truncated_answers)]
    if not counts:
        return []
    return [
        "answers were cut at the token limit (evaluation.max_new_tokens) and are scored as they"
        f" stand, in {format_list(counts, _MOST_NAMES)}"
    ]
