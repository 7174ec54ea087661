"""Metrics measured again beside those of metrics.json. Pure functions."""

import math
from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from hydratune.records.files import Json

# of any metric; the arithmetic of another machine or thread count differs in the last digits
TOLERANCE = 1e-4
_MOST_NAMES = 6  # of metrics in a message


def differing_metrics(recorded: Mapping[str, Json], values: Mapping[str, float]) -> list[str]:
    """Return the metrics that differ from the recorded ones by more than the tolerance.

    Older runs did not count truncated answers, so that these are not missed.
    """
    compared = {
        key: value for key, value in values.items() if key in recorded or not key.endswith("/cut")
    }
    return [
        key
        for key, value in compared.items()
        if not math.isclose(
            value, recorded.get(key, math.nan), rel_tol=TOLERANCE, abs_tol=TOLERANCE
        )
    ]


def explain_difference(
    different: list[str],
    count: int,
    recorded_with: Mapping[str, Json],
    measured_with: Mapping[str, Json],
) -> str:
    """Return that metrics differ, and which settings of the measurement do.

    ``count``: how many metrics were measured.
    """
    names = ", ".join(different[:_MOST_NAMES])
    settings = [
        f"\n  {key} was {recorded_with[key]!r}, now {value!r}"
        for key, value in measured_with.items()
        if recorded_with.get(key, value) != value
    ]
    return (
        f"{len(different)} of {count} metrics differ from metrics.json by more than {TOLERANCE}:"
        f" {names}{''.join(settings)}"
    )


def reproduction_table(recorded: Mapping[str, Json], values: Mapping[str, float]) -> Table:
    """Return a row for each metric that is not of a single field or class."""
    table = Table(header_style="bold")
    table.add_column("metric")
    for column in ("recorded", "now", "difference"):
        table.add_column(column, justify="right")
    for key, value in values.items():
        if key.count("/") == 1:
            before = recorded.get(key, math.nan)
            table.add_row(
                escape(key), f"{before:.6g}", f"{value:.6g}", f"{abs(value - before):.1e}"
            )
    return table
