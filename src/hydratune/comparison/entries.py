"""The entries of a ranking and their order.

Runs that differ in ``seed`` alone are one entry, ranked by the mean of its finished runs.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hydratune.comparison.criterion import Criterion
from hydratune.comparison.formatting import canonical, format_value
from hydratune.comparison.runs import Run
from hydratune.settings.monitor import LOSS

_IGNORED = ("name", "preview", "resume", "tracking")  # settings, and a group, not to be compared
_SHOWN_FIRST = ("optimizer", "adapter", "trainer")  # groups of settings
_BY_FACTORS = ("lr", "r")  # last parts of settings that are chosen by factors


@dataclass(frozen=True)
class Entry:
    """Runs whose settings differ in the seed alone, the best first."""

    runs: tuple[Run, ...]
    by: Criterion = field(default_factory=Criterion)

    @property
    def finished(self) -> list[Run]:
        """The runs that have a score."""
        return [run for run in self.runs if score_of(run, self.by) is not None]

    @property
    def scores(self) -> list[float]:
        """The scores of the finished runs, by the criterion."""
        return [score for run in self.runs if (score := score_of(run, self.by)) is not None]

    @property
    def mean(self) -> float | None:
        """The mean score; None if no run finished."""
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def settings(self) -> Mapping[str, object]:
        """The settings of the first run that recorded them."""
        return next((run.settings for run in self.runs if run.settings), {})


def score_of(run: Run, by: Criterion) -> float | None:
    """Return the value a run is ranked by; None if it takes no part in the ranking."""
    return run.value(by.metric) if run.objective is not None else None


def group_runs(runs: Sequence[Run], by: Criterion | None = None) -> list[Entry]:
    """Group ``runs`` by their settings and return the entries, the best mean first.

    Entries without a finished run come last. Two runs with the same settings and the same seed
    belong to two entries: a repetition says nothing about the variance between seeds.
    """
    by = by or Criterion()
    seeds = seed_keys(runs)
    groups: dict[tuple[object, ...], list[Run]] = {}
    repetitions: dict[tuple[object, ...], int] = {}
    for run in runs:
        compared = {key: value for key, value in run.settings.items() if _is_compared(key)}
        settings = sorted((k, canonical(v)) for k, v in compared.items() if k not in seeds)
        identity = tuple(settings) or run.path, bool(run.set_aside)
        repeated = (identity, str(run.settings.get("seed")))
        repetitions[repeated] = repetitions.get(repeated, 0) + 1
        groups.setdefault((identity, repetitions[repeated]), []).append(run)
    entries = [
        Entry(tuple(sorted(group, key=lambda run: _run_order(run, by))), by)
        for group in groups.values()
    ]
    return sorted(
        entries,
        key=lambda entry: (_cost(entry.mean, by), _mean_loss(entry), _run_order(entry.runs[0], by)),
    )


def _mean_loss(entry: Entry) -> float:
    """Return the mean validation loss, which decides between entries with equal scores."""
    losses = [loss for run in entry.finished if (loss := run.value(LOSS)) is not None]
    return statistics.fmean(losses) if losses else math.inf


def seed_keys(runs: Sequence[Run]) -> set[str]:
    """Return ``seed`` and the settings that always equal it, such as ``data.seed=${seed}``.

    Users do not compare these.
    """
    settings = [run.settings for run in runs if run.settings.get("seed") is not None]
    if len({str(own["seed"]) for own in settings}) < 2:
        return {"seed"}
    keys = {key for own in settings for key in own if key.endswith(".seed")}
    equal = {key for key in keys if all(str(own.get(key)) == str(own["seed"]) for own in settings)}
    return {"seed"} | equal


def varying_settings(runs: Sequence[Run]) -> list[str]:
    """Return the settings that differ between runs, those that are usually compared first.

    The seed is one of them if it varies. A run that lacks a setting has another value of it than
    the others, unless few of its settings are known at all.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings if _is_compared(key))
    recorded = [run for run in runs if run.settings]

    def values(key: str) -> set[str]:
        known = [run for run in recorded if key in run.settings or not run.partial]
        return {canonical(run.settings.get(key)) for run in known}

    varying = [key for key in keys if len(values(key)) > 1]
    return sorted(varying, key=lambda key: key.rpartition(".")[0] not in _SHOWN_FIRST)


def _is_compared(key: str) -> bool:
    return key.split(".")[0] not in _IGNORED


def is_logarithmic(runs: Sequence[Run], key: str) -> bool:
    """Return whether a setting suits a logarithmic axis.

    So do learning rates and ranks, which are chosen by factors, and positive numbers of which the
    largest is ten times the least.
    """
    values = [run.settings.get(key) for run in runs]
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if not numbers or not 0 < min(numbers) < max(numbers) < math.inf:
        return False
    return key.rpartition(".")[2] in _BY_FACTORS or max(numbers) / min(numbers) >= 10


def describe_settings(entry: Entry, keys: Sequence[str]) -> str:
    """Return an entry's values of the settings ``keys``."""
    own = [key for key in keys if key in entry.settings]
    texts = (f"{key}={format_value(entry.settings[key])}" for key in own)
    return ", ".join(texts) or "these settings"


def _cost(score: float | None, by: Criterion) -> float:
    """Return a number that is lower for a better score, infinite for none."""
    if score is None:
        return math.inf
    return score if by.lower else -score


def _run_order(run: Run, by: Criterion) -> tuple[bool, float, bool, bool, int, float, str]:
    """Return a sort key: finished runs by score, then those that were set aside, then halved ones
    by their last step, and others by name.
    """
    score, halved = score_of(run, by), run.halved
    cost = 0.0 if score is None else _cost(score, by)
    step, last_loss = 0, 0.0
    if halved:
        step, last_loss = halved.step, math.inf
        if halved.value is not None and math.isfinite(halved.value):
            last_loss = halved.value
    return score is None, cost, not run.set_aside, not halved, -step, last_loss, str(run.path)
