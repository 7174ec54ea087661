"""How the value of a metric is written, the same on terminals, pages, in Markdown and in pictures.

Rates are in per cent with one decimal, bytes in GiB. The unit stands in the heading of a column
(``heading``) or after the number in a sentence (``with_unit``). Files for programs (metrics.json,
CSV, Parquet, W&B) hold the values as they were measured: rates as shares of 1.
"""

import math
import statistics
from collections.abc import Sequence

from hydratune.metric_table import (
    VALIDATION,
    Unit,
    cost_headings,
    run_metric,
    split_system,
    title,
    unit,
)

_UNITS = {Unit.rate: "%", Unit.bytes: "GiB"}  # of the written number, where it is scaled
_WHOLE = (Unit.count, Unit.per_second)
_DIGITS = 4  # significant ones of a number without a scale


def scale(key: str) -> float:
    """Return the factor between a measured value and the number that is written."""
    return {Unit.rate: 100.0, Unit.bytes: 2.0**-30}.get(unit(key), 1.0)


def heading(key: str) -> str:
    """Return the title of a metric with the unit of the written numbers: "field F1 (%)"."""
    own = _UNITS.get(unit(key))
    return f"{title(key)} ({own})" if own else title(key)


def written(key: str, value: float | None) -> str:
    """Return a value without its unit; "-" for None."""
    return "-" if value is None else _number(scale(key) * value, *_decimals(key, value))


def with_interval(key: str, value: float | None, interval: Sequence[float] | None) -> str:
    """Return "83.7 [81.2, 86.3]": a value and its interval with as many decimals, without unit."""
    if value is None or not interval:
        return written(key, value)
    decimals = _decimals(key, value)
    low, high = (_number(scale(key) * edge, *decimals) for edge in interval)
    return f"{written(key, value)} [{low}, {high}]"


def with_unit(key: str, value: float) -> str:
    """Return a value with its unit, for a sentence: "83.7 %"."""
    own = _UNITS.get(unit(key))
    return f"{written(key, value)} {own}" if own else written(key, value)


def in_sentence(key: str, value: float, interval: Sequence[float] | None) -> str:
    """Return a value with its unit and its interval: "83.7 % [81.2, 86.3]"."""
    edges = with_interval(key, value, interval).partition(" [")[2]
    return f"{with_unit(key, value)} [{edges}" if edges else with_unit(key, value)


def mean_and_spread(key: str, values: Sequence[float]) -> str:
    """Return "mean ± standard deviation", the mean alone for one value, "-" for none."""
    if not values:
        return "-"
    mean = written(key, statistics.fmean(values))
    if len(values) == 1:
        return mean
    spread = scale(key) * statistics.stdev(values)
    return f"{mean} ± {spread:.1f}" if unit(key) is Unit.rate else f"{mean} ± {spread:.2g}"


def mean_with_unit(key: str, values: Sequence[float]) -> str:
    """Return the same with the unit, for a sentence: "70.0 ± 4.2 %"."""
    own = _UNITS.get(unit(key))
    text = mean_and_spread(key, values)
    return f"{text} {own}" if own and values else text


def difference_form(key: str) -> tuple[str, float]:
    """Return (format, factor) of a difference and of its interval: points for rates."""
    return ("+.1f" if unit(key) is Unit.rate else "+#.3g"), scale(key)


def difference(key: str, value: float) -> str:
    """Return a difference with its sign, without unit: "+2.0"."""
    form, factor = difference_form(key)
    return f"{factor * value:{form}}"


def difference_with_unit(key: str, value: float) -> str:
    """Return a difference for a sentence: "+2.0 points" of per cent, "-0.012"."""
    own = "points" if unit(key) is Unit.rate else _UNITS.get(unit(key))
    return f"{difference(key, value)} {own}" if own else difference(key, value)


def _decimals(key: str, value: float) -> tuple[int, bool]:
    """Return (decimals, whether thousands are separated) for a value and for its interval.

    Losses and other numbers of the run as a whole have four decimals, numbers of answers four
    significant digits; both have exponents (-1 decimals) where that would hide the value.
    """
    kind, size = unit(key), abs(value)
    if kind is Unit.rate:
        return 1, False
    if kind is Unit.bytes:
        return 2, False
    if kind is Unit.bits:
        return 1, False
    if kind in _WHOLE or (key in cost_headings() and size >= 10):
        return 0, True
    if kind is Unit.seconds:
        return 2, False
    if value and (size < 1e-3 or size >= 1e6):
        return -1, False
    if not _is_of_answers(key):
        return _DIGITS, False
    magnitude = math.floor(math.log10(size)) if size and math.isfinite(size) else 0
    return max(0, min(_DIGITS, _DIGITS - 1 - magnitude)), size >= 1000


def _is_of_answers(key: str) -> bool:
    of_validation = key.startswith(f"{VALIDATION}/") and run_metric(key) is None
    return of_validation or split_system(key)[0] is not None


def _number(value: float, decimals: int, separated: bool) -> str:
    if decimals < 0 or not math.isfinite(value):
        return f"{value:.{_DIGITS}g}"
    return f"{value:,.{decimals}f}" if separated else f"{value:.{decimals}f}"
