"""What the terminal and report.html say of the numbers in metrics.json: which rows, in which order.

``measured`` is the content of metrics.json: numbers by name, and ``intervals`` by the same names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydratune import metric_table
from hydratune.metric_format import in_sentence, with_unit
from hydratune.metric_table import VALIDATION, Direction, Metric, Unit, main_metric, title
from hydratune.records.files import Json
from hydratune.settings.monitor import LOSS
from hydratune.wording import counted

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
        metric_table.own_metric(name)
        or Metric(name, title(f"eval/{name}"), Unit.number, Direction.neither)
        for name in others
    ]


def _new(name: str) -> bool:
    return metric_table.built_in_metric(name) is None


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
        f" {with_unit(f'eval/{name}', every)} ({counted(int(measured['eval_clean/rows']), 'row')})"
    )


def of_kept_weights(measured: MeasuredValues) -> list[str]:
    """Return what the kept weights reach on the validation rows, and which other weights another
    metric would have kept.
    """
    if "val/loss" not in measured:
        return []
    settings = measured.get("settings", {})
    sentences = [f"validation loss {measured['val/loss']:.4f}"]
    name = settings.get("objective", {}).get("metric", LOSS)
    if name == LOSS:
        name = f"{VALIDATION}/{main_metric(measured, f'{VALIDATION}/') or 'nll'}"
    if name in measured and "validation" in settings:
        value = in_sentence(name, measured[name], measured.get("intervals", {}).get(name))
        rows = settings["validation"]["rows"]
        sentences.append(f"{title(name)} {value} on {counted(rows, 'validation row')}")
    other = settings.get("objective", {}).get("other_choices", [])
    return ["; ".join(sentences), *map(str, other)]
