"""The metric by which a run's best checkpoint is chosen, and by which runs are ranked while
settings are chosen: ``trainer.monitor``.

It is measured on the validation rows, never on the test rows, which only judge the result.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydratune import metric_table
from hydratune.errors import Problem
from hydratune.metric_table import VALIDATION
from hydratune.settings import packages

LOSS = f"{VALIDATION}/loss"
MODES = {"min": True, "max": False}  # -> whether lower values are better
KEY = "trainer.monitor"


@dataclass(frozen=True)
class Monitor:
    """A metric of the validation rows and the direction in which it is better."""

    metric: str = LOSS
    lower: bool = True

    @classmethod
    def read(cls, text: str) -> "Monitor":
        """Return the monitor that ``trainer.monitor`` names: ``val/field_f1``, or with a direction
        ``val/my_metric:max``.

        Raises ``ValueError`` for a metric whose direction is neither known nor given.
        """
        metric, direction = split_direction(text)
        lower = MODES[direction] if direction else metric_table.lower_is_better(metric)
        if lower is None:
            raise ValueError(f"the direction of {metric} is not known")
        return cls(metric, lower)

    @property
    def is_loss(self) -> bool:
        return self.metric == LOSS

    @property
    def mode(self) -> str:
        """``min`` or ``max``."""
        return "min" if self.lower else "max"

    @property
    def title(self) -> str:
        """The metric in words: ``validation loss``, ``validation field F1``."""
        return metric_table.title(self.metric)

    def is_better(self, value: float, other: float) -> bool:
        """Return whether ``value`` is strictly better than ``other``."""
        return value < other if self.lower else value > other

    def __str__(self) -> str:
        return f"{self.metric}:{self.mode}"


def split_direction(text: str) -> tuple[str, str]:
    """Split ``val/field_f1:max`` into (``val/field_f1``, ``max``); the direction may be ""."""
    metric, colon, direction = text.rpartition(":")
    return (metric, direction) if colon and direction in MODES else (text, "")


def problems(text: str) -> Iterator[Problem]:
    """Yield what is wrong with a value of ``trainer.monitor``."""
    metric, _ = split_direction(text)
    if metric.rpartition(":")[2] != metric:
        fix = f"{KEY}={metric.partition(':')[0]}:max or :min"
        yield Problem(KEY, text, "its direction must be min or max", fix)
        return
    if problem := test_rows_problem(KEY, metric, text):
        yield problem
    elif metric not in known_metrics() and not _is_of_one_class(metric):
        yield Problem(KEY, text, "no such metric of the validation rows", _suggestion(metric))
    else:
        try:
            Monitor.read(text)
        except ValueError:
            fix = f"say which values are better: {KEY}={metric}:max or {KEY}={metric}:min"
            yield Problem(KEY, text, "whether higher or lower values are better is not known", fix)


def test_rows_problem(key: str, metric: str, given: str) -> Problem | None:
    """Return the problem of a setting that would choose by the test rows; None for other metrics.

    Settings chosen by their score on the test rows have an optimistic score there.
    """
    system, name = metric_table.split_system(metric)
    if system is None:
        return None
    why = "it would choose on the test rows, whose score then says nothing about new rows"
    if system != "eval" or f"{VALIDATION}/{name}" not in known_metrics():
        return Problem(key, given, why, f"choose on validation: {LOSS} or {VALIDATION}/NAME")
    fix = f"choose on the validation rows instead: trainer.monitor={VALIDATION}/{name}"
    if key != KEY:
        fix = f"leave out {key}, and {fix}"
    return Problem(key, given, why, fix)


def known_metrics() -> list[str]:
    """Return the metrics that can be measured on validation rows, of this package and others."""
    own = [row.name for row in metric_table.ANSWER_METRICS if not row.name.endswith("/*")]
    brought = packages.names("metric")
    return [LOSS, *(f"{VALIDATION}/{name}" for name in dict.fromkeys([*own, *brought]))]


def _is_of_one_class(metric: str) -> bool:
    """Return whether it is a metric of one field or class, such as ``val/field_f1/date``."""
    name = metric.removeprefix(f"{VALIDATION}/")
    return name != metric and "/" in name and metric_table.answer_metric(name) is not None


def _suggestion(metric: str) -> str:
    known = known_metrics()
    if near := nearest_metric(metric, known):
        return f"did you mean {KEY}={near}?"
    return f"{LOSS}, or one of: {', '.join(known[1:])}"


def nearest_metric(metric: str, known: Sequence[str]) -> str:
    """Return the one of the ``known`` metrics that ``metric`` stands for, or ""."""
    same_name = [name for name in known if name.rpartition("/")[2] == metric.rpartition("/")[2]]
    near = same_name or difflib.get_close_matches(metric, known, n=1, cutoff=0.8)
    return near[0] if near else ""


def measuring_families(metric: str) -> Sequence[str]:
    """Return the values of ``evaluation.metrics`` that measure a metric of the validation rows.

    Empty: it is measured whatever they are.
    """
    name = metric.removeprefix(f"{VALIDATION}/")
    row = metric_table.answer_metric(name)
    if row is None:
        return (name,)
    always = {metric_table.LIKELIHOOD, metric_table.GENERATION}
    return () if always & set(row.families) else row.families
