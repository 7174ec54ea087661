"""Pareto fronts: the runs that no other run beats in two metrics at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydratune.comparison.criterion import Criterion, unknown_metric
from hydratune.comparison.runs import Run
from hydratune.metric_table import lower_is_better

# metrics that quality is weighed against unless the user names others
_DEFAULT_METRICS = ("forgetting/bits_per_byte_delta", "cost/cpu_seconds")


@dataclass(frozen=True)
class ParetoFront:
    """The runs on the front of two metrics."""

    x: str
    y: str
    x_lower: bool  # is better
    y_lower: bool
    runs: tuple[Run, ...]  # in the order of x


def measured_metrics(runs: Sequence[Run]) -> set[str]:
    """Return the metrics that at least one finished run has."""
    finished = [run for run in runs if run.objective is not None]
    return {name for run in finished for name in run.metrics if run.value(name) is not None}


def pareto_fronts(
    runs: Sequence[Run], by: Criterion, metrics: Sequence[str] | None
) -> list[ParetoFront]:
    """Return the front of two ``metrics``, or the fronts of the criterion against the usual ones.

    Raises ``InputError`` if no finished run has a metric.
    """
    if metrics:
        x, y = metrics
        measured = measured_metrics(runs)
        for name in metrics:
            if name not in measured:
                raise unknown_metric("pareto", name, measured)
        return [pareto_front(runs, x, y)]
    return [
        pareto_front(runs, name, by.metric, y_lower=by.lower)
        for name in _DEFAULT_METRICS
        if sum(run.value(name) is not None for run in runs) > 1
    ]


def pareto_front(
    runs: Sequence[Run], x: str, y: str, *, x_lower: bool | None = None, y_lower: bool | None = None
) -> ParetoFront:
    """Return the front of the finished runs that have both metrics.

    A metric whose direction is unknown counts as better if it is lower.
    """
    if x_lower is None:
        x_lower = lower_is_better(x) is not False
    if y_lower is None:
        y_lower = lower_is_better(y) is not False
    points = []
    for run in runs:
        a, b = run.value(x), run.value(y)
        if run.objective is not None and a is not None and b is not None:
            points.append((a if x_lower else -a, b if y_lower else -b, run))
    points.sort(key=lambda point: (point[0], point[1]))
    front: list[Run] = []
    lowest = float("inf")
    for _, cost, run in points:
        if cost < lowest:
            front.append(run)
            lowest = cost
    return ParetoFront(x, y, x_lower, y_lower, tuple(front))
