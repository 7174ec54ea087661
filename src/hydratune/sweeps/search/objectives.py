"""What a search optimises: metrics of metrics.json, each with a direction.

Metrics of the test rows are not among them: a search would tune the settings on these rows.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hydratune.errors import ConfigError, Problem
from hydratune.metric_table import (
    ANSWER_METRICS,
    OBJECTIVE,
    RUN_METRICS,
    VALIDATION,
    lower_is_better,
)
from hydratune.records.status import Rung
from hydratune.settings.commands import TrainConfig
from hydratune.settings.monitor import (
    LOSS,
    MODES,
    Monitor,
    known_metrics,
    nearest_metric,
    test_rows_problem,
)

# names of metrics.json that a trial can be judged by, and what such names begin with
_METRICS = (
    *(LOSS, "train/loss", OBJECTIVE),
    *(row.name for row in RUN_METRICS if row.name.startswith("cost/")),
)
_METRIC_FAMILIES = (
    *(f"{VALIDATION}/{row.name[:-1]}" for row in ANSWER_METRICS if row.name.endswith("/*")),
    *("forgetting/", "memorisation/", "fit/"),
)
KEY = "hydra.sweeper.objectives"


@dataclass(frozen=True)
class SearchObjective:
    """A metric to minimise or maximise."""

    metric: str
    direction: str  # min or max

    def __str__(self) -> str:
        return f"{self.metric}:{self.direction}"

    def ranks_runs(self, monitor: Monitor) -> bool:
        """Return whether runs that have ``monitor`` are ranked by this objective."""
        return self.metric in (OBJECTIVE, monitor.metric) and self.direction == monitor.mode

    def at_rung(self, rung: Rung, monitor: Monitor) -> float | None:
        """Return its value at a rung of a run with ``monitor``; None if it was not measured."""
        if self.metric == LOSS or (self.metric == OBJECTIVE and monitor.is_loss):
            return math.nan if rung.loss is None else rung.loss
        if self.metric in (OBJECTIVE, monitor.metric):
            return math.nan if rung.value is None else rung.value
        return None


def read_objectives(value: object, monitor: Monitor | None = None) -> list[SearchObjective]:
    """Return the objectives in ``METRIC:min``, in a list of such texts, or in a mapping from METRIC
    to min or max; None: ``monitor``.

    Raises ``ConfigError``.
    """
    pairs = _pairs(str(monitor or Monitor()) if value is None else value)
    problems = [problem for pair in pairs if (problem := _problem(*pair)) is not None]
    if not pairs or len({metric for metric, _ in pairs}) < len(pairs):
        why = "the same metric is listed twice" if pairs else "there is nothing to search for"
        fix = "for example [val/loss:min,cost/cpu_seconds:min]"
        problems.append(Problem(KEY, value, why, fix))
    if problems:
        raise ConfigError(problems, prefix="search: ")
    return [SearchObjective(metric, direction) for metric, direction in pairs]


def _pairs(value: object) -> list[tuple[str, str]]:
    """Return (metric, direction) for every objective; a direction that is missing is ""."""
    if isinstance(value, Mapping) and value:
        return [(str(metric), str(direction)) for metric, direction in value.items()]
    texts = [value] if isinstance(value, str) else value if isinstance(value, Iterable) else []
    pairs = []
    for text in texts:
        metric, _, direction = str(text).rpartition(":")
        pairs.append((metric, direction) if metric else (str(text), ""))
    return pairs


def _problem(metric: str, direction: str) -> Problem | None:
    if problem := test_rows_problem(KEY, metric, f"{metric}:{direction}".rstrip(":")):
        return problem
    if not _is_metric(metric):
        return Problem(KEY, metric, "no run has such a metric", _suggestion(metric, direction))
    if direction not in ("min", "max"):
        fix = f"{KEY}={metric}:min or {metric}:max"
        return Problem(KEY, metric, "its direction must be min or max", fix)
    return None


def _suggestion(metric: str, direction: str) -> str:
    """Return what to search for instead of a ``metric`` that does not exist."""
    known = list(dict.fromkeys([*_METRICS, *known_metrics()]))
    if near := nearest_metric(metric, known):
        own = "min" if lower_is_better(near) else "max"
        return f"did you mean {KEY}={near}:{direction if direction in MODES else own}?"
    families = "".join(f", {family}NAME" for family in _METRIC_FAMILIES)
    return f"one of: {', '.join(known)}{families}"


def _is_metric(name: str) -> bool:
    """Return whether a run can have such a metric, of this package or of an installed one."""
    return name in _METRICS or name.startswith(_METRIC_FAMILIES) or name in known_metrics()


def refuse_unmeasured(
    objectives: Iterable[SearchObjective], settings: Iterable[TrainConfig]
) -> None:
    """Raise ``ConfigError`` if runs with ``settings`` do not measure an objective on validation."""
    answered = (f"{VALIDATION}/", LOSS)
    for metric in (o.metric for o in objectives):
        if not metric.startswith(answered[0]) or metric == answered[1]:
            continue
        for own in settings:
            monitored = Monitor.read(own.trainer.monitor)
            single = "/" in metric.removeprefix(answered[0])  # of one field or class
            measures = own.evaluation.validate_every is not None or not monitored.is_loss
            if monitored.metric != metric and (single or not measures):
                why = "it is not measured during training"
                fix = f"set trainer.monitor={metric}"
                raise ConfigError([Problem(KEY, metric, why, fix)], prefix="search: ")
