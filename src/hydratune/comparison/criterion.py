"""The criterion by which runs are ranked."""

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from hydratune.comparison.runs import Run, nested_value
from hydratune.errors import InputError
from hydratune.metric_table import OBJECTIVE, lower_is_better, split_system
from hydratune.settings.monitor import LOSS, MODES, Monitor

_MOST_SUGGESTIONS = 3
_MOST_NAMES = 12  # of metrics in a message


@dataclass(frozen=True)
class Criterion:
    """A metric of metrics.json and the direction in which it is better."""

    metric: str = OBJECTIVE
    lower: bool = True

    @property
    def on_validation_answers(self) -> bool:
        """Whether it is measured on answers to validation rows, as val/field_f1 is."""
        return self.metric.startswith("val/") and self.metric != "val/loss"

    @property
    def on_test(self) -> bool:
        """Whether runs are chosen on the test rows, which biases the score of the best."""
        return split_system(self.metric)[0] is not None


def monitored(run: Run) -> Monitor:
    """Return the metric by which the weights of a run were chosen."""
    settings = nested_value(run.metrics, "settings", "objective")
    metric, mode = nested_value(settings, "metric"), nested_value(settings, "mode")
    if isinstance(metric, str) and mode in MODES:
        return Monitor(metric, MODES[mode])
    return Monitor()


def default_criterion(runs: Iterable[Run]) -> Criterion:
    """Return by what runs are ranked unless a metric is named: what all of them monitor, and where
    they monitor different metrics the validation loss.
    """
    monitors = {monitored(run) for run in runs if run.objective is not None}
    if len(monitors) > 1:
        return Criterion(LOSS)
    monitor = next(iter(monitors), Monitor())
    return Criterion() if monitor.is_loss else Criterion(monitor.metric, monitor.lower)


def parse_criterion(
    metric: str | None, mode: str | None, measured: Collection[str] | None = None
) -> Criterion | None:
    """Return the criterion that the options ``metric`` and ``mode`` (min or max) ask for; None if
    they name no metric.

    ``measured``: the metrics that runs have. Raises ``InputError`` for an unknown metric, and for
    one whose direction is neither known nor given.
    """
    if mode not in (None, "min", "max"):
        raise InputError(f"mode = {mode}: give min (the lowest is best) or max")
    if metric is None:
        if mode == "max":
            raise InputError(
                "mode = max: the validation loss is better when it is lower; name another"
                " metric=... for this"
            )
        return None
    if measured is not None and metric not in measured:
        raise unknown_metric("metric", metric, measured)
    if mode is not None:
        return Criterion(metric, mode == "min")
    lower = lower_is_better(metric)
    if lower is None:
        raise InputError(
            f"metric = {metric}: whether higher or lower values are better is not known; add"
            " mode=min or mode=max"
        )
    return Criterion(metric, lower)


def unknown_metric(option: str, metric: str, measured: Collection[str]) -> InputError:
    """Return the error that no run has a metric, given as the value of an option."""
    names = sorted(measured)
    suggestions = [name for name in measured if name.rpartition("/")[2] == metric]
    suggestions = suggestions or difflib.get_close_matches(metric, names, n=_MOST_SUGGESTIONS)
    if suggestions:
        hint = f"did you mean {' or '.join(suggestions[:_MOST_SUGGESTIONS])}?"
    else:
        more = " ..." if len(names) > _MOST_NAMES else ""
        hint = f"the metrics are: {', '.join(names[:_MOST_NAMES])}{more}"
    return InputError(f"{option} = {metric}: no finished run has it; {hint}")
