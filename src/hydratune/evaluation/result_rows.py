"""What the terminal and report.html say of the numbers in metrics.json: which rows, in which order.

``measured`` is the content of metrics.json: numbers by name, and ``intervals`` by the same names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydratune import metric_table
from hydratune.metric_format import with_unit
from hydratune.metric_table import Direction, Metric, Unit, main_metric, title
from hydratune.records.files import Json

MeasuredValues = Mapping[str, Json]


@dataclass(frozen=True)
class Change:
    """A measure of forgetting before and after training; the divergence has no values of its own.

    ``interval`` is that of the difference: None where there are too few items for one. ``key`` is
    the metric after training.
    """

    key: str
    before: float | None
    after: float
    difference: float | None = None
    interval: Sequence[float] | None = None


def answer_metrics(measured: MeasuredValues, systems: Sequence[str]) -> list[Metric]:
    """Return the metrics that some of ``systems`` has, in the order of the table.

    Metrics of packages, which have no row in the table, come last.
    """
    rows = [
        row
        for row in metric_table.ANSWER_METRICS
        if any(f"{system}/{row.name}" in measured for system in systems)
    ]
    names = [metric_table.split_system(key) for key in measured]
    others = dict.fromkeys(
        name for system, name in names if system in systems and "/" not in name and _new(name)
    )
    return rows + [
        Metric(name, title(f"eval/{name}"), Unit.number, Direction.neither) for name in others
    ]


def _new(name: str) -> bool:
    return metric_table.answer_metric(name) is None


def changes(measured: MeasuredValues) -> list[Change]:
    """Return what the fine-tuned model gained or lost on the panel, one row for each measure."""
    intervals = measured.get("intervals", {})
    rows = []
    for name in metric_table.forgetting_measures():
        key = f"forgetting/{name}"
        delta = f"{key}_delta"
        if delta in measured:
            values = measured[f"{key}_base"], measured[key], measured[delta]
            rows.append(Change(key, *values, intervals.get(delta)))
    if "forgetting/kl" in measured:
        rows.append(Change("forgetting/kl", None, measured["forgetting/kl"]))
    return rows


def without_leaks(measured: MeasuredValues) -> str:
    """Return a sentence about test rows that are in training; empty where there are none."""
    if "eval_clean/rows" not in measured:
        return ""
    name = main_metric(measured) or "nll"
    every, clean = measured[f"eval/{name}"], measured[f"eval_clean/{name}"]
    return (
        f"some test rows are in training, or nearly: without them {title(f'eval/{name}')}"
        f" is {with_unit(f'eval/{name}', clean)} instead of"
        f" {with_unit(f'eval/{name}', every)} ({measured['eval_clean/rows']:.0f} rows)"
    )
